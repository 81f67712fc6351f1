"""Octree levels for the native kernels: expansion, and the sparse operators' plans, built once per level."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.neighbors import CROSS_TAPS, Level, first_children, split_groups

_CROSS_COLUMNS = np.array(CROSS_TAPS, np.int32)


class NativeLevels:
    """Plans by level; they are freed with the level. ``threads``: 0 for every core."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads
        self._plans: WeakKeyDictionary[Level, dict[str, native.Plan]] = WeakKeyDictionary()
        self._masks: WeakKeyDictionary[Level, np.ndarray] = WeakKeyDictionary()

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        """The level below, as ``neighbors.expand_level`` gives it."""
        first = first_children(codes)
        children = int(first[-1])
        neighbors, masks = np.empty((children, 27), np.int32), np.empty(children, np.uint32)
        parent_row, octant = np.empty(children, np.int32), np.empty(children, np.uint8)
        native.expand_neighbors(
            level.neighbors,
            np.ascontiguousarray(codes),
            first[:-1],
            neighbors,
            parent_row,
            octant,
            self.threads,
            masks,
            self._masks.get(level),
        )
        below = Level(neighbors, parent_row, octant, split_groups(octant))
        self._masks[below] = masks
        return below

    def neighbors(self, level: Level) -> native.Plan:
        """3x3x3 convolution over the level."""
        masks = self._masks.get(level)
        return self._plan(level, "neighbors", lambda plan: plan.build(level.neighbors, len(level), self.threads, masks))

    def up(self, level: Level, parents: int) -> native.Plan:
        """From the ``parents`` nodes of the level above to this level, one tap per octant."""
        return self._plan(
            level,
            "up",
            lambda plan: plan.build_one_tap(level.parent_row, level.octant, parents, 8, self.threads),
        )

    def across(self, level: Level, reader: int) -> native.Plan:
        """From the other checkerboard group to group ``reader``, as ``neighbors.cross_table`` has it."""

        def build(plan: native.Plan) -> native.Plan:
            others = level.groups[1 - reader]
            position = np.full(len(level), -1, np.int32)
            position[others] = np.arange(len(others), dtype=np.int32)
            return plan.build_part(
                level.neighbors,
                level.groups[reader],
                _CROSS_COLUMNS,
                position,
                len(others),
                self.threads,
                self._masks.get(level),
            )

        return self._plan(level, f"across{reader}", build)

    def down(self, level: Level, parents: int) -> native.Plan:
        """The transpose of ``up``: from this level's nodes to their parents."""
        return self._plan(level, "down", lambda plan: plan.build(_down_table(level, parents), len(level), self.threads))

    def _plan(self, level: Level, name: str, build: Callable[[native.Plan], native.Plan]) -> native.Plan:
        plans = self._plans.setdefault(level, {})
        if name not in plans:
            plans[name] = build(native.Plan())
        return plans[name]


def _down_table(level: Level, parents: int) -> np.ndarray:
    """(parents, 8) int32: the row of each parent's child in every octant, or -1."""
    table = np.full((parents, 8), -1, np.int32)
    table[level.parent_row, level.octant] = np.arange(len(level))
    return table
