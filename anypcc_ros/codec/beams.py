"""The laser beams of a spinning LiDAR, as a context of the octree.

Each laser of such a sensor sweeps a cone: its points satisfy z = slope * rho + height, with rho the horizontal distance from
the axis and height the laser's offset from the common origin. In the clouds that drivers publish this holds to less than a
millimetre, so that a node that is smaller than the distance of the cones tells, from x and y alone, in which half of its
z extent the point must lie. The encoder fits the cones and sends them; encoder and decoder compute from them, in integers,
where the nearest cone crosses each node, and the calibration learns what that means. (G-PCC's angular mode, ISO/IEC
23090-9, rests on the same observation.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError

BEAM_LEVELS = 10
"""Octree levels, finest first, at which beams tell something; all coarser ones count as the last."""

_BINS = 12  # no beam nearby, or 11 places of the nearest within one and a half cells
BEAM_BINS = _BINS * _BINS
MAX_BEAMS = 512
SLOPE_BITS = 24
_LIMIT = 1 << 36  # of slopes and heights: their products with a distance stay within int64
_DISTANCE_LIMIT = 1 << 24  # of a horizontal distance, in quarter cells: a squared one is exact in float64


@dataclass(frozen=True, eq=False)
class Beams:
    """Cones about a vertical axis through ``axis`` (2,) int64, in quarter cells of the grid (x, y).

    ``slopes``: (B,) int64 in 2**-24, ascending. ``heights``: (B,) int64, height of the cone's apex in quarter cells of the grid.
    """

    axis: np.ndarray
    slopes: np.ndarray
    heights: np.ndarray

    def context(self, corner: np.ndarray, finer: int, high: bool) -> np.ndarray:
        """Where the nearest beam passes each node: (N,) int64 in 0..2 * BEAM_LEVELS * BEAM_BINS - 1.

        ``corner``: (N, 3) int64 grid coordinates of each node's lowest cell. ``finer``: levels below its children.
        ``high``: the half of the code that is coded, which is the half of the node in x. Each half has two columns of two
        children, at low and at high y; a bin per column.
        """
        child = 4 << finer  # edge of a child in quarter cells
        low = 4 * corner - 2  # cell q reaches from q - 1/2 to q + 1/2
        x = low[:, 0] + (child * 3 // 2 if high else child // 2) - self.axis[0]
        middle = low[:, 2] + child
        bins = [self._bins(x, low[:, 1] + offset - self.axis[1], middle, child) for offset in (child // 2, child * 3 // 2)]
        return (min(finer, BEAM_LEVELS - 1) * 2 + high) * BEAM_BINS + bins[0] * _BINS + bins[1]

    def _bins(self, x: np.ndarray, y: np.ndarray, middle: np.ndarray, child: int) -> np.ndarray:
        """Bin (N,) of the nearest beam's height above ``middle`` at the place x, y from the axis; all in quarter cells."""
        limit = _DISTANCE_LIMIT
        x, y = np.clip(x, -limit, limit), np.clip(y, -limit, limit)
        distance = np.sqrt((x * x + y * y).astype(np.float64)).astype(np.int64)  # exact: below 2**50, correctly rounded
        above = self._first_above(distance, middle)
        heights = [self._height(np.clip(i, 0, len(self.slopes) - 1), distance) - middle for i in (above - 1, above)]
        offset = np.where(np.abs(heights[0]) < np.abs(heights[1]), heights[0], heights[1])
        place = np.clip((2 * offset + 3 * child) * (_BINS - 1) // (6 * child), 0, _BINS - 2)
        return np.where(2 * np.abs(offset) > 3 * child, 0, 1 + place)

    def _first_above(self, distance: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Binary search (N,) for the first beam that passes above ``middle``; B if none does. Near the axis the beams may
        cross each other, and then the result is whatever this sequence of comparisons finds."""
        first, last = np.zeros(len(distance), np.int64), np.full(len(distance), len(self.slopes))
        for _ in range(len(self.slopes).bit_length()):
            probe = np.minimum(first + last >> 1, len(self.slopes) - 1)
            below = (first < last) & (self._height(probe, distance) < middle)
            last = np.where((first < last) & ~below, probe, last)
            first = np.where(below, probe + 1, first)
        return first

    def _height(self, beam: np.ndarray, distance: np.ndarray) -> np.ndarray:
        return (self.slopes[beam] * distance >> SLOPE_BITS) + self.heights[beam]


def encode_beams(beams: Beams, slope_drop: int) -> bytes:
    """Axis; number of beams; how many low bits of the slopes are zero; slopes, as differences, and heights."""
    parts = [encode_signed(int(value)) for value in beams.axis]
    parts += [encode_varint(len(beams.slopes)), encode_varint(slope_drop)]
    slope = height = 0
    for next_slope, next_height in zip((beams.slopes >> slope_drop).tolist(), beams.heights.tolist(), strict=True):
        parts += [encode_signed(next_slope - slope), encode_signed(next_height - height)]
        slope, height = next_slope, next_height
    return b"".join(parts)


def decode_beams(data: bytes | memoryview) -> Beams:
    """Inverse of ``encode_beams``. Raises StreamError subclasses."""
    position, axis = 0, np.zeros(2, np.int64)
    for i in range(2):
        axis[i], position = _bounded(*decode_signed(data, position))
    count, position = decode_varint(data, position)
    drop, position = decode_varint(data, position)
    if not 1 <= count <= MAX_BEAMS or drop > SLOPE_BITS:
        raise CorruptStreamError(f"{count} beams, {drop} bits of their slopes left out")
    values = np.zeros((count, 2), np.int64)
    for i in range(count):
        for j in range(2):
            step, position = _bounded(*decode_signed(data, position))
            values[i, j], _ = _bounded(step + int(values[i - 1, j]) if i else step, position)
    if position != len(data):
        raise CorruptStreamError(f"{len(data) - position} bytes after {count} beams")
    slopes = values[:, 0] << drop
    if int(np.abs(slopes).max()) >= _LIMIT:
        raise CorruptStreamError(f"a beam rises by {int(np.abs(slopes).max()) >> SLOPE_BITS} per unit")
    return Beams(axis, slopes, values[:, 1])


def _bounded(value: int, position: int) -> tuple[int, int]:
    if abs(value) >= _LIMIT:
        raise CorruptStreamError(f"{value} is no measure of a beam")
    return value, position
