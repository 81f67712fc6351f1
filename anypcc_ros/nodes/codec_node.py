"""What the encoder and the decoder node share: newest frame in, two workers, one message out, everything counted."""

from __future__ import annotations

import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message

from anypcc_ros.codec.bitstream import StreamInfo
from anypcc_ros.codec.config import option, validate
from anypcc_ros.codec.errors import AnypccError
from anypcc_ros.nodes.diagnostics import Frame, Statistics
from anypcc_ros.nodes.parameters import ConfigParameters
from anypcc_ros.nodes.pipeline import Arrival, InOrder, NewestOnly
from anypcc_ros.nodes.vital import VitalThread

# Reliable, because best effort loses most clouds of megabytes between processes (a lost datagram is a lost cloud).
# The subscription is emptied at once into a queue of our own that holds one message and counts what it drops; its own
# few places are for the moments in which this process does not get to it. The publisher keeps no old frame for a link
# that is too slow.
INPUT_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
OUTPUT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)

FOLLOWING_PERIOD = 1.0
"""Seconds between two looks at whether the publishers that made the subscription best effort are still there."""

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
            *output_topic, OUTPUT_QOS, qos_overriding_options=QoSOverridingOptions(OVERRIDABLE)
        )
        self._input = self._subscribe(INPUT_QOS, QoSOverridingOptions(OVERRIDABLE))
        self._asked = self._input.qos_profile
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also where nothing moves the simulated time
        self._timer = self.create_timer(1.0, self.report, clock=steady)
        self._following = self.create_timer(FOLLOWING_PERIOD, self._follow_publishers, clock=steady)
        self._following.cancel()
        self._set_period(self._options.config)

        self._newest, self._order = NewestOnly(), InOrder()
        self._workers = [VitalThread(f"{verb}r {i}", self._work) for i in range(WORKERS)]
        for worker in self._workers:
            worker.start()
        self.get_logger().info(f"{self._input.topic_name} -> {self._output.topic_name}: {self.codec.config}")

    @abstractmethod
    def convert(self, message: Any) -> Result:
        """The message to publish for ``message``. Raises AnypccError where there is none. Runs in the workers, at once."""

    def close(self) -> bool:
        """Stop the workers, leaving frames at work a little time; whether that was enough. Nothing is published after this."""
        self._newest.close()
        deadline = time.monotonic() + SHUTDOWN_PATIENCE
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))
        return not any(worker.is_alive() for worker in self._workers)

    @property
    def failed(self) -> bool:
        """Whether a worker was ended by a defect."""
        return any(worker.failed for worker in self._workers if not worker.is_alive())

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
        qos = copy(self._asked)
        qos.reliability = ReliabilityPolicy.BEST_EFFORT
        self._subscribe_again(qos)
        self._following.reset()

    def _follow_publishers(self) -> None:
        """Reliable again, where those that offered no more have gone and others are there."""
        offered = [info.qos_profile.reliability for info in self.get_publishers_info_by_topic(self._input.topic_name)]
        if offered and ReliabilityPolicy.BEST_EFFORT not in offered:
            self._following.cancel()
            self.get_logger().info(f"the publishers of {self._input.topic_name} are reliable: subscribing so again")
            self._subscribe_again(self._asked)

    def _subscribe_again(self, qos: QoSProfile) -> None:
        self.destroy_subscription(self._input)
        self._input = self._subscribe(qos, None)

    def _receive(self, data: bytes, info: dict[str, int]) -> None:
        arrival = Arrival(data, time.monotonic())
        self.statistics.count_received(len(data), arrival.time)
        self._count_lost(info["publication_sequence_number"])
        if not (self._output.get_subscription_count() or self._latched):
            self.statistics.count_skipped()
        elif self._newest.put(arrival):
            self.statistics.count_dropped()

    @property
    def _latched(self) -> bool:
        """Whether those that subscribe later get the last message."""
        return self._output.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL

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
        text = text.encode("utf-8", "backslashreplace").decode()  # whatever a message said: the log takes nothing else
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
