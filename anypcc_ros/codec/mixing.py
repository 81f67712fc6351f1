"""Tokens of up to eight bits under several contexts at once: what each context has seen is mixed by learned weights.

A token is coded as binary decisions, its highest bit first. Every context keeps two counts for each decision; their log ratios
are added up with weights that follow the gradient of the code length, the "logistic mixing" of PAQ (Mahoney 2005). All in
integers; within a block nothing is learned that the block's other tokens would need, so that a block is computed at once.
"""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder

_LIMIT = 255  # of the sum of a decision's two counts
STEEPEST = 4096  # 16 octaves in units of 2^-8
PROBABILITY = np.array(
    [min(max(round(65536 / (1 + 2 ** (-x / 256))), 1), 65535) for x in range(-STEEPEST, STEEPEST + 1)], np.int32
)
"""Of a one, in units of 2^-16, by log ratio."""
_WEIGHT_SUM = 3 << 15  # one and a half, in units of 2^-16
_WEIGHT_LIMIT = (1 << 19) - 1
_COARSER = 4  # bits of a weight that only learning uses
_RATE = 13


class Mixer:
    """What was learned of tokens of ``bits`` bits in ``sizes[k]`` contexts of kind k, with ``selectors`` sets of weights.

    For each block ``begin``; then for each bit ``predict`` and ``learn``.
    """

    def __init__(self, bits: int, sizes: tuple[int, ...], selectors: int) -> None:
        self._bits = bits
        self._first = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) << bits
        self._counts = np.zeros((sum(sizes) << bits, 2), np.int32)
        self._weights = np.full((bits, selectors, len(sizes)), first_weight(len(sizes)), np.int64)

    def begin(self, contexts: np.ndarray, selector: np.ndarray) -> None:
        """Start a block of tokens in contexts (M, K) int64, each below the size of its kind, and weight sets (M,) int64."""
        self._nodes, self._selector = self._first + (contexts << self._bits), selector
        self._prefix = np.ones(len(selector), np.int64)
        self._level = 0

    def predict(self) -> np.ndarray:
        """(M, 2) float32: frequencies of 0 and 1 for the next bit, of sum 2^16."""
        self._decisions = self._nodes + self._prefix[:, None]
        counts = _logarithms(self._counts[self._decisions])
        self._ratios = counts[:, :, 1] - counts[:, :, 0]
        weights = self._weights[self._level][self._selector]
        mixed = ((weights >> _COARSER) * self._ratios).sum(axis=1) + (1 << 15 - _COARSER) >> 16 - _COARSER
        self._ones = PROBABILITY[np.clip(mixed, -STEEPEST, STEEPEST) + STEEPEST].astype(np.int64)
        return np.stack([65536 - self._ones, self._ones], axis=1).astype(np.float32)

    def learn(self, bits: np.ndarray) -> None:
        """The bits, (M,) int32, were these."""
        bits = bits.astype(np.int64)
        weights = self._weights[self._level]
        gradient = np.zeros_like(weights)
        np.add.at(gradient, self._selector, ((bits << 16) - self._ones)[:, None] * self._ratios)
        members = np.bincount(self._selector, minlength=len(weights))
        weights += gradient >> (_RATE + np.frexp(members)[1] // 2)[:, None]
        np.clip(weights, -_WEIGHT_LIMIT, _WEIGHT_LIMIT, out=weights)
        np.add.at(self._counts, (self._decisions, bits[:, None]), 1)
        large = np.unique(self._decisions)
        while len(large := large[self._counts[large].sum(axis=1) > _LIMIT]):
            self._counts[large] >>= 1
        self._prefix = 2 * self._prefix + bits
        self._level += 1


def _logarithms(counts: np.ndarray) -> np.ndarray:
    """Of 2 c + 1, for c of int32, in units of 2^-8, int64; with f for log2(1 + f) within an octave: those of float32 bits."""
    return ((2 * counts + 1).astype(np.float32).view(np.int32) >> 15).astype(np.int64)


def first_weight(kinds: int) -> int:
    """The weight with which each of so many kinds of contexts begins."""
    return _WEIGHT_SUM // kinds


def encode_block(coder: SymbolEncoder, mixer: Mixer, tokens: np.ndarray, bits: int) -> None:
    """Range-code the tokens (M,) int64 of the block that the mixer has begun."""
    for place in range(bits - 1, -1, -1):
        bit = (tokens >> place & 1).astype(np.int32)
        coder.encode(bit, mixer.predict())
        mixer.learn(bit)


def decode_block(coder: SymbolDecoder, mixer: Mixer, count: int, bits: int) -> np.ndarray:
    """The tokens (count,) int64 of the block that the mixer has begun."""
    tokens = np.zeros(count, np.int64)
    for _ in range(bits):
        bit = coder.decode(mixer.predict())
        mixer.learn(bit)
        tokens = 2 * tokens + bit
    return tokens
