"""Work that another thread does meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

Result = TypeVar("Result")

BEHIND = 3
"""Calls that may wait: enough for the other thread never to run dry, and few enough to bound what they hold in memory."""


class Caller(Protocol):
    """Makes calls in their order, now or later. As a context it leaves none behind: it waits for them all; or, where an error
    leaves the block, for the one that has begun, and no other is made."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Raises what this call raises, or an earlier one has raised."""

    def wait(self) -> None:
        """Until all calls are made. Raises what one of them has raised."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Raises as ``wait`` does."""


def caller(threads: int, behind: int = BEHIND) -> Caller:
    """A ``Background`` where there are several threads, 0 for one per core."""
    return Background(behind) if several(threads) else Immediately()


def later(threads: int, function: Callable[..., Result], *arguments: Any) -> Callable[[], Result]:
    """What gives a call's result. Where there are several threads, 0 for one per core, another one begins with it now."""
    if not several(threads):
        return partial(function, *arguments)
    thread = ThreadPoolExecutor(1)
    future = thread.submit(function, *arguments)
    thread.shutdown(wait=False)
    return future.result


def several(threads: int) -> bool:
    """Whether so many threads are more than one, 0 for one per core."""
    return (threads or os.cpu_count() or 1) > 1


class Immediately:
    """Makes calls at once."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def wait(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Background:
    """Makes calls on one thread of its own, at most ``behind`` calls later."""

    def __init__(self, behind: int = BEHIND) -> None:
        self._behind = behind
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        if len(self._waiting) > self._behind:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def wait(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._waiting.clear()
