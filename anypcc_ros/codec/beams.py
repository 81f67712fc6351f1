"""The laser beams of a spinning LiDAR, as a context of the octree.

Each laser of such a sensor sweeps a cone: its points satisfy z = slope * rho + height, with rho the horizontal distance from
the axis and height the laser's offset from the common origin. It fires at equal angles, so that its points lie on vertical
planes, ``columns`` of them to a turn, that pass the axis at the laser's lateral offset. In the clouds that drivers publish
both hold to less than a millimetre: a node that is smaller than the distance of the cones and planes tells from its place
alone in which of its cells the point must lie. The encoder fits cones and planes and sends them; encoder and decoder
compute from them, in integers, where the nearest ones cross each node, and the calibration learns what that means.
(G-PCC's angular mode, ISO/IEC 23090-9, rests on the same observation.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.octree import Place

_LEVEL_CLASS = (0, 1, 2, 2, 2, 2, 3, 3, 4)
"""Octree levels, finest first, that learn together what a crossing means; all coarser ones belong to the last class. The
places are in units of the node, so that levels differ only by the noise of the sensor and by how many points a node has."""

_LOW, _BESIDE_LOW, _HIGH = range(3)  # kinds of context: the low half, what is beside it, the high half
_CLASSES, _KINDS, _BINS = 5, 3, 8
BEAM_CONTEXTS = 2 * _CLASSES * _KINDS * _BINS * _BINS
"""By cone or plane, class of level, kind, and a bin for each of a half's two columns of children."""

MAX_BEAMS = 512
MAX_COLUMNS = 1 << 13
SLOPE_BITS, TURN_BITS = 24, 32
LIMIT = 1 << 36
"""Of a sensor's place, slopes and heights: their products with a distance stay within int64."""

LATERAL_LIMIT = 1 << 20
_DISTANCE_LIMIT = 1 << 24  # of a coordinate, in quarter cells: a squared distance is exact in float64

RADIAN = 683565276
"""round(2**32 / (2 pi)): one radian in the unit of angles, 2**-32 turn."""

# atan(t) = t (c0 + c1 t**2 + ... + c7 t**14) for 0 <= t <= 1, in error by at most 2e-8 (Abramowitz and Stegun 4.4.49), times
# RADIAN.
_ATAN = (683564820, -227831322, 136347594, -95073905, 65909394, -38218057, 14943577, -2771213)


