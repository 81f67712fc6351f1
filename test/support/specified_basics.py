"""Integers of a payload and the range coder, read by docs/bitstream.md alone."""

from __future__ import annotations

import struct
from bisect import bisect_right

import numpy as np


class Reader:
    """Takes fields off the front of a payload."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def byte(self) -> int:
        return self.take(1)[0]

    def floats(self, count: int) -> np.ndarray:
        return np.frombuffer(self.take(8 * count), "<f8")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise AssertionError("a varint of more than 9 bytes")

    def signed(self) -> int:
        value = self.varint()
        return -(value + 1) // 2 if value & 1 else value // 2


class RangeDecoder:
    """Symbols from 32-bit words."""

    def __init__(self, words: bytes) -> None:
        assert len(words) % 4 == 0
        self.words = [word for (word,) in struct.iter_unpack("<I", words)]
        self.at = 0
        self.range = (1 << 64) - 1
        self.value = self.next_word() << 32
        self.value |= self.next_word()

    def next_word(self) -> int:
        self.at += 1
        return self.words[self.at - 1] if self.at <= len(self.words) else 0

    def decode(self, frequencies: np.ndarray) -> np.ndarray:
        """The next symbols, each under its row of frequencies (N, S)."""
        return np.array([self.symbol(bounds) for bounds in bounds_of(frequencies).tolist()], np.int64)

    def symbol(self, bounds: list[int]) -> int:
        unit = self.range >> 24
        quantile = self.value // unit
        assert quantile < 1 << 24
        symbol = bisect_right(bounds, quantile) - 1
        self.value -= unit * bounds[symbol]
        self.range = unit * (bounds[symbol + 1] - bounds[symbol])
        if self.range < 1 << 32:
            self.range <<= 32
            self.value = self.value << 32 | self.next_word()
        return symbol

    def exhausted(self) -> bool:
        if self.range == (1 << 64) - 1:  # nothing was decoded
            return not self.words
        return self.at >= len(self.words) and self.value < (1 << 33) - 1


def bounds_of(frequencies: np.ndarray) -> np.ndarray:
    """(N, S + 1) bounds of the symbols in 0..2^24, from frequencies (N, S)."""
    symbols = frequencies.shape[1]
    sums = np.cumsum(frequencies, 1)
    scale = np.float32((1 << 24) - symbols) / sums[:, -1:].astype(np.float32)
    bounds = np.zeros((len(frequencies), symbols + 1), np.int64)
    bounds[:, 1:] = np.floor(sums.astype(np.float32) * scale) + np.arange(1, symbols + 1)
    bounds[:, -1] = 1 << 24
    return bounds
