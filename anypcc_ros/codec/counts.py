"""Small counts, such as the points per cell: an adaptive model by context instead of the network."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder, decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.octree import changes

SYMBOLS = 16
_PRIOR = np.array([32, 8, 4, 2, *[1] * 12], np.float32)
_WEIGHT = 16  # of one value that was seen
_LIMIT = 1 << 20  # of a context's total; float32 holds every integer below 2**24
_FIRST_BLOCK, _LAST_BLOCK = 64, 4096
_EXCESS_LIMIT = 1 << 32  # keeps sums of forged counts within int64
_KEPT_ORDER = 1 << 20  # indices whose order is kept from cloud to cloud, as sorting takes longer than the coding
_SCATTER = np.uint32(2654435769)  # 2**32 / golden ratio: multiples of it are evenly spread


def density_contexts(coords: np.ndarray) -> np.ndarray:
    """Context (N,) uint8, 0 to 27, of each cell: where cells crowd, so do the points in them.

    It comes from how many cells share its parent (1 to 8, 4 and more taken as one) and its grandparent (1 to 64, by octave).
    ``coords``: (N, 3) int64 in Morton order, no two of them equal.
    """
    if native.available():
        return native.density_contexts(np.ascontiguousarray(coords))
    crowd, wider = (_run_lengths(coords >> levels) for levels in (1, 2))
    octave = np.frexp(wider)[1] - 1  # 0 for 1, 1 for 2 and 3, ... 6 for 64
    return (np.minimum(crowd - 1, 3) * 7 + octave).astype(np.uint8)


def _run_lengths(coords: np.ndarray) -> np.ndarray:
    """(N,) int64: length of the run of equal rows that each row of (N, 3) belongs to."""
    lengths = np.diff(np.concatenate([[0], np.flatnonzero(changes(coords)) + 1, [len(coords)]]))
    return np.repeat(lengths, lengths)


def encode_counts(values: np.ndarray, contexts: np.ndarray) -> bytes:
    """Code (N,) non-negative integers, each in its context (N,) uint8, with statistics learned on the way.

    Layout: the size of what follows; a variable-length excess for each value from 15 up; then the range-coded symbols
    min(value, 15). Symbols are coded in blocks, each with the statistics of those before it, so that no table is sent.
    Blocks are spread over the whole cloud, for its far and near parts differ more than its blocks may.
    """
    symbols = np.minimum(values, SYMBOLS - 1).astype(np.uint8)
    excess = b"".join(encode_varint(int(v) - SYMBOLS + 1) for v in values[symbols == SYMBOLS - 1])
    coder = SymbolEncoder()
    if coder.native:
        native.counts_encode(coder.native, symbols, contexts, _scattered(len(symbols)))
    else:
        _encode_blocks(coder, symbols, _Statistics(contexts))
    return encode_varint(len(excess)) + excess + coder.finish()


def _encode_blocks(coder: SymbolEncoder, symbols: np.ndarray, statistics: _Statistics) -> None:
    """What the kernels do faster."""
    for block in statistics.blocks():
        coder.encode(symbols[block], statistics.frequencies(block))
        statistics.learn(block, symbols[block])


def decode_counts(data: bytes | memoryview, contexts: np.ndarray) -> np.ndarray:
    """Inverse of ``encode_counts`` for values in these contexts (N,), (N,) int64. Raises StreamError subclasses."""
    size, position = decode_varint(data, 0)
    if size > len(data) - position:
        raise TruncatedError(f"{size} bytes of large counts in {len(data)}")
    coder = SymbolDecoder(data[position + size :])
    if coder.native:
        with coder.checked():
            values = native.counts_decode(coder.native, contexts, _scattered(len(contexts))).astype(np.int64)
    else:
        values = _decode_blocks(coder, _Statistics(contexts))
    end = position + size
    for row in np.flatnonzero(values == SYMBOLS - 1):
        excess, position = decode_varint(data[:end], position)
        if excess >= _EXCESS_LIMIT:
            raise CorruptStreamError(f"a count of {SYMBOLS - 1} + {excess}")
        values[row] += excess
    if position != end or not coder.exhausted():
        raise CorruptStreamError(f"{end - position} bytes of large counts left over")
    return values


def _decode_blocks(coder: SymbolDecoder, statistics: _Statistics) -> np.ndarray:
    values = np.zeros(len(statistics), np.int64)
    for block in statistics.blocks():
        values[block] = coder.decode(statistics.frequencies(block))
        statistics.learn(block, values[block])
    return values


def _scattered(count: int) -> np.ndarray:
    """int32, the indices up to ``count`` or more, sorted by their multiples of ``_SCATTER`` modulo 2**32."""
    if not 0 < count <= _KEPT_ORDER:
        return _order_of(count)
    return _kept_order(1 << (count - 1).bit_length())


@functools.lru_cache(maxsize=4)
def _kept_order(count: int) -> np.ndarray:
    return _order_of(count)


def _order_of(count: int) -> np.ndarray:
    multiples = np.arange(count, dtype=np.uint32) * _SCATTER
    return np.argsort(multiples).astype(np.int32)  # no two are equal


class _Statistics:
    """Symbol frequencies by context, (contexts, 16), learned block by block."""

    def __init__(self, contexts: np.ndarray) -> None:
        self._contexts = contexts.astype(np.int64)
        # In float32, as the coder takes them: every whole number up to _LIMIT is exact in it.
        self._table = np.tile(_PRIOR, (int(contexts.max(initial=0)) + 1, 1))

    def __len__(self) -> int:
        return len(self._contexts)

    def blocks(self) -> Iterator[np.ndarray]:
        """Rows of blocks of 64, 128, ... and then 4096 values: statistics settle fast and cost little later."""
        order = _scattered(len(self))
        order = order[order < len(self)]
        start, size = 0, _FIRST_BLOCK
        while start < len(order):
            yield order[start : start + size]
            start, size = start + size, min(2 * size, _LAST_BLOCK)

    def frequencies(self, block: np.ndarray) -> np.ndarray:
        return self._table[self._contexts[block]]

    def learn(self, block: np.ndarray, symbols: np.ndarray) -> None:
        seen = np.bincount(self._contexts[block] * SYMBOLS + symbols, minlength=self._table.size)
        self._table += (seen * _WEIGHT).astype(np.float32).reshape(self._table.shape)
        large = self._table.sum(axis=1) >= _LIMIT
        self._table[large] = (self._table[large] + 1) // 2
