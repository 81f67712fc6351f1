"""How often the clouds of a topic come, as a target in bits per second needs to know."""

from __future__ import annotations

import threading
from collections import deque

from anypcc_ros.codec.rate import DEFAULT_PERIOD

FRAMES = 11
LONGEST = 10.0  # seconds


class FramePeriod:
    """Seconds between the frames of one stream, from the times at which they were taken, or came where those stand still.
    Several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._gaps: deque[float] = deque(maxlen=FRAMES - 1)

    def after(self, taken: float, came: float) -> float:
        """The mean over the last frames, the one of these times in seconds included; ``DEFAULT_PERIOD`` for the first one.

        A time before the last one's begins anew, as where a recording is played again, and so does one long after it.
        """
        with self._lock:
            if self._last is not None:
                gap = taken - self._last[0] or came - self._last[1]
                if 0 < gap < LONGEST:
                    self._gaps.append(gap)
                else:
                    self._gaps.clear()
            self._last = taken, came
            return sum(self._gaps) / len(self._gaps) if self._gaps else DEFAULT_PERIOD
