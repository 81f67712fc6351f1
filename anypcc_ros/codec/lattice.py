"""Axes on which a cloud uses a coarser lattice than the grid, and their compaction.

A depth camera's few depth values, a survey in centimetres on a grid of millimetres, an object scaled to 2^12 steps: every
point then has empty planes beside it, which an octree cannot express and a local context cannot see. Such an axis is
renumbered 0, 1, 2, ... over the values that occur; the list of values costs a few bits each, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.counts import decode_counts, encode_counts
from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.kernels import native

ISOLATED = 0.8
"""Share of the points without occupied neighbour planes from which an axis counts as a lattice. Clouds tell themselves
apart clearly: real lattices reach 0.85 and more, everything else stays below 0.5."""

LONGEST_AXIS = 1 << 22
"""Longer axes are left alone: looking at them would cost more time than the octree."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """``values[axis]``: the grid coordinates that occur on an axis, ascending int64, or None for an axis left alone."""

    values: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

    def __bool__(self) -> bool:
        return any(values is not None for values in self.values)

    def compact(self, grid: np.ndarray) -> np.ndarray:
        """Grid coordinates (N, 3) int64 with lattice axes renumbered from 0."""
        return self._mapped(grid, lambda values, column: np.searchsorted(values, column))

    def restore(self, grid: np.ndarray) -> np.ndarray:
        """Inverse of ``compact``. Raises CorruptStreamError for a number beyond an axis' values."""

        def look_up(values: np.ndarray, column: np.ndarray) -> np.ndarray:
            if len(column) and not 0 <= int(column.min()) <= int(column.max()) < len(values):
                raise CorruptStreamError(f"lattice coordinates {column.min()}..{column.max()} of {len(values)} values")
            return values[column]

        return self._mapped(grid, look_up)

    def _mapped(self, grid: np.ndarray, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        if not self:
            return grid
        mapped = grid.copy()
        for axis, values in enumerate(self.values):
            if values is not None:
                mapped[:, axis] = change(values, grid[:, axis])
        return mapped


def find_lattice(grid: np.ndarray) -> Lattice:
    """The lattice axes of (N, 3) int64 grid coordinates."""
    grid = np.ascontiguousarray(grid)
    low, high = native.grid_bounds(grid) if native.available() else (grid.min(axis=0), grid.max(axis=0))
    extent = high - low
    sizes = np.where((extent > 0) & (extent < LONGEST_AXIS), extent + 1, 0)
    if native.available():
        counts = native.axis_counts(grid, low, sizes)
    else:
        counts = [np.bincount(grid[:, axis] - low[axis]) if sizes[axis] else sizes[:0] for axis in range(3)]
    x, y, z = (_lattice_values(axis, int(first), len(grid)) for axis, first in zip(counts, low, strict=True))
    return Lattice((x, y, z))


def _lattice_values(counts: np.ndarray, low: int, points: int) -> np.ndarray | None:
    """``counts``: how many of the ``points`` have each coordinate of an axis from ``low`` on; empty for one to leave alone."""
    used = counts > 0
    crowded = np.zeros_like(used)
    crowded[1:] |= used[:-1]
    crowded[:-1] |= used[1:]
    # Few values, each shared by several points: otherwise their list costs more than it saves.
    values = np.flatnonzero(used)
    if not len(values) or len(values) * 4 > points or int(counts[used & ~crowded].sum()) < ISOLATED * points:
        return None
    return values + low


def encode_lattice(lattice: Lattice) -> bytes:
    """One byte of axis flags; then per lattice axis the number of values, the first, and the coded gaps with their size."""
    parts = [bytes([sum((values is not None) << axis for axis, values in enumerate(lattice.values))])]
    for values in lattice.values:
        if values is not None:
            gaps = encode_counts(np.diff(values) - 1, np.zeros(len(values) - 1, np.uint8))
            parts += [encode_varint(len(values)), encode_signed(int(values[0])), encode_varint(len(gaps)), gaps]
    return b"".join(parts)


def decode_lattice(data: memoryview, cells: int) -> Lattice:
    """Inverse of ``encode_lattice`` for a cloud of ``cells``, which an axis cannot exceed. Raises StreamError subclasses."""
    if not len(data) or data[0] not in range(1, 8):
        raise CorruptStreamError(f"lattice of {len(data)} bytes without valid axis flags")
    axes: list[np.ndarray | None] = [None, None, None]
    position = 1
    for axis in range(3):
        if not data[0] >> axis & 1:
            continue
        count, position = decode_varint(data, position)
        first, position = decode_signed(data, position)
        size, position = decode_varint(data, position)
        if not 1 <= count <= cells or size > len(data) - position:
            raise CorruptStreamError(f"lattice axis of {count} values in {size} bytes for {cells} cells")
        gaps = decode_counts(data[position : position + size], np.zeros(count - 1, np.uint8))
        position += size
        if int(gaps.max(initial=0)) >= LONGEST_AXIS or abs(first) >= 1 << 53:
            raise CorruptStreamError(f"lattice axis from {first} with a gap of {int(gaps.max(initial=0))}")
        axes[axis] = first + np.concatenate([[0], np.cumsum(gaps + 1)])
    if position != len(data):
        raise CorruptStreamError(f"{len(data) - position} bytes after the lattice")
    return Lattice((axes[0], axes[1], axes[2]))
