"""What the encoder and the decoder node share: newest frame in, two workers, one message out, everything counted."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from anypcc_ros.codec.bitstream import StreamInfo
from anypcc_ros.codec.config import option, validate
from anypcc_ros.codec.errors import AnypccError
from anypcc_ros.nodes.diagnostics import Frame, Statistics
from anypcc_ros.nodes.parameters import ConfigParameters
from anypcc_ros.nodes.start import StopSignal

# Reliable, because best effort loses most clouds of megabytes between processes (a lost datagram is a lost cloud).
# The subscription is emptied at once into a queue of our own that holds one message and counts what it drops; its own
# few places are for the moments in which this process does not get to it. The publisher keeps no old frame for a link
# that is too slow.
INPUT_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
OUTPUT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)

WORKERS = 2
"""Frames at work at a time. With more of them the newest frame would come to wait behind older ones."""

WARNING_PERIOD = 5.0
"""Seconds between two warnings about the same kind of error."""

SHUTDOWN_PATIENCE = 5.0
"""Seconds that a frame at work may still take when the node is told to stop."""


class MessageError(AnypccError):
    """Bytes received on a topic that are not a message of its type."""


@dataclass(frozen=True)
class NodeConfig:
    """Options of the nodes themselves, beside those of the codec. Raises ConfigError."""

    diagnostics_period: float = option(
        1.0, "time between two reports on /diagnostics, 0 for one after every frame", unit="s", minimum=0, maximum=3600
    )

    def __post_init__(self) -> None:
        validate(self)


class Arrival(NamedTuple):
    """A message as it came in: its serialized bytes, and when, in seconds of time.monotonic()."""

    data: bytes
    time: float


class Result(NamedTuple):
    """A message to publish, what its stream says, and the numbers that go with it; see diagnostics.Frame."""

    message: Any
    stream: StreamInfo
    raw_size: int
    codec_seconds: float


class Made(NamedTuple):
    """What a worker made of a message, and the message's stamp: seconds and nanoseconds."""

    result: Result
    stamp: tuple[int, int]


