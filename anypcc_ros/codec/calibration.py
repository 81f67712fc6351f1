"""Backward-adaptive correction of the network's predictions, learned by encoder and decoder alike while they code.

The weights of the network are the same for every cloud, but clouds have habits: a CT volume's staircase, a sensor's
noise, the cones on which its lasers lie. Every code part is therefore predicted from

    logit[s] = network's logit[s] + sum over contexts c of bias[c][s]

where a context is a row of a table chosen by what is already decoded (``contexts.py``). After every chunk the rows that
were used take half a diagonal Newton step on the cost of its symbols, with a Gaussian prior around zero: logistic regression
on indicator features, as in the maximum entropy models of text compression. All of it is integers, but for one division of
exactly representable doubles, which IEEE 754 rounds alike everywhere.

Nothing of this is sent. ``Calibration`` is the reference implementation; the native kernels compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.buffers import Buffers
from anypcc_ros.codec.model.integer import EXP2, FREQUENCY_BITS

SYMBOLS = 16
"""Only code parts of four bits are corrected: a row of biases has one entry per symbol."""

LOGIT_LIMIT = 1 << 20
"""Logits of the network beyond this, 2**15 bits, count as this."""

BIAS_SHIFT = 8  # biases are kept 256 times finer than logits
BIAS_LIMIT = 1 << 18  # 32 bits
CURVATURE_SHIFT = 20  # frequency * (2**16 - frequency), 2**32 at most, in units of 2**-12
CURVATURE_LIMIT = 1 << 30
PRIOR = 8 << 12
"""Precision of the prior, in the unit of the curvature: a row counts fully once it has seen some 8 uncertain symbols."""

RATE = 369
"""round(2**13 steps per bit / (16 ln 2) / 2): half a Newton step in nats, in the unit of the biases. A whole one would go
too far, as several contexts learn from the same error."""


_NATIVE_EXP2 = native.Exp2(EXP2)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Integer frequencies (N, S) float32 of sum 2**16, each at least 1, from logits (N, S) int32 in 1/32 bit."""
    symbols = logits.shape[1]
    best = logits.max(axis=1, keepdims=True).astype(np.int64)
    weights = EXP2[np.minimum(best - logits, len(EXP2) - 1)].astype(np.int64)
    spread = (1 << FREQUENCY_BITS) - symbols
    frequencies = 1 + weights * spread // weights.sum(axis=1, keepdims=True)
    # argmax gives the first of equal maxima, to which the remainder belongs.
    frequencies[np.arange(len(logits)), logits.argmax(axis=1)] += (1 << FREQUENCY_BITS) - frequencies.sum(axis=1)
    return frequencies.astype(np.float32)


def predicted(logits: np.ndarray) -> np.ndarray:
    """``softmax`` of the network's own logits, natively where that is possible."""
    if not native.available():
        return softmax(logits)
    frequencies = np.empty(logits.shape, np.float32)
    native.softmax(logits, _NATIVE_EXP2, frequencies)
    return frequencies


