"""From logits to symbols and words: the integer softmax, the calibration and the range coder."""

from __future__ import annotations

import ctypes

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call, functions, pointer


class _RangeDecoderStruct(ctypes.Structure):
    """``RangeDecoder`` of src/api.hpp."""

    _fields_ = (
        ("words", pointer),
        ("count", ctypes.c_int64),
        ("next", ctypes.c_int64),
        ("value", ctypes.c_uint64),
        ("range", ctypes.c_uint64),
    )


class RangeDecoder:
    """The range decoder of docs/bitstream.md over ``words`` uint32 (N,)."""

    _WHOLE = 2**64 - 1

    def __init__(self, words: np.ndarray) -> None:
        self._words = words
        first, second = (int(words[i]) if i < len(words) else 0 for i in (0, 1))
        address = address_of(words, "words", "uint32", (None,))
        self._state = _RangeDecoderStruct(address, len(words), min(2, len(words)), first << 32 | second, self._WHOLE)
        self.address = ctypes.addressof(self._state)

    def decode(self, frequencies: Array) -> np.ndarray:
        """The next symbols int32 (count,), each under its row of ``frequencies`` float32 (count, S), whole numbers from 1 that
        sum to at most 2^24. Raises IndexError for words that no encoder wrote.
        """
        count, size = (int(n) for n in frequencies.shape)
        symbols = np.empty(count, np.int32)
        frequency = address_of(frequencies, "frequencies", "float32", (count, size))
        call("range_decode", self.address, frequency, count, size, symbols.ctypes.data)
        return symbols

    def maybe_exhausted(self) -> bool:
        """Whether no word is left and the last ones fit what was decoded."""
        whole = self._state.range == self._WHOLE
        return self._state.next == self._state.count and (whole or self._state.value < 2**33 - 1)


class RangeEncoder:
    """The range encoder of docs/bitstream.md."""

    def __init__(self) -> None:
        self.handle: int | None = call("range_encoder_new")
        if not self.handle:
            raise MemoryError("a range encoder: out of memory")

    def encode(self, symbols: Array, frequencies: Array) -> None:
        """``symbols`` int32 (count,) under rows of ``frequencies`` as of ``RangeDecoder.decode``."""
        count, size = (int(n) for n in frequencies.shape)
        symbol = address_of(symbols, "symbols", "int32", (count,))
        call("range_encode", self.handle, symbol, address_of(frequencies, "frequencies", "float32", (count, size)), count, size)

    def words(self) -> np.ndarray:
        """Of everything so far, uint32 (any,). More may follow, which then may change the last ones."""
        address = pointer()
        count = call("range_encoder_finish", self.handle, ctypes.byref(address))
        words = np.empty(count, np.uint32)
        ctypes.memmove(words.ctypes.data, address, words.nbytes)
        return words

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and functions:
            functions["range_encoder_free"](handle)


class Exp2:
    """The table of the softmax: ``table`` uint32 (512,), 2^(-d / 32) as integers below 2^23, the first above 0."""

    def __init__(self, table: np.ndarray) -> None:
        self.address = address_of(table, "exp2", "uint32", (512,))
        if table[0] == 0 or table.max() >= 1 << 23:
            raise ValueError("exp2 must start above 0 and stay below 2^23")
        self._table = table


def softmax(logits: Array, exp2: Exp2, frequencies: Array) -> None:
    """Write ``frequencies`` float32 (count, symbols): integers of at least 1, 2^16 in total per row.

    ``logits`` int32 (count, symbols) in units of 1/32 bit; 16 or 256 symbols. With d the distance below the largest, at
    most 511, a symbol weighs ``exp2[d]`` and gets ``1 + floor(exp2[d] * (2^16 - symbols) / total weight)``; what is missing
    to 2^16 goes to the first symbol with the largest logit.
    """
    count, symbols = (int(size) for size in logits.shape)
    addresses = (
        address_of(logits, "logits", "int32", (None, None)),
        address_of(frequencies, "frequencies", "float32", (count, symbols)),
    )
    call("softmax", addresses[0], exp2.address, count, symbols, addresses[1])


