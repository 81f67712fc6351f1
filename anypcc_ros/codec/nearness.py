"""Which cell of a cloud is nearest to a place, and how far apart two clouds on one grid are.

A cell with the key of its place is looked up in the sorted keys of all cells, then the cells around it in order of their
distance. Between clouds that nearly agree, most are found at once. What is farther than ``_REACH`` cells is looked for among
the neighbours on the Morton curve: some near one, not always the nearest.
"""

from __future__ import annotations

import itertools

import numpy as np

from anypcc_ros.codec.octree import local_keys

SAMPLE = 1 << 16
"""Places at most that an error is measured at."""

_REACH = 3
_WINDOW = 4  # places on either side, along the Morton curve

_BALL = np.array(
    sorted(
        (o for o in itertools.product(range(-_REACH, _REACH + 1), repeat=3) if sum(v * v for v in o) <= _REACH**2),
        key=lambda o: sum(v * v for v in o),
    )
)


class CellIndex:
    """Cells (M, 3) int64, at least one, all different, by their places."""

    def __init__(self, cells: np.ndarray) -> None:
        keys = local_keys(cells)
        self._order = np.argsort(keys, kind="stable") if (keys[1:] < keys[:-1]).any() else np.arange(len(keys))
        self._keys, self._cells = keys[self._order], cells

    def find(self, places: np.ndarray) -> np.ndarray:
        """(n,) int64: rows of the cells at ``places`` (n, 3) int64, -1 where there is none."""
        at = np.minimum(np.searchsorted(self._keys, local_keys(places)), len(self._keys) - 1)
        rows = self._order[at]
        return np.where((self._cells[rows] == places).all(axis=1), rows, -1)

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """(n,) int64: rows of the cells nearest to ``places`` (n, 3) int64."""
        rows, missing = np.full(len(places), -1), np.arange(len(places))
        for offset in _BALL:
            rows[missing] = self.find(places[missing] + offset)
            missing = missing[rows[missing] < 0]
            if not len(missing):
                return rows
        around = np.searchsorted(self._keys, local_keys(places[missing]))[:, None] + np.arange(-_WINDOW, _WINDOW)
        candidates = self._order[np.clip(around, 0, len(self._keys) - 1)]
        squares = ((self._cells[candidates] - places[missing, None]).astype(np.float64) ** 2).sum(axis=2)
        rows[missing] = candidates[np.arange(len(missing)), squares.argmin(axis=1)]
        return rows


def squared_error(grid: np.ndarray, cells: np.ndarray, scales: int) -> float:
    """Mean squared distance, in the grid's unit, between a cloud and what is decoded of it: the larger of both directions, as
    in MPEG's D1, at ``SAMPLE`` places of either.

    ``grid``: (N, 3) int64, different cells. ``cells``: (M, 3) int64, those decoded, so many ``scales`` above the grid, whose
    middles are returned.
    """
    some, few = _sample(grid), _sample(cells)
    forth = cells[CellIndex(cells).nearest(some >> scales)]
    back = grid[CellIndex(grid).nearest((few << scales) + (1 << scales >> 1))]
    return max(_mean_square(some, forth, scales), _mean_square(back, few, scales))


def _mean_square(grid: np.ndarray, cells: np.ndarray, scales: int) -> float:
    middles = (cells << scales) + ((1 << scales) - 1) / 2
    return float(((grid - middles) ** 2).sum(axis=1).mean())


def _sample(rows: np.ndarray) -> np.ndarray:
    return rows[:: -(-len(rows) // SAMPLE)]
