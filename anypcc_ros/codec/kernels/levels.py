"""Octree levels for the native kernels: expansion, and the sparse operators' plans, built once per level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.neighbors import Level


class NativeLevel(Level):
    """A level whose arrays belong to the kernels; its neighbour table is only made when somebody asks for it."""

    def __init__(self, data: native.LevelData) -> None:
        set_ = object.__setattr__  # frozen
        set_(self, "data", data)
        set_(self, "plans", {})
        set_(self, "parent_row", data.parent_row)
        set_(self, "octant", data.octant)
        set_(self, "groups", data.groups)

    data: native.LevelData
    plans: dict[str, native.Plan]

    @property
    def neighbors(self) -> np.ndarray:
        return self.data.table()


class NativeLevels:
    """What the kernels need of levels. ``threads``: 0 for every core."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads

    def expand(self, level: Level, codes: np.ndarray) -> NativeLevel:
        """The level below, as ``neighbors.expand_level`` gives it."""
        return NativeLevel(native_level(level).data.expand(np.ascontiguousarray(codes), self.threads))

    def neighbors(self, level: Level) -> native.Plan:
        """3x3x3 convolution over the level."""
        return self._plan(level, "neighbors", lambda plan, data: plan.build_neighbors(data, self.threads))

    def across(self, level: Level, reader: int) -> native.Plan:
        """From the other checkerboard group to group ``reader``, as ``neighbors.cross_table`` has it."""
        return self._plan(level, f"across{reader}", lambda plan, data: plan.build_across(data, reader, self.threads))

    def up(self, level: Level, parents: int) -> native.Plan:
        """From the ``parents`` nodes of the level above to this level, one tap per octant."""
        return self._plan(
            level,
            "up",
            lambda plan, data: plan.build_one_tap(data.parent_row, data.octant, parents, 8, self.threads),
        )

    def down(self, level: Level, parents: int) -> native.Plan:
        """The transpose of ``up``: from this level's nodes to their parents."""
        return self._plan(level, "down", lambda plan, data: plan.build(_down_table(level, parents), data.nodes, self.threads))

    def _plan(self, level: Level, name: str, build: Callable[[native.Plan, native.LevelData], native.Plan]) -> native.Plan:
        level = native_level(level)
        if name not in level.plans:
            level.plans[name] = build(native.Plan(), level.data)
        return level.plans[name]


def native_level(level: Level) -> NativeLevel:
    """The level itself if it is the kernels' own, otherwise a copy of it that is."""
    if isinstance(level, NativeLevel):
        return level
    return NativeLevel(native.LevelData.from_table(level.neighbors, level.parent_row, level.octant))


def _down_table(level: Level, parents: int) -> np.ndarray:
    """(parents, 8) int32: the row of each parent's child in every octant, or -1."""
    table = np.full((parents, 8), -1, np.int32)
    table[level.parent_row, level.octant] = np.arange(len(level))
    return table
