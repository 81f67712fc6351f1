"""Coordinates bit for bit: a grid that suits them, what it leaves of each, and the points that it cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized, token_of
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.octree import MAX_DEPTH, dequantise
from anypcc_ros.codec.representation import Kind, as_integers, find_lattice, from_integers
from anypcc_ros.codec.surroundings import Surroundings, in_a_row

Origin = tuple[float, float, float]
_COARSER = 3.0  # bits of a float that the steps of a grid leave, below which it is no grid but the floats themselves
_FARTHEST = 1 << 51  # steps from the origin, well within what the grid can hold


def suitable_grid(xyz: np.ndarray, step: float, origin: Origin) -> tuple[float, Origin]:
    """Step and origin on which the coordinates (N, 3) lie already, be it in millimetres or integers; else those given."""
    nowhere = (0.0, 0.0, 0.0)
    if xyz.dtype.kind == "i":
        return 1.0, nowhere
    lattice = find_lattice(np.ascontiguousarray(xyz).reshape(-1))
    if lattice is None:
        return step, origin
    found = 1 / lattice.factor if lattice.kind == Kind.QUOTIENTS else lattice.factor
    with np.errstate(invalid="ignore"):
        between = np.spacing(np.abs(xyz[np.isfinite(xyz) & (xyz != 0)])).astype(np.float64)
    coarser = between.size > 0 and np.log2(found / between).mean() >= _COARSER
    return (found, nowhere) if coarser else (step, origin)


def on_grid(xyz: np.ndarray, step: float, origin: Origin) -> np.ndarray:
    """(N,) bool: which points the octree can hold; those far off the others are not among them."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (xyz.astype(np.float64) - origin) / step
        usable = (np.abs(steps) < _FARTHEST).all(axis=1)  # False for NaN
        middle = np.median(steps[usable], axis=0) if usable.any() else 0.0
        near = np.abs(steps - middle) < (1 << MAX_DEPTH - 1) - 1
    return np.logical_and(near.all(axis=1), usable)


def encode_remainders(xyz: np.ndarray, grid: np.ndarray, step: float, origin: Origin, around: Surroundings) -> bytes:
    """What the grid points (N, 3) int64 leave of the coordinates (N, 3), as differences of their bits."""
    centres = as_integers(dequantise(grid, step, origin, xyz.dtype))
    columns = zip(as_integers(xyz).T, centres.T, _widths(grid, step, origin, xyz.dtype), strict=True)
    coded = (encode_channel(exact - centre, around, width)[0] for exact, centre, width in columns)
    return b"".join(piece for payload in coded for piece in sized(payload))


def decode_remainders(
    data: memoryview, grid: np.ndarray, step: float, origin: Origin, dtype: np.dtype, around: Surroundings
) -> np.ndarray:
    """The coordinates (N, 3). Raises StreamError subclasses."""
    centres, at, columns = as_integers(dequantise(grid, step, origin, dtype)), 0, []
    for centre, width in zip(centres.T, _widths(grid, step, origin, dtype), strict=True):
        payload, at = take_sized(data, at)
        columns.append(centre + decode_channel(payload, around, width)[0])
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after the remainders")
    return np.stack([from_integers(column, dtype) for column in columns], axis=1)


def _widths(grid: np.ndarray, step: float, origin: Origin, dtype: np.dtype) -> Sequence[np.ndarray]:
    """For each axis (N,) uint8: class of how many numbers of the dtype a cell holds."""
    ends = (as_integers(dequantise(grid + half, step, origin, dtype)) for half in (0.5, -0.5))
    upper, lower = ends
    return [token_of(width).astype(np.uint8) for width in (upper - lower).T]


def encode_off_grid(xyz: np.ndarray) -> bytes:
    """Coordinates (M, 3) of points off the grid, NaN and infinity included."""
    line = in_a_row(len(xyz))
    return b"".join(piece for column in as_integers(xyz).T for piece in sized(encode_channel(column, line)[0]))


def decode_off_grid(data: memoryview, points: int, dtype: np.dtype) -> np.ndarray:
    """Inverse of ``encode_off_grid``. Raises StreamError subclasses."""
    line, at, columns = in_a_row(points), 0, []
    for _ in range(3):
        payload, at = take_sized(data, at)
        columns.append(from_integers(decode_channel(payload, line)[0], dtype))
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after the points off the grid")
    return np.stack(columns, axis=1)
