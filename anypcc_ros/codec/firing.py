"""Firing sequences: in which column of its scan a spinning sensor has measured each point, and which laser's turn it was.

The lasers of a column fire one after the other, always in the same order, each into a direction of its own besides the
column's. So the column of a point follows from its azimuth and its ring, but for what the grid has made of the azimuth; that
difference is coded. Sorted by column and turn, the points are in the order in which they were measured, which is mostly
that of the message, and times grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from anypcc_ros.codec.beams import angle
from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized
from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.surroundings import Context, in_a_row
from anypcc_ros.codec.tracks import MOST_ROWS, TURN, sorted_by

_UNIT = 1 << 12  # of directions, in 2^-32 turn
_FARTHEST = 1 << 24
_MOST_TURNS = 1 << 40  # of directions in their units, and of rings, so that nothing overflows
_SEGMENTS, _FEWEST_SEGMENTS = 256, 8  # between two turns of one ring, by which the order of the others is found
_FIRST = 1 << 13  # points by which it is told whether there is a sequence
_FOLLOWING = 0.25  # of them have the ring that mostly follows the one before
_FEWEST = 4  # points of a column, on average, below which there are none
_ASCENDING = 0.9
_FITS = 3
_EDGE = 4  # columns' worth before the first one
_TOLD = 4.0  # bits that a column may take
_WINDOW = 8  # columns on either side by which one's azimuth is evened out
_PARTS = 8  # of a gap, in which that is told


@dataclass(frozen=True, eq=False)
class Scan:
    """``columns`` (N,) int64, below ``count``: where each point was measured; ``turns`` (N,), below ``rings``: when there."""

    columns: np.ndarray
    turns: np.ndarray
    count: int
    rings: int

    def track(self, points: int) -> np.ndarray:
        """The first so many points, in the order in which they were measured, (points,) int64."""
        return sorted_by(self.columns[:points], self.turns[:points])


@dataclass(frozen=True, eq=False)
class Firing:
    """``field``: which of the fields that have values are the rings; ``first``: the smallest ring. Of each ring from there on:
    ``turns`` (R,), when it fires, and ``offsets`` (R,), its azimuth besides the column's, in 2^-20 turn. ``descending``:
    azimuths decrease. ``columns``: (M,), ascending, their azimuths from ``cut`` on, in 2^-20 turn; all int64."""

    field: int
    first: int
    turns: np.ndarray
    offsets: np.ndarray
    descending: bool
    cut: int
    columns: np.ndarray

    def expected(self, grid: np.ndarray, rings: np.ndarray) -> np.ndarray:
        """Columns (N,) int64 of points at grid coordinates (N, 3) of these rings (N,), as their azimuths say."""
        return self._expected(_azimuths(grid), rings)

    def _expected(self, azimuth: np.ndarray, rings: np.ndarray) -> np.ndarray:
        azimuth = -azimuth if self.descending else azimuth
        along = azimuth - ((self.offsets + self.cut) * _UNIT)[rings - self.first] & TURN - 1
        return np.searchsorted((self.columns[1:] + self.columns[:-1]) * (_UNIT // 2), along)

    def beside(self, azimuths: np.ndarray, columns: np.ndarray, rings: np.ndarray) -> np.ndarray:
        """By how much the columns (N,) int64 of points at azimuths (N,) in 2^-32 turn differ from those."""
        return _centred(columns - self._expected(azimuths, rings), len(self.columns))

    def scan(self, columns: np.ndarray, rings: np.ndarray) -> Scan:
        """Of points in these columns (N,) and rings (N,)."""
        return Scan(columns, self.turns[rings - self.first], len(self.columns), len(self.turns))


def _azimuths(grid: np.ndarray) -> np.ndarray:
    x, y = (np.clip(grid[:, axis], -_FARTHEST, _FARTHEST) for axis in (0, 1))
    return angle(x, y)


def encode_scan(firing: Firing, scan: Scan, beside: np.ndarray, context: Context) -> bytes:
    """The sequence, and what tells the columns of the points, ``beside`` (N,) as ``Firing.beside`` gives it."""
    numbers = [firing.field, firing.first, 2 * len(firing.turns) + firing.descending, firing.cut]
    pieces = [encode_varint(numbers[0]), encode_signed(numbers[1]), encode_varint(numbers[2]), encode_signed(numbers[3])]
    pieces += sized(_in_a_row(firing.turns)) + sized(_in_a_row(firing.offsets)) + [encode_varint(scan.count)]
    pieces += sized(_in_a_row(np.diff(firing.columns, prepend=0))) + sized(encode_channel(beside, context.everywhere)[0])
    return b"".join(pieces)


class ScanReader:
    """Inverse of ``encode_scan``: the scan, once the fields up to ``field`` are known. Raises StreamError subclasses."""

    def __init__(self, data: memoryview, points: int) -> None:
        self.field, at = decode_varint(data, 0)
        first, at = decode_signed(data, at)
        size, at = decode_varint(data, at)
        cut, at = decode_signed(data, at)
        rings, descending = size >> 1, bool(size & 1)
        if not 0 < rings <= MOST_ROWS or abs(cut) > _MOST_TURNS or abs(first) > _MOST_TURNS:
            raise CorruptStreamError(f"{rings} rings from {first} on, columns from {cut} on")
        payload, at = take_sized(data, at)
        turns, _ = decode_channel(payload, in_a_row(rings))
        payload, at = take_sized(data, at)
        offsets, _ = decode_channel(payload, in_a_row(rings))
        count, at = decode_varint(data, at)
        if not 0 < count <= points:
            raise CorruptStreamError(f"{count} columns of {points} points")
        payload, at = take_sized(data, at)
        gaps, _ = decode_channel(payload, in_a_row(count))
        self._beside, at = take_sized(data, at)
        if at != len(data):
            raise CorruptStreamError(f"{len(data) - at} bytes after a firing sequence")
        largest = max(int(offsets.max()), -int(offsets.min()), int(gaps.max()))
        if largest > _MOST_TURNS or gaps.min() < 0 or turns.min() < 0 or turns.max() >= rings:
            raise CorruptStreamError(f"turns {turns.min()}..{turns.max()} of {rings} rings, gaps and offsets up to {largest}")
        self._firing = Firing(self.field, first, turns, offsets, descending, cut, np.cumsum(gaps))

    def read(self, rings: np.ndarray | None, context: Context) -> Scan:
        """Of points of these rings (N,) int64; None for a field that does not have one value for each point."""
        firing = self._firing
        if rings is None or int(rings.min()) < firing.first or int(rings.max()) - firing.first >= len(firing.turns):
            raise CorruptStreamError(f"field {self.field} does not have {len(firing.turns)} rings from {firing.first} on")
        beside, _ = decode_channel(self._beside, context.everywhere)
        return firing.scan((firing.expected(context.grid_everywhere, rings) + beside) % len(firing.columns), rings)


def _in_a_row(values: np.ndarray) -> bytes:
    return encode_channel(values, in_a_row(len(values)))[0]


def _centred(values: np.ndarray, count: int) -> np.ndarray:
    values = values + count // 2
    return (values & count - 1 if count & count - 1 == 0 else values % count) - count // 2


# -- Times: the sum of the column's and the turn's ---------------------------------------------------------------------


Times: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What columns (M,) and turns (R,) have in common, and what is left of each value (N,), all int64."""


