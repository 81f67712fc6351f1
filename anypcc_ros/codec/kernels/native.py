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

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import anypcc_ros

Array: TypeAlias = Any
"""A NumPy array or a CPU torch tensor."""

LIBRARY = Path(__file__).with_name("libanypcc_kernels.so")
INTERFACE = 7
"""What anypcc_interface() in src/dispatch.cpp must return: a library of another age is not called."""

_ERRORS: dict[int, tuple[type[Exception], str]] = {
    -1: (ValueError, "a size or a pointer is out of range"),
    -2: (IndexError, "an index lies outside the rows it points into"),
    -3: (MemoryError, "out of memory"),
    -4: (RuntimeError, "this processor lacks the requested instruction set"),
}

_pointer, _int, _long, _double = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double

# C function: its result and arguments, as declared in src/api.hpp.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "interface": (_long, ()),
    "set_isa": (_long, (ctypes.c_char_p,)),
    "active_isa": (ctypes.c_char_p, ()),
    "usable_isa": (ctypes.c_char_p, (_int,)),
    "level_expand": (_pointer, (_pointer, _pointer, _int, _pointer)),
    "level_from_table": (_pointer, (_pointer, _pointer, _pointer, _long, _pointer)),
    "level_free": (None, (_pointer,)),
    "level_arrays": (None, (_pointer, _pointer)),
    "level_table": (None, (_pointer, _pointer, _int)),
    "plan_new": (_pointer, ()),
    "plan_free": (None, (_pointer,)),
    "plan_build": (_long, (_pointer, _pointer, _pointer, _long, _long, _int, _int)),
    "plan_build_neighbors": (_long, (_pointer, _pointer, _int)),
    "plan_build_across": (_long, (_pointer, _pointer, _int, _int)),
    "plan_build_one_tap": (_long, (*[_pointer] * 3, _long, _long, _int, _int)),
    "conv_f32": (_long, (*[_pointer] * 5, _int, _int, _int)),
    "conv_f32_dw": (_long, (*[_pointer] * 4, _int, _int, _int)),
    "conv_int8": (_long, (*[_pointer] * 5, _long, _pointer, _int)),
    "up_int8": (_long, (_pointer, _pointer, _pointer, _long, _pointer, _int)),
    "linear_int8": (_long, (_pointer, _pointer, _long, _pointer, _pointer, _long, _pointer, _pointer, _int)),
    "head_int8": (_long, (*[_pointer] * 3, _long, _pointer, _pointer, _long, _pointer, _int)),
    "softmax": (_long, (_pointer, _pointer, _long, _int, _pointer)),
    "calibration_new": (_pointer, (_long,)),
    "calibration_free": (None, (_pointer,)),
    "calibration_frequencies": (_long, (*[_pointer] * 3, _int, _pointer, _long, _pointer)),
    "calibration_learn": (_long, (*[_pointer] * 3, _int, _pointer, _long)),
    "calibration_replay": (_long, (*[_pointer] * 3, _int, _pointer, _pointer, _long, _long, _pointer)),
    "calibration_advance": (_long, (*[_pointer] * 3, _int, _pointer, _pointer, *[_long] * 3, _pointer)),
    "face_cells": (_long, (_pointer, _pointer, _long, _pointer, _pointer, _long, _pointer, _int)),
    "beam_bins": (_long, (*[_pointer] * 2, _long, _pointer, _long, _pointer, _int, _double, _pointer, _int)),
    "context_rows": (
        _long,
        (*[_pointer] * 2, _long, _pointer, _long, _int, *[_pointer] * 2, _int, *[_pointer] * 2, _int, _pointer, _int),
    ),
    "child_coords": (_long, (_pointer, _pointer, _long, _pointer, _long)),
    "range_decode": (_long, (_pointer, _pointer, _long, _int, _pointer)),
    "morton_encode": (_long, (_pointer, _long, _pointer, _int)),
    "morton_decode": (_long, (_pointer, _long, _pointer, _int)),
    "sort_keys": (_long, (_pointer, _pointer, _long)),
    "unique_keys": (_long, (_pointer, _long, _pointer)),
    "parent_keys": (_long, (_pointer, _long, _pointer, _pointer)),
    "mixer_new": (_pointer, (_int, _pointer, _int, _int, _long, _pointer, _long, _pointer, _int)),
    "mixer_free": (None, (_pointer,)),
    "mixer_begin": (_long, (*[_pointer] * 3, _long)),
    "mixer_predict": (_long, (_pointer, _pointer)),
    "mixer_learn": (_long, (_pointer, _pointer)),
    "direct_contexts": (_long, (*[_pointer] * 6, _long, _pointer, _long, _int, _pointer, _pointer)),
    "nearest_known": (_long, (_pointer, _pointer, _long, _pointer, _pointer, _long, _pointer, _pointer)),
    "child_keys": (_long, (_pointer, _pointer, _long, _pointer, _long)),
}

