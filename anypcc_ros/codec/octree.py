"""The grid and the octree: coordinates to occupancy codes per level, and back.

Conventions, normative for the bitstream (docs/bitstream.md):

* An octree of depth D covers the cube [0, 2**D)**3. Its level 0 is the root, its level D holds the voxels.
* The octant of a child is o = 4*bx + 2*by + bz, with b the lowest bit of the child's coordinate on each axis.
* Nodes of a level are in Morton order: ordered by parent, then by octant. Bit o of a node's occupancy code tells
  whether child o exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import DTypeLike

from anypcc_ros.codec.errors import InputError
from anypcc_ros.codec.kernels import native

MAX_DEPTH = 32
EXACT_INTEGER = (1 << 53) - 1
"""Largest magnitude of an integer coordinate: the arithmetic of the grid is float64's."""

_LOW_BITS = 21  # bits per axis that fit one 63-bit Morton key

CHILD_COUNT = np.array([bin(code).count("1") for code in range(256)], np.uint8)
"""(256,) uint8: children of a node with that occupancy code."""

OCTANT_BITS = np.array([[o >> 2 & 1, o >> 1 & 1, o & 1] for o in range(8)], np.uint8)
"""(8, 3) uint8: coordinate bits (x, y, z) of each octant."""

OCTANT_GROUP = (OCTANT_BITS.sum(1) & 1).astype(np.uint8)
"""(8,) uint8: checkerboard group of each octant. A child's coordinates are 2*parent + bits, so the parity of their
sum depends on the octant alone."""


@dataclass(frozen=True)
class Voxels:
    """Occupied grid cells in Morton order.

    ``shift``: (3,) int64, grid coordinates of the cube's corner. ``coords``: (N, 3) int64 relative to it, unique.
    ``counts``: (N,) int64 points per cell. ``depth``: smallest depth whose cube holds them all. ``keys``: (N,) uint64, the
    cells' Morton keys, if they are at hand.
    """

    shift: np.ndarray
    coords: np.ndarray
    counts: np.ndarray
    depth: int
    keys: np.ndarray | None = None

    @cached_property
    def pyramid(self) -> list[np.ndarray]:
        """Their ``occupancy_pyramid``, of which nobody may change anything."""
        return occupancy_pyramid(self)

    def children_per_node(self, above: int = 0) -> float:
        """How many cells a node has on average: of the level above the cells, or of one so many levels above that."""
        nodes = [*map(len, self.pyramid), len(self.coords)]
        return nodes[-1 - above] / nodes[-2 - above] if above < self.depth else 1.0

    @property
    def first_points(self) -> np.ndarray:
        """(N,) int64: where in Morton order the first point of each cell stands."""
        return np.asarray(np.cumsum(self.counts) - self.counts)


def quantise(xyz: np.ndarray, step: float, origin: tuple[float, float, float], threads: int = 1) -> np.ndarray:
    """Grid coordinates q = round-half-even((xyz - origin) / step), (N, 3) int64.

    Raises InputError for non-finite positions, for positions beyond 2**52 steps, where float64 cannot tell neighbouring
    grid cells apart, and for integers beyond ``EXACT_INTEGER``.
    """
    if xyz.dtype.kind == "i":
        _check_integers(xyz)
        if step == 1.0 and not any(origin):
            return xyz.astype(np.int64)
    elif native.available() and xyz.dtype in (np.float32, np.float64):
        grid = np.empty(xyz.shape, np.int64)
        largest = native.grid_coords(np.ascontiguousarray(xyz), np.array(origin, np.float64), step, grid, threads)
        _check_extent(xyz, largest, step)
        return grid
    scaled = xyz.astype(np.float64)
    with np.errstate(over="ignore"):  # to infinity, and refused below
        if any(origin):
            scaled -= np.asarray(origin)
        scaled /= step
    np.rint(scaled, out=scaled)
    _check_extent(xyz, float(np.abs(scaled).max(initial=0.0)), step)
    return scaled.astype(np.int64)


def _check_extent(xyz: np.ndarray, largest: float, step: float) -> None:
    if not np.isfinite(largest) and (bad := int((~np.isfinite(xyz)).any(axis=1).sum())):
        raise InputError(f"{bad} of {len(xyz)} points are not finite")
    if largest >= 2.0**52:
        raise InputError(f"a position lies {largest:.3g} steps of {step:g} from the origin; at most 2^52 are possible")


