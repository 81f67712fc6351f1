"""Entry points of the node processes. Imports nothing of ROS by itself, so that it can say when there is none."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from anypcc_ros.nodes.memory import keep_freed_memory


def encoder_node(args: list[str] | None = None) -> int:
    """`ros2 run anypcc_ros encoder_node`; the exit status."""
    return _start("anypcc_ros.nodes.encoder_node", "EncoderNode", args)


def decoder_node(args: list[str] | None = None) -> int:
    """`ros2 run anypcc_ros decoder_node`; the exit status."""
    return _start("anypcc_ros.nodes.decoder_node", "DecoderNode", args)


def _start(module: str, node: str, args: list[str] | None) -> int:
    # Before the imports, which take a second: a Ctrl-C in that second ends the node as it does later.
    stop_signal = StopSignal()
    keep_freed_memory()
    try:
        make_node = getattr(importlib.import_module(module), node)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("anypcc_ros.") and error.name != "anypcc_ros.msg":
            raise
        print(f"the nodes need ROS 2 (there is no Python module {error.name}): see README.md", file=sys.stderr)
        return 1
    from anypcc_ros.nodes.spinning import run

    return run(make_node, stop_signal, args)


class StopSignal:
    """The first SIGINT or SIGTERM since the construction; those that follow are ignored until the process has ended."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        # The interpreter writes to this pipe at once, whichever thread the signal hits and whatever that is doing.
        self._arrived, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in self._SIGNALS:
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        while os.read(self._arrived, 1)[0] not in self._SIGNALS:
            pass
        for number in self._SIGNALS:
            signal.signal(number, signal.SIG_IGN)
