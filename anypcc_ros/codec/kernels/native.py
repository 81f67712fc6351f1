"""The native kernels (``libanypcc_kernels.so``, built from ``src/``), called through ctypes.

Arrays may be NumPy arrays or CPU torch tensors, C-contiguous and of exactly the stated dtype; nothing is converted or
copied, and a wrong one raises :class:`TypeError` or :class:`ValueError` before any native code runs. The GIL is released
during a call. ``threads`` counts the calling thread; 0 means every core of the machine.

:func:`available` says whether the library is here and passed its self-test, :func:`unavailable_reason` why not. Importing
this module never fails; calling a kernel of a missing library raises :class:`RuntimeError` with that reason.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

#: A NumPy array or a CPU torch tensor.
Array: TypeAlias = Any

LIBRARY = Path(__file__).with_name("libanypcc_kernels.so")

_ERRORS = {
    -1: (ValueError, "a size or a pointer is out of range"),
    -2: (IndexError, "a table entry lies outside the rows it points into"),
    -3: (MemoryError, "out of memory"),
    -4: (RuntimeError, "this processor lacks the requested instruction set"),
}

_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64

#: C function -> (result, arguments); see the comment above each function in src/.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "set_isa": (_long, (ctypes.c_char_p,)),
    "active_isa": (ctypes.c_char_p, ()),
    "usable_isa": (ctypes.c_char_p, (_int,)),
    "plan_new": (_pointer, ()),
    "plan_free": (None, (_pointer,)),
    "plan_build": (_long, (_pointer, _pointer, _long, _long, _int, _int)),
    "conv_f32": (_long, (*[_pointer] * 5, _int, _int, _int)),
    "conv_f32_dw": (_long, (*[_pointer] * 4, _int, _int, _int)),
    "expand_neighbors": (_long, (*[_pointer] * 3, _long, _long, *[_pointer] * 3, _int)),
}

_functions: dict[str, Callable[..., Any]] = {}
_reason: str | None = None


def _load() -> str | None:
    """Bind every function of the library; the reason if that cannot be done."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"anypcc_{name}")
            function.restype, function.argtypes = result, arguments
            _functions[name] = function
    except (OSError, AttributeError) as error:
        _functions.clear()
        return f"cannot load the native kernels: {error}"
    return None


def _call(name: str, *arguments: Any) -> Any:
    try:
        function = _functions[name]
    except KeyError:
        raise RuntimeError(_reason) from None
    result = function(*arguments)
    if type(result) is int and result < 0:
        kind, text = _ERRORS[result]
        raise kind(f"{name}: {text}")
    return result


def _address(array: Array, name: str, dtype: str, shape: tuple[int | None, ...]) -> int:
    """Address of the first element, after checking dtype, shape (None: any size) and contiguity."""
    actual = tuple(array.shape)
    if len(actual) != len(shape) or any(w is not None and w != a for a, w in zip(actual, shape, strict=True)):
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {actual}, expected ({wanted})")
    if isinstance(array, np.ndarray):
        found, contiguous, address = array.dtype.name, array.flags.c_contiguous, array.ctypes.data
    else:
        if array.device.type != "cpu":
            raise TypeError(f"{name} is on {array.device}, expected the CPU")
        found, contiguous, address = str(array.dtype).removeprefix("torch."), array.is_contiguous(), array.data_ptr()
    if found != dtype:
        raise TypeError(f"{name} is {found}, expected {dtype}")
    if not contiguous:
        raise ValueError(f"{name} is not C-contiguous")
    return int(address)


class Plan:
    """The pairs of a sparse operator, sorted for the kernels: built once per level, used by every layer on it.

    ``table`` is int32 (n_out, taps): the input row that feeds an output row through a tap, or -1. ``n_in`` is the number of
    input rows. :meth:`build` reuses the memory for another table. At most 64 taps and 2^31 - 1 pairs.
    """

    def __init__(self, table: Array | None = None, n_in: int = 0, threads: int = 0) -> None:
        self.handle: int | None = _call("plan_new")
        if not self.handle:
            raise MemoryError("plan: out of memory")
        self.n_in = self.n_out = self.n_pairs = 0
        self.taps = 1
        if table is not None:
            self.build(table, n_in, threads)

    def build(self, table: Array, n_in: int, threads: int = 0) -> Plan:
        """Replace the plan; an :class:`IndexError` for an entry outside -1 .. n_in - 1 leaves an empty one."""
        n_out, taps = (int(size) for size in table.shape)
        address = _address(table, "table", "int32", (None, None))
        self.n_in = self.n_out = self.n_pairs = 0
        self.n_pairs = _call("plan_build", self.handle, address, n_in, n_out, taps, threads)
        self.n_in, self.n_out, self.taps = n_in, n_out, taps
        return self

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and _functions:
            _functions["plan_free"](handle)


