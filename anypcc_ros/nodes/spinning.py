"""A node's process from the first callback to the signal that ends it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from anypcc_ros.codec.errors import AnypccError
from anypcc_ros.nodes.codec_node import CodecNode
from anypcc_ros.nodes.start import StopSignal
from anypcc_ros.nodes.vital import VitalThread


def run(make_node: Callable[[], CodecNode], stop_signal: StopSignal, args: list[str] | None) -> int:
    """Spin a node until the signal comes and clean up; the exit status of its process.

    0 after the signal; 1 with a line on stderr where the start parameters are no good, or with a traceback where
    spinning failed.
    """
    try:
        # rclpy's own handlers shut the context down under a spinning executor, which now and then raises.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
    except _BAD_START as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        try_shutdown()
        return 1
    spinner = Spinner(node)
    spinner.start()
    stop_signal.wait()
    spinner.stop()
    ended = node.close()
    status = 1 if spinner.failed or node.failed else 0
    node.destroy_node()
    rclpy.shutdown()
    if not ended:  # an interpreter that ends under a thread at work within torch is aborted
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


# RuntimeError is what rclpy raises for unknown arguments, parameter files, names and QoS.
_BAD_START = (
    AnypccError,
    OSError,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    NameValidationException,
    RuntimeError,
)


class Spinner(VitalThread):
    """Runs a node's callbacks."""

    def __init__(self, node: Node) -> None:
        super().__init__("spinner", self._spin)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._stopping = threading.Event()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once()

    def stop(self) -> None:
        """Returns once no callback runs any more."""
        self._executor.create_task(self._stopping.set)  # a task, because spin_once waits on until it has done something
        self.join()
        self._executor.shutdown()
