"""Threads that a node cannot do without."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class VitalThread(threading.Thread):
    """A thread whose failure ends the process, by a SIGTERM: a node that has stopped working must not look alive.

    ``failed``: whether it was ended by what it raised, which Python prints.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.failed = False

    def run(self) -> None:
        self.failed = True  # until it is known that nothing was raised
        try:
            self._work()
            self.failed = False
        finally:
            if self.failed:
                os.kill(os.getpid(), signal.SIGTERM)
