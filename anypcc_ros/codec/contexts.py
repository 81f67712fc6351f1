"""What is already decoded around a node, as the rows of the calibration's tables.

The contexts of a code part, each exact about a few cells where the network is approximate about many:

0. which of the six face neighbours exist, and the low half of the code when the high half is coded;
1. the four finest cells beyond the face in x, and again the low half; for the first checkerboard group, which knows none of
   these, and the high half the cells beyond the edges at high x, which are in low halves that are decoded by then;
2. the cells beyond the faces in y and z; for the first checkerboard group, which knows none of these, the parent's code;
3. which of the twelve neighbours exist that touch an edge alone;
4. and on: where the laser beams of the sensor cross the node (``beams.py``), if the stream describes them: the cones that
   they sweep, and the planes of equal azimuth in which they fire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.beams import BEAM_CONTEXTS, Beams
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.levels import NativeLevel
from anypcc_ros.codec.model.network import CodePart
from anypcc_ros.codec.neighbors import Level
from anypcc_ros.codec.octree import Place

FACE_TAPS = np.array([4, 10, 12, 14, 16, 22])
"""Taps of the neighbours at -x, -y, -z, +z, +y, +x."""

EDGE_TAPS = np.array([1, 3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 25])
"""Those of the neighbours that touch an edge of the node and no face."""

HIGH_EDGES = ((19, (2, 3)), (21, (1, 3)), (23, (0, 2)), (25, (0, 1)))
"""Of these those at high x, and the octants of the neighbour's two cells there."""

_LEVELS = 3  # finest levels that have statistics of their own; all coarser ones share the last
_PARTS = 2 * 2  # halves of the codes of either group
_SIZES = (1024, 256, 256, 4096)
_OF_ALL_LEVELS = (False, False, False, True)
_BEYOND_EDGES = 4096  # in the second table's place for the high halves of the first group, of all levels
_ROWS = [
    *(size * _PARTS * (1 if all_levels else _LEVELS) for size, all_levels in zip(_SIZES, _OF_ALL_LEVELS, strict=True)),
    _BEYOND_EDGES,
    BEAM_CONTEXTS,
]
*_FIRST, _FIRST_BEYOND_EDGES, _FIRST_OF_BEAMS, CONTEXT_ROWS = (int(first) for first in np.cumsum([0, *_ROWS]))


@dataclass(frozen=True, eq=False)
class Ancestry:
    """What the contexts of one level are made of, besides the network's level itself.

    ``finer``: octree levels below this one's children, 0 for the finest. ``above``: codes (N_parent,) uint8 of the level
    above. ``place``: where the nodes are; None where no beams are known.
    """

    finer: int
    above: np.ndarray
    place: Place | None = None


class GroupContexts:
    """The contexts of one checkerboard group's nodes. What is around these is looked up once, for all parts of their codes."""

    def __init__(self, part: CodePart, ancestry: Ancestry, beams: Beams | None, threads: int = 1) -> None:
        """``part``: the first one of the group. ``threads``: 0 for one per core."""
        self.nodes, self._level, self._group, self._codes = part.rows, part.level, part.group, part.codes
        self._finer, self._beams, self._threads = ancestry.finer, beams, threads
        # Face neighbours belong to the other group: all of their code is known to the second group, none of it to the first.
        codes, above = (part.codes, None) if part.group else (None, ancestry.above)
        self._cells = face_cells(part.level, part.rows, codes, above, threads)
        self._bins = beams.bins(ancestry.place, part.rows, threads) if beams and ancestry.place else None

    def rows(self, high: bool) -> np.ndarray:
        """Rows (n, T) int32 of the tables for the low or the high half of every node's code; T is 4 to 8."""
        level, part = min(self._finer, _LEVELS - 1), high * 2 + self._group
        classes = [part if all_levels else level * _PARTS + part for all_levels in _OF_ALL_LEVELS]
        beams = self._beams.tables(self._finer, high) if self._beams else []
        fixed = [first + class_ * size for first, class_, size in zip(_FIRST, classes, _SIZES, strict=True)]
        beyond_edges = None
        if high and not self._group:
            beyond_edges = edge_cells(self._level, self.nodes, self._codes, self._threads)
            fixed[1] = _FIRST_BEYOND_EDGES
        first = np.array([*fixed, *(_FIRST_OF_BEAMS + row for _, row in beams)], np.int32)
        columns = np.array([column for column, _ in beams], np.int32)
        if native.available():
            contexts = np.empty((len(self.nodes), len(first)), np.int32)
            surroundings = self._cells, beyond_edges, self._codes, self.nodes, high, self._bins
            native.context_rows(*surroundings, columns, first, contexts, self._threads)
            return contexts
        cells = self._cells.astype(np.int64)
        low_half = self._codes[self.nodes] & 15 if high else 0
        across_x, across_yz = cells >> (10 if high else 6) & 15, cells >> (22 if high else 14) & 255
        beyond = across_x if beyond_edges is None else beyond_edges.astype(np.int64)
        near = [(cells & 63) * 16 + low_half, beyond * 16 + low_half, across_yz, cells >> 30]
        contexts = np.stack(near, axis=1)
        if self._bins is not None:
            contexts = np.concatenate([contexts, self._bins[:, columns]], axis=1)
        return (contexts + first).astype(np.int32)


