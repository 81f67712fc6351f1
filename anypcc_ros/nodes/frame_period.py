"""How often the clouds of a topic come, as a target in bits per second needs to know."""

from __future__ import annotations

import threading
from collections import deque

from anypcc_ros.codec.rate import DEFAULT_PERIOD

FRAMES = 11
LONGEST = 10.0  # seconds


class FramePeriod:
    """Seconds between the frames of one stream, from the times at which they were taken. Several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=FRAMES)

    def after(self, time: float) -> float:
        """The mean over the last frames, this one of ``time`` included; ``DEFAULT_PERIOD`` for the first one.

        A time before the last one's begins anew, as where a recording is played again.
        """
        with self._lock:
            if self._times and not 0 < time - self._times[-1] < LONGEST:
                self._times.clear()
            self._times.append(time)
            frames = len(self._times) - 1
            return (self._times[-1] - self._times[0]) / frames if frames else DEFAULT_PERIOD
