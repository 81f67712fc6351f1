"""The shared library of the native kernels: where it is, what it offers, and how its functions are called."""

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
INTERFACE = 20
"""What anypcc_interface() in src/dispatch.cpp must return: a library of another age is not called."""

_ERRORS: dict[int, tuple[type[Exception], str]] = {
    -1: (ValueError, "a size or a pointer is out of range"),
    -2: (IndexError, "an index lies outside the rows it points into"),
    -3: (MemoryError, "out of memory"),
    -4: (RuntimeError, "this processor lacks the requested instruction set"),
}

pointer, c_int, c_long, c_double = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double

# C function: its result and arguments, as declared in src/api.hpp.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "interface": (c_long, ()),
    "set_isa": (c_long, (ctypes.c_char_p,)),
    "active_isa": (ctypes.c_char_p, ()),
    "usable_isa": (ctypes.c_char_p, (c_int,)),
    "level_expand": (pointer, (pointer, pointer, c_int, pointer)),
    "level_from_table": (pointer, (pointer, pointer, pointer, c_long, pointer)),
    "level_free": (None, (pointer,)),
    "level_arrays": (None, (pointer, pointer)),
    "level_table": (None, (pointer, pointer, c_int)),
    "plan_new": (pointer, ()),
    "plan_free": (None, (pointer,)),
    "plan_build": (c_long, (pointer, pointer, pointer, c_long, c_long, c_int, c_int)),
    "plan_build_neighbors": (c_long, (pointer, pointer, c_int)),
    "plan_build_across": (c_long, (pointer, pointer, c_int, c_int)),
    "plan_build_one_tap": (c_long, (*[pointer] * 3, c_long, c_long, c_int, c_int)),
    "conv_f32": (c_long, (*[pointer] * 5, c_int, c_int, c_int)),
    "conv_f32_dw": (c_long, (*[pointer] * 4, c_int, c_int, c_int)),
    "conv_int8": (c_long, (*[pointer] * 5, c_long, pointer, c_int)),
    "up_int8": (c_long, (pointer, pointer, pointer, c_long, pointer, c_int)),
    "linear_int8": (c_long, (pointer, pointer, c_long, pointer, pointer, c_long, pointer, pointer, c_int)),
    "head_int8": (c_long, (*[pointer] * 3, c_long, pointer, pointer, c_long, pointer, c_int)),
    "softmax": (c_long, (pointer, pointer, c_long, c_int, pointer)),
    "calibration_new": (pointer, (c_long,)),
    "calibration_free": (None, (pointer,)),
    "calibration_weights": (c_long, (pointer, c_int, pointer)),
    "calibration_replay": (c_long, (*[pointer] * 3, c_int, pointer, pointer, c_long, pointer, pointer)),
    "calibration_decode": (c_long, (*[pointer] * 3, c_int, pointer, pointer, c_long, pointer)),
    "face_cells": (c_long, (pointer, pointer, c_long, pointer, pointer, c_long, pointer, c_int)),
    "edge_cells": (c_long, (pointer, pointer, c_long, pointer, pointer, c_int)),
    "beam_bins": (c_long, (*[pointer] * 2, c_long, pointer, c_long, pointer, c_int, c_double, pointer, c_int)),
    "context_rows": (
        c_long,
        (*[pointer] * 3, c_long, pointer, c_long, c_int, pointer, c_int, *[pointer] * 2, c_int, pointer, c_int),
    ),
    "child_coords": (c_long, (pointer, pointer, c_long, pointer, c_long)),
    "range_encoder_new": (pointer, ()),
    "range_encoder_free": (None, (pointer,)),
    "range_encode": (c_long, (*[pointer] * 3, c_long, c_int)),
    "range_encoder_finish": (c_long, (pointer, pointer)),
    "predicted_encode": (c_long, (*[pointer] * 4, c_long, c_int)),
    "predicted_decode": (c_long, (*[pointer] * 3, c_long, pointer, c_int)),
    "range_decode": (c_long, (pointer, pointer, c_long, c_int, pointer)),
    "grid_coords": (c_long, (pointer, c_int, c_long, pointer, c_double, pointer, pointer, c_int)),
    "grid_positions": (c_long, (pointer, c_long, c_double, pointer, c_int)),
    "repeat_rows": (c_long, (pointer, c_int, pointer, c_long, pointer, c_long)),
    "grid_bounds": (c_long, (pointer, c_long, pointer)),
    "axis_counts": (c_long, (pointer, c_long, *[pointer] * 3)),
    "grid_keys": (c_long, (pointer, c_long, pointer, c_int, pointer, c_int)),
    "morton_encode": (c_long, (pointer, c_long, pointer, c_int)),
    "morton_decode": (c_long, (pointer, c_long, pointer, c_int)),
    "sort_keys": (c_long, (pointer, pointer, c_long)),
    "unique_keys": (c_long, (pointer, c_long, pointer)),
    "parent_keys": (c_long, (pointer, c_long, pointer, pointer)),
    "density_contexts": (c_long, (pointer, c_long, pointer)),
    "counts_encode": (c_long, (*[pointer] * 3, c_long, pointer, c_long)),
    "counts_decode": (c_long, (pointer, pointer, c_long, pointer, c_long, pointer)),
    "channel_encode": (c_long, (pointer, c_int, c_long, *[pointer] * 6)),
    "channel_decode": (c_long, (pointer, c_int, c_long, *[pointer] * 3, c_long, *[pointer] * 3)),
    "surroundings": (c_long, (pointer, c_long, pointer)),
    "row_surroundings": (c_long, (c_long, pointer)),
    "child_keys": (c_long, (pointer, pointer, c_long, pointer, c_long)),
}

_DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "uint64")}
_byte_at: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
functions: dict[str, Callable[..., Any]] = {}
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
    while (name := call("usable_isa", len(names))) is not None:
        names.append(name.decode())
    return names


def active_isa() -> str:
    """The code path in use."""
    return str(call("active_isa").decode())


def set_isa(name: str) -> None:
    """Force a code path for the whole process, "auto" for the fastest; meant for tests.

    Integer kernels give the same bits on every path; float32 kernels differ in rounding.
    """
    call("set_isa", name.encode())


def call(name: str, *arguments: Any) -> Any:
    try:
        function = functions[name]
    except KeyError:
        raise RuntimeError(_reason) from None
    result = function(*arguments)
    if type(result) is int and result < 0:
        raise_status(name, result)
    return result


def raise_status(name: str, status: int) -> None:
    kind, text = _ERRORS[status]
    raise kind(f"{name}: {text}")


def address_of(array: Array, name: str, dtype: str, shape: tuple[int | None, ...]) -> int:
    """Address of the first element, after checking dtype, shape (None: any size) and contiguity."""
    found = array.shape
    if found != shape and (len(found) != len(shape) or any(map(_differ, found, shape))):
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(found)}, expected ({wanted})")
    if isinstance(array, np.ndarray):
        right, contiguous = array.dtype == _DTYPES[dtype], array.flags.c_contiguous
        # Of what can be written to, as nearly all is, ctypes gets the address in a quarter of the time; a frame takes 600.
        if right and contiguous and array.flags.writeable and array.size:
            return ctypes.addressof(_byte_at(array))
        address = array.ctypes.data
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


def optional_address(array: Array | None, name: str, dtype: str, shape: tuple[int | None, ...]) -> int | None:
    return None if array is None else address_of(array, name, dtype, shape)


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
        functions.clear()
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
            functions[name] = function
    except (OSError, AttributeError) as error:
        return f"the native kernels do not load: {error}"
    return None


def start(self_test: Callable[[], str | None]) -> None:
    """Load the library, and unload it again if it fails its self-test."""
    global _reason
    _reason = _load()
    if _reason is None and (wrong := self_test()) is not None:
        _reason = f"{wrong} on this machine (code path {active_isa()})"
        functions.clear()