@dataclass(frozen=True, eq=False)
class Beams:
    """Cones about a vertical axis through ``axis`` (2,) int64, in quarter cells of the grid (x, y).

    ``slopes``: (B,) int64 in 2**-24, ascending. ``heights``: (B,) int64, of the cones' apexes, in quarter cells of the grid.
    ``columns``: planes per turn, 0 where the sensor has no regular ones. ``phases``: (B,) int64, an angle of each laser in
    2**-32 turn. ``laterals``: (B,) int64, its planes' distance from the axis in quarter cells.
    """

    axis: np.ndarray
    slopes: np.ndarray
    heights: np.ndarray
    columns: int
    phases: np.ndarray
    laterals: np.ndarray

    @cached_property
    def _native(self) -> native.Beams:
        return native.Beams(self.axis, self.slopes, self.heights, self.columns, self.phases, self.laterals, _BINS)

    def bins(self, place: Place, rows: np.ndarray, threads: int = 1) -> np.ndarray:
        """Where the nearest cones and, if there are columns, the nearest planes cross some nodes: (n, 2 or 4) uint8.

        ``rows``: (n,) int32 of the nodes at ``place``. The halves of a node are those of its code, at low and at high x; each
        has a bin for the cones and then one for the planes. ``threads``: 0 for one per core.
        """
        if native.available():
            bins = np.empty((len(rows), 2, 2 if self.columns else 1), np.uint8)
            turn = self._turn(2 << place.levels_below)
            native.beam_bins(self._native, place.coords, rows, place.shift, place.levels_below, turn, bins, threads)
            return bins.reshape(len(rows), -1)
        corner = (place.coords[rows].astype(np.int64) << place.levels_below) + place.shift
        halves = [self._half_bins(corner, 2 << place.levels_below, high) for high in (False, True)]
        return np.stack([bins for half in halves for bins in half[: 2 if self.columns else 1]], axis=1).astype(np.uint8)

    def tables(self, finer: int, high: bool) -> list[tuple[int, int]]:
        """The tables of contexts for a half of the code: which of a node's bins, and the table's first row.

        ``finer``: levels below the node's children. With the low half goes what the beams do in the high one: a point that is
        not in this half must be there.
        """
        tables, bins = [], 2 if self.columns else 1
        for kind in (_HIGH,) if high else (_LOW, _BESIDE_LOW):
            class_ = _LEVEL_CLASS[min(finer, len(_LEVEL_CLASS) - 1)] * _KINDS + kind
            for which in range(bins):
                first = which * BEAM_CONTEXTS // 2 + class_ * _BINS * _BINS
                tables.append(((kind != _LOW) * bins + which, first))
        return tables

    def _half_bins(self, corner: np.ndarray, child: int, high: bool) -> tuple[np.ndarray, np.ndarray]:
        """Bins (n,) of the cones and of the planes in one half of each node in x. It has two columns of children, at low
        and at high y, of 8 bins each; all places are those of their vertical middle lines.

        ``corner``: (n, 3) int64 grid coordinates of each node's lowest cell. ``child``: edge of a child in quarter cells.
        """
        low = 4 * corner - 2  # cell q reaches from q - 1/2 to q + 1/2
        x = np.clip(low[:, 0] + (child * 3 // 2 if high else child // 2) - self.axis[0], -_DISTANCE_LIMIT, _DISTANCE_LIMIT)
        middle = low[:, 2] + child
        cones = planes = np.zeros(len(corner), np.int64)
        for offset in (child // 2, child * 3 // 2):
            y = np.clip(low[:, 1] + offset - self.axis[1], -_DISTANCE_LIMIT, _DISTANCE_LIMIT)
            # Exact: of integers below 2**50, and IEEE 754 rounds the root correctly.
            rho = np.sqrt((x * x + y * y).astype(np.float64)).astype(np.int64)
            beam, above = self._nearest(rho, middle)
            near = 2 * np.abs(above) <= 3 * child
            place = np.clip((2 * above + 3 * child) * (_BINS - 1) // (6 * child), 0, _BINS - 2)
            cones = cones * _BINS + np.where(near, 1 + place, 0)
            if self.columns:
                planes = planes * _BINS + np.where(near, self._column_bin(angle(x, y), rho, beam, child), _BINS - 1)
        return cones, planes

    def _nearest(self, rho: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The beam that passes nearest to the heights ``middle`` at the distances ``rho``, and how far above it does; of
        the two found by a binary search for the first one above. Near the axis beams may cross each other, and then the
        result is whatever this sequence of comparisons finds."""
        count = len(self.slopes)
        first, last = np.zeros(len(rho), np.int64), np.full(len(rho), count)
        for _ in range(count.bit_length()):
            probe = np.minimum(first + last >> 1, count - 1)
            below = (first < last) & (self._height(probe, rho) < middle)
            last = np.where((first < last) & ~below, probe, last)
            first = np.where(below, probe + 1, first)
        under, over = np.maximum(first - 1, 0), np.minimum(first, count - 1)
        above_under, above_over = self._height(under, rho) - middle, self._height(over, rho) - middle
        lower = np.abs(above_under) < np.abs(above_over)
        return np.where(lower, under, over), np.where(lower, above_under, above_over)

    def _height(self, beam: np.ndarray, rho: np.ndarray) -> np.ndarray:
        return (self.slopes[beam] * rho >> SLOPE_BITS) + self.heights[beam]

    def _column_bin(self, angle: np.ndarray, rho: np.ndarray, beam: np.ndarray, child: int) -> np.ndarray:
        """Distance (N,) from the nearest plane of ``beam`` in eighths of a child, at most 7.

        The quotients are of integers below 2**53, which IEEE 754 rounds alike everywhere.
        """
        lateral = np.floor((self.laterals[beam] * RADIAN).astype(np.float64) / np.maximum(rho, 1)).astype(np.int64)
        turned = (angle - lateral - self.phases[beam]) * self.columns & (1 << TURN_BITS) - 1
        apart = np.minimum(turned, (1 << TURN_BITS) - turned) >> 8
        eighths = (apart * rho * 8).astype(np.float64) / self._turn(child)
        return np.minimum(eighths.astype(np.int64), _BINS - 1)

    def _turn(self, child: int) -> float:
        """The angle over which an arc is an eighth of a child long, at a distance of eight quarter cells: in 2**-24 turn, times
        the columns."""
        return float(RADIAN * self.columns * child >> 8)


def angle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Angle (N,) int64 of the direction (x, y), int64 below 2**25 in magnitude, in 2**-32 turn; 0 at the origin."""
    width, height = np.abs(x), np.abs(y)
    short, long = np.minimum(width, height), np.maximum(width, height)
    t = (short.astype(np.float64) * (1 << 30) / np.maximum(long, 1)).astype(np.int64)
    square, polynomial = t * t >> 30, np.zeros_like(t)
    for coefficient in reversed(_ATAN):
        polynomial = coefficient + (polynomial * square >> 30)
    turn = polynomial * t >> 30
    turn = np.where(height > width, (1 << 30) - turn, turn)
    turn = np.where(x < 0, (1 << 31) - turn, turn)
    return np.where(y < 0, -turn, turn) & (1 << TURN_BITS) - 1


def encode_beams(beams: Beams) -> bytes:
    """Axis; number of beams; slopes and heights as differences; columns and, if there are any, phases and laterals.

    Slopes and phases go without the low bits that are zero in all of them.
    """
    parts = [encode_signed(int(value)) for value in beams.axis]
    parts.append(encode_varint(len(beams.slopes)))
    parts += [_encode_scaled(beams.slopes, SLOPE_BITS), _encode_differences(beams.heights), encode_varint(beams.columns)]
    if beams.columns:
        parts += [_encode_scaled(beams.phases, TURN_BITS), _encode_differences(beams.laterals)]
    return b"".join(parts)


def _encode_scaled(values: np.ndarray, most: int) -> bytes:
    combined = int(np.bitwise_or.reduce(values)) or 1 << most
    zeros = min((combined & -combined).bit_length() - 1, most)
    return encode_varint(zeros) + _encode_differences(values >> zeros)


def _encode_differences(values: np.ndarray) -> bytes:
    return b"".join(encode_signed(int(value)) for value in np.diff(values, prepend=0))


def decode_beams(data: bytes | memoryview) -> Beams:
    """Inverse of ``encode_beams``. Raises StreamError subclasses."""
    reader = _Reader(data)
    axis = np.array([reader.signed(LIMIT), reader.signed(LIMIT)])
    count = reader.unsigned(MAX_BEAMS)
    if not count:
        raise CorruptStreamError("a chunk of beams without a beam")
    slopes, heights = reader.scaled(count, SLOPE_BITS, LIMIT), reader.differences(count, LIMIT)
    columns = reader.unsigned(MAX_COLUMNS)
    phases = laterals = np.zeros(count, np.int64)
    if columns:
        phases, laterals = reader.scaled(count, TURN_BITS, 1 << TURN_BITS), reader.differences(count, LATERAL_LIMIT)
    reader.end()
    return Beams(axis, slopes, heights, columns, phases, laterals)


class _Reader:
    """Reads bounded integers one after the other."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._position = data, 0

    def unsigned(self, limit: int) -> int:
        value, self._position = decode_varint(self._data, self._position)
        return _bounded(value, limit)

    def signed(self, limit: int) -> int:
        value, self._position = decode_signed(self._data, self._position)
        return _bounded(value, limit)

    def differences(self, count: int, limit: int) -> np.ndarray:
        values: list[int] = []
        for _ in range(count):
            values.append(_bounded(self.signed(2 * limit) + (values[-1] if values else 0), limit))
        return np.array(values, np.int64)

    def scaled(self, count: int, most: int, limit: int) -> np.ndarray:
        zeros = self.unsigned(most)
        return self.differences(count, limit >> zeros) << zeros

    def end(self) -> None:
        if self._position != len(self._data):
            raise CorruptStreamError(f"{len(self._data) - self._position} bytes after the beams")


def _bounded(value: int, limit: int) -> int:
    if abs(value) > limit:
        raise CorruptStreamError(f"{value} is no measure of a beam: {limit} is the limit")
    return value
