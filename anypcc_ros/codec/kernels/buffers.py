"""Large arrays that are used again: memory fresh from the system is paged in at the cost of a pass over it."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np

SMALL = 1 << 16
"""Arrays of fewer bytes are not worth it: the allocator keeps their memory anyway."""

_UNUSED = 3  # references to a buffer that no array uses: the pool's, the loop's, the call's own


class Buffers:
    """Gives out uninitialised arrays over a few buffers; one is free again when the last array over it is gone.

    ``kept``: most buffers to keep. ``largest``: bytes of the largest one to keep; beyond that arrays are plain ones.
    """

    def __init__(self, kept: int = 12, largest: int = 1 << 27) -> None:
        self._kept, self._largest = kept, largest
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """As ``numpy.empty``."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not SMALL <= size <= self._largest:
            return np.empty(shape, dtype)
        with self._lock:
            buffer = self._free(size)
            return buffer[:size].view(dtype).reshape(shape)

    def _free(self, size: int) -> np.ndarray:
        smaller = None
        for i in range(len(self._buffers)):
            buffer = self._buffers[i]
            if sys.getrefcount(buffer) == _UNUSED:
                if len(buffer) >= size:
                    return buffer
                smaller = i
        buffer = np.empty(size + size // 4, np.uint8)
        if smaller is not None:
            self._buffers[smaller] = buffer
        elif len(self._buffers) < self._kept:
            self._buffers.append(buffer)
        return buffer
