"""How frames come to the workers of a node and leave them: the newest alone waits, and the order is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Arrival(NamedTuple):
    """A message as it came in: its serialized bytes, and when, in seconds of time.monotonic()."""

    data: bytes
    time: float


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
