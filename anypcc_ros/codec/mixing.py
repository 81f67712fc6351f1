"""Tokens of up to eight bits under several contexts at once: what each context has seen is mixed by learned weights.

A token is coded as binary decisions, its highest bit first. Every context keeps two counts for each decision; their log ratios
are added up with weights that follow the gradient of the code length, the "logistic mixing" of PAQ (Mahoney 2005). All in
integers; counts and weights change between the blocks only, so that a whole block is computed at once.
"""

from __future__ import annotations

import math

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder

_LIMIT = 255  # of the sum of a decision's two counts between blocks
_BLOCK_LIMIT = 4096
_LOGARITHM = np.array([round(256 * math.log(count + 0.5)) for count in range(_LIMIT + _BLOCK_LIMIT + 1)], np.int32)
"""Natural logarithms of counts, in units of 1/256."""
_STEEPEST = 2816  # 11 in units of 1/256
_PROBABILITY = np.array(
    [min(max(round(65536 / (1 + math.exp(-x / 256))), 1), 65535) for x in range(-_STEEPEST, _STEEPEST + 1)], np.int32
)
"""Of a one, in units of 2^-16, by log ratio."""
_WEIGHT_SUM = 3 << 15  # one and a half, in units of 2^-16
_RATE = 13


class Mixer:
    """What was learned of tokens of ``bits`` bits in ``sizes[k]`` contexts of kind k, with ``selectors`` sets of weights."""

    def __init__(self, bits: int, sizes: tuple[int, ...], selectors: int) -> None:
        self.bits = bits
        self._first = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) << bits
        self._counts = np.zeros((sum(sizes) << bits, 2), np.int16)
        self._weights = np.full((bits, selectors, len(sizes)), _WEIGHT_SUM // len(sizes), np.int64)

    def begin(self, contexts: np.ndarray, selector: np.ndarray) -> _Block:
        """Start a block of tokens in contexts (M, K) int64, each below the size of its kind, and weight sets (M,) int64."""
        return _Block(self, self._first + (contexts << self.bits), selector)


class _Block:
    """One block: for each bit first ``ones``, then ``learn``; ``close`` at the end."""

    def __init__(self, mixer: Mixer, rows: np.ndarray, selector: np.ndarray) -> None:
        self._mixer, self._rows, self._selector = mixer, rows, selector
        self._prefix = np.ones(len(rows), np.int64)
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []

    def ones(self) -> np.ndarray:
        """(M,) int64: probability that the next bit is 1, in units of 2^-16."""
        self._decisions = self._rows + self._prefix[:, None]
        counts = _LOGARITHM[self._mixer._counts[self._decisions]]
        self._ratios = counts[:, :, 1] - counts[:, :, 0]
        weights = self._mixer._weights[len(self._seen)][self._selector]
        mixed = ((weights * self._ratios).sum(axis=1) + (1 << 15)) >> 16
        self._ones = _PROBABILITY[np.clip(mixed, -_STEEPEST, _STEEPEST) + _STEEPEST].astype(np.int64)
        return self._ones

    def learn(self, bit: np.ndarray) -> None:
        """The bits (M,) were these."""
        weights = self._mixer._weights[len(self._seen)]
        gradient = np.zeros_like(weights)
        np.add.at(gradient, self._selector, ((bit << 16) - self._ones)[:, None] * self._ratios)
        members = np.bincount(self._selector, minlength=len(weights))
        weights += gradient >> (_RATE + np.frexp(members)[1] // 2)[:, None]
        self._seen.append((self._decisions, bit))
        self._prefix = 2 * self._prefix + bit

    def close(self) -> np.ndarray:
        """Count what was seen; the tokens (M,) int64."""
        counts = self._mixer._counts
        for decisions, bit in self._seen:
            np.add.at(counts, (decisions, bit[:, None]), 1)
        large = np.concatenate([decisions.ravel() for decisions, _ in self._seen])
        while len(large := np.unique(large[counts[large].sum(axis=1) > _LIMIT])):
            counts[large] >>= 1
        return self._prefix - (1 << self._mixer.bits)


def encode_block(coder: SymbolEncoder, block: _Block, tokens: np.ndarray, bits: int) -> None:
    """Range-code the tokens (M,) int64 of one block."""
    for place in range(bits - 1, -1, -1):
        bit = tokens >> place & 1
        coder.encode(bit, _frequencies(block.ones()))
        block.learn(bit)
    block.close()


def decode_block(coder: SymbolDecoder, block: _Block, bits: int) -> np.ndarray:
    """The tokens (M,) int64 of one block."""
    for _ in range(bits):
        block.learn(coder.decode(_frequencies(block.ones())).astype(np.int64))
    return block.close()


def _frequencies(ones: np.ndarray) -> np.ndarray:
    return np.stack([65536 - ones, ones], axis=1).astype(np.float32)
