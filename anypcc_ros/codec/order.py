"""The original order of the points, told by how the sensor scans.

Along a track (see ``tracks``) the places that points had grow almost evenly: by one where rows follow each other, by the number
of rows where they take turns. So a place is coded as what is left after interpolation along the track. Where no track
helps, places are predicted from the points around.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.firing import Scan
from anypcc_ros.codec.surroundings import Context, in_a_row
from anypcc_ros.codec.tracks import (
    AROUND,
    CODED,
    FIRST_FIELD,
    MOST_ROWS,
    ONE_ROW,
    PLANES,
    SCANNED,
    TURN,
    Curve,
    Sources,
    angles_of,
    track_of,
    unevenness,
    within,
)

_ROW_BITS = 1.5  # what a coded row costs, as far as one knows before
_WORTH_A_TRACK = 10.0  # with more bits for each place, the points around tell as much


def encode_order(places: np.ndarray, total: int, height: int, context: Context, sources: Sources) -> bytes:
    """Code the places (N,) int64, below ``total``, of the points on the grid. ``sources``: fields of all points, decoded."""
    grid, around = context.grid, context.on_grid
    sources = within(sources, len(grid))
    best, rows, cost = Curve(), None, _WORTH_A_TRACK
    for curve, coded in _candidates(places, total, height, grid, sources) if len(places) > 2 else ():
        bits = unevenness(_beyond_rank(places, track_of(curve, grid, sources, coded)))
        bits += _ROW_BITS if coded is not None else 0
        if bits < cost:
            best, rows, cost = curve, coded, bits
    parts = [best.pack()]
    if best.rows == AROUND:
        return b"".join([*parts, *sized(encode_channel(places, around)[0])])
    if rows is not None:
        parts += sized(encode_channel(rows, around)[0])
    values = _beyond_rank(places, track_of(best, grid, sources, rows))
    return b"".join([*parts, *sized(encode_channel(values, in_a_row(len(values)))[0])])


def encode_order_of(scan: Scan, places: np.ndarray) -> bytes:
    """The same of places (N,) that follow a scan."""
    values = _beyond_rank(places, scan.track(len(places)))
    return b"".join([Curve(SCANNED).pack(), *sized(encode_channel(values, in_a_row(len(values)))[0])])


def decode_order(data: memoryview, total: int, context: Context, sources: Sources, scan: Scan | None) -> np.ndarray:
    """Inverse of ``encode_order``. Raises StreamError subclasses."""
    grid, around = context.grid, context.on_grid
    sources = within(sources, len(grid))
    curve, at = Curve.unpack(data, 0)
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
        if curve.rows == SCANNED and scan is None:
            raise CorruptStreamError("an order by columns without any")
        track = scan.track(len(grid)) if curve.rows == SCANNED and scan else track_of(curve, grid, sources, rows)
        values, _ = decode_channel(payload, in_a_row(len(track)))
        places = np.empty_like(values)
        places[track] = values + np.arange(len(track))
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < total:
        raise CorruptStreamError(f"places {places.min()}..{places.max()} of {total} points")
    if (np.bincount(places, minlength=1) > 1).any():
        raise CorruptStreamError("two points in one place")
    return places


def _beyond_rank(places: np.ndarray, track: np.ndarray) -> np.ndarray:
    return places[track] - np.arange(len(track))


# -- What an encoder may try -------------------------------------------------------------------------------------------


def _candidates(
    places: np.ndarray, total: int, height: int, grid: np.ndarray, sources: Sources
) -> Iterator[tuple[Curve, np.ndarray | None]]:
    """Curves, with their rows (N,) where these are to be coded."""
    by_place = np.argsort(places)
    ranges = {i: int(values.max()) - int(values.min()) for i, values in enumerate(sources) if values is not None}
    keys = [i for i, extent in ranges.items() if extent > 0]
    rings = [i for i, extent in ranges.items() if 0 < extent < MOST_ROWS]
    for key in keys:
        yield Curve(ONE_ROW, len(PLANES) + key), None
        for ring in rings:
            if ring != key:
                yield Curve(FIRST_FIELD + ring, len(PLANES) + key), None
    for plane in range(len(PLANES)):
        angles = angles_of(Curve(key=plane), grid[by_place])
        turns = (np.diff(angles) + TURN // 2) % TURN - TURN // 2
        descending = bool(np.count_nonzero(turns < 0) * 2 > len(turns))
        curve = Curve(CODED, plane, descending, int(angles[0]))
        for ring in rings:
            yield replace(curve, rows=FIRST_FIELD + ring), None
        rows = np.empty_like(places)
        if height > 1:
            rows[by_place] = places[by_place] // (total // height)
        else:
            along = angles_of(curve, grid[by_place])
            back = np.diff(along) < -(int(along.max()) - int(along.min())) // 2
            rows[by_place] = np.concatenate([[0], np.cumsum(back)])
        if int(rows.max()) < MOST_ROWS:
            yield curve, rows
