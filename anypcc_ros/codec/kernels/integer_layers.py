"""The layers of the exact integer network."""

from __future__ import annotations

import ctypes

import numpy as np

from anypcc_ros.codec.kernels.level_data import LevelData
from anypcc_ros.codec.kernels.library import Array, address_of, call, optional_address, pointer
from anypcc_ros.codec.kernels.plans import Plan


class _LayerStruct(ctypes.Structure):
    """``Layer`` of src/api.hpp."""

    _fields_ = (
        ("weight", pointer),
        ("bias", pointer),
        ("multiplier", pointer),
        ("lowest", pointer),
        ("highest", pointer),
        ("taps", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("shift", ctypes.c_int32),
    )


class Layer:
    """Integer weights, packed for the kernels once.

    ``weight`` int8 (taps, inputs, outputs); ``bias`` int32 (rows, outputs), one row or one per code;
    ``multiplier`` int32 (outputs,); ``shift`` 1..62; inputs and outputs are multiples of 16. The layer
    computes ``(sum * multiplier + 2^(shift - 1)) >> shift`` of ``sum = bias[code] + x @ weight``, x being
    at most 127. Raises ValueError if sums or results could leave 32 bits.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray, multiplier: np.ndarray, shift: int) -> None:
        self.taps, self.inputs, self.outputs = weight.shape
        self.rows = bias.shape[0]
        if self.inputs % 16 or self.outputs % 16:
            raise ValueError(f"{self.inputs} inputs and {self.outputs} outputs: multiples of 16 are needed")
        if not 1 <= shift <= 62:
            raise ValueError(f"shift={shift} is not in 1..62")
        address_of(bias, "bias", "int32", (None, self.outputs))
        address_of(multiplier, "multiplier", "int32", (self.outputs,))
        if weight.dtype != np.int8:
            raise TypeError(f"weight is {weight.dtype}, expected int8")
        largest_sum = np.abs(weight.astype(float)).sum((0, 1)) * 127 + np.abs(bias.astype(float)).max(0)
        largest_product = (largest_sum * np.abs(multiplier.astype(float))).max()
        if largest_sum.max() >= 2.0**31 or largest_product >= 2.0 ** min(31 + shift, 62):
            raise ValueError("sums or results of the layer could exceed 32 bits")
        groups = weight.reshape(self.taps, self.inputs // 4, 4, self.outputs)
        arrays = groups.transpose(0, 1, 3, 2), bias, multiplier, *_sum_bounds(multiplier, shift)
        self._arrays = tuple(None if array is None else _aligned_copy(array) for array in arrays)
        addresses = (None if array is None else array.ctypes.data for array in self._arrays)
        self._struct = _LayerStruct(*addresses, self.taps, self.inputs, self.outputs, self.rows, shift)
        self.address = ctypes.addressof(self._struct)


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    """C-contiguous and beginning at a cache line: a vector that crosses two costs twice."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _sum_bounds(multiplier: np.ndarray, shift: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Sums, int32 (outputs,), below and above which ``clamp(result + residual, 0, 127)`` stays the same.

    At the lower one a result is -127, at the upper one 127. Where multipliers are at most 2^(shift - 1), products of sums
    within them fit 32 bits, which spares the kernels 64-bit arithmetic; otherwise there are none.
    """
    one, half = 1 << shift, 1 << (shift - 1)
    if shift > 24 or multiplier.min() < 0 or multiplier.max() > half:
        return None, None
    limits = np.iinfo(np.int32)
    positive = np.maximum(multiplier, 1).astype(np.int64)
    lowest = -((126 * one + half + positive) // positive)
    highest = (127 * one - half + positive - 1) // positive
    silent = multiplier == 0
    return (
        np.where(silent, limits.min, np.maximum(lowest, limits.min)).astype(np.int32),
        np.where(silent, limits.max, np.minimum(highest, limits.max)).astype(np.int32),
    )


def conv_int8(
    plan: Plan,
    layer: Layer,
    x: Array,
    y: Array,
    residual: Array | None = None,
    residual_rows: Array | None = None,
    threads: int = 0,
) -> None:
    """``y = clamp(layer(x over the plan's pairs) + residual, 0, 127)``, exact.

    ``x`` uint8 (n_in, inputs) of at most 127, ``y`` uint8 (n_out, outputs) written, ``residual`` like ``y``; or with
    ``residual_rows`` int32 (n_out,), ``residual[residual_rows]`` is like ``y``.
    """
    shape = (plan.n_out, layer.outputs)
    n_residual = 0 if residual is None else int(residual.shape[0])
    addresses = (
        address_of(x, "x", "uint8", (plan.n_in, layer.inputs)),
        optional_address(residual, "residual", "uint8", shape if residual_rows is None else (None, layer.outputs)),
        optional_address(residual_rows, "residual_rows", "int32", (plan.n_out,)),
        n_residual,
        address_of(y, "y", "uint8", shape),
    )
    call("conv_int8", plan.handle, layer.address, *addresses, threads)


def up_int8(level: LevelData, layer: Layer, x: Array, y: Array, threads: int = 0) -> None:
    """``y[i] = clamp(layer(x[parent_row[i]] through tap octant[i]), 0, 127)``, exact.

    ``x`` uint8 (parents, inputs) of at most 127, ``y`` uint8 (nodes, outputs) written.
    """
    addresses = (
        address_of(x, "x", "uint8", (None, layer.inputs)),
        int(x.shape[0]),
        address_of(y, "y", "uint8", (level.nodes, layer.outputs)),
    )
    call("up_int8", level.handle, layer.address, *addresses, threads)


def linear_int8(
    layer: Layer,
    x: Array,
    y: Array,
    rows: Array | None = None,
    codes: Array | None = None,
    residual: Array | None = None,
    threads: int = 0,
) -> None:
    """``y[i] = clamp(layer(x[rows[i]], codes[i]) + residual[i], 0, 127)``, exact.

    ``x`` uint8 (n_in, inputs) of at most 127, ``y`` uint8 (count, outputs) written, ``rows`` int32 (count,)
    or None for all rows in order, ``codes`` uint8 (count,) or None for bias row 0, ``residual`` like ``y``.
    """
    shape = (int(y.shape[0]), layer.outputs)
    addresses = optional_address(residual, "residual", "uint8", shape), address_of(y, "y", "uint8", shape)
    call("linear_int8", layer.address, *_row_arguments(layer, x, rows, codes, shape[0]), *addresses, threads)


def head_int8(
    hidden: Layer,
    out: Layer,
    x: Array,
    logits: Array,
    rows: Array | None = None,
    codes: Array | None = None,
    threads: int = 0,
) -> None:
    """A prediction head: the results of ``out`` on the activations of ``hidden``.

    Row i of ``logits`` int32 (count, outputs), written, is that of ``x[rows[i]]``, or ``x[i]``, with the hidden layer's bias
    row ``codes[i]``, or 0.
    """
    count = int(logits.shape[0])
    call(
        "head_int8",
        hidden.address,
        out.address,
        *_row_arguments(hidden, x, rows, codes, count),
        address_of(logits, "logits", "int32", (count, out.outputs)),
        threads,
    )


def _row_arguments(layer: Layer, x: Array, rows: Array | None, codes: Array | None, count: int) -> tuple[int | None, ...]:
    n_in = count if rows is None else int(x.shape[0])
    return (
        address_of(x, "x", "uint8", (n_in, layer.inputs)),
        n_in,
        optional_address(rows, "rows", "int32", (count,)),
        optional_address(codes, "codes", "uint8", (count,)),
        count,
    )
