"""Work that another thread does meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

BEHIND = 3
"""Calls that may wait: enough for the other thread never to run dry, and few enough to bound what they hold in memory."""


class Caller(Protocol):
    """Makes calls in their order, now or later."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Raises what this call raises, or an earlier one has raised."""

    def finish(self) -> None:
        """Waits for all calls. Raises what one of them has raised."""


def caller(threads: int, behind: int = BEHIND) -> Caller:
    """A ``Background`` where there are several threads, 0 for one per core."""
    return Background(behind) if _several(threads) else Immediately()


def later(threads: int, function: Callable[..., Result], *arguments: Any) -> Callable[[], Result]:
    """What gives a call's result. Where there are several threads, 0 for one per core, another one begins with it now."""
    if not _several(threads):
        return partial(function, *arguments)
    thread = ThreadPoolExecutor(1)
    future = thread.submit(function, *arguments)
    thread.shutdown(wait=False)
    return future.result


def _several(threads: int) -> bool:
    return (threads or os.cpu_count() or 1) > 1


class Immediately:
    """Makes calls at once."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def finish(self) -> None:
        pass


class Background:
    """Makes calls on one thread of its own, at most ``behind`` calls later."""

    def __init__(self, behind: int = BEHIND) -> None:
        self._behind = behind
        self._thread = ThreadPoolExecutor(1)  # ends when this object does
        self._waiting: deque[Future[None]] = deque()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        if len(self._waiting) > self._behind:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def finish(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()
        self._thread.shutdown()
