"""Work that another thread does meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

BEHIND = 3
"""Calls that may wait: enough for the other thread never to run dry, and few enough to bound what they hold in memory."""


class Background:
    """Makes calls in their order on one thread of its own, at most ``BEHIND`` calls later."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)  # ends when this object does
        self._waiting: deque[Future[None]] = deque()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Raises what an earlier call has raised."""
        if len(self._waiting) > BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def finish(self) -> None:
        """Waits for all calls. Raises what one of them has raised."""
        while self._waiting:
            self._waiting.popleft().result()
        self._thread.shutdown()
