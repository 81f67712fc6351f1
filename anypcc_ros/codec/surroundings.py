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
from anypcc_ros.codec.octree import morton_order

NEIGHBORS = 5
ONE = 256
"""All shares of a mean."""

_WINDOW = 4  # candidates on either side, along each curve
_BLOCK = 64  # points coded with the same statistics
_SPLIT = 1024  # levels of so many points or more are coded in four parts
_PARTS = (0, 2, 1, 3)
_SEARCH_BITS = 20  # of the coordinates with which neighbours are looked for
_CURVE_BITS = 13  # of those along the second curve, but for what they are shifted by
_FARTHEST_APART = 8191  # along an axis, beyond which all candidates are as far away
_FARTHEST = 1 << 25  # of a coordinate, so that squares and their sums are exact in float64
_FARTHEST_ORIGIN = 1 << 53
_SLOPES, _SLOPES_OF_ONE = 1 << 14, 1 << 11  # classes of slopes, and how many a slope of 1 has
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Surroundings:
    """``order``: (N,) int32, the points in coding order. ``lengths``: int64, how many of them each block codes together.
    ``nearest``: (N, 5) int32, rows of the nearest points of the passes before, the nearest first; where there are fewer the
    nearest is repeated, and the first point has itself. ``shares``: (N, 2) uint8, what the second and the third one count in a
    mean of three, of ``ONE``, inversely as the distance. And classes (N,) uint8. ``distance``: 0 to 14, octave of the distance
    to the nearest. ``reach``: 0 to 15, of the distance from position (0, 0, 0), in half octaves. ``elevation``: which of 256
    equal parts of the points, by elevation from there, a point is in.
    """

    order: np.ndarray
    lengths: np.ndarray
    nearest: np.ndarray
    shares: np.ndarray
    distance: np.ndarray
    reach: np.ndarray
    elevation: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def blocks(self) -> list[np.ndarray]:
        """Rows of the points of each block, int32."""
        return np.split(self.order, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


def surroundings(grid: np.ndarray) -> Surroundings:
    """The surroundings of points at these grid coordinates (N, 3) int64, equal ones included, in the codec's order."""
    order, sizes, lengths = _passes(len(grid))
    if native.available():
        return Surroundings(order, lengths, *native.surroundings(np.ascontiguousarray(grid)))
    nearest, squares = _nearest(grid, order, sizes, _SEARCH_BITS)
    distances = 1 + _root(squares[:, :3])
    first, second, third = distances.T
    parts = np.stack([second * third, first * third, first * second], axis=1)
    shares = (ONE * parts[:, 1:] // parts.sum(axis=1, keepdims=True)).astype(np.uint8)
    return Surroundings(order, lengths, nearest, shares, _octave(squares), *_directions(grid))


def in_a_row(points: int) -> Surroundings:
    """The surroundings of points on a line, one step apart. Predictions come from the two nearest alone, and so are right
    wherever values grow evenly."""
    order, sizes, lengths = _passes(points)
    if native.available():
        return Surroundings(order, lengths, *native.row_surroundings(points))
    grid = np.arange(points)[:, None] * [1, 0, 0]
    nearest, squares = _nearest(grid, order, sizes, max(points - 1, 0).bit_length())
    distances = 1 + _root(squares[:, :2])
    second = ONE * distances[:, 0] // distances.sum(axis=1)
    shares = np.stack([second, np.zeros_like(second)], axis=1).astype(np.uint8)
    return Surroundings(order, lengths, nearest, shares, _octave(squares), *_directions(grid))


def _passes(points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in coding order (points,) int32, how many each pass has, and how many each block, int64."""
    passes = coding_passes(points)
    sizes = np.array([len(rows) for rows in passes if len(rows)], np.int64)
    blocks = -(-sizes // _BLOCK)
    lengths = np.full(blocks.sum(), _BLOCK, np.int64)
    lengths[np.cumsum(blocks) - 1] = sizes - _BLOCK * (blocks - 1)  # a pass's last one has what is left
    order = np.concatenate([np.zeros(0, np.int32), *passes], dtype=np.int32)
    return order, sizes, lengths


def _directions(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``Surroundings.reach`` and ``elevation``."""
    x, y, z = np.clip(grid, -_FARTHEST, _FARTHEST).astype(np.float64).T
    across = x * x + y * y
    _, reach = np.frexp(across + z * z)  # bit lengths
    reach = np.minimum(reach - reach.min(initial=64), 15).astype(np.uint8)
    slopes = z * _SLOPES_OF_ONE / np.maximum(np.floor(np.sqrt(across)), 1)
    classes = np.clip(slopes, -_SLOPES // 2, _SLOPES // 2 - 1).astype(np.int64) + _SLOPES // 2
    before = np.cumsum(np.bincount(classes, minlength=_SLOPES)) - np.bincount(classes, minlength=_SLOPES)
    return reach, (before[classes] * 256 // max(len(grid), 1)).astype(np.uint8)


class Context:
    """The surroundings of a cloud's points, for whoever needs them: first those on the grid, then some that are not.

    ``grid``: (N, 3) int64 grid coordinates of the former, here relative to position (0, 0, 0), where most sensors are.
    """

    def __init__(self, grid: np.ndarray, off_grid: int, step: float, origin: tuple[float, float, float]) -> None:
        self.grid = grid
        if any(origin):
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
        if not self._off_grid:
            return self.grid
        return np.concatenate([self.grid, np.arange(self._off_grid)[:, None] * [1, 0, 0]])

    def __len__(self) -> int:
        return len(self.grid) + self._off_grid


def _octave(squares: np.ndarray) -> np.ndarray:
    """Of the nearest of (N, 5): ``Surroundings.distance``."""
    _, bit_lengths = np.frexp(_root(squares[:, 0]).astype(np.float64))
    return bit_lengths.astype(np.uint8)


def _root(squares: np.ndarray) -> np.ndarray:
    return np.sqrt(squares.astype(np.float64)).astype(np.int64)  # IEEE 754 rounds roots correctly, everywhere


def coding_passes(points: int) -> list[np.ndarray]:
    """Rows of the points of each pass: what a pass codes may depend on all passes before it."""
    passes = [np.arange(min(points, 1))]
    for level in range(max(points - 1, 0).bit_length() - 1, -1, -1):
        rows = np.arange(1 << level, points, 2 << level)
        if len(rows) < _SPLIT:
            passes.append(rows)
        else:
            passes += [np.arange(2 * part + 1 << level, points, 8 << level) for part in _PARTS]
    return passes


def _nearest(grid: np.ndarray, order: np.ndarray, sizes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """``Surroundings.nearest`` and the squares (N, 5) of their distances, looked for by coordinates of so many bits: of the
    candidates the first by square."""
    local, curve = _search_grid(grid, bits)
    points, curves = len(grid), [np.arange(len(grid)), curve]
    places = [np.empty(points, np.int64) for _ in curves]
    for place, along in zip(places, curves, strict=True):
        place[along] = np.arange(points)
    nearest, squares = np.zeros((points, NEIGHBORS), np.int32), np.zeros((points, NEIGHBORS), np.int64)
    known = np.zeros(points, bool)
    for rows in np.split(order, np.cumsum(sizes)[:-1]):
        if known.any():
            candidates = [_along(curve, known[curve], place[rows]) for curve, place in zip(curves, places, strict=True)]
            nearest[rows], squares[rows] = _choose(local, rows, np.concatenate(candidates, axis=1))
        known[rows] = True
    return nearest, squares


def _search_grid(grid: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 3) int64 of so many bits to look for neighbours by, and the rows (N,) int64 in Morton order of coarser
    coordinates, shifted by a third of the cube."""
    local = grid - grid.min(axis=0, initial=_FAR)
    depth = int(local.max(initial=0)).bit_length()
    local >>= max(depth - bits, 0)
    depth = min(depth, bits)
    return local, morton_order(local + (1 << depth) // 3 >> max(depth - _CURVE_BITS, 0)).astype(np.int64)


def _along(curve: np.ndarray, known: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(M, 8) rows of the known points next to these places (M,) on a curve, -1 beyond its ends."""
    decoded = np.flatnonzero(known)
    window = np.searchsorted(decoded, places)[:, None] + np.arange(-_WINDOW, _WINDOW)
    inside = (window >= 0) & (window < len(decoded))
    return np.where(inside, curve[decoded[np.where(inside, window, 0)]], -1)


def _choose(local: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of candidates (M, 16), first those along one curve, then along the other."""
    unusable = candidates < 0
    one, other = np.split(candidates, 2, axis=1)
    unusable[:, one.shape[1] :] |= (other[:, :, None] == one[:, None]).any(axis=2)
    apart = np.clip(local[candidates] - local[rows][:, None], -_FARTHEST_APART, _FARTHEST_APART)
    squares = np.where(unusable, _FAR, (apart * apart).sum(axis=2))
    first = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBORS]
    nearest, squares = np.take_along_axis(candidates, first, 1), np.take_along_axis(squares, first, 1)
    missing = squares == _FAR
    return np.where(missing, nearest[:, :1], nearest), np.where(missing, squares[:, :1], squares)
