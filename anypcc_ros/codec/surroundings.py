"""In which order the points are coded, and which decoded points lie near each: the context of every attribute.

The points, in the codec's order, are refined by halves as in a bit-reversed sequence: first every 2^l-th, then those in the
middle between them, and so on, so that most points have decoded neighbours on all sides (the levels of detail of G-PCC, without
distances to choose). Neighbours are looked for along two Morton curves, the second one shifted, for where one of them jumps the
other mostly does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.octree import MAX_DEPTH, sort_cells

NEIGHBORS = 5
_WINDOW = 4  # candidates on either side, along each curve
_BLOCK = 2048  # points coded with the same statistics
_SPLIT = 1024  # levels of so many points or more are coded in four parts
_PARTS = (0, 2, 1, 3)
_FARTHEST = 1 << 30  # of a coordinate difference, so that squares add up within int64
_FARTHEST_ORIGIN = 1 << 53
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Surroundings:
    """``blocks``: rows of the points that are coded together, in coding order. ``nearest``: (N, 5) int64, rows of the nearest
    points of the passes before, the nearest first; where there are fewer the nearest is repeated, and the first point has
    itself. ``weights``: (N, 5) int64, 1 to 2^20, inversely as the distance. ``distance``: (N,) int64, 0 to 15, octave of the
    distance to the nearest. ``reach``: (N,) int64, 0 to 15, of the distance from position (0, 0, 0), in half octaves.
    ``elevation``: (N,) int64, 0 to 255: which of 256 equal parts of the points, by elevation from there, a point is in.
    """

    blocks: tuple[np.ndarray, ...]
    nearest: np.ndarray
    weights: np.ndarray
    distance: np.ndarray
    reach: np.ndarray
    elevation: np.ndarray

    def __len__(self) -> int:
        return len(self.reach)


def surroundings(grid: np.ndarray) -> Surroundings:
    """The surroundings of points at these grid coordinates (N, 3) int64, equal ones included, in the codec's order."""
    passes = coding_passes(len(grid))
    nearest, squares = _nearest(grid, passes)
    distances = np.sqrt(squares.astype(np.float64)).astype(np.int64)  # IEEE 754 rounds roots correctly, everywhere
    near_origin = np.minimum(np.abs(grid), _FARTHEST)
    squares_to_origin = near_origin * near_origin
    reach = _bit_length(squares_to_origin.sum(axis=1))
    return Surroundings(
        tuple(rows[start : start + _BLOCK] for rows in passes for start in range(0, len(rows), _BLOCK)),
        nearest,
        np.maximum((1 << 20) // (1 + distances), 1),
        np.minimum(_bit_length(distances[:, 0]), 15),
        np.minimum(reach - reach.min(initial=64), 15),
        _elevation(grid[:, 2], squares_to_origin[:, :2].sum(axis=1)),
    )


def _elevation(height: np.ndarray, squares: np.ndarray) -> np.ndarray:
    across = np.maximum(np.sqrt(squares.astype(np.float64)).astype(np.int64), 1)
    slope = (np.clip(height, -_FARTHEST, _FARTHEST) << 24) // across
    part = np.empty(len(slope), np.int64)
    part[_stable_order(slope)] = np.arange(len(slope)) * 256 // max(len(slope), 1)
    return part


def _stable_order(slope: np.ndarray) -> np.ndarray:
    if not native.available():
        return np.argsort(slope, kind="stable")
    keys, order = (slope - slope.min(initial=_FAR)).astype(np.uint64), np.empty(len(slope), np.uint32)
    native.sort_keys(keys, order)
    return order


class Context:
    """The surroundings of a cloud's points, for whoever needs them: first those on the grid, then some that are not.

    ``grid``: (N, 3) int64 grid coordinates of the former, here relative to position (0, 0, 0), where most sensors are.
    """

    def __init__(self, grid: np.ndarray, off_grid: int, step: float, origin: tuple[float, float, float]) -> None:
        self.grid = grid + np.clip(np.rint(np.divide(origin, step)), -_FARTHEST_ORIGIN, _FARTHEST_ORIGIN).astype(np.int64)
        self._off_grid = off_grid

    @cached_property
    def on_grid(self) -> Surroundings:
        return surroundings(self.grid)

    @cached_property
    def everywhere(self) -> Surroundings:
        """Points off the grid stand in a row from (0, 0, 0) on."""
        return surroundings(self.grid_everywhere) if self._off_grid else self.on_grid

    @cached_property
    def grid_everywhere(self) -> np.ndarray:
        return np.concatenate([self.grid, np.arange(self._off_grid)[:, None] * [1, 0, 0]])

    def __len__(self) -> int:
        return len(self.grid) + self._off_grid


def in_a_row(points: int) -> Surroundings:
    """The surroundings of points on a line, one step apart. Predictions come from the two nearest alone, and so are right
    wherever values grow evenly."""
    around = surroundings(np.arange(points)[:, None] * [1, 0, 0])
    around.weights[:, 2:] = 0
    return around


def _bit_length(values: np.ndarray) -> np.ndarray:
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def coding_passes(points: int) -> list[np.ndarray]:
    """Rows of the points of each pass, int64: what a pass codes may depend on all passes before it."""
    passes = [np.arange(min(points, 1))]
    for level in range(max(points - 1, 0).bit_length() - 1, -1, -1):
        rows = np.arange(1 << level, points, 2 << level)
        if len(rows) < _SPLIT:
            passes.append(rows)
        else:
            passes += [np.arange(2 * part + 1 << level, points, 8 << level) for part in _PARTS]
    return passes


def _nearest(grid: np.ndarray, passes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``Surroundings.nearest`` and ``squares``: of the candidates those of the smallest (square, row)."""
    points = len(grid)
    if native.available():
        return _nearest_natively(grid, passes)
    curves = [np.arange(points), _shifted_curve(grid)]
    places = [np.empty(points, np.int64) for _ in curves]
    for place, curve in zip(places, curves, strict=True):
        place[curve] = np.arange(points)
    nearest, squares = np.zeros((points, NEIGHBORS), np.int64), np.zeros((points, NEIGHBORS), np.int64)
    known = np.zeros(points, bool)
    for rows in passes:
        if known.any():
            candidates = [_along(curve, known[curve], place[rows]) for curve, place in zip(curves, places, strict=True)]
            nearest[rows], squares[rows] = _choose(grid, rows, np.concatenate(candidates, axis=1))
        known[rows] = True
    return nearest, squares


def _nearest_natively(grid: np.ndarray, passes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    nearest, squares = np.zeros((2, len(grid), NEIGHBORS), np.int64)
    lengths = np.array([len(rows) for rows in passes], np.int64)
    native.nearest_known(np.ascontiguousarray(grid), _shifted_curve(grid), np.concatenate(passes), lengths, nearest, squares)
    return nearest, squares


def _along(curve: np.ndarray, known: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(M, 8) rows of the known points next to these places (M,) on a curve, -1 beyond its ends."""
    decoded = np.flatnonzero(known)
    window = np.searchsorted(decoded, places)[:, None] + np.arange(-_WINDOW, _WINDOW)
    inside = (window >= 0) & (window < len(decoded))
    return np.where(inside, curve[decoded[np.where(inside, window, 0)]], -1)


def _choose(grid: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    candidates = np.sort(candidates, axis=1)
    unusable = candidates < 0
    unusable[:, 1:] |= candidates[:, 1:] == candidates[:, :-1]
    apart = np.minimum(np.abs(grid[candidates] - grid[rows][:, None]), _FARTHEST)
    squares = np.where(unusable, _FAR, (apart * apart).sum(axis=2))
    first = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBORS]
    nearest, squares = np.take_along_axis(candidates, first, 1), np.take_along_axis(squares, first, 1)
    missing = squares == _FAR
    return np.where(missing, nearest[:, :1], nearest), np.where(missing, squares[:, :1], squares)


def _shifted_curve(grid: np.ndarray) -> np.ndarray:
    """The rows in Morton order of the coordinates shifted by a third of the cube."""
    if not len(grid):
        return np.zeros(0, np.int64)
    local = grid - grid.min(axis=0)
    depth = int(local.max()).bit_length()
    return sort_cells(local + (1 << depth) // 3 >> max(depth + 1 - MAX_DEPTH, 0))[2]