def encode_times(times: Times, context: Context) -> list[bytes]:
    """Values as sums of one of their column, one of their turn, and what is left."""
    columns, turns, left = times
    payloads = _in_a_row(np.diff(columns, prepend=0)), _in_a_row(turns), encode_channel(left, context.everywhere)[0]
    return [piece for payload in payloads for piece in sized(payload)]


def decode_times(data: memoryview, at: int, scan: Scan, context: Context) -> tuple[np.ndarray, int]:
    """Inverse of ``encode_times``: values, and the place after them. Raises StreamError subclasses."""
    payload, at = take_sized(data, at)
    gaps, _ = decode_channel(payload, in_a_row(scan.count))
    columns = np.cumsum(gaps)
    payload, at = take_sized(data, at)
    turns, _ = decode_channel(payload, in_a_row(scan.rings))
    payload, at = take_sized(data, at)
    left, _ = decode_channel(payload, context.everywhere)
    return left + columns[scan.columns] + turns[scan.turns], at


def times_of(values: np.ndarray, scan: Scan) -> Times:
    """Values (N,) int64, taken apart."""
    turns = np.zeros(scan.rings, np.int64)
    for _ in range(_FITS):
        columns, before = _medians(scan.columns, values - turns[scan.turns], scan.count), turns
        by_column = values - columns[scan.columns]
        turns = _medians(scan.turns, by_column, scan.rings)
        if np.array_equal(turns, before):
            break
    return columns, turns, by_column - turns[scan.turns]