def encode_predicted(logits: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
    """Encode symbols (N,) uint8 under what the network predicts, logits (N, S) int32."""
    if coder.native:
        native.predicted_encode(coder.native, logits, _NATIVE_EXP2, symbols)
    else:
        coder.encode(symbols, softmax(logits))


def decode_predicted(logits: np.ndarray, coder: SymbolDecoder, threads: int) -> np.ndarray:
    """Inverse of ``encode_predicted``, (N,) uint8, with so many threads, 0 for one per core. Raises CorruptStreamError."""
    if not coder.native or logits.shape[1] != SYMBOLS:
        return coder.decode(predicted(logits)).astype(np.uint8)
    symbols = np.empty(len(logits), np.uint8)
    with coder.checked():
        native.predicted_decode(coder.native, logits, _NATIVE_EXP2, symbols, threads)
    return symbols


def chunk_size(symbols: int) -> int:
    """Symbols of a code part that are coded before learning from them: few, so that what was learned serves soon, but not so
    few that the calls cost more than the coding."""
    return min(max(symbols // 64, 128), 1024)


def chunks(symbols: int) -> Iterator[slice]:
    """The chunks of a code part of so many symbols."""
    size = chunk_size(symbols)
    for start in range(0, symbols, size):
        yield slice(start, min(start + size, symbols))


class Corrector(Protocol):
    """What ``Calibration`` and its native equal have in common."""

    def frequencies(self, logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """Corrected frequencies (N, 16) float32. ``logits``: (N, 16) int32 in 1/32 bit. ``contexts``: (N, T) int32 rows,
        no two of a node equal."""

    def learn(self, frequencies: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Take in one chunk: its ``symbols`` (N,) uint8 and the ``frequencies`` that they were coded with."""

    def replay(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Frequencies (N, 16) float32 of a whole code part whose symbols are known, learning after every chunk."""

    def encode(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
        """Encode the symbols (N,) uint8 of a whole code part, learning after every chunk."""

    def decode(self, logits: np.ndarray, contexts: np.ndarray, coder: SymbolDecoder) -> np.ndarray:
        """Symbols (N,) uint8 of a whole code part, learning after every chunk. Raises CorruptStreamError."""


def corrector(rows: int) -> Corrector:
    """A calibration of ``rows`` contexts that knows nothing yet, native where the kernels are available."""
    return NativeCalibration(rows) if native.available() else Calibration(rows)


class Calibration:
    """A ``Corrector`` in NumPy: the biases of every context, ``rows`` of them, and how well each is known."""

    def __init__(self, rows: int) -> None:
        self.bias = np.zeros((rows, SYMBOLS), np.int32)
        self.curvature = np.zeros((rows, SYMBOLS), np.int32)

    def frequencies(self, logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        correction = self.bias[contexts].sum(axis=1, dtype=np.int32) + (1 << BIAS_SHIFT - 1) >> BIAS_SHIFT
        return softmax(np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT) + correction)

    def learn(self, frequencies: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> None:
        expected = frequencies.astype(np.int64)
        curvature = expected * ((1 << FREQUENCY_BITS) - expected) >> CURVATURE_SHIFT
        gradient = -expected
        gradient[np.arange(len(symbols)), symbols] += 1 << FREQUENCY_BITS
        for column in contexts.T:
            used, inverse = np.unique(column, return_inverse=True)
            sums = np.zeros((2, len(used), SYMBOLS), np.int64)
            np.add.at(sums[0], inverse, gradient)
            np.add.at(sums[1], inverse, curvature)
            known = np.minimum(self.curvature[used] + sums[1], CURVATURE_LIMIT)
            step = np.rint((sums[0] * RATE).astype(np.float64) / (known + PRIOR)).astype(np.int64)
            self.curvature[used] = known
            self.bias[used] = np.clip(self.bias[used] + step, -BIAS_LIMIT, BIAS_LIMIT)

    def replay(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        frequencies = np.empty(logits.shape, np.float32)
        for chunk in chunks(len(symbols)):
            frequencies[chunk] = self.frequencies(logits[chunk], contexts[chunk])
            self.learn(frequencies[chunk], contexts[chunk], symbols[chunk])
        return frequencies

    def encode(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
        coder.encode(symbols, self.replay(logits, contexts, symbols))

    def decode(self, logits: np.ndarray, contexts: np.ndarray, coder: SymbolDecoder) -> np.ndarray:
        symbols = np.empty(len(logits), np.uint8)
        for chunk in chunks(len(symbols)):
            frequencies = self.frequencies(logits[chunk], contexts[chunk])
            symbols[chunk] = coder.decode(frequencies)
            self.learn(frequencies, contexts[chunk], symbols[chunk])
        return symbols


class NativeCalibration:
    """The same ``Corrector`` in native code."""

    def __init__(self, rows: int) -> None:
        self._native = native.Calibration(rows, _NATIVE_EXP2)
        self._buffers = Buffers()

    def frequencies(self, logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        frequencies = np.empty(logits.shape, np.float32)
        self._native.frequencies(logits, contexts, frequencies)
        return frequencies

    def learn(self, frequencies: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> None:
        self._native.learn(frequencies, contexts, symbols)

    def replay(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        frequencies = self._buffers.empty(logits.shape, np.float32)
        self._native.replay(logits, contexts, symbols, chunk_size(len(symbols)), frequencies)
        return frequencies

    def encode(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
        assert coder.native, "where there is a native calibration there is a native encoder"
        chunk = chunk_size(len(logits))
        frequencies = self._buffers.empty((chunk, SYMBOLS), np.float32)
        self._native.encode(logits, contexts, coder.native, chunk, frequencies, symbols)

    def decode(self, logits: np.ndarray, contexts: np.ndarray, coder: SymbolDecoder) -> np.ndarray:
        assert coder.native, "where there is a native calibration there is a native decoder"
        symbols, chunk = np.empty(len(logits), np.uint8), chunk_size(len(logits))
        frequencies = self._buffers.empty((chunk, SYMBOLS), np.float32)
        with coder.checked():
            self._native.decode(logits, contexts, coder.native, chunk, frequencies, symbols)
        return symbols
