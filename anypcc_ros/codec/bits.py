"""Integers of different lengths, one after the other, highest bit first, packed into bytes."""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError


class BitWriter:
    """Packs integers into bytes."""

    def __init__(self) -> None:
        self._bits: list[np.ndarray] = []

    def write(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Append the low ``lengths`` bits, int64 from 0 to 64, of values (M,) uint64."""
        owner = np.repeat(np.arange(len(values)), lengths)
        place = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(owner))
        self._bits.append((values[owner] >> place.astype(np.uint64)).astype(np.uint8) & 1)

    def finish(self) -> bytes:
        """All bits, padded to a whole byte with zeros."""
        return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._bits])).tobytes()


class BitReader:
    """Inverse of ``BitWriter``. Raises StreamError subclasses."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def read(self, lengths: np.ndarray) -> np.ndarray:
        """The next integers (M,) uint64 of ``lengths`` bits (M,) int64."""
        starts = self._at + np.cumsum(lengths) - lengths
        end = self._at + int(lengths.sum())
        if end > len(self._bits):
            raise TruncatedError(f"{end} bits where there are {len(self._bits)}")
        values = np.zeros(len(lengths), np.uint64)
        for bit in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > bit)
            values[longer] = values[longer] << np.uint64(1) | self._bits[starts[longer] + bit]
        self._at = end
        return values

    @property
    def used(self) -> int:
        """How many bits were read."""
        return self._at


def check_rests(data: bytes | memoryview, used: int) -> None:
    """Whether nothing but padding follows the first ``used`` bits. Raises StreamError subclasses."""
    if used > 8 * len(data):
        raise TruncatedError(f"{used} bits where there are {8 * len(data)}")
    padding = 8 * len(data) - used
    if padding >= 8 or (padding and data[-1] & (1 << padding) - 1):
        raise CorruptStreamError(f"{padding} bits are left over")