# -- What an encoder may find ------------------------------------------------------------------------------------------


def ascends(values: np.ndarray) -> bool:
    """Whether values (N,), in the order in which points came, may be the times at which they were measured."""
    if len(values) < 2 or values.dtype.kind == "b" or not values[0] < values[-1]:
        return False
    return float(np.count_nonzero(values[1:] >= values[:-1])) > _ASCENDING * len(values) and len(np.unique(values[:256])) > 2


class Found(NamedTuple):
    """A firing sequence, the columns (N,) of the points, and by how much they differ from those that azimuths tell, int64."""

    firing: Firing
    columns: np.ndarray
    beside: np.ndarray


def find_firing(field: int, rings: np.ndarray, grid: np.ndarray, given: np.ndarray) -> Found | None:
    """The firing sequence of points (N,) at grid coordinates (N, 3), if there is one.

    ``field`` as in Firing; ``rings``: its values (N,) int64; ``given``: the points (N,) in the order in which they were
    measured.
    """
    if not len(rings) or not 2 <= int(rings.max()) - int(rings.min()) < MOST_ROWS:
        return None
    if max(abs(int(rings.min())), abs(int(rings.max()))) > _MOST_TURNS:
        return None
    first = given[:_FIRST]
    if not _follow(rings[first]):
        return None
    if len(first) < len(given) and _find(field, rings[first], _azimuths(grid[first])) is None:
        return None
    if found := _find(field, rings[given], _azimuths(grid[given])):
        columns, beside = np.empty_like(found.columns), np.empty_like(found.beside)
        columns[given], beside[given] = found.columns, found.beside
        return Found(found.firing, columns, beside)
    return None


