"""The original order of the points, told by how the sensor scans.

A scan consists of rows (the rings of a spinning LiDAR, the lines of an image) that pass through their angles one way. Sorted by
row and angle, which the decoder can do, points lie on a track along which the places they had grow almost evenly: by one where
rows follow each other, by the number of rows where they take turns. So a place is coded as what is left after interpolation
along the track. Rows come from a field (ring) or are coded themselves; angles may be a field, too (time); where nothing of this
helps, places are predicted from the points around.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.representation import as_integers
from anypcc_ros.codec.surroundings import Surroundings, in_a_row

AROUND, CODED, ONE_ROW, FIRST_FIELD = 0, 1, 2, 3
"""Where rows come from: there are none; they are coded; all points are one; FIRST_FIELD + i: the values of field i."""

_PLANES = ((0, 1), (1, 2), (2, 0))
_CURVE = struct.Struct("<HHBI")  # rows, key, descending, cut
_TURN = 1 << 32
_FARTHEST = 1 << 30
_MOST_ROWS = 4096
_ROW_BITS = 1.5  # what a coded row costs, as far as one knows before
_WORTH_A_TRACK = 9.0  # with more bits for each place, the points around tell as much


@dataclass(frozen=True)
class Curve:
    """How to sort the points. ``rows``: see above. ``key``: 0 to 2 for the angle about an axis (z, x, y), 3 + i for the values
    of field i. ``descending``: angles decrease. ``cut``: the angle at which they begin."""

    rows: int = AROUND
    key: int = 0
    descending: bool = False
    cut: int = 0

    def pack(self) -> bytes:
        return _CURVE.pack(self.rows, self.key, self.descending, self.cut)

    @classmethod
    def unpack(cls, data: memoryview) -> Curve:
        if len(data) < _CURVE.size:
            raise TruncatedError(f"an order of {len(data)} bytes")
        rows, key, descending, cut = _CURVE.unpack_from(data)
        return cls(rows, key, bool(descending), cut)


def encode_order(
    places: np.ndarray, total: int, height: int, grid: np.ndarray, fields: Mapping[str, np.ndarray], around: Surroundings
) -> bytes:
    """Code the places (N,) int64, below ``total``, of the points on the grid; ``fields`` are those that decode to the same."""
    sources = [as_integers(values) if values.ndim == 1 else None for values in fields.values()]
    best, rows, cost = Curve(), None, _WORTH_A_TRACK
    for curve, coded in _candidates(places, total, height, grid, sources) if len(places) > 2 else ():
        rest = _rest(places, _track(curve, coded, grid, sources))
        bits = float(np.log2(1 + np.abs(np.diff(rest, 2))).mean()) + (_ROW_BITS if coded is not None else 0)
        if bits < cost:
            best, rows, cost = curve, coded, bits
    parts = [best.pack()]
    if best.rows == AROUND:
        return b"".join([*parts, *sized(encode_channel(places, around)[0])])
    if rows is not None:
        parts += sized(encode_channel(rows, around)[0])
    rest = _rest(places, _track(best, rows, grid, sources))
    return b"".join([*parts, *sized(encode_channel(rest, in_a_row(len(rest)))[0])])


def decode_order(
    data: memoryview, total: int, grid: np.ndarray, fields: Mapping[str, np.ndarray], around: Surroundings
) -> np.ndarray:
    """Inverse of ``encode_order``. Raises StreamError subclasses."""
    curve, at = Curve.unpack(data), _CURVE.size
    sources = [as_integers(values) if values.ndim == 1 else None for values in fields.values()]
    rows = None
    if curve.rows == CODED:
        payload, at = take_sized(data, at)
        rows, _ = decode_channel(payload, around)
    payload, at = take_sized(data, at)
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after the order")
    if curve.rows == AROUND:
        places, _ = decode_channel(payload, around)
    else:
        track = _track(curve, rows, grid, sources)
        rest, _ = decode_channel(payload, in_a_row(len(track)))
        places = np.empty_like(rest)
        places[track] = rest + np.arange(len(track))
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < total:
        raise CorruptStreamError(f"places {places.min()}..{places.max()} of {total} points")
    if (np.bincount(places, minlength=1) > 1).any():
        raise CorruptStreamError("two points in one place")
    return places


def _track(
    curve: Curve, rows: np.ndarray | None, grid: np.ndarray, sources: list[np.ndarray | None]
) -> np.ndarray:
    """(N,) int64: the points as a curve sorts them, by row, then key, then in the codec's order. Raises CorruptStreamError."""
    if curve.rows >= FIRST_FIELD:
        rows = _source(sources, curve.rows - FIRST_FIELD)
    key = _source(sources, curve.key - len(_PLANES)) if curve.key >= len(_PLANES) else _angles(curve, grid)
    return np.lexsort((key,) if rows is None else (key, rows))


def _rest(places: np.ndarray, track: np.ndarray) -> np.ndarray:
    return places[track] - np.arange(len(track))


def _source(sources: list[np.ndarray | None], index: int) -> np.ndarray:
    values = sources[index] if index < len(sources) else None
    if values is None:
        raise CorruptStreamError(f"an order by field {index} of {len(sources)}, which does not have one value for each point")
    return values


def _angles(curve: Curve, grid: np.ndarray) -> np.ndarray:
    """(N,) int64 from 0 to 2^32: angles that grow as the true ones do, from the cut on, of coordinates in one plane."""
    u, v = (np.clip(grid[:, axis], -_FARTHEST, _FARTHEST) for axis in _PLANES[curve.key])
    reach = np.maximum(np.abs(u) + np.abs(v), 1)
    quarter = np.where(v >= 0, np.where(u >= 0, 0, 1), np.where(u < 0, 2, 3))
    within = np.where(quarter & 1, np.abs(u), np.abs(v))
    angles = (quarter << 30) + (within << 30) // reach - curve.cut
    return (-angles if curve.descending else angles) % _TURN


# -- What an encoder may try -------------------------------------------------------------------------------------------


def _candidates(
    places: np.ndarray, total: int, height: int, grid: np.ndarray, sources: list[np.ndarray | None]
) -> Iterator[tuple[Curve, np.ndarray | None]]:
    """Curves, with their rows (N,) where these are to be coded."""
    by_place = np.argsort(places)
    ranges = {i: int(values.max()) - int(values.min()) for i, values in enumerate(sources) if values is not None}
    keys = [i for i, extent in ranges.items() if extent > 0]
    rings = [i for i, extent in ranges.items() if 0 < extent < _MOST_ROWS]
    for key in keys:
        yield Curve(ONE_ROW, len(_PLANES) + key), None
        for ring in rings:
            if ring != key:
                yield Curve(FIRST_FIELD + ring, len(_PLANES) + key), None
    for plane in range(len(_PLANES)):
        angles = _angles(Curve(key=plane), grid[by_place])
        turns = (np.diff(angles) + _TURN // 2) % _TURN - _TURN // 2
        descending = bool(np.count_nonzero(turns < 0) * 2 > len(turns))
        curve = Curve(CODED, plane, descending, int(angles[0]))
        for ring in rings:
            yield replace(curve, rows=FIRST_FIELD + ring), None
        rows = np.empty_like(places)
        if height > 1:
            rows[by_place] = places[by_place] // (total // height)
        else:
            along = _angles(curve, grid[by_place])
            back = np.diff(along) < -(int(along.max()) - int(along.min())) // 2
            rows[by_place] = np.concatenate([[0], np.cumsum(back)])
        if int(rows.max()) < _MOST_ROWS:
            yield curve, rows