class NewestOnly:
    """A queue of one place: what is put in replaces what is there. Readers get numbers; close() sends them away."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Arrival | None = None
        self._taken = 0
        self._closed = False

    def put(self, item: Arrival) -> bool:
        """Returns whether an item that nobody has taken was replaced."""
        with self._changed:
            replaced, self._item = self._item is not None, item
            self._changed.notify()
            return replaced

    def take(self) -> tuple[int, Arrival] | None:
        """Waits for an item: its number among those taken, from 0 on, and itself. None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            if self._closed or item is None:
                return None
            number, self._taken = self._taken, self._taken + 1
            return number, item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class InOrder:
    """Lets threads finish in the order of their numbers, which are 0, 1, 2, ..."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Waits until all lower numbers have had their turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number)
        try:
            yield
        finally:
            with self._changed:
                self._next += 1
                self._changed.notify_all()


class CodecNode(Node):
    """A node that turns messages of one topic into messages of another, each on its own.

    The subscription callback only keeps the newest message, serialized as it came. A worker thread deserializes it,
    converts it (``convert``, of the subclass) and publishes. There are two of them, so that a frame is prepared while the one
    before it is in the network; what they publish keeps its order. A message that cannot be converted is counted by the kind
    of its error and warned about now and then; nothing is published for it and the node goes on.
    """

    def __init__(
        self,
        name: str,
        verb: str,
        input_topic: tuple[type[Any], str],
        output_topic: tuple[type[Any], str],
        defaults: Any,
        build: Callable[[Any], Any],
    ) -> None:
        """``verb``: "encode" or "decode". Topics are (message type, name). ``defaults`` and ``build``: ConfigParameters.

        Raises AnypccError where the codec cannot be built from the start parameters.
        """
        super().__init__(name)
        self._verb = verb
        self._input_type, self._input_name = input_topic
        self.codec: ConfigParameters[Any, Any] = ConfigParameters(self, defaults, build, self._log_change)
        self._options = ConfigParameters(self, NodeConfig(), lambda config: config, self._set_period)

        self.statistics = Statistics(f"{self.get_fully_qualified_name().lstrip('/')}: {verb}", verb, time.monotonic())
        self._warned_at: dict[str, float] = {}
        self._sequence: int | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._output = self.create_publisher(
            *output_topic, OUTPUT_QOS, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._input = self._subscribe(INPUT_QOS, QoSOverridingOptions.with_default_policies())
        self._timer = self.create_timer(1.0, self.report)
        self._set_period(self._options.config)

        self._newest, self._order = NewestOnly(), InOrder()
        names = [f"{verb}r {i}" for i in range(WORKERS)]
        self._workers = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for worker in self._workers:
            worker.start()
        self.get_logger().info(f"{self._input.topic_name} -> {self._output.topic_name}: {self.codec.config}")

    @abstractmethod
    def convert(self, message: Any) -> Result:
        """The message to publish for ``message``. Raises AnypccError where there is none. Runs in the workers, at once."""

    def close(self) -> None:
        """Stop the workers, leaving frames at work a little time. Nothing is published after this."""
        self._newest.close()
        deadline = time.monotonic() + SHUTDOWN_PATIENCE
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))

    # Input

    def _subscribe(self, qos: QoSProfile, overriding: QoSOverridingOptions | None) -> Any:
        return self.create_subscription(
            self._input_type,
            self._input_name,
            self._receive,  # type: ignore[arg-type]  # rclpy looks at the signature, and gives it what it takes
            qos,
            qos_overriding_options=overriding,
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._publisher_incompatible),
        )

    def _publisher_incompatible(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        topic = self._input.topic_name
        if event.last_policy_kind != QoSPolicyKind.RELIABILITY:
            self.get_logger().warning(f"a publisher of {topic} offers another {policy} than this node asks for")
        elif self._input.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT:
            self.get_logger().info(f"a publisher of {topic} is best effort: subscribing so, too")
            # Not here: the subscription whose event this is cannot be destroyed while it is being handled.
            assert self.executor is not None
            self.executor.create_task(self._subscribe_best_effort)

    def _subscribe_best_effort(self) -> None:
        qos = copy(self._input.qos_profile)
        qos.reliability = ReliabilityPolicy.BEST_EFFORT
        self.destroy_subscription(self._input)
        self._input = self._subscribe(qos, None)

    def _receive(self, data: bytes, info: dict[str, int]) -> None:
        arrival = Arrival(data, time.monotonic())
        self.statistics.count_received(len(data), arrival.time)
        self._count_lost(info["publication_sequence_number"])
        if not self._output.get_subscription_count():
            self.statistics.count_skipped()
        elif self._newest.put(arrival):
            self.statistics.count_dropped()

    def _count_lost(self, sequence: int) -> None:
        """Messages lost on the way or pushed out of the middleware's queue leave a gap in their publisher's numbers.

        With several publishers, whose numbers cannot be told apart, nothing is counted.
        """
        alone = self.count_publishers(self._input.topic_name) == 1
        if alone and self._sequence is not None and sequence > self._sequence + 1:
            self.statistics.count_lost(sequence - self._sequence - 1)
        self._sequence = sequence if alone else None

    # Work

    def _work(self) -> None:
        while (taken := self._newest.take()) is not None:
            number, arrival = taken
            made: Made | Exception
            try:
                made = self._make(arrival)
            except Exception as error:  # whatever one message does to us, the next one gets its chance
                made = error
            with self._order.turn(number):
                self._finish(arrival, made)

    def _make(self, arrival: Arrival) -> Made:
        try:
            message = deserialize_message(arrival.data, self._input_type)
        except Exception as error:  # rclpy has no common type for what can be wrong with serialized bytes
            kind = self._input_type.__name__
            raise MessageError(f"{len(arrival.data)} bytes that are not a {kind}: {error}") from error
        stamp = message.header.stamp
        return Made(self.convert(message), (stamp.sec, stamp.nanosec))

    def _finish(self, arrival: Arrival, made: Made | Exception) -> None:
        try:
            if isinstance(made, Exception):
                raise made
            self._publish(arrival, *made)
        except Exception as error:  # as above
            self._failed(error)
        if not self._options.config.diagnostics_period:
            self.report()

    def _publish(self, arrival: Arrival, result: Result, stamp: tuple[int, int]) -> None:
        self._output.publish(result.message)
        age = self.get_clock().now().nanoseconds * 1e-9 - (stamp[0] + stamp[1] * 1e-9)
        frame = Frame(
            stamp=stamp,
            points=result.stream.points,
            raw_size=result.raw_size,
            compressed_size=result.stream.size,
            codec_seconds=result.codec_seconds,
            node_seconds=time.monotonic() - arrival.time,
            age_seconds=age,
            left_out=result.stream.left_out,
            fields=result.stream.fields,
        )
        self.statistics.count_published(frame, len(result.message.data))

    def _failed(self, error: Exception) -> None:
        kind = type(error).__name__
        self.statistics.count_error(kind)
        now = time.monotonic()
        if now - self._warned_at.get(kind, -WARNING_PERIOD) < WARNING_PERIOD:
            return
        self._warned_at[kind] = now
        text = f"cannot {self._verb} a message of {self._input.topic_name}: {kind}: {error}"
        if isinstance(error, AnypccError):
            self.get_logger().warning(text)
        else:  # not a bad message but a defect of this package
            self.get_logger().error("\n".join([text, *traceback.format_exception(error)]))

    # Telling

    def settings(self) -> dict[str, str]:
        """The configuration, as /diagnostics shows it."""
        return {"codec": str(self.codec.config)}

    def report(self) -> None:
        """Publish the diagnostics and begin a new window."""
        message = DiagnosticArray(status=[self.statistics.report(time.monotonic(), self.settings())])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _log_change(self, config: Any) -> None:
        self.get_logger().info(f"from the next frame on: {config}")

    def _set_period(self, config: NodeConfig) -> None:
        if config.diagnostics_period:
            self._timer.timer_period_ns = round(config.diagnostics_period * 1e9)
            self._timer.reset()
        else:
            self._timer.cancel()


def run(make_node: Callable[[], CodecNode], stop_signal: StopSignal, args: list[str] | None) -> int:
    """Spin a node until the signal comes and clean up; the exit status of its process.

    0 after the signal; 1 with a line on stderr where the start parameters are no good, or with a traceback where
    spinning failed.
    """
    # rclpy's own handlers shut the context down under a spinning executor, which now and then raises.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make_node()
    except (AnypccError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 1
    spinner = Spinner(node)
    spinner.start()
    stop_signal.wait()
    spinner.stop()
    node.close()
    node.destroy_node()
    rclpy.shutdown()
    return 1 if spinner.failed else 0


class Spinner(threading.Thread):
    """Runs a node's callbacks. Should one fail, the process gets a SIGTERM."""

    def __init__(self, node: Node) -> None:
        super().__init__(name="spinner", daemon=True)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._stopping = threading.Event()
        self.failed = False

    def run(self) -> None:
        self.failed = True  # until it is known that nothing was raised
        try:
            while not self._stopping.is_set():
                self._executor.spin_once()
            self.failed = False
        finally:
            # A node whose callbacks have stopped must not look alive. What was raised goes on: Python prints it.
            if self.failed:
                os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """Returns once no callback runs any more."""
        self._executor.create_task(self._stopping.set)  # a task, because spin_once waits on until it has done something
        self.join()
        self._executor.shutdown()