def _follow(rings: np.ndarray) -> bool:
    """Whether mostly the same ring follows each, in the order in which they fire."""
    rings = rings - rings.min()
    count = int(rings.max()) + 1
    pairs, often = np.unique(rings[:-1] * count + rings[1:], return_counts=True)
    most = np.zeros(count, np.int64)
    np.maximum.at(most, pairs // count, often)
    return int(most.sum()) > _FOLLOWING * len(rings)


def _find(field: int, rings: np.ndarray, azimuths: np.ndarray) -> Found | None:
    """The same of points at these azimuths (N,), in the order in which they were measured."""
    first = int(rings.min())
    rings = rings - first
    if not 2 <= int(rings.max()) < MOST_ROWS:
        return None
    turns = _turns(rings)
    if turns is None:
        return None
    columns = np.concatenate([[0], np.cumsum(np.diff(turns[rings]) < 0)])
    if len(rings) < _FEWEST * (int(columns[-1]) + 1):
        return None
    offsets, track, descending = _fit(rings, columns, azimuths, len(turns))
    found = []
    for ascending in (_evened(track), track):
        along = np.maximum.accumulate(ascending)
        cut = int(along[0]) - _EDGE * max(int(along[-1] - along[0]) // len(along), 1)
        firing = Firing(field, first, turns, offsets, descending, cut, along - cut)
        beside = firing.beside(azimuths, columns, rings + first)
        told = float(np.log2(1.0 + 2 * np.abs(beside)).mean())
        uneven = float(np.log2(1.0 + np.abs(np.diff(along, 2))).sum()) / len(rings)
        found.append((told + uneven, told, Found(firing, columns, beside)))
    _, told, best = min(found, key=lambda one: one[0])
    return best if told < _TOLD else None


def _evened(track: np.ndarray) -> np.ndarray:
    """Azimuths of columns (M,), as a sensor has them that turns evenly, but for columns that it left out: what a coarse grid
    has made of them is no more than noise."""
    gap = int(np.median(np.diff(track))) if len(track) > 1 else 1
    even = gap * np.arange(len(track))
    around = np.lib.stride_tricks.sliding_window_view(np.pad(track - even, _WINDOW, mode="edge"), 2 * _WINDOW + 1)
    late = np.partition(around, _WINDOW, axis=1)[:, _WINDOW]
    part = max(abs(gap) // _PARTS, 1)
    return even + late // part * part


def _turns(rings: np.ndarray) -> np.ndarray | None:
    """Of each ring (R,) its turn: its place among those that it fires before, between two turns of the most frequent one."""
    count = int(rings.max()) + 1
    starts = np.flatnonzero(rings == np.bincount(rings).argmax())
    long = np.flatnonzero(np.diff(starts) > 1)
    if len(long) < _FEWEST_SEGMENTS:
        return None
    chosen = long[:: len(long) // _SEGMENTS + 1]
    lengths = starts[chosen + 1] - starts[chosen]
    segment = np.repeat(np.arange(len(chosen)), lengths)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    members = rings[np.repeat(starts[chosen], lengths) + within]
    # Where a ring occurs twice a turn of the most frequent one was missed.
    times = np.bincount(segment * count + members, minlength=len(chosen) * count).reshape(-1, count)
    whole = (times.max(axis=1) < 2)[segment]
    segment, within, members = segment[whole], within[whole], members[whole]
    place = np.full((len(chosen), count), -1)
    place[segment, members] = within
    along = np.bincount(members, within / lengths[segment], count)
    often = np.bincount(members, minlength=count)
    seen, before = place >= 0, np.zeros((count, count), np.int64)
    for ring in np.flatnonzero(often):
        before[ring] = (seen & seen[:, ring, None] & (place > place[:, ring, None])).sum(axis=0)
    # Whichever waits for the fewest others comes next; by how many it comes before does not tell, as some are never seen
    # together.
    earlier = before > before.T
    waiting = earlier.sum(axis=0) + np.minimum(along / np.maximum(often, 1), 0.99)
    turns = np.empty(count, np.int64)
    for turn in range(count):
        chosen_ring = int(np.argmin(waiting))
        turns[chosen_ring] = turn
        waiting -= earlier[chosen_ring]
        waiting[chosen_ring] = 2 * count
    return turns


def _fit(rings: np.ndarray, columns: np.ndarray, azimuth: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Offsets (R,) and azimuths of columns (M,), both in 2^-20 turn and so that they ascend, and whether they are negated."""
    seen = np.flatnonzero(rings == np.bincount(rings).argmax())
    steps = _centred(np.diff(azimuth[seen]), TURN)
    along = azimuth[seen[0]] + np.concatenate([[0], np.cumsum(steps)])
    sign = -1 if along[-1] < along[0] else 1
    track = np.interp(np.arange(int(columns[-1]) + 1), columns[seen], along.astype(np.float64)).astype(np.int64)
    for _ in range(_FITS):
        offsets = _medians(rings, _centred(azimuth - track[columns], TURN), count)
        track += _medians(columns, _centred(azimuth - offsets[rings] - track[columns], TURN), len(track))
    return (sign * offsets + _UNIT // 2) // _UNIT, (sign * track + _UNIT // 2) // _UNIT, sign < 0


def _medians(groups: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: the median of the values (N,) int64 of each group, 0 where there is none."""
    order = sorted_by(groups, values)
    sizes = np.bincount(groups, minlength=count)
    middle = np.minimum(np.cumsum(sizes) - sizes + sizes // 2, len(values) - 1)
    return np.where(sizes > 0, values[order[middle]], 0)
