"""Backward-adaptive correction of the network's predictions, learned by encoder and decoder alike while they code.

The weights of the network are the same for every cloud, but clouds have habits: a CT volume's staircase, a sensor's
noise, the cones on which its lasers lie. Every code part is therefore predicted from

    logit[s] = weight * network's logit[s] + sum over tables t of weight[t] * bias[row of t][s]

where each table has a row for whatever is already decoded around the node (``contexts.py``). After every chunk of symbols the
rows that were used take a diagonal Newton step on the cost of each of its symbols, with a Gaussian prior around zero: logistic
regression on indicator features, as in the maximum entropy models of text compression. The weights follow the gradient of the
same cost, as in the mixing of PAQ (Mahoney 2005): what a table says counts more or less, as it proves right. All of it is
integers, but for one division in single precision, which IEEE 754 rounds alike everywhere.

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

CHUNK = 16
"""Symbols of a code part that are coded before learning from them: few, so that what was learned serves soon, and as many as
vectors hold at once."""

MOST_TABLES = 8

LOGIT_LIMIT = 1 << 20
"""Logits of the network beyond this, 2**15 bits, count as this."""

BIAS_SHIFT = 8  # biases are kept 256 times finer than logits
BIAS_LIMIT = 1 << 17  # 16 bits
CURVATURE_SHIFT = 20  # frequency * (2**16 - frequency), 2**32 at most, in units of 2**-12
CURVATURE_LIMIT = 1 << 20
"""Where a row stops to become slower: it has then seen some 1000 uncertain symbols."""

PRIOR = 8 << 12
"""Precision of the prior, in the unit of the curvature: a row counts fully once it has seen some 8 uncertain symbols."""

RATE = np.float32(1035)
"""round(1.4 * 2**13 steps per bit / (16 ln 2)): 1.4 Newton steps in nats, in the unit of the biases. The weights take back what
is too much where several tables learn from the same error."""

WEIGHT_BITS = 16
"""A weight of 1 is 2**16, and weights begin with 1. What predicts takes the upper half of it."""

WEIGHT_RANGE = -(1 << WEIGHT_BITS), 4 << WEIGHT_BITS
MOST_MOVED = 1 << 12  # of a weight in one chunk
NEAR_LOGITS = 1 << 11  # 64 bits: logits beyond count as this when the network's weight learns


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


def chunks(symbols: int) -> Iterator[slice]:
    """The chunks of a code part of so many symbols."""
    for start in range(0, symbols, CHUNK):
        yield slice(start, min(start + CHUNK, symbols))


class Corrector(Protocol):
    """What codes the code parts of a cloud one after the other, and learns from them.

    Of every part: the network's ``logits`` (N, 16) int32 in 1/32 bit, and ``contexts`` (N, T) int32, rows of the tables, one of
    each: no two of a node are equal.
    """

    def weights(self, tables: int) -> np.ndarray:
        """Those used for nodes with so many rows as they are now, (tables + 1,) integers; the last one is the network's."""

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
    """A ``Corrector`` in NumPy: the biases of every context, ``rows`` of them, how well each is known, and the weights."""

    def __init__(self, rows: int) -> None:
        self.bias = np.zeros((rows, SYMBOLS), np.int32)
        self.curvature = np.zeros((rows, SYMBOLS), np.int32)
        self._weights = np.full((MOST_TABLES + 1, MOST_TABLES + 1), 1 << WEIGHT_BITS, np.int64)

    def weights(self, tables: int) -> np.ndarray:
        return self._weights[tables, : tables + 1]

    def frequencies(self, logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """Corrected frequencies (N, 16) float32 of one chunk."""
        *tables, own = self.weights(contexts.shape[1]) >> WEIGHT_BITS - BIAS_SHIFT
        correction = (self.bias[contexts] * np.array(tables)[:, None]).sum(axis=1) >> BIAS_SHIFT
        weighted = np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT) * own
        return softmax(weighted + correction + (1 << BIAS_SHIFT - 1) >> BIAS_SHIFT)

    def learn(self, logits: np.ndarray, frequencies: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Take in one chunk: its ``symbols`` (N,) uint8 and the ``frequencies`` that they were coded with."""
        expected = frequencies.astype(np.int64)
        error = -expected
        error[np.arange(len(symbols)), symbols] += 1 << FREQUENCY_BITS
        curvature = expected * ((1 << FREQUENCY_BITS) - expected) >> CURVATURE_SHIFT
        biases = np.clip(self.bias[contexts], -BIAS_LIMIT, BIAS_LIMIT)
        self._learn_weights(logits, error, biases)
        self.bias[contexts] = biases
        np.add.at(self.curvature, contexts, curvature[:, None])
        known = np.minimum(self.curvature[contexts], CURVATURE_LIMIT)
        self.curvature[contexts] = known
        steps = (error.astype(np.float32) * RATE)[:, None] / (known + PRIOR).astype(np.float32)
        np.add.at(self.bias, contexts, np.rint(steps).astype(np.int32))

    def _learn_weights(self, logits: np.ndarray, error: np.ndarray, biases: np.ndarray) -> None:
        """``error`` (N, 16) int64 in units of 2**-16, ``biases`` (N, T, 16) int32."""
        of_tables = ((error + 32 >> 6)[:, None] * (biases >> 4)).sum(axis=(0, 2)) >> 11
        own = int(((error + 4 >> 3) * np.clip(logits, -NEAR_LOGITS, NEAR_LOGITS)).sum()) >> 12
        moved = np.clip(np.append(of_tables, own), -MOST_MOVED, MOST_MOVED)
        weights = self.weights(biases.shape[1])
        weights[:] = np.clip(weights + moved, *WEIGHT_RANGE)

    def replay(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        frequencies = np.empty(logits.shape, np.float32)
        for chunk in chunks(len(symbols)):
            frequencies[chunk] = self.frequencies(logits[chunk], contexts[chunk])
            self.learn(logits[chunk], frequencies[chunk], contexts[chunk], symbols[chunk])
        return frequencies

    def encode(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
        coder.encode(symbols, self.replay(logits, contexts, symbols))

    def decode(self, logits: np.ndarray, contexts: np.ndarray, coder: SymbolDecoder) -> np.ndarray:
        symbols = np.empty(len(logits), np.uint8)
        for chunk in chunks(len(symbols)):
            frequencies = self.frequencies(logits[chunk], contexts[chunk])
            symbols[chunk] = coder.decode(frequencies)
            self.learn(logits[chunk], frequencies, contexts[chunk], symbols[chunk])
        return symbols


class NativeCalibration:
    """The same ``Corrector`` in native code."""

    def __init__(self, rows: int) -> None:
        self._native = native.Calibration(rows, _NATIVE_EXP2)
        self._buffers = Buffers()

    def weights(self, tables: int) -> np.ndarray:
        weights = np.empty(tables + 1, np.int32)
        self._native.weights(weights)
        return weights

    def replay(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        frequencies = self._buffers.empty(logits.shape, np.float32)
        self._native.replay(logits, contexts, symbols, frequencies)
        return frequencies

    def encode(self, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray, coder: SymbolEncoder) -> None:
        assert coder.native, "where there is a native calibration there is a native encoder"
        self._native.encode(logits, contexts, symbols, coder.native)

    def decode(self, logits: np.ndarray, contexts: np.ndarray, coder: SymbolDecoder) -> np.ndarray:
        assert coder.native, "where there is a native calibration there is a native decoder"
        symbols = np.empty(len(logits), np.uint8)
        with coder.checked():
            self._native.decode(logits, contexts, coder.native, symbols)
        return symbols