_DTYPES = {name: np.dtype(name) for name in ("float32", "int8", "int32", "int64", "uint8", "uint32", "uint64")}
_functions: dict[str, Callable[..., Any]] = {}
_reason: str | None = None
_library: Path | None = None


def available() -> bool:
    """Whether the native kernels can be used here."""
    return _reason is None


def unavailable_reason() -> str | None:
    """Why the native kernels cannot be used, or None if they can."""
    return _reason


def library_path() -> Path | None:
    """Where the library is that was loaded."""
    return _library


def usable_isas() -> list[str]:
    """The code paths this processor can run, fastest first.

    Of avx512vnni, avxvnni, avx2 and generic on x86-64; of neondot, neon and generic on aarch64; generic
    elsewhere.
    """
    names: list[str] = []
    while (name := _call("usable_isa", len(names))) is not None:
        names.append(name.decode())
    return names


def active_isa() -> str:
    """The code path in use."""
    return str(_call("active_isa").decode())


def set_isa(name: str) -> None:
    """Force a code path for the whole process, "auto" for the fastest; meant for tests.

    Integer kernels give the same bits on every path; float32 kernels differ in rounding.
    """
    _call("set_isa", name.encode())


class _LevelArraysStruct(ctypes.Structure):
    """``LevelArrays`` of src/api.hpp."""

    _fields_ = (
        ("nodes", ctypes.c_int64),
        ("first_group", ctypes.c_int64),
        ("masks", _pointer),
        ("parent_row", _pointer),
        ("octant", _pointer),
        ("groups", _pointer),
    )


class LevelData:
    """The nodes of an octree level in Morton order and their neighbours, in native memory.

    Offset ``k = 9 (dx + 1) + 3 (dy + 1) + (dz + 1)``. Nodes are ordered by parent, then by octant ``o = 4 bx + 2 by + bz``;
    octants with an even number of ones are checkerboard group 0. The arrays are not to be written and keep the level alive:
    ``masks`` uint32 (nodes,), bit k set where a node lies at offset k, itself left out; ``parent_row`` int32 (nodes,);
    ``octant`` uint8 (nodes,); ``groups``, two int32 arrays with the rows of either group.
    """

    def __init__(self, function: str, *arguments: Any) -> None:
        status = ctypes.c_int64(0)
        handle = _call(function, *arguments, ctypes.addressof(status))
        if not handle:
            _raise(function, status.value)
        self._native = _NativeLevel(handle)
        found = _LevelArraysStruct()
        _call("level_arrays", self.handle, ctypes.addressof(found))
        self.nodes: int = found.nodes
        self.masks = self._array(found.masks, "<u4", self.nodes)
        self.parent_row = self._array(found.parent_row, "<i4", self.nodes)
        self.octant = self._array(found.octant, "|u1", self.nodes)
        rows = self._array(found.groups, "<i4", self.nodes)
        self.groups = rows[: found.first_group], rows[found.first_group :]

    @classmethod
    def from_table(cls, table: Array, parent_row: Array, octant: Array) -> LevelData:
        """``table`` int32 (nodes, 27): the row of the node at each offset, or -1; the middle one is the node's own."""
        nodes = int(table.shape[0])
        addresses = (
            _address(table, "table", "int32", (nodes, 27)),
            _address(parent_row, "parent_row", "int32", (nodes,)),
            _address(octant, "octant", "uint8", (nodes,)),
        )
        return cls("level_from_table", *addresses, nodes)

    def expand(self, codes: Array, threads: int = 0) -> LevelData:
        """The level below, without a search: child o of a node exists when bit o of its code, uint8 (nodes,), is set."""
        return LevelData("level_expand", self.handle, _address(codes, "codes", "uint8", (self.nodes,)), threads)

    def table(self, threads: int = 0) -> np.ndarray:
        """(nodes, 27) int32: the row of the node at each offset, or -1."""
        table = np.empty((self.nodes, 27), np.int32)
        _call("level_table", self.handle, table.ctypes.data, threads)
        return table

    def _array(self, address: int | None, kind: str, count: int) -> np.ndarray:
        return np.asarray(_Memory(address, kind, count, self._native)) if count else np.empty(0, kind)

    @property
    def handle(self) -> int:
        """The level as the kernels know it."""
        return self._native.handle


