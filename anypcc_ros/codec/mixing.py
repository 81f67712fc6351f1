"""Tokens of up to eight bits under several contexts at once: what each context has seen is mixed by learned weights.

A token is one symbol of up to four bits, or two: the bits above the lowest four, then these. Every context counts the symbols
that it sees, each a little for those beside it, too; of symbols that were all but certain only a few. The logarithms of the
counts are added up with weights that follow the gradient of the code length: the "logistic mixing" of PAQ (Mahoney 2005), of
whole distributions in place of single bits. All in integers, and in single precision where IEEE 754 rounds every step; within a
block nothing is learned that the block's other tokens would need, so that a block is computed at once.
"""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder

_PART = 4  # bits of a symbol at most
_SEEN, _BESIDE = 32, 1  # what a symbol adds to its count and to those next to it
_LIMIT = 1000  # of a count
_UNSEEN = np.float32(2)  # what a count begins with
_LOGARITHM = 15  # bits of a float32 below those of its logarithm in units of 2^-8
_HALF = np.float32(0.5)
_LOWEST = 16 << 8  # octaves below the likeliest symbol
_ONE = 1 << 16
_WEIGHT_SUM = 3 << 15  # one and a half, in units of 2^-16
_WEIGHT_LIMIT = (1 << 19) - 1
_COARSER = 4  # bits of a weight that only learning uses
_FINER = 10  # bits of a gradient that are not summed
_RATE = 5
_SURE, _EVERY = 64_000, 4  # the share of 2^16 from which on only every fourth token is learned from


class Mixer:
    """What was learned of tokens of ``bits`` bits in ``sizes[k]`` contexts of kind k, with ``selectors`` sets of weights.

    For each block ``begin``; then for each of a token's ``parts``, their bits, ``predict`` and ``learn``.
    """

    def __init__(self, bits: int, sizes: tuple[int, ...], selectors: int) -> None:
        self.parts = parts_of(bits)
        self._first = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)])
        above = [1, 1 << self.parts[0]]  # what a part's counts depend on besides the context
        self._counts = [
            np.full((sum(sizes) * values, 1 << part), _UNSEEN) for part, values in zip(self.parts, above, strict=False)
        ]
        self._weights = np.full((len(self.parts), selectors, len(sizes)), _WEIGHT_SUM // len(sizes), np.int64)

    def begin(self, contexts: np.ndarray, selector: np.ndarray) -> None:
        """Start a block of tokens in contexts (M, K) int64, each below the size of its kind, and weight sets (M,) int64."""
        self._rows, self._selector = self._first + contexts, selector
        self._part = 0

    def predict(self) -> np.ndarray:
        """(M, S) float32: frequencies of the next part's S values, whole numbers of at least 2."""
        weights = self._weights[self._part][self._selector] >> _COARSER
        self._logarithms = _logarithms(self._counts[self._part][self._rows])
        mixed = (self._logarithms * weights[:, :, None]).sum(axis=1) + (1 << 15 - _COARSER) >> 16 - _COARSER
        frequencies = _powers(np.maximum(mixed - mixed.max(axis=1, keepdims=True), -_LOWEST))
        total = frequencies.sum(axis=1, keepdims=True)
        self._shares = (frequencies * (np.float32(_ONE) / total)).astype(np.int64)
        return frequencies

    def learn(self, values: np.ndarray) -> None:
        """The part's values, (M,) int64, were these."""
        counts, weights = self._counts[self._part], self._weights[self._part]
        places, symbols = np.arange(len(values)), np.arange(counts.shape[1])
        taught = (self._shares[places, values] < _SURE) | (places % _EVERY == 0)
        rows, selector, told = self._rows[taught], self._selector[taught], values[taught][:, None]
        errors = np.where(symbols == told, _ONE, 0) - self._shares[taught]
        gradient = np.zeros_like(weights)
        np.add.at(gradient, selector, (errors[:, None] * self._logarithms[taught] >> _FINER).sum(axis=2))
        members = np.bincount(selector, minlength=len(weights))
        weights += gradient >> (_RATE + np.frexp(members)[1] // 2)[:, None]
        np.clip(weights, -_WEIGHT_LIMIT, _WEIGHT_LIMIT, out=weights)
        apart = np.abs(symbols - told)
        seen = np.where(apart == 0, _SEEN, np.where(apart == 1, _BESIDE, 0)).astype(np.float32)
        np.add.at(counts, rows, seen[:, None])
        while (large := counts[rows, told] > _LIMIT).any():
            halved = np.unique(rows[large])
            counts[halved] = counts[halved] * _HALF + _UNSEEN * _HALF
        self._rows = (self._rows << self.parts[0]) + values[:, None]
        self._part += 1


def parts_of(bits: int) -> tuple[int, ...]:
    """The bits of the parts that tokens of so many bits have."""
    return (bits,) if bits <= _PART else (bits - _PART, _PART)


def _logarithms(counts: np.ndarray) -> np.ndarray:
    """In units of 2^-8, int64; with f for log2(1 + f) within an octave: those of float32 bits."""
    return (counts.view(np.int32) >> _LOGARITHM).astype(np.int64) - (127 << 23 - _LOGARITHM)


def _powers(exponents: np.ndarray) -> np.ndarray:
    """1 + 2^(16 + e / 2^8), rounded down to whole float32; the inverse of ``_logarithms``."""
    bits = (exponents << _LOGARITHM) + (127 + 16 << 23)
    return np.floor(bits.astype(np.int32).view(np.float32)) + np.float32(1)


def encode_block(coder: SymbolEncoder, mixer: Mixer, tokens: np.ndarray) -> None:
    """Range-code the tokens (M,) int64 of the block that the mixer has begun."""
    below = sum(mixer.parts)
    for bits in mixer.parts:
        below -= bits
        values = tokens >> below & (1 << bits) - 1
        coder.encode(values, mixer.predict())
        mixer.learn(values)


def decode_block(coder: SymbolDecoder, mixer: Mixer, count: int) -> np.ndarray:
    """The tokens (count,) int64 of the block that the mixer has begun."""
    tokens = np.zeros(count, np.int64)
    for bits in mixer.parts:
        values = coder.decode(mixer.predict()).astype(np.int64)
        mixer.learn(values)
        tokens = (tokens << bits) + values
    return tokens