def conv_f32(plan: Plan, x: Array, w: Array, bias: Array | None, y: Array, threads: int = 0) -> None:
    """``y = bias + sum over taps k of x[table[:, k]] @ w[k]``, float32.

    ``x`` (n_in, cin), ``w`` (taps, cin, cout), ``bias`` (cout,) or None, ``y`` (n_out, cout) written; cin and cout are
    multiples of 16. The gradient of ``x`` is the same call on ``dy`` with the plan of the transposed table and ``w`` transposed
    per tap; for a 3x3x3 neighbour table that plan is the same one with ``w`` flipped: ``w.flip(0).transpose(1, 2)``.
    """
    cin, cout = int(w.shape[1]), int(w.shape[2])
    _call(
        "conv_f32",
        plan.handle,
        _address(x, "x", "float32", (plan.n_in, cin)),
        _address(w, "w", "float32", (plan.taps, cin, cout)),
        None if bias is None else _address(bias, "bias", "float32", (cout,)),
        _address(y, "y", "float32", (plan.n_out, cout)),
        cin,
        cout,
        threads,
    )


def conv_f32_dw(plan: Plan, x: Array, dy: Array, dw: Array, threads: int = 0) -> None:
    """``dw[k] = sum over the pairs of tap k of x[in]^T dy[out]``, float32; ``dw`` (taps, cin, cout) is overwritten.

    The same inputs and number of threads give the same bits.
    """
    cin, cout = int(dw.shape[1]), int(dw.shape[2])
    _call(
        "conv_f32_dw",
        plan.handle,
        _address(x, "x", "float32", (plan.n_in, cin)),
        _address(dy, "dy", "float32", (plan.n_out, cout)),
        _address(dw, "dw", "float32", (plan.taps, cin, cout)),
        cin,
        cout,
        threads,
    )


def expand_neighbors(
    parents: Array,
    codes: Array,
    first_child: Array,
    children: Array,
    parent_row: Array,
    octant: Array,
    threads: int = 0,
) -> None:
    """The 3x3x3 neighbour table of an octree level from that of the level above; exact, linear, without a search.

    Offset ``k = 9 (dx + 1) + 3 (dy + 1) + (dz + 1)``; an entry is the row of the node at that offset, or -1. Children are
    ordered by parent, then by octant ``o = 4 bx + 2 by + bz``; child o exists when bit o of the parent's code is set.
    Read: ``parents`` int32 (n_parent, 27), ``codes`` uint8 (n_parent,), ``first_child`` int32 (n_parent,), the exclusive prefix
    sum of the codes' bit counts. Written: ``children`` int32 (n_child, 27), ``parent_row`` int32 (n_child,), ``octant``
    uint8 (n_child,).
    """
    n_parent, n_child = int(codes.shape[0]), int(octant.shape[0])
    _call(
        "expand_neighbors",
        _address(parents, "parents", "int32", (n_parent, 27)),
        _address(codes, "codes", "uint8", (n_parent,)),
        _address(first_child, "first_child", "int32", (n_parent,)),
        n_parent,
        n_child,
        _address(children, "children", "int32", (n_child, 27)),
        _address(parent_row, "parent_row", "int32", (n_child,)),
        _address(octant, "octant", "uint8", (n_child,)),
        threads,
    )


def usable_isas() -> list[str]:
    """The code paths this processor can run, fastest first: avx512vnni, avx2, neon, generic."""
    names: list[str] = []
    while (name := _call("usable_isa", len(names))) is not None:
        names.append(name.decode())
    return names


def active_isa() -> str:
    """The code path in use."""
    return str(_call("active_isa").decode())


def set_isa(name: str) -> None:
    """Force a code path for the whole process ("auto": the fastest). Meant for tests: results do not depend on it.

    Integer kernels give the same bits on every path; float32 kernels differ in rounding.
    """
    _call("set_isa", name.encode())


def _self_test() -> str | None:
    """Compare a tiny convolution with NumPy; what differs, if anything."""
    table = np.array([[0, -1], [1, 0], [-1, 1]], np.int32)
    x = np.arange(32, dtype=np.float32).reshape(2, 16)
    w = np.arange(512, dtype=np.float32).reshape(2, 16, 16) % 7
    y = np.empty((3, 16), np.float32)
    conv_f32(Plan(table, 2, threads=1), x, w, None, y, threads=1)
    if not np.array_equal(y, np.stack([x[0] @ w[0], x[1] @ w[0] + x[0] @ w[1], x[1] @ w[1]])):
        return "the float32 convolution is wrong on this machine"
    return None


def available() -> bool:
    """Whether the native kernels can be used here."""
    return _reason is None


def unavailable_reason() -> str | None:
    """Why the native kernels cannot be used, or None if they can."""
    return _reason


_reason = _load() or _self_test()