class _NativeLevel:
    """What a level and its arrays keep alive; freed with the last of them.

    Not the LevelData itself: it refers to the arrays, and a circle through a NumPy array is never collected.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __del__(self) -> None:
        if _functions:
            _functions["level_free"](self.handle)


class _Memory:
    """Lets NumPy see an array that belongs to ``owner``."""

    def __init__(self, address: int | None, kind: str, count: int, owner: object) -> None:
        self.__array_interface__ = {"data": (address, False), "typestr": kind, "shape": (count,), "version": 3}
        self.owner = owner


class Plan:
    """The pairs of a sparse operator, sorted for the kernels: built once per level for all its layers.

    Every ``build`` method replaces the plan, reusing its memory, and returns it. At most 32 taps and 2^31 -
    1 pairs; an IndexError leaves the plan empty.
    """

    def __init__(self, table: Array | None = None, n_in: int = 0, threads: int = 0) -> None:
        self.handle: int | None = _call("plan_new")
        if not self.handle:
            raise MemoryError("plan: out of memory")
        self.n_in = self.n_out = self.n_pairs = 0
        self.taps = 1
        if table is not None:
            self.build(table, n_in, threads)

    def build(self, table: Array, n_in: int, threads: int = 0, masks: Array | None = None) -> Plan:
        """``table`` int32 (n_out, taps): the input row, below n_in, feeding an output row by a tap, or -1.

        ``masks`` uint32 (n_out,), bit k set where column k is not -1, saves a pass over the table.
        """
        n_out, taps = (int(size) for size in table.shape)
        addresses = (
            _address(table, "table", "int32", (None, None)),
            _optional(masks, "masks", "uint32", (n_out,)),
        )
        return self._built("plan_build", n_in, n_out, taps, *addresses, n_in, n_out, taps, threads)

    def build_neighbors(self, level: LevelData, threads: int = 0) -> Plan:
        """The 27 taps of a convolution over a level: tap k reads the node at offset k."""
        return self._built("plan_build_neighbors", level.nodes, level.nodes, 27, level.handle, threads)

    def build_across(self, level: LevelData, reader: int, threads: int = 0) -> Plan:
        """From the other checkerboard group of a level to group ``reader``, by the 14 offsets between groups in order.

        Rows are positions within the groups.
        """
        n_in, n_out = len(level.groups[1 - reader]), len(level.groups[reader])
        return self._built("plan_build_across", n_in, n_out, 14, level.handle, reader, threads)

    def build_one_tap(self, rows: Array, tap: Array, n_in: int, taps: int, threads: int = 0) -> Plan:
        """Output row i is fed by input row ``rows[i]`` (int32) through tap ``tap[i]`` (uint8) alone."""
        n_out = int(tap.shape[0])
        addresses = _address(rows, "rows", "int32", (n_out,)), _address(tap, "tap", "uint8", (None,))
        return self._built("plan_build_one_tap", n_in, n_out, taps, *addresses, n_in, n_out, taps, threads)

    def _built(self, function: str, n_in: int, n_out: int, taps: int, *arguments: int | None) -> Plan:
        self.n_in = self.n_out = self.n_pairs = 0
        self.n_pairs = _call(function, self.handle, *arguments)
        self.n_in, self.n_out, self.taps = n_in, n_out, taps
        return self

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and _functions:
            _functions["plan_free"](handle)


# ---- float32: training ---------------------------------------------------------------------------


def conv_f32(plan: Plan, x: Array, w: Array, bias: Array | None, y: Array, threads: int = 0) -> None:
    """``y = bias + sum over taps k of x[table[:, k]] @ w[k]``, float32.

    ``x`` (n_in, cin), ``w`` (taps, cin, cout), ``bias`` (cout,) or None, ``y`` (n_out, cout) written; cin
    and cout are multiples of 16. The gradient of ``x`` is the same call on ``dy`` with the plan of the
    transposed table and ``w`` transposed per tap; a 3x3x3 neighbour table is its own transpose with ``w``
    flipped along the taps.
    """
    cin, cout = int(w.shape[1]), int(w.shape[2])
    addresses = (
        _address(x, "x", "float32", (plan.n_in, cin)),
        _address(w, "w", "float32", (plan.taps, cin, cout)),
        _optional(bias, "bias", "float32", (cout,)),
        _address(y, "y", "float32", (plan.n_out, cout)),
    )
    _call("conv_f32", plan.handle, *addresses, cin, cout, threads)


def conv_f32_dw(plan: Plan, x: Array, dy: Array, dw: Array, threads: int = 0) -> None:
    """``dw[k] = sum over the pairs of tap k of x[in]^T dy[out]``, float32; ``dw`` (taps, cin, cout) written.

    The same inputs and number of threads give the same bits.
    """
    cin, cout = int(dw.shape[1]), int(dw.shape[2])
    addresses = (
        _address(x, "x", "float32", (plan.n_in, cin)),
        _address(dy, "dy", "float32", (plan.n_out, cout)),
        _address(dw, "dw", "float32", (plan.taps, cin, cout)),
    )
    _call("conv_f32_dw", plan.handle, *addresses, cin, cout, threads)


# ---- integers: the exact network -----------------------------------------------------------------


class _LayerStruct(ctypes.Structure):
    """``Layer`` of src/api.hpp."""

    _fields_ = (
        ("weight", _pointer),
        ("bias", _pointer),
        ("multiplier", _pointer),
        ("lowest", _pointer),
        ("highest", _pointer),
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
        _address(bias, "bias", "int32", (None, self.outputs))
        _address(multiplier, "multiplier", "int32", (self.outputs,))
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
        _address(x, "x", "uint8", (plan.n_in, layer.inputs)),
        _optional(residual, "residual", "uint8", shape if residual_rows is None else (None, layer.outputs)),
        _optional(residual_rows, "residual_rows", "int32", (plan.n_out,)),
        n_residual,
        _address(y, "y", "uint8", shape),
    )
    _call("conv_int8", plan.handle, layer.address, *addresses, threads)


def up_int8(level: LevelData, layer: Layer, x: Array, y: Array, threads: int = 0) -> None:
    """``y[i] = clamp(layer(x[parent_row[i]] through tap octant[i]), 0, 127)``, exact.

    ``x`` uint8 (parents, inputs) of at most 127, ``y`` uint8 (nodes, outputs) written.
    """
    addresses = (
        _address(x, "x", "uint8", (None, layer.inputs)),
        int(x.shape[0]),
        _address(y, "y", "uint8", (level.nodes, layer.outputs)),
    )
    _call("up_int8", level.handle, layer.address, *addresses, threads)


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
    addresses = _optional(residual, "residual", "uint8", shape), _address(y, "y", "uint8", shape)
    _call("linear_int8", layer.address, *_row_arguments(layer, x, rows, codes, shape[0]), *addresses, threads)


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
    _call(
        "head_int8",
        hidden.address,
        out.address,
        *_row_arguments(hidden, x, rows, codes, count),
        _address(logits, "logits", "int32", (count, out.outputs)),
        threads,
    )


def _row_arguments(layer: Layer, x: Array, rows: Array | None, codes: Array | None, count: int) -> tuple[int | None, ...]:
    n_in = count if rows is None else int(x.shape[0])
    return (
        _address(x, "x", "uint8", (n_in, layer.inputs)),
        n_in,
        _optional(rows, "rows", "int32", (count,)),
        _optional(codes, "codes", "uint8", (count,)),
        count,
    )


# ---- probabilities -------------------------------------------------------------------------------


class _RangeDecoderStruct(ctypes.Structure):
    """``RangeDecoder`` of src/api.hpp."""

    _fields_ = (
        ("words", _pointer),
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
        address = _address(words, "words", "uint32", (None,))
        self._state = _RangeDecoderStruct(address, len(words), min(2, len(words)), first << 32 | second, self._WHOLE)

    def decode(self, frequencies: Array) -> np.ndarray:
        """The next symbols int32 (count,), each under its row of ``frequencies`` float32 (count, S), whole numbers from 1 that
        sum to at most 2^24. Raises IndexError for words that no encoder wrote.
        """
        count, size = (int(n) for n in frequencies.shape)
        symbols = np.empty(count, np.int32)
        frequency = _address(frequencies, "frequencies", "float32", (count, size))
        _call("range_decode", ctypes.addressof(self._state), frequency, count, size, symbols.ctypes.data)
        return symbols

    def maybe_exhausted(self) -> bool:
        """Whether no word is left and the last ones fit what was decoded."""
        whole = self._state.range == self._WHOLE
        return self._state.next == self._state.count and (whole or self._state.value < 2**33 - 1)


class Exp2:
    """The table of the softmax: ``table`` uint32 (512,), 2^(-d / 32) as integers below 2^23, the first above 0."""

    def __init__(self, table: np.ndarray) -> None:
        self.address = _address(table, "exp2", "uint32", (512,))
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
        _address(logits, "logits", "int32", (None, None)),
        _address(frequencies, "frequencies", "float32", (count, symbols)),
    )
    _call("softmax", addresses[0], exp2.address, count, symbols, addresses[1])


class Calibration:
    """The native ``codec.calibration.Calibration`` of ``rows`` contexts, with the same results bit for bit.

    ``contexts`` is int32 (count, tables), at most 16 tables; IndexError for a row out of range, and nothing is changed.
    """

    def __init__(self, rows: int, exp2: Exp2) -> None:
        self.handle: int | None = _call("calibration_new", rows)
        if not self.handle:
            raise MemoryError(f"a calibration of {rows} rows: out of memory")
        self._exp2 = exp2

    def frequencies(self, logits: Array, contexts: Array, frequencies: Array) -> None:
        """Write ``frequencies`` float32 (count, 16) for ``logits`` int32 (count, 16)."""
        arguments, count = self._arguments(contexts, ("logits", logits, "int32"))
        frequency = _address(frequencies, "frequencies", "float32", (count, 16))
        _call("calibration_frequencies", *arguments, self._exp2.address, count, frequency)

    def learn(self, frequencies: Array, contexts: Array, symbols: Array) -> None:
        """Learn from ``symbols`` uint8 (count,), at most 2^14, coded with ``frequencies`` float32 (count, 16)."""
        arguments, count = self._arguments(contexts, ("frequencies", frequencies, "float32"))
        _call("calibration_learn", *arguments, _address(symbols, "symbols", "uint8", (count,)), count)

    def replay(self, logits: Array, contexts: Array, symbols: Array, chunk: int, frequencies: Array) -> None:
        """Both, ``chunk`` rows at a time, for symbols that are known; writes ``frequencies`` float32 (count, 16)."""
        arguments, count = self._arguments(contexts, ("logits", logits, "int32"))
        symbol = _address(symbols, "symbols", "uint8", (count,))
        frequency = _address(frequencies, "frequencies", "float32", (count, 16))
        _call("calibration_replay", *arguments, self._exp2.address, symbol, count, chunk, frequency)

    def part(self, logits: Array, contexts: Array, symbols: Array, frequencies: Array) -> Callable[[int, int, int], None]:
        """For a code part that is decoded chunk by chunk: a function of ``begin``, ``middle`` and ``end`` that learns from the
        symbols [begin, middle) and writes the frequencies of [middle, end).

        The arrays are as above, of the whole part; they must stay where they are as long as the function is used.
        """
        arguments, count = self._arguments(contexts, ("logits", logits, "int32"))
        symbol = _address(symbols, "symbols", "uint8", (count,))
        frequency = _address(frequencies, "frequencies", "float32", (count, 16))

        def advance(begin: int, middle: int, end: int) -> None:
            if end > count:
                raise ValueError(f"symbol {end} of {count}")
            _call("calibration_advance", *arguments, self._exp2.address, symbol, begin, middle, end, frequency)

        return advance

    def _arguments(self, contexts: Array, values: tuple[str, Array, str]) -> tuple[tuple[int | None, ...], int]:
        count, tables = (int(size) for size in contexts.shape)
        name, array, dtype = values
        value = _address(array, name, dtype, (count, 16))
        return (self.handle, value, _address(contexts, "contexts", "int32", (None, None)), tables), count

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and _functions:
            _functions["calibration_free"](handle)


# ---- contexts ------------------------------------------------------------------------------------


class _BeamsStruct(ctypes.Structure):
    """``Beams`` of src/api.hpp."""

    _fields_ = (
        ("slopes", _pointer),
        ("heights", _pointer),
        ("phases", _pointer),
        ("laterals", _pointer),
        ("axis", ctypes.c_int64 * 2),
        ("count", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bins", ctypes.c_int32),
    )


class Beams:
    """Laser beams for ``beam_bins``, in the units of ``codec.beams``, whose limits are not checked here.

    ``axis`` (2,); ``slopes``, ``heights``, ``phases`` and ``laterals`` (B,), B >= 1, all int64; ``columns``: 0 for none;
    ``bins``: 2 to 16 of a column of children.
    """

    def __init__(
        self, axis: np.ndarray, slopes: Array, heights: Array, columns: int, phases: Array, laterals: Array, bins: int
    ) -> None:
        self._arrays = {"slopes": slopes, "heights": heights, "phases": phases, "laterals": laterals}
        addresses = [_address(array, name, "int64", (len(slopes),)) for name, array in self._arrays.items()]
        self.kinds = 2 if columns else 1
        self._struct = _BeamsStruct(*addresses, (ctypes.c_int64 * 2)(*axis.tolist()), len(slopes), columns, bins)
        self.address = ctypes.addressof(self._struct)


def face_cells(
    level: LevelData, rows: Array, cells: Array, codes: Array | None = None, above: Array | None = None, threads: int = 0
) -> None:
    """What touches the nodes ``rows`` int32 (count,) of a level, as ``codec.contexts.face_cells`` has it.

    ``cells`` uint32 (count,) is written. Either ``codes`` uint8 (nodes,), 0 where they are not known, or ``above``, those of
    the level above.
    """
    count = int(rows.shape[0])
    _call(
        "face_cells",
        level.handle,
        _address(rows, "rows", "int32", (count,)),
        count,
        _optional(codes, "codes", "uint8", (level.nodes,)),
        _optional(above, "above", "uint8", (None,)),
        0 if above is None else int(above.shape[0]),
        _address(cells, "cells", "uint32", (count,)),
        threads,
    )


def beam_bins(
    beams: Beams,
    coords: Array,
    rows: Array,
    shift: Array,
    levels_below: int,
    turn: float,
    bins: Array,
    threads: int = 0,
) -> None:
    """Where beams cross nodes, as ``codec.beams.Beams.bins`` has it.

    ``coords`` uint32 (nodes, 3) in units of the nodes' edge, 2**levels_below cells, from the cell ``shift`` int64 (3,).
    ``rows`` int32 (count,): the nodes meant. ``turn``: an eighth of a child's edge in units of 2^-24 turn times the columns at
    a distance of eight quarter cells. ``bins`` uint8 (count, 2, beams.kinds) is written.
    """
    count = int(rows.shape[0])
    _call(
        "beam_bins",
        beams.address,
        _address(coords, "coords", "uint32", (None, 3)),
        int(coords.shape[0]),
        _address(rows, "rows", "int32", (count,)),
        count,
        _address(shift, "shift", "int64", (3,)),
        levels_below,
        turn,
        _address(bins, "bins", "uint8", (count, 2, beams.kinds)),
        threads,
    )


def context_rows(
    cells: Array,
    codes: Array,
    rows: Array,
    high: bool,
    logits: Array,
    bins: Array | None,
    columns: Array,
    first: Array,
    contexts: Array,
    threads: int = 0,
) -> None:
    """Rows of the calibration's tables for half a code of every node, as ``codec.contexts`` has them.

    ``cells`` uint32 (count,), of ``face_cells``; ``codes`` uint8 (nodes,), of which the low half is known if ``high``;
    ``rows`` int32 (count,); ``logits`` int32 (count, 16); ``bins`` uint8 (count, any), of ``beam_bins``, or None;
    ``columns`` int32 (T - 4,), the bins of the tables after the fourth; ``first`` int32 (T,), the tables' first rows.
    ``contexts`` int32 (count, T) is written.
    """
    count, tables = (int(size) for size in contexts.shape)
    _call(
        "context_rows",
        _address(cells, "cells", "uint32", (count,)),
        _address(codes, "codes", "uint8", (None,)),
        int(codes.shape[0]),
        _address(rows, "rows", "int32", (count,)),
        count,
        high,
        _address(logits, "logits", "int32", (count, 16)),
        _optional(bins, "bins", "uint8", (count, None)),
        0 if bins is None else int(bins.shape[1]),
        _address(columns, "columns", "int32", (tables - 4,)),
        _address(first, "first", "int32", (tables,)),
        tables,
        _address(contexts, "contexts", "int32", (None, None)),
        threads,
    )


# ---- octree --------------------------------------------------------------------------------------


def child_coords(coords: Array, codes: Array, children: Array) -> int:
    """The level below nodes at ``coords`` uint32 (N, 3) with occupancy ``codes`` uint8 (N,); returns its number of nodes.

    Written: the front of ``children`` uint32 (any, 3): twice the coordinates plus the bits of the octant ``4 x + 2 y + z``.
    Raises ValueError if there is no room for all of them.
    """
    count, capacity = int(codes.shape[0]), int(children.shape[0])
    addresses = _address(coords, "coords", "uint32", (count, 3)), _address(codes, "codes", "uint8", (None,))
    return int(_call("child_coords", *addresses, count, _address(children, "children", "uint32", (None, 3)), capacity))


def morton_encode(coords: Array, keys: Array, threads: int = 0) -> None:
    """``keys`` uint64 (N,) from ``coords`` int32 (N, 3) in 0..2^21 - 1, their bits interleaved, x first."""
    count = int(keys.shape[0])
    addresses = _address(coords, "coords", "int32", (count, 3)), _address(keys, "keys", "uint64", (None,))
    _call("morton_encode", addresses[0], count, addresses[1], threads)


def morton_decode(keys: Array, coords: Array, threads: int = 0) -> None:
    """The inverse of ``morton_encode``."""
    count = int(keys.shape[0])
    addresses = _address(keys, "keys", "uint64", (None,)), _address(coords, "coords", "int32", (count, 3))
    _call("morton_decode", addresses[0], count, addresses[1], threads)


def sort_keys(keys: Array, order: Array) -> None:
    """Sort ``keys`` uint64 (N,) in place, stably; ``order`` uint32 (N,) gets the row each came from."""
    count = int(keys.shape[0])
    addresses = _address(keys, "keys", "uint64", (None,)), _address(order, "order", "uint32", (count,))
    _call("sort_keys", *addresses, count)


def unique_keys(keys: Array, occurrences: Array) -> int:
    """Move the distinct values of sorted ``keys`` uint64 (N,) to its front and return how many they are.

    ``occurrences`` int64 (N,) gets how often each occurs.
    """
    count = int(keys.shape[0])
    addresses = (
        _address(keys, "keys", "uint64", (None,)),
        _address(occurrences, "occurrences", "int64", (count,)),
    )
    return int(_call("unique_keys", addresses[0], count, addresses[1]))


def parent_keys(keys: Array, parents: Array, codes: Array) -> int:
    """The level above distinct sorted ``keys`` uint64 (N,); returns its number of nodes.

    Written: the front of ``parents`` uint64 (N,), which may be ``keys``, and of ``codes`` uint8 (N,), the
    parents' occupancy codes.
    """
    count = int(keys.shape[0])
    addresses = (
        _address(parents, "parents", "uint64", (count,)),
        _address(codes, "codes", "uint8", (count,)),
    )
    return int(_call("parent_keys", _address(keys, "keys", "uint64", (None,)), count, *addresses))


def child_keys(keys: Array, codes: Array, children: Array) -> int:
    """The level below ``keys`` uint64 (N,) with occupancy ``codes`` uint8 (N,); returns its number of nodes.

    Written: the front of ``children`` uint64. Raises ValueError if there is no room for all of them.
    """
    count, capacity = int(keys.shape[0]), int(children.shape[0])
    addresses = _address(keys, "keys", "uint64", (None,)), _address(codes, "codes", "uint8", (count,))
    children_address = _address(children, "children", "uint64", (None,))
    return int(_call("child_keys", *addresses, count, children_address, capacity))


# ---- attributes --------------------------------------------------------------------------------


class Mixer:
    """The native ``codec.mixing.Mixer``, with the same results bit for bit.

    ``sizes`` int64 (kinds,), at most 16; ``logarithm`` int32 (256,) and ``probability`` int32 (2 * steepest + 1,) are copied.
    """

    def __init__(self, bits: int, sizes: Array, selectors: int, weight: int, logarithm: Array, probability: Array) -> None:
        self._bits, self._kinds, self._count = bits, len(sizes), 0
        self.handle: int | None = _call(
            "mixer_new",
            bits,
            _address(sizes, "sizes", "int64", (None,)),
            len(sizes),
            selectors,
            weight,
            _address(logarithm, "logarithm", "int32", (256,)),
            256,
            _address(probability, "probability", "int32", (None,)),
            len(probability) // 2,
        )
        if not self.handle:
            raise MemoryError(f"a mixer of {sizes} contexts: out of memory or out of range")

    def begin(self, contexts: Array, selector: Array) -> None:
        """Start a block of tokens, 2^15 at most, in ``contexts`` int64 (M, kinds) and weight sets ``selector`` int64 (M,)."""
        self._count = len(selector)
        context = _address(contexts, "contexts", "int64", (self._count, self._kinds))
        _call("mixer_begin", self.handle, context, _address(selector, "selector", "int64", (self._count,)), self._count)

    def predict(self) -> np.ndarray:
        """float32 (M, 2): frequencies of 0 and 1 for the next bit, of sum 2^16."""
        frequencies = np.empty((self._count, 2), np.float32)
        _call("mixer_predict", self.handle, frequencies.ctypes.data)
        return frequencies

    def learn(self, bits: Array) -> None:
        """The bits, int32 (M,), were these."""
        _call("mixer_learn", self.handle, _address(bits, "bits", "int32", (self._count,)))

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and _functions:
            _functions["mixer_free"](handle)


def direct_contexts(
    tokens: Array, nearest: Array, weights: Array, classes: tuple[Array, Array, Array], rows: Array, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """What ``codec.channels.Direct.contexts`` gives for a block of points ``rows`` int64 (M,).

    ``tokens`` int64 (N,), ``nearest`` and ``weights`` int64 (N, 5), ``classes``: distance, reach and elevation, int64 (N,).
    """
    points, count = int(tokens.shape[0]), int(rows.shape[0])
    contexts, spread = np.empty((count, 7), np.int64), np.empty(count, np.int64)
    _call(
        "direct_contexts",
        _address(tokens, "tokens", "int64", (None,)),
        _address(nearest, "nearest", "int64", (points, 5)),
        _address(weights, "weights", "int64", (points, 5)),
        *(_address(values, "classes", "int64", (points,)) for values in classes),
        points,
        _address(rows, "rows", "int64", (count,)),
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
    _call(
        "nearest_known",
        _address(grid, "grid", "int64", (None, 3)),
        _address(curve, "curve", "int64", (points,)),
        points,
        _address(rows, "rows", "int64", (points,)),
        _address(passes, "passes", "int64", (None,)),
        len(passes),
        _address(nearest, "nearest", "int64", (points, 5)),
        _address(squares, "squares", "int64", (points, 5)),
    )


# ---- the library ---------------------------------------------------------------------------------


def _call(name: str, *arguments: Any) -> Any:
    try:
        function = _functions[name]
    except KeyError:
        raise RuntimeError(_reason) from None
    result = function(*arguments)
    if type(result) is int and result < 0:
        _raise(name, result)
    return result


def _raise(name: str, status: int) -> None:
    kind, text = _ERRORS[status]
    raise kind(f"{name}: {text}")


def _address(array: Array, name: str, dtype: str, shape: tuple[int | None, ...]) -> int:
    """Address of the first element, after checking dtype, shape (None: any size) and contiguity."""
    found = array.shape
    if found != shape and (len(found) != len(shape) or any(map(_differ, found, shape))):
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(found)}, expected ({wanted})")
    if isinstance(array, np.ndarray):
        right, contiguous, address = array.dtype == _DTYPES[dtype], array.flags.c_contiguous, array.ctypes.data
    else:
        if array.device.type != "cpu":
            raise TypeError(f"{name} is on {array.device}, expected the CPU")
        right, contiguous, address = str(array.dtype) == f"torch.{dtype}", array.is_contiguous(), array.data_ptr()
    if not right:
        raise TypeError(f"{name} is {array.dtype}, expected {dtype}")
    if not contiguous:
        raise ValueError(f"{name} is not C-contiguous")
    return int(address)


def _differ(found: int, wanted: int | None) -> bool:
    return wanted is not None and found != wanted


def _optional(array: Array | None, name: str, dtype: str, shape: tuple[int | None, ...]) -> int | None:
    return None if array is None else _address(array, name, dtype, shape)


def _places() -> list[Path]:
    """Where the library may be: beside this file, and in other directories of the package, as when a checkout that nothing
    was built in is imported while the package is installed."""
    others = (Path(folder, "codec", "kernels", LIBRARY.name) for folder in anypcc_ros.__path__)
    return [*dict.fromkeys((LIBRARY, *others))]


def _load() -> str | None:
    """Bind every function of the first library that fits; the reasons if none does."""
    global _library
    reasons = []
    for path in _places():
        if (reason := _bind(path)) is None:
            _library = path
            return None
        _functions.clear()
        reasons.append(reason)
    return "; ".join(reasons)


def _bind(path: Path) -> str | None:
    """Bind every function of a library; the reason if that cannot be done."""
    if not path.exists():
        return f"the native kernels are not built: there is no {path}"
    try:
        library = ctypes.CDLL(str(path))
        # Before anything else, which a library of another age may not have.
        interface = library.anypcc_interface()
        if interface != INTERFACE:
            return f"{path} has interface {interface}, not {INTERFACE}: build it again"
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"anypcc_{name}")
            function.restype, function.argtypes = result, arguments
            _functions[name] = function
    except (OSError, AttributeError) as error:
        return f"the native kernels do not load: {error}"
    return None


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


def _start() -> str | None:
    if (reason := _load()) is not None:
        return reason
    if (wrong := _self_test()) is not None:
        reason = f"{wrong} on this machine (code path {active_isa()})"
        _functions.clear()
    return reason


_reason = _start()
