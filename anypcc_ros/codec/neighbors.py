"""Who touches whom: the 3x3x3 neighbour table of every octree level, derived from the parent level's.

No search is needed. A neighbour of a child lies in the parent itself or in one of the parent's 26 neighbours, so its
row is the first child of that node plus the number of occupied octants before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from anypcc_ros.codec.octree import CHILD_COUNT, OCTANT_BITS, OCTANT_GROUP

OFFSETS = tuple(product((-1, 0, 1), repeat=3))
"""The 27 offsets (dx, dy, dz); tap k and tap 26 - k are opposite."""

CENTRE_TAP = 13
CROSS_TAPS = tuple(k for k, offset in enumerate(OFFSETS) if sum(offset) % 2)
"""The 14 taps that lead to the other checkerboard group (6 faces, 8 corners); again the i-th and 13 - i-th are opposite."""


def _child_links() -> tuple[np.ndarray, np.ndarray]:
    """For a child in octant o and tap k: the parent's tap that holds the neighbour, and the neighbour's octant."""
    tap, octant = np.empty((8, 27), np.int64), np.empty((8, 27), np.int64)
    for o, k in product(range(8), range(27)):
        moved = OCTANT_BITS[o].astype(int) + OFFSETS[k]
        step, bits = moved // 2, moved % 2
        tap[o, k] = (step[0] + 1) * 9 + (step[1] + 1) * 3 + step[2] + 1
        octant[o, k] = bits[0] * 4 + bits[1] * 2 + bits[2]
    return tap, octant


DENSE_RATIO = 5, 2
"""A quotient. A surface has 3 to 4 nodes in one of the level above, the scan lines of a LiDAR 1 to 2."""

PARENT_TAP, NEIGHBOR_OCTANT = _child_links()
_OCTANTS_OF = [np.flatnonzero([code >> o & 1 for o in range(8)]).astype(np.uint8) for code in range(256)]
_OCTANT_TABLE = np.zeros((256, 8), np.uint8)
for _code, _octants in enumerate(_OCTANTS_OF):
    _OCTANT_TABLE[_code, : len(_octants)] = _octants


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one octree level, in Morton order.

    ``neighbors``: (N, 27) int32, row of the node at each of OFFSETS or -1. ``parent_row``: (N,) int32 into the level
    above. ``octant``: (N,) uint8. ``groups``: rows of the two checkerboard groups, int32.
    """

    neighbors: np.ndarray
    parent_row: np.ndarray
    octant: np.ndarray
    groups: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.octant)

    @property
    def dense(self) -> bool:
        """Whether it has at least ``DENSE_RATIO`` nodes for each of the level above: surfaces fill it, or more than that."""
        return len(self) > 0 and DENSE_RATIO[1] * len(self) >= DENSE_RATIO[0] * (int(self.parent_row[-1]) + 1)


def root_level(roots: int = 1) -> Level:
    """The level above all others: one node (or several independent trees, as training batches have)."""
    neighbors = np.full((roots, 27), -1, np.int32)
    neighbors[:, CENTRE_TAP] = np.arange(roots)
    rows = np.arange(roots, dtype=np.int32)
    return Level(neighbors, np.zeros(roots, np.int32), np.zeros(roots, np.uint8), (rows, rows[:0]))


def first_children(codes: np.ndarray) -> np.ndarray:
    """(N + 1,) int32: row of each node's first child in the level below; the last entry is the number of children."""
    first = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(CHILD_COUNT[codes], out=first[1:])
    return first


def expand_level(level: Level, codes: np.ndarray) -> Level:
    """The level below, given the occupancy codes (N,) uint8 of this one. Reference implementation."""
    first = first_children(codes)
    parent_row = np.repeat(np.arange(len(codes), dtype=np.int32), CHILD_COUNT[codes])
    rank = np.arange(len(parent_row)) - first[parent_row]
    octant = _OCTANT_TABLE[codes[parent_row], rank]
    neighbors = np.empty((len(octant), 27), np.int32)
    for tap in range(27):
        node = level.neighbors[parent_row, PARENT_TAP[octant, tap]]
        code = np.where(node >= 0, codes[node], 0)
        bit = NEIGHBOR_OCTANT[octant, tap]
        row = first[node] + CHILD_COUNT[code & ((1 << bit) - 1)]
        neighbors[:, tap] = np.where(code >> bit & 1, row, -1)
    return Level(neighbors, parent_row, octant, split_groups(octant))


def split_groups(octant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int32) of the nodes in checkerboard group 0 and in group 1."""
    group = OCTANT_GROUP[octant]
    return np.flatnonzero(group == 0).astype(np.int32), np.flatnonzero(group).astype(np.int32)


def cross_table(level: Level, reader: int) -> np.ndarray:
    """(n_reader, 14) int32: for each node of group ``reader``, positions *within the other group* of its neighbours
    across CROSS_TAPS, or -1."""
    position = np.full(len(level) + 1, -1, np.int32)  # the extra last entry serves the index -1
    other = level.groups[1 - reader]
    position[other] = np.arange(len(other))
    return position[level.neighbors[np.ix_(level.groups[reader], np.array(CROSS_TAPS))]]


def up_table(level: Level) -> np.ndarray:
    """(N, 8) int32: the parent's row at the node's octant, -1 elsewhere."""
    table = np.full((len(level), 8), -1, np.int32)
    table[np.arange(len(level)), level.octant] = level.parent_row
    return table