def dequantise(coords: np.ndarray, step: float, origin: tuple[float, float, float], dtype: DTypeLike) -> np.ndarray:
    """Positions origin + coords * step, (N, 3) of ``dtype``; what lies beyond a floating dtype becomes infinite.

    Integer dtypes are rounded half to even and clamped to their range, int64 to ``EXACT_INTEGER``: the grid point of a
    position at the end of the range may lie beyond it.
    """
    # Not with an origin: a compiler may fuse the product with a sum, which rounds otherwise.
    if native.available() and coords.dtype == np.int64 and not any(origin) and np.dtype(dtype).kind == "f":
        xyz = np.empty(coords.shape, dtype)
        native.grid_positions(np.ascontiguousarray(coords), step, xyz)
        return xyz
    with np.errstate(over="ignore"):  # only hostile steps and origins do
        xyz = coords.astype(np.float64) * step
        if any(origin):
            xyz += np.asarray(origin)
        if np.dtype(dtype).kind == "i":
            np.rint(xyz, out=xyz)
            range_ = np.iinfo(dtype)
            np.clip(xyz, max(range_.min, -EXACT_INTEGER), min(range_.max, EXACT_INTEGER), out=xyz)
        return xyz.astype(dtype)


def on_grid_at(cells: np.ndarray, shift: np.ndarray, dropped: int = 0) -> np.ndarray:
    """Grid coordinates (N, 3) int64 of the cells (N, 3) int64 ``dropped`` levels above a grid whose corner is ``shift``."""
    grid = np.empty_like(cells)
    for axis in range(3):  # in a quarter of the time of all at once
        column = cells[:, axis] << dropped if dropped else cells[:, axis]
        np.add(column, shift[axis], out=grid[:, axis])
    return grid


def repeat_rows(rows: np.ndarray, repeats: np.ndarray, points: int) -> np.ndarray:
    """Row i of (N, 3) ``repeats[i]`` times, int64 (N,), which are ``points`` in all."""
    if not native.available() or rows.dtype == np.int32:
        return np.repeat(rows, repeats, axis=0)
    repeated = np.empty((points, 3), rows.dtype)
    native.repeat_rows(np.ascontiguousarray(rows), repeats, repeated)
    return repeated


def _check_integers(xyz: np.ndarray) -> None:
    low, high = int(xyz.min(initial=0)), int(xyz.max(initial=0))
    if max(-low, high) > EXACT_INTEGER:
        raise InputError(f"integer coordinates {low}..{high}; float64 arithmetic holds those up to {EXACT_INTEGER}")


def voxelise(grid: np.ndarray, drop_scales: int = 0, threads: int = 1) -> tuple[Voxels, np.ndarray]:
    """Unique cells of (N, 3) int64 grid coordinates, and the permutation that sorts the points in Morton order.

    The cube's corner is the smallest coordinate per axis. With ``drop_scales`` = n the cells are those n levels above
    the grid. Raises InputError when the extent needs more than 32 octree levels.
    """
    if not len(grid):
        raise InputError("a cloud without points has no voxels")
    grid = np.ascontiguousarray(grid, np.int64)
    shift, high = native.grid_bounds(grid) if native.available() else (grid.min(axis=0), grid.max(axis=0))
    extent = int((high - shift).max())
    if extent >= 1 << MAX_DEPTH:
        raise InputError(f"the cloud spans {extent + 1} steps; an octree holds at most 2^{MAX_DEPTH}")
    depth = max(extent.bit_length() - drop_scales, 0)
    if native.available() and depth <= _LOW_BITS:
        keys = np.empty(len(grid), np.uint64)
        native.grid_keys(grid, shift, drop_scales, keys, threads)
        coords, counts, order = _sort_keys_natively(keys, threads)
        return Voxels(shift, coords, counts, depth, keys[: len(coords)]), order
    coords, counts, order = sort_cells(grid - shift >> drop_scales)
    return Voxels(shift, coords, counts, depth), order


def coarser_cells(coords: np.ndarray, scales: int) -> np.ndarray:
    """The cells (M, 3) int64, in Morton order, that hold those at (N, 3) int64, in Morton order, so many levels above them."""
    above = coords >> scales
    return above[np.concatenate([[True], changes(above)])]


def changes(coords: np.ndarray) -> np.ndarray:
    """Whether each row of (N, 3) integers differs from the one before it: (N - 1,) bool."""
    # Axis by axis: a reduction over three numbers takes ten times as long.
    x, y, z = (coords[1:] ^ coords[:-1]).T
    return (x | y | z) != 0


