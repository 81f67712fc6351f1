"""Which of several ways to encode is taken for a cloud."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Way = TypeVar("Way")
Result = TypeVar("Result")


class Trials(Generic[Way]):
    """Tries all of some ways with the first cloud and with every ``every``-th after it, and takes the best of them until the
    next trial. Several threads may encode at a time."""

    def __init__(self, ways: Sequence[Way], every: int) -> None:
        self._ways, self._every = tuple(ways), every
        self._best = self._ways[0]
        self._clouds = 0
        self._lock = threading.Lock()

    def next(self) -> Trial[Way]:
        """What is tried with the next cloud, however often that is encoded."""
        with self._lock:
            all_of_them = self._clouds % self._every == 0
            self._clouds += 1
            return Trial(self._ways if all_of_them else (self._best,), self._found)

    def _found(self, way: Way) -> None:
        with self._lock:
            self._best = way


class Trial(Generic[Way]):
    """The ways that are tried with one cloud. ``found``: who wants to know which was the best of several."""

    def __init__(self, ways: Sequence[Way], found: Callable[[Way], None]) -> None:
        self._ways, self._found = ways, found

    def best(self, encode: Callable[[Way], Result], cost: Callable[[Way, Result], tuple[float, ...]]) -> tuple[Way, Result]:
        """A way and what it makes of the cloud. A later one is better than those before it where each of its costs is no
        larger, and one is smaller."""
        way, *others = self._ways
        result = encode(way)
        for other in others:
            tried = encode(other)
            pairs = list(zip(cost(other, tried), cost(way, result), strict=True))
            if all(new <= old for new, old in pairs) and any(new < old for new, old in pairs):
                way, result = other, tried
        if others:
            self._found(way)
        return way, result
