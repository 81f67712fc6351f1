"""Points per cell: their contexts, and the coder of small counts."""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call
from anypcc_ros.codec.kernels.probabilities import RangeDecoder, RangeEncoder


def density_contexts(coords: Array) -> np.ndarray:
    """``codec.counts.density_contexts``, uint8 (N,), of cells at ``coords`` int64 (N, 3)."""
    contexts = np.empty(int(coords.shape[0]), np.uint8)
    call("density_contexts", address_of(coords, "coords", "int64", (None, 3)), len(contexts), contexts.ctypes.data)
    return contexts


def counts_encode(words: RangeEncoder, symbols: Array, contexts: Array, order: Array) -> None:
    """Encode ``symbols`` uint8 (N,) below 16 in their ``contexts`` uint8 (N,), in the order of the rows below N in ``order``
    int32 (any,), which has each of them once."""
    count = int(symbols.shape[0])
    addresses = address_of(symbols, "symbols", "uint8", (count,)), address_of(contexts, "contexts", "uint8", (count,))
    call("counts_encode", words.handle, *addresses, count, address_of(order, "order", "int32", (None,)), len(order))


def counts_decode(words: RangeDecoder, contexts: Array, order: Array) -> np.ndarray:
    """The symbols uint8 (N,). Raises IndexError for words that no encoder wrote."""
    symbols = np.empty(int(contexts.shape[0]), np.uint8)
    address = address_of(contexts, "contexts", "uint8", (None,))
    places = address_of(order, "order", "int32", (None,)), len(order)
    call("counts_decode", words.address, address, len(symbols), *places, symbols.ctypes.data)
    return symbols