def sort_cells(local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unique rows (M, 3) in Morton order of (N, 3) coordinates in [0, 2**32), points per row (M,), and the
    permutation (N,) that sorts the points."""
    if _fits_native(local):
        return _sort_keys_natively(_native_keys(local), 1)
    order = morton_order(local)
    high, low = _morton_keys(local[order])
    starts = _run_starts(high, low)
    return local[order[starts]], np.diff(np.append(starts, len(order))), order


def morton_order(local: np.ndarray) -> np.ndarray:
    """The permutation (N,) that sorts (N, 3) coordinates in [0, 2**32) stably in Morton order."""
    if _fits_native(local):
        keys, order = _native_keys(local), np.empty(len(local), np.uint32)
        native.sort_keys(keys, order)
        return order
    high, low = _morton_keys(local)
    return np.lexsort((low, high)) if high.any() else np.argsort(low, kind="stable")


def occupancy_pyramid(voxels: Voxels) -> list[np.ndarray]:
    """Occupancy codes of levels 0 to depth - 1, each (N_level,) uint8 in Morton order."""
    codes: list[np.ndarray] = []
    if native.available() and (voxels.keys is not None or _fits_native(voxels.coords)):
        keys = _native_keys(voxels.coords) if voxels.keys is None else voxels.keys
        above = np.empty_like(keys)
        for _ in range(voxels.depth):
            occupancy = np.empty(len(keys), np.uint8)
            parents = native.parent_keys(keys, above[: len(keys)], occupancy)
            keys = above[:parents]
            codes.append(occupancy[:parents].copy())
        return codes[::-1]
    high, low = _morton_keys(voxels.coords)
    for finer_levels in range(voxels.depth):
        if finer_levels == _LOW_BITS:
            high, low = np.zeros_like(high), high
        bits = np.left_shift(1, low & 7).astype(np.uint8)
        low = low >> 3
        starts = _run_starts(high, low)
        codes.append(np.bitwise_or.reduceat(bits, starts))
        high, low = high[starts], low[starts]
    return codes[::-1]


def child_coords(coords: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Coordinates (N_child, 3) uint32 of the children of nodes at ``coords`` (N, 3) uint32 with ``codes`` (N,) uint8."""
    if native.available():
        children = np.empty((int(CHILD_COUNT[codes].sum(dtype=np.int64)), 3), np.uint32)
        native.child_coords(coords, np.ascontiguousarray(codes), children)
        return children
    parent_row, octant = np.nonzero(np.unpackbits(codes[:, None], axis=1, bitorder="little"))
    return coords[parent_row] << 1 | OCTANT_BITS[octant]


@dataclass(frozen=True, eq=False)
class Place:
    """Where the nodes of an octree level are.

    ``coords``: (N, 3) uint32 in units of the nodes' edge, 2**``levels_below`` cells of the grid, from the cell ``shift`` (3,)
    int64.
    """

    coords: np.ndarray
    shift: np.ndarray
    levels_below: int

    @classmethod
    def of_root(cls, shift: np.ndarray, depth: int) -> Place:
        return cls(np.zeros((1, 3), np.uint32), shift, depth)

    def of_children(self, codes: np.ndarray) -> Place:
        """The level below, of nodes with these ``codes`` (N,) uint8."""
        return Place(child_coords(self.coords, codes), self.shift, self.levels_below - 1)


def local_keys(coords: np.ndarray) -> np.ndarray:
    """Morton keys (N,) int64 of the 21 lowest bits of coordinates (N, 3) int64: different where these are."""
    low = coords & ((1 << _LOW_BITS) - 1)
    return _native_keys(low).astype(np.int64) if native.available() else _interleave(low)


def _fits_native(coords: np.ndarray) -> bool:
    return native.available() and not int(coords.max(initial=0)) >> _LOW_BITS


def _native_keys(coords: np.ndarray) -> np.ndarray:
    keys = np.empty(len(coords), np.uint64)
    native.morton_encode(np.ascontiguousarray(coords, np.int32), keys)
    return keys


def _sort_keys_natively(keys: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``sort_cells``, of their Morton keys (N,) uint64, which are overwritten."""
    order, counts = np.empty(len(keys), np.uint32), np.empty(len(keys), np.int64)
    native.sort_keys(keys, order)
    cells = native.unique_keys(keys, counts)
    coords = np.empty((cells, 3), np.int64)
    native.morton_decode(keys[:cells], coords, threads)
    return coords, counts[:cells].copy(), order.astype(np.int64)


def _run_starts(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """First row of every run of equal (high, low) keys."""
    change = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.concatenate([[0], np.flatnonzero(change) + 1])


def _morton_keys(coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Morton keys of (N, 3) coordinates below 2**32 as two (N,) int64: bits 21 and up, and the 21 lowest bits."""
    low = _interleave(coords & ((1 << _LOW_BITS) - 1))
    if int(coords.max(initial=0)) >> _LOW_BITS:
        return _interleave(coords >> _LOW_BITS), low
    return np.zeros_like(low), low


def _interleave(coords: np.ndarray) -> np.ndarray:
    key = np.zeros(len(coords), np.int64)
    for axis, place in ((0, 2), (1, 1), (2, 0)):
        v = coords[:, axis].astype(np.int64)
        v = (v | v << 32) & 0x1F00000000FFFF
        v = (v | v << 16) & 0x1F0000FF0000FF
        v = (v | v << 8) & 0x100F00F00F00F00F
        v = (v | v << 4) & 0x10C30C30C30C30C3
        v = (v | v << 2) & 0x1249249249249249
        key |= v << place
    return key
