"""Tracks: all points one after the other as a scanning sensor passes them, in an order that the decoder can make, too.

A scan consists of rows (the rings of a spinning LiDAR, the lines of an image) that pass through their angles one way. Sorted by
row and angle, points lie on a track along which whatever follows the scan grows evenly, such as time and the points' own
places. Rows come from a field (ring) or are coded themselves; angles may be a field, too (time).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.kernels import native

AROUND, CODED, ONE_ROW, SCANNED, FIRST_FIELD = 0, 1, 2, 3, 4
"""Where rows come from: there is no track; they are coded; all points are one; they are columns of a firing sequence, which
needs no more to be said; FIRST_FIELD + i: the values of field i."""

PLANES = ((0, 1), (1, 2), (2, 0))
"""The axes of the planes in which angles are taken."""

TURN = 1 << 32
"""A full circle of angles."""

MOST_ROWS = 4096
"""Fields that span more values are no rows, as far as an encoder is concerned."""

_FARTHEST = 1 << 30
_CUT = 4  # bytes
_SECTOR, _SECTOR_SAMPLE = 1 << 13, 1 << 10  # points of a sector, and by which its ends are found
_OVERHEAD = 1.0  # bits of a value's sign and size

Sources = Sequence["np.ndarray | None"]
"""Fields that a curve may use, (N,) int64 each; None for one without one value for each point."""


@dataclass(frozen=True)
class Curve:
    """How to sort the points. ``rows``: see above. ``key``: 0 to 2 for the angle in one of ``PLANES``, 3 + i for the values of
    field i. ``descending``: angles decrease. ``cut``: the angle at which they begin."""

    rows: int = AROUND
    key: int = 0
    descending: bool = False
    cut: int = 0

    def pack(self) -> bytes:
        if self.rows in (AROUND, SCANNED):
            return encode_varint(self.rows)
        numbers = encode_varint(self.rows) + encode_varint(2 * self.key + self.descending)
        return numbers + self.cut.to_bytes(_CUT, "little")

    @classmethod
    def unpack(cls, data: memoryview, at: int) -> tuple[Curve, int]:
        """The curve at a place and the place after it. Raises StreamError subclasses."""
        rows, at = decode_varint(data, at)
        if rows in (AROUND, SCANNED):
            return cls(rows), at
        key, at = decode_varint(data, at)
        if len(data) - at < _CUT:
            raise TruncatedError(f"a curve cut off at byte {at}")
        return cls(rows, key >> 1, bool(key & 1), int.from_bytes(data[at : at + _CUT], "little")), at + _CUT


def track_of(curve: Curve, grid: np.ndarray, sources: Sources, rows: np.ndarray | None = None) -> np.ndarray:
    """(N,) int64: the points at grid coordinates (N, 3) as a curve sorts them, by row, then key, then in the codec's order.

    ``rows``: (N,) int64 where they are coded. Raises CorruptStreamError.
    """
    if curve.rows >= FIRST_FIELD:
        rows = _source(sources, curve.rows - FIRST_FIELD)
    key = _source(sources, curve.key - len(PLANES)) if curve.key >= len(PLANES) else angles_of(curve, grid)
    return sorted_by(np.zeros_like(key) if rows is None else rows, key)


def sorted_by(rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The permutation (N,) that sorts stably by row, then key, int64 each."""
    first_row, first_key = int(rows.min(initial=0)), int(keys.min(initial=0))
    bits = (int(keys.max(initial=0)) - first_key).bit_length()
    if not native.available() or bits + (int(rows.max(initial=0)) - first_row).bit_length() > 63:
        return np.lexsort((keys, rows))
    both, order = (rows - first_row << bits | keys - first_key).astype(np.uint64), np.empty(len(keys), np.uint32)
    native.sort_keys(both, order)
    return order


def _source(sources: Sources, index: int) -> np.ndarray:
    values = sources[index] if index < len(sources) else None
    if values is None:
        raise CorruptStreamError(f"a curve by field {index} of {len(sources)}, which does not have one value for each point")
    return values


def angles_of(curve: Curve, grid: np.ndarray) -> np.ndarray:
    """(N,) int64 from 0 to 2^32: angles that grow as the true ones do, from the cut on, of coordinates in one plane."""
    u, v = (np.clip(grid[:, axis], -_FARTHEST, _FARTHEST) for axis in PLANES[curve.key])
    reach = np.maximum(np.abs(u) + np.abs(v), 1)
    quarter = np.where(v >= 0, np.where(u >= 0, 0, 1), np.where(u < 0, 2, 3))
    within = np.where(quarter & 1, np.abs(u), np.abs(v))
    angles = (quarter << 30) + (within << 30) // reach - curve.cut
    return (-angles if curve.descending else angles) % TURN


def within(sources: Sources, points: int) -> Sources:
    """The sources of the first points alone."""
    return [None if values is None else values[:points] for values in sources]


# -- What an encoder may try -------------------------------------------------------------------------------------------


def curve_along(values: np.ndarray, grid: np.ndarray, sources: Sources, below: float) -> tuple[Curve, float]:
    """A curve about the vertical axis along which values (N,) int64 take less than ``below`` bits each, if there is one, and
    about how many they take then."""
    cut = int(angles_of(Curve(), grid[np.argmin(values)][None])[0])
    angles = angles_of(Curve(cut=cut), grid)
    sector = _sector(angles)
    values, angles = values[sector], angles[sector]
    best, cost = Curve(), below
    for rows, ring in ((ONE_ROW, np.zeros_like(angles)), *_rings(sources, sector)):
        for descending in (False, True):
            along = -angles % TURN if descending else angles
            if (bits := unevenness(values[sorted_by(ring, along)])) < cost:
                best, cost = Curve(rows, 0, descending, cut), bits
    return best, cost


def _rings(sources: Sources, sector: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Fields that may be rows, as ``Curve.rows``, and their values in the sector."""
    for i, ring in enumerate(sources):
        if ring is not None and 0 < np.ptp(ring) < MOST_ROWS:
            yield FIRST_FIELD + i, ring[sector]


def _sector(angles: np.ndarray) -> np.ndarray:
    """Rows of points at neighbouring angles (N,), of many points a part by which curves may be told from each other."""
    part = len(angles) // _SECTOR
    if part < 2:
        return np.arange(len(angles))
    sample = np.sort(angles[:: len(angles) // _SECTOR_SAMPLE + 1])
    first, last = (sample[len(sample) * i // (2 * part)] for i in (part - 1, part + 1))
    return np.flatnonzero((angles >= first) & (angles <= last))


def unevenness(values: np.ndarray) -> float:
    """About how many bits each of (N,) int64 along a track takes."""
    return float(np.log2(1 + np.abs(np.diff(values, 2).astype(np.float64))).mean()) + _OVERHEAD if len(values) > 2 else math.inf