def face_cells(
    level: Level, rows: np.ndarray, codes: np.ndarray | None, above: np.ndarray | None, threads: int = 1
) -> np.ndarray:
    """What touches some nodes: (n,) uint64. ``rows``: (n,) int32, which ones.

    Bits 0 to 5 tell which of the six face neighbours exist, in the order of ``FACE_TAPS``. From bit 6 on follow the 4 cells
    that touch the low half of the code, which is that at low x, beyond its face in x; from bit 10 on those that touch the
    high half; from bit 14 on the 8 cells beyond the faces in y and z of the low half, from bit 22 on of the high half; from
    bit 30 on which of the neighbours across edges exist, in the order of ``EDGE_TAPS``. Cells come from ``codes`` (N,) uint8 of
    the level. Where these are None no cell is known; in the place of both times 8 cells is then the code of the parent, in the
    codes ``above`` of its level.
    """
    if isinstance(level, NativeLevel):
        cells = np.empty(len(rows), np.uint64)
        native.face_cells(level.data, rows, cells, codes, above, threads)
        return cells
    neighbors = level.neighbors[rows[:, None], FACE_TAPS]
    edges = level.neighbors[rows[:, None], EDGE_TAPS] >= 0
    cells = ((neighbors >= 0) << np.arange(len(FACE_TAPS))).sum(axis=1) | (edges << np.arange(30, 30 + len(EDGE_TAPS))).sum(
        axis=1
    )
    if above is not None:
        parent = above[level.parent_row[rows]].astype(np.int64)
        cells |= parent << 14 | parent << 22
    if codes is not None:
        across = np.where(neighbors >= 0, codes[neighbors], 0).astype(np.int64)
        cells |= across[:, 0] >> 4 << 6 | (across[:, 5] & 15) << 10 | _across_yz(across, 0) << 14 | _across_yz(across, 4) << 22
    return cells.astype(np.uint64)


def edge_cells(level: Level, rows: np.ndarray, codes: np.ndarray, threads: int = 1) -> np.ndarray:
    """The cells (n,) uint8 that touch the high half of some nodes beyond its edges at high x, in the order of ``HIGH_EDGES``.

    ``rows``: (n,) int32, which nodes. They are in the low halves of the ``codes`` (N,) uint8 of the level.
    """
    if isinstance(level, NativeLevel):
        cells = np.empty(len(rows), np.uint8)
        native.edge_cells(level.data, rows, codes, cells, threads)
        return cells
    cells = np.zeros(len(rows), np.uint8)
    for edge, (tap, octants) in enumerate(HIGH_EDGES):
        neighbors = level.neighbors[rows, tap]
        there = np.where(neighbors >= 0, codes[neighbors], 0)
        for bit, octant in enumerate(octants):
            cells |= (there >> octant & 1) << 2 * edge + bit
    return cells


def _across_yz(codes: np.ndarray, first: int) -> np.ndarray:
    """The cells (n,) that touch the half of a node from octant ``first`` on beyond its faces in y and z: 0..255.

    ``codes``: (n, 6) of the face neighbours. Octant o = 4x + 2y + z.
    """
    y = ((1, 2), (1, 3), (4, 0), (4, 1))  # face and octant, from the lowest bit on
    z = ((2, 1), (2, 3), (3, 0), (3, 2))
    cells = np.zeros(len(codes), np.int64)
    for bit, (face, octant) in enumerate(z + y):
        cells |= (codes[:, face] >> first + octant & 1) << bit
    return cells