def predicted_encode(words: RangeEncoder, logits: Array, exp2: Exp2, symbols: Array) -> None:
    """Encode ``symbols`` uint8 (count,) under the ``softmax`` of ``logits``."""
    count, size = (int(n) for n in logits.shape)
    addresses = address_of(logits, "logits", "int32", (None, None)), address_of(symbols, "symbols", "uint8", (count,))
    call("predicted_encode", words.handle, addresses[0], exp2.address, addresses[1], count, size)


def predicted_decode(words: RangeDecoder, logits: Array, exp2: Exp2, symbols: Array, threads: int = 0) -> None:
    """Write ``symbols`` uint8 (count,), decoded under the ``softmax`` of ``logits`` int32 (count, 16).

    IndexError for words that no encoder wrote.
    """
    count = int(symbols.shape[0])
    addresses = address_of(logits, "logits", "int32", (count, 16)), address_of(symbols, "symbols", "uint8", (None,))
    call("predicted_decode", words.address, addresses[0], exp2.address, count, addresses[1], threads)


class Calibration:
    """The native ``codec.calibration.Calibration`` of ``rows`` contexts, with the same results bit for bit.

    ``logits`` are int32 (count, 16). ``contexts`` is int32 (count, tables), at most 8 tables; IndexError for a row out of
    range, and nothing is changed.
    """

    def __init__(self, rows: int, exp2: Exp2) -> None:
        self.handle: int | None = call("calibration_new", rows)
        if not self.handle:
            raise MemoryError(f"a calibration of {rows} rows: out of memory")
        self._exp2 = exp2

    def weights(self, weights: Array) -> None:
        """Write the ``weights`` int32 (tables + 1,) of nodes with so many tables."""
        address = address_of(weights, "weights", "int32", (None,))
        call("calibration_weights", self.handle, int(weights.shape[0]) - 1, address)

    def replay(self, logits: Array, contexts: Array, symbols: Array, frequencies: Array) -> None:
        """Write ``frequencies`` float32 (count, 16) for ``symbols`` uint8 (count,) that are known, learning from each chunk."""
        frequency = address_of(frequencies, "frequencies", "float32", (len(symbols), 16))
        self._replay(logits, contexts, symbols, frequency, None)

    def encode(self, logits: Array, contexts: Array, symbols: Array, words: RangeEncoder) -> None:
        """Encode ``symbols`` uint8 (count,), learning from each chunk."""
        self._replay(logits, contexts, symbols, None, words.handle)

    def _replay(self, logits: Array, contexts: Array, symbols: Array, frequency: int | None, words: int | None) -> None:
        context, tables, count = self._contexts(contexts)
        logit, symbol = self._logits(logits, count), address_of(symbols, "symbols", "uint8", (count,))
        call("calibration_replay", self.handle, logit, context, tables, self._exp2.address, symbol, count, frequency, words)

    def decode(self, logits: Array, contexts: Array, words: RangeDecoder, symbols: Array) -> None:
        """Write ``symbols`` uint8 (count,), decoded from ``words``, learning from each chunk. IndexError also for words that no
        encoder wrote."""
        context, tables, count = self._contexts(contexts)
        logit, symbol = self._logits(logits, count), address_of(symbols, "symbols", "uint8", (count,))
        call("calibration_decode", self.handle, logit, context, tables, self._exp2.address, words.address, count, symbol)

    @staticmethod
    def _contexts(contexts: Array) -> tuple[int, int, int]:
        count, tables = (int(size) for size in contexts.shape)
        return address_of(contexts, "contexts", "int32", (None, None)), tables, count

    @staticmethod
    def _logits(logits: Array, count: int) -> int:
        return address_of(logits, "logits", "int32", (count, 16))

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and functions:
            functions["calibration_free"](handle)
