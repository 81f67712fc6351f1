"""A node's process from the first callback to the signal that ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from anypcc_ros.codec.errors import AnypccError
from anypcc_ros.nodes.codec_node import CodecNode
from anypcc_ros.nodes.start import StopSignal


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
