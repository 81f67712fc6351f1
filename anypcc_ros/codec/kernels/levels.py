"""Octree levels for the native kernels: expansion, and the plans of the sparse operators, built once per level."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.neighbors import Level, cross_table, first_children, split_groups, up_table


class NativeLevels:
    """Plans by level; they are freed with the level. ``threads``: 0 for every core."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads
        self._plans: WeakKeyDictionary[Level, dict[str, native.Plan]] = WeakKeyDictionary()

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        """The level below, as ``neighbors.expand_level`` gives it."""
        first = first_children(codes)
        children = int(first[-1])
        neighbors = np.empty((children, 27), np.int32)
        parent_row, octant = np.empty(children, np.int32), np.empty(children, np.uint8)
        codes = np.ascontiguousarray(codes)
        native.expand_neighbors(level.neighbors, codes, first[:-1], neighbors, parent_row, octant, self.threads)
        return Level(neighbors, parent_row, octant, split_groups(octant))

    def neighbors(self, level: Level) -> native.Plan:
        """3x3x3 convolution over the level."""
        return self._plan(level, "neighbors", lambda: level.neighbors, len(level))

    def up(self, level: Level, parents: int) -> native.Plan:
        """From the ``parents`` nodes of the level above to this level, one tap per octant."""
        return self._plan(level, "up", lambda: up_table(level), parents)

    def across(self, level: Level, reader: int) -> native.Plan:
        """From the other checkerboard group to group ``reader``."""
        return self._plan(level, f"across{reader}", lambda: cross_table(level, reader), len(level.groups[1 - reader]))

    def down(self, level: Level, parents: int) -> native.Plan:
        """The transpose of ``up``: from this level's nodes to their parents."""
        return self._plan(level, "down", lambda: _down_table(level, parents), len(level))

    def _plan(self, level: Level, name: str, table: Callable[[], np.ndarray], inputs: int) -> native.Plan:
        plans = self._plans.setdefault(level, {})
        if name not in plans:
            plans[name] = native.Plan(table(), inputs, self.threads)
        return plans[name]


def _down_table(level: Level, parents: int) -> np.ndarray:
    """(parents, 8) int32: the row of each parent's child in every octant, or -1."""
    table = np.full((parents, 8), -1, np.int32)
    table[level.parent_row, level.octant] = np.arange(len(level))
    return table
