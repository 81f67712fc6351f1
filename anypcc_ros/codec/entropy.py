"""The range coder (the kernels' or constriction's), each symbol under integer frequencies of its own; and integers
for headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import constriction
import numpy as np

from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.kernels import native

_queue = constriction.stream.queue
_FAMILY = constriction.stream.model.Categorical(perfect=False)


class SymbolEncoder:
    """Range-codes symbols, each under integer frequencies of its own.

    By the kernels where they are available, several times as fast, otherwise by constriction; both write the same. ``native``:
    the encoder of the kernels, for those that encode more than symbols.
    """

    def __init__(self) -> None:
        self.native = native.RangeEncoder() if native.available() else None
        self._coder: Any = None if self.native else _queue.RangeEncoder()

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        """Symbols (N,) under their rows of frequencies (N, S) float32, whole numbers from 1 that sum to at most 2**24."""
        if self.native:
            self.native.encode(symbols.astype(np.int32), np.ascontiguousarray(frequencies))
        else:
            self._coder.encode(symbols.astype(np.int32), _FAMILY, frequencies)

    def finish(self) -> bytes:
        """Everything encoded so far, as little-endian 32-bit words. More may follow, which then may change the last words."""
        words = self.native.words() if self.native else self._coder.get_compressed()
        return bytes(words.astype("<u4", copy=False).tobytes())


class SymbolDecoder:
    """Inverse of ``SymbolEncoder``. Raises CorruptStreamError.

    By the kernels where they are available, three times as fast, otherwise by constriction; both read the same. ``native``:
    the decoder of the kernels, for those that decode more than symbols.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) % 4:
            raise CorruptStreamError(f"range-coded payload of {len(data)} bytes is not a whole number of words")
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self.native = native.RangeDecoder(words) if native.available() else None
        self._coder: Any = self.native or _queue.RangeDecoder(words)

    def decode(self, frequencies: np.ndarray) -> np.ndarray:
        """The next symbols (N,) int32, each under its row of frequencies (N, S) float32."""
        with self.checked():
            if self.native:
                return self.native.decode(np.ascontiguousarray(frequencies))
            return self._coder.decode(_FAMILY, frequencies)

    @staticmethod
    @contextmanager
    def checked() -> Iterator[None]:
        """What either decoder raises for words that no encoder wrote becomes a CorruptStreamError."""
        try:
            yield
        except (AssertionError, IndexError) as error:
            raise CorruptStreamError(f"range-coded payload does not fit its frequencies ({error})") from error

    def exhausted(self) -> bool:
        """Whether, as far as one can tell, everything encoded was read."""
        return bool(self._coder.maybe_exhausted())


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Value of an unsigned LEB128 of at most 9 bytes at ``position``, and the position after it."""
    value = 0
    for i in range(9):
        if position + i >= len(data):
            raise TruncatedError(f"integer cut off at byte {position + i}")
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise CorruptStreamError(f"integer longer than 9 bytes at byte {position}")


def encode_signed(value: int) -> bytes:
    """Signed LEB128 by zigzag: 0, -1, 1, -2, 2, ..."""
    return encode_varint(value << 1 if value >= 0 else (-value << 1) - 1)


def decode_signed(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Inverse of ``encode_signed``."""
    value, position = decode_varint(data, position)
    return (value >> 1 if not value & 1 else -(value + 1 >> 1)), position
