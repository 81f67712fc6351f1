"""The grid, Morton order and the octree above it."""

from __future__ import annotations

import ctypes

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call


def grid_coords(xyz: Array, origin: Array, step: float, grid: Array, threads: int = 0) -> float:
    """``grid`` int64 (N, 3) = (``xyz`` - ``origin``) / ``step``, rounded half to even; returns the largest magnitude.

    ``xyz`` float32 or float64 (N, 3), ``origin`` float64 (3,). If the largest magnitude is not finite, or 2**53 and more, the
    grid is of no use.
    """
    count, largest = int(grid.shape[0]), ctypes.c_double()
    doubles = xyz.dtype == np.float64
    place = address_of(xyz, "xyz", "float64" if doubles else "float32", (count, 3))
    addresses = address_of(origin, "origin", "float64", (3,)), address_of(grid, "grid", "int64", (None, 3))
    call("grid_coords", place, doubles, count, addresses[0], step, addresses[1], ctypes.byref(largest), threads)
    return largest.value


def grid_positions(grid: Array, step: float, xyz: Array) -> None:
    """``xyz`` float32 or float64 (N, 3) = ``grid`` int64 (N, 3) * ``step``, rounded to float64 and then to its type."""
    count, doubles = int(grid.shape[0]), xyz.dtype == np.float64
    place = address_of(xyz, "xyz", "float64" if doubles else "float32", (count, 3))
    call("grid_positions", address_of(grid, "grid", "int64", (None, 3)), count, step, place, doubles)


def repeat_rows(rows: Array, repeats: Array, repeated: Array) -> int:
    """Row i of ``rows`` (N, 3), float32, float64 or int64, ``repeats[i]`` times, int64 (N,); returns how many they are.

    Written: the front of ``repeated`` (any, 3), of the same type. Raises ValueError if there is no room for all of them.
    """
    count, dtype = int(repeats.shape[0]), str(rows.dtype)
    sources = address_of(rows, "rows", dtype, (count, 3)), rows.dtype.itemsize * 3
    address, room = address_of(repeats, "repeats", "int64", (None,)), address_of(repeated, "repeated", dtype, (None, 3))
    return int(call("repeat_rows", *sources, address, count, room, int(repeated.shape[0])))


def grid_bounds(grid: Array) -> np.ndarray:
    """The smallest and the largest coordinates int64 (2, 3) of ``grid`` int64 (N, 3), N >= 1."""
    bounds = np.empty((2, 3), np.int64)
    call("grid_bounds", address_of(grid, "grid", "int64", (None, 3)), int(grid.shape[0]), bounds.ctypes.data)
    return bounds


def axis_counts(grid: Array, low: Array, sizes: Array) -> list[np.ndarray]:
    """Of each axis how many of ``grid`` int64 (N, 3) have each of ``sizes`` (3,) coordinates from ``low`` (3,) on, both int64.

    Axes of size 0 are left out. Raises IndexError for other coordinates of the rest.
    """
    counts = np.zeros(int(sizes.sum()), np.uint32)
    addresses = address_of(low, "low", "int64", (3,)), address_of(sizes, "sizes", "int64", (3,))
    count = int(grid.shape[0])
    call("axis_counts", address_of(grid, "grid", "int64", (None, 3)), count, *addresses, counts.ctypes.data)
    return np.split(counts, np.cumsum(sizes)[:2])


def grid_keys(grid: Array, low: Array, dropped: int, keys: Array, threads: int = 0) -> None:
    """``keys`` uint64 (N,) of the cells (``grid`` int64 (N, 3) - ``low`` int64 (3,)) >> ``dropped``, in 0..2^21 - 1."""
    count = int(keys.shape[0])
    addresses = address_of(grid, "grid", "int64", (count, 3)), address_of(low, "low", "int64", (3,))
    call("grid_keys", addresses[0], count, addresses[1], dropped, address_of(keys, "keys", "uint64", (None,)), threads)


def child_coords(coords: Array, codes: Array, children: Array) -> int:
    """The level below nodes at ``coords`` uint32 (N, 3) with occupancy ``codes`` uint8 (N,); returns its number of nodes.

    Written: the front of ``children`` uint32 (any, 3): twice the coordinates plus the bits of the octant ``4 x + 2 y + z``.
    Raises ValueError if there is no room for all of them.
    """
    count, capacity = int(codes.shape[0]), int(children.shape[0])
    addresses = address_of(coords, "coords", "uint32", (count, 3)), address_of(codes, "codes", "uint8", (None,))
    return int(call("child_coords", *addresses, count, address_of(children, "children", "uint32", (None, 3)), capacity))


def morton_encode(coords: Array, keys: Array, threads: int = 0) -> None:
    """``keys`` uint64 (N,) from ``coords`` int32 (N, 3) in 0..2^21 - 1, their bits interleaved, x first."""
    count = int(keys.shape[0])
    addresses = address_of(coords, "coords", "int32", (count, 3)), address_of(keys, "keys", "uint64", (None,))
    call("morton_encode", addresses[0], count, addresses[1], threads)


def morton_decode(keys: Array, coords: Array, threads: int = 0) -> None:
    """The inverse of ``morton_encode``, ``coords`` int64 (N, 3)."""
    count = int(keys.shape[0])
    addresses = address_of(keys, "keys", "uint64", (None,)), address_of(coords, "coords", "int64", (count, 3))
    call("morton_decode", addresses[0], count, addresses[1], threads)


def sort_keys(keys: Array, order: Array) -> None:
    """Sort ``keys`` uint64 (N,) in place, stably; ``order`` uint32 (N,) gets the row each came from."""
    count = int(keys.shape[0])
    addresses = address_of(keys, "keys", "uint64", (None,)), address_of(order, "order", "uint32", (count,))
    call("sort_keys", *addresses, count)


def unique_keys(keys: Array, occurrences: Array) -> int:
    """Move the distinct values of sorted ``keys`` uint64 (N,) to its front and return how many they are.

    ``occurrences`` int64 (N,) gets how often each occurs.
    """
    count = int(keys.shape[0])
    addresses = (
        address_of(keys, "keys", "uint64", (None,)),
        address_of(occurrences, "occurrences", "int64", (count,)),
    )
    return int(call("unique_keys", addresses[0], count, addresses[1]))


def parent_keys(keys: Array, parents: Array, codes: Array) -> int:
    """The level above distinct sorted ``keys`` uint64 (N,); returns its number of nodes.

    Written: the front of ``parents`` uint64 (N,), which may be ``keys``, and of ``codes`` uint8 (N,), the
    parents' occupancy codes.
    """
    count = int(keys.shape[0])
    addresses = (
        address_of(parents, "parents", "uint64", (count,)),
        address_of(codes, "codes", "uint8", (count,)),
    )
    return int(call("parent_keys", address_of(keys, "keys", "uint64", (None,)), count, *addresses))


def child_keys(keys: Array, codes: Array, children: Array) -> int:
    """The level below ``keys`` uint64 (N,) with occupancy ``codes`` uint8 (N,); returns its number of nodes.

    Written: the front of ``children`` uint64. Raises ValueError if there is no room for all of them.
    """
    count, capacity = int(keys.shape[0]), int(children.shape[0])
    addresses = address_of(keys, "keys", "uint64", (None,)), address_of(codes, "codes", "uint8", (count,))
    children_address = address_of(children, "children", "uint64", (None,))
    return int(call("child_keys", *addresses, count, children_address, capacity))
