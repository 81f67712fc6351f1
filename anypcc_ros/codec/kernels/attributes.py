"""Mixed contexts and the neighbour search of the attributes."""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call, functions


class Mixer:
    """The native ``codec.mixing.Mixer``, with the same results bit for bit.

    ``sizes`` int64 (kinds,), at most 16; ``logarithm`` int32 (256,) and ``probability`` int32 (2 * steepest + 1,) are copied.
    """

    def __init__(self, bits: int, sizes: Array, selectors: int, weight: int, logarithm: Array, probability: Array) -> None:
        self._bits, self._kinds, self._count = bits, len(sizes), 0
        self.handle: int | None = call(
            "mixer_new",
            bits,
            address_of(sizes, "sizes", "int64", (None,)),
            len(sizes),
            selectors,
            weight,
            address_of(logarithm, "logarithm", "int32", (256,)),
            256,
            address_of(probability, "probability", "int32", (None,)),
            len(probability) // 2,
        )
        if not self.handle:
            raise MemoryError(f"a mixer of {sizes} contexts: out of memory or out of range")

    def begin(self, contexts: Array, selector: Array) -> None:
        """Start a block of tokens, 2^15 at most, in ``contexts`` int64 (M, kinds) and weight sets ``selector`` int64 (M,)."""
        self._count = len(selector)
        context = address_of(contexts, "contexts", "int64", (self._count, self._kinds))
        call("mixer_begin", self.handle, context, address_of(selector, "selector", "int64", (self._count,)), self._count)

    def predict(self) -> np.ndarray:
        """float32 (M, 2): frequencies of 0 and 1 for the next bit, of sum 2^16."""
        frequencies = np.empty((self._count, 2), np.float32)
        call("mixer_predict", self.handle, frequencies.ctypes.data)
        return frequencies

    def learn(self, bits: Array) -> None:
        """The bits, int32 (M,), were these."""
        call("mixer_learn", self.handle, address_of(bits, "bits", "int32", (self._count,)))

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and functions:
            functions["mixer_free"](handle)


def direct_contexts(
    tokens: Array, nearest: Array, weights: Array, classes: tuple[Array, Array, Array], rows: Array, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """What ``codec.channels.Direct.contexts`` gives for a block of points ``rows`` int64 (M,).

    ``tokens`` int64 (N,), ``nearest`` and ``weights`` int64 (N, 5), ``classes``: distance, reach and elevation, int64 (N,).
    """
    points, count = int(tokens.shape[0]), int(rows.shape[0])
    contexts, spread = np.empty((count, 7), np.int64), np.empty(count, np.int64)
    call(
        "direct_contexts",
        address_of(tokens, "tokens", "int64", (None,)),
        address_of(nearest, "nearest", "int64", (points, 5)),
        address_of(weights, "weights", "int64", (points, 5)),
        *(address_of(values, "classes", "int64", (points,)) for values in classes),
        points,
        address_of(rows, "rows", "int64", (count,)),
        count,
        bits,
        contexts.ctypes.data,
        spread.ctypes.data,
    )
    return contexts, spread


def nearest_known(grid: Array, curve: Array, rows: Array, passes: Array, nearest: Array, squares: Array) -> None:
    """What ``codec.surroundings`` looks for, for all passes: ``rows`` int64 (N,), ``passes`` int64 of their lengths.

    ``grid`` int64 (N, 3), ``curve`` int64 (N,); ``nearest`` and ``squares`` int64 (N, 5) get everything but the first pass.
    """
    points = int(grid.shape[0])
    call(
        "nearest_known",
        address_of(grid, "grid", "int64", (None, 3)),
        address_of(curve, "curve", "int64", (points,)),
        points,
        address_of(rows, "rows", "int64", (points,)),
        address_of(passes, "passes", "int64", (None,)),
        len(passes),
        address_of(nearest, "nearest", "int64", (points, 5)),
        address_of(squares, "squares", "int64", (points, 5)),
    )
