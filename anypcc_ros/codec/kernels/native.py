"""The native kernels (``libanypcc_kernels.so``, built from ``src/``), called through ctypes.

Arrays may be NumPy arrays or CPU torch tensors, C-contiguous and of exactly the stated dtype. Nothing is
converted or copied; a wrong one raises TypeError or ValueError before any native code runs, an index out of
range IndexError. The GIL is released during a call. ``threads`` counts the calling thread; 0 means every
core of the machine.

``available()`` says whether the library is here and passed its self-test, ``unavailable_reason()`` why not.
Importing this module never fails; calling a kernel that is not available raises RuntimeError with that
reason.
"""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.kernels.attributes import ChannelKernel, row_surroundings, surroundings
from anypcc_ros.codec.kernels.cells import (
    axis_counts,
    child_coords,
    child_keys,
    grid_bounds,
    grid_coords,
    grid_keys,
    grid_positions,
    morton_decode,
    morton_encode,
    parent_keys,
    repeat_rows,
    sort_keys,
    unique_keys,
)
from anypcc_ros.codec.kernels.contexts import Beams, beam_bins, context_rows, edge_cells, face_cells
from anypcc_ros.codec.kernels.counts import counts_decode, counts_encode, density_contexts
from anypcc_ros.codec.kernels.float_layers import conv_f32, conv_f32_dw
from anypcc_ros.codec.kernels.integer_layers import Layer, conv_int8, head_int8, linear_int8, up_int8
from anypcc_ros.codec.kernels.level_data import LevelData
from anypcc_ros.codec.kernels.library import (
    INTERFACE,
    LIBRARY,
    Array,
    active_isa,
    available,
    library_path,
    set_isa,
    start,
    unavailable_reason,
    usable_isas,
)
from anypcc_ros.codec.kernels.plans import Plan
from anypcc_ros.codec.kernels.probabilities import (
    Calibration,
    Exp2,
    RangeDecoder,
    RangeEncoder,
    predicted_decode,
    predicted_encode,
    softmax,
)

__all__ = [
    "INTERFACE",
    "LIBRARY",
    "Array",
    "Beams",
    "Calibration",
    "ChannelKernel",
    "Exp2",
    "Layer",
    "LevelData",
    "Plan",
    "RangeDecoder",
    "RangeEncoder",
    "active_isa",
    "available",
    "axis_counts",
    "beam_bins",
    "child_coords",
    "child_keys",
    "context_rows",
    "conv_f32",
    "conv_f32_dw",
    "conv_int8",
    "counts_decode",
    "counts_encode",
    "density_contexts",
    "edge_cells",
    "face_cells",
    "grid_bounds",
    "grid_coords",
    "grid_keys",
    "grid_positions",
    "head_int8",
    "library_path",
    "linear_int8",
    "morton_decode",
    "morton_encode",
    "parent_keys",
    "predicted_decode",
    "predicted_encode",
    "repeat_rows",
    "row_surroundings",
    "set_isa",
    "softmax",
    "sort_keys",
    "surroundings",
    "unavailable_reason",
    "unique_keys",
    "up_int8",
    "usable_isas",
]


def _self_test() -> str | None:
    """Compare a tiny case of every kind of arithmetic with NumPy; what differs, if anything does."""
    table = np.array([[0, -1], [1, 0], [-1, 1], [-1, -1], [1, 1]], np.int32)
    x = (np.arange(64) * 37 % 128).astype(np.uint8).reshape(2, 32)
    weight = (np.arange(2 * 32 * 48) * 89 % 255 - 127).astype(np.int8).reshape(2, 32, 48)
    plan = Plan(table, 2, threads=1)
    padded = np.vstack([x, np.zeros((1, 32))]).astype(np.int64)  # row -1 feeds nothing
    sums = sum(padded[table[:, k]] @ weight[k] for k in range(2))

    real = np.empty((5, 48), np.float32)
    conv_f32(plan, x.astype(np.float32), weight.astype(np.float32), None, real, threads=1)
    if not np.array_equal(real, sums):
        return "the float32 convolution is wrong"

    bias, multiplier = np.arange(48, dtype=np.int32)[None] * 999, np.arange(48, dtype=np.int32) - 9
    layer, y = Layer(weight, bias, multiplier, 14), np.empty((5, 48), np.uint8)
    conv_int8(plan, layer, x, y, threads=1)
    activation = np.clip((sums + bias) * multiplier + (1 << 13) >> 14, 0, 127)
    if not np.array_equal(y, activation):
        return "the integer convolution is wrong"

    exp2 = np.arange(512, 0, -1, dtype=np.uint32)
    last = Layer(weight[:1, :, :16], bias[:, :16], np.full(16, 20, np.int32), 14)
    zeros, twos = np.zeros((1, 32), np.int32), np.full(32, 2, np.int32)
    identity = Layer(np.eye(32, dtype=np.int8)[None], zeros, twos, 1)
    found, frequencies = np.empty((2, 16), np.int32), np.empty((2, 16), np.float32)
    head_int8(identity, last, x, found, threads=1)
    softmax(found, Exp2(exp2), frequencies)
    logits = (padded[:2] @ weight[0, :, :16] + bias[:, :16]) * 20 + (1 << 13) >> 14
    weights = exp2[np.minimum(logits.max(1, keepdims=True) - logits, 511)].astype(np.int64)
    expected = 1 + weights * (65536 - 16) // weights.sum(1, keepdims=True)
    expected[np.arange(2), logits.argmax(1)] += 65536 - expected.sum(1)
    if not np.array_equal(frequencies, expected):
        return "the integer softmax is wrong"
    return None


start(_self_test)
