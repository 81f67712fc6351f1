"""The range coder (constriction) behind the network's distributions, and compact integers for headers."""

from __future__ import annotations

import constriction
import numpy as np

from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError

_queue = constriction.stream.queue
_FAMILY = constriction.stream.model.Categorical(perfect=False)


class OccupancyEncoder:
    """A ``network.SymbolCoder`` that range-encodes the codes it was given, level by level."""

    def __init__(self) -> None:
        self._coder = _queue.RangeEncoder()
        self._codes = np.zeros(0, np.uint8)

    def level(self, codes: np.ndarray) -> OccupancyEncoder:
        """The same coder, ready for a level with these codes (N,) uint8."""
        self._codes = codes
        return self

    def code(self, distribution: np.ndarray, rows: np.ndarray, first_bit: int, bits: int) -> np.ndarray:
        symbols = self._codes[rows] >> first_bit & ((1 << bits) - 1)
        self._coder.encode(symbols.astype(np.int32), _FAMILY, distribution)
        return symbols.astype(np.uint8)

    def finish(self) -> bytes:
        """Everything encoded, as little-endian 32-bit words."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class OccupancyDecoder:
    """A ``network.SymbolCoder`` that reads codes from range-coded bytes. Raises CorruptStreamError."""

    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) % 4:
            raise CorruptStreamError(f"range-coded payload of {len(data)} bytes is not a whole number of words")
        self._coder = _queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def code(self, distribution: np.ndarray, rows: np.ndarray, first_bit: int, bits: int) -> np.ndarray:
        try:
            return self._coder.decode(_FAMILY, distribution).astype(np.uint8)
        except AssertionError as error:  # how constriction says that no encoder wrote these words
            raise CorruptStreamError(f"range-coded payload does not fit the model ({error})") from error

    def exhausted(self) -> bool:
        """Whether, as far as one can tell, everything encoded was read."""
        return bool(self._coder.maybe_exhausted())


def encode_counts(values: np.ndarray) -> bytes:
    """Range-code (N,) non-negative integers under their own histogram.

    Layout: 16 variable-length frequencies of min(value, 15), one variable-length excess for each value from 15 up, then
    the range-coded words.
    """
    symbols = np.minimum(values, 15).astype(np.int32)
    histogram = np.bincount(symbols, minlength=16)
    head = b"".join(encode_varint(int(n)) for n in histogram)
    excess = b"".join(encode_varint(int(v) - 15) for v in values[values >= 15])
    coder = _queue.RangeEncoder()
    coder.encode(symbols, _histogram_model(histogram))
    return head + excess + coder.get_compressed().astype("<u4").tobytes()


def decode_counts(data: bytes | memoryview, count: int) -> np.ndarray:
    """Inverse of ``encode_counts`` for ``count`` values, (count,) int64. Raises StreamError subclasses."""
    position, histogram = 0, np.zeros(16, np.int64)
    for i in range(16):
        histogram[i], position = decode_varint(data, position)
    if int(histogram.sum()) != count:
        raise CorruptStreamError(f"histogram of {int(histogram.sum())} counts for {count} voxels")
    large = []
    for _ in range(int(histogram[15])):
        excess, position = decode_varint(data, position)
        large.append(excess + 15)
    words = data[position:]
    if len(words) % 4:
        raise CorruptStreamError(f"range-coded counts of {len(words)} bytes are not a whole number of words")
    coder = _queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
    try:
        values = coder.decode(_histogram_model(histogram), count).astype(np.int64)
    except AssertionError as error:
        raise CorruptStreamError(f"range-coded counts do not fit their histogram ({error})") from error
    rows = np.flatnonzero(values == 15)
    if len(rows) != len(large):
        raise CorruptStreamError(f"{len(rows)} large counts decoded, {len(large)} declared")
    values[rows] = np.array(large, np.int64)
    return values


def _histogram_model(histogram: np.ndarray) -> constriction.stream.model.Categorical:
    # One added everywhere keeps every probability positive; the scale keeps float32 integers exact.
    scaled = histogram.astype(np.int64) * (1 << 16) // max(int(histogram.sum()), 1) + 1
    return constriction.stream.model.Categorical(scaled.astype(np.float32), perfect=False)


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
