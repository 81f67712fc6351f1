"""Depth images: organised clouds of which two coordinates follow from the third one and from the place in the image.

A pinhole camera sees depth z at column u, row v where x = (u - c_u) z / f_u and y = (v - c_v) z / f_v, and its driver has
computed just that in float32. So the depth is coded pixel by pixel, by the pixels around, and of the other two what such a
product leaves: mostly nothing, at worst a few units in the last place.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from anypcc_ros.codec.attributes import decode_part, encode_part
from anypcc_ros.codec.bitstream import INEXACT_IMAGE
from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized, zigzag
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.octree import morton_order
from anypcc_ros.codec.representation import Kind, Represented, as_integers, find_lattice, from_integers, represent, restore
from anypcc_ros.codec.surroundings import Context
from anypcc_ros.codec.tracks import Curve

_PROJECTION = struct.Struct("<B3d")
_PLACE = (0.0, 0.0, 0.0)
_SAMPLE = 1 << 12  # pixels that a projection is chosen by
_FEWEST = 64  # valid ones below which nothing is an image
_WORTH = 8.0  # bits that what a projection leaves takes at most
_STEEPEST = 1e9  # of ratios, by pixels
_FITS, _NEAR = 4, 4.0  # a line is fitted again, to what was not farther from it than so many times the median
_ROUNDINGS = 2  # units in the last place by which a scale may be off what was fitted


@dataclass(frozen=True)
class Projection:
    """A coordinate from depth: fl(fl((place - centre) v) scale), fl() being the rounding to the cloud's dtype.

    ``along``: 0 where the place is the column, 1 where it is the row. v is the depth, or, with a ``factor`` that is not 0, the
    nearest integer to depth times factor: some drivers multiply millimetres.
    """

    along: int
    centre: float
    scale: float
    factor: float

    def of(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Integers (N,), as ``as_integers`` gives them, for depths (N,) at pixels (N, 3); those of the depth where it is not
        finite, which invalid pixels share."""
        valid = np.isfinite(depth)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.where(valid, depth, 0).astype(np.float64)
            values = np.rint(values * self.factor) if self.factor else values
            once = ((pixels[:, self.along] - self.centre) * values).astype(depth.dtype)
            twice = (once.astype(np.float64) * self.scale).astype(depth.dtype)
        return np.where(valid, as_integers(twice), as_integers(depth))

    def pack(self) -> bytes:
        return _PROJECTION.pack(self.along, self.centre, self.scale, self.factor)

    @classmethod
    def unpack(cls, data: memoryview, at: int) -> tuple[Projection, int]:
        """The projection at a place and the place after it. Raises StreamError subclasses."""
        if len(data) - at < _PROJECTION.size:
            raise TruncatedError(f"a projection in {len(data) - at} bytes")
        along, *numbers = _PROJECTION.unpack_from(data, at)
        if along > 1 or not all(map(math.isfinite, numbers)):
            raise CorruptStreamError(f"a projection along {along} with {numbers}")
        return cls(along, *numbers), at + _PROJECTION.size


@dataclass(frozen=True)
class Image:
    """How the other two coordinates, ascending, follow from that of axis ``depth`` in rows of ``width`` pixels.

    ``exact``: whether they come back bit for bit. ``step``: of depths, each off by at most half of it; 0 for none.
    """

    width: int
    depth: int
    projections: tuple[Projection, ...]
    exact: bool = True
    step: float = 0.0


def pixels_of(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels in the order in which they are coded, Morton order: column, row and 0, (count, 3) int64, and numbers."""
    number = np.arange(count)
    places = np.stack([number % width, number // width, np.zeros_like(number)], axis=1)
    order = morton_order(places)
    return places[order], order


def context_of(pixels: np.ndarray) -> Context:
    """For values at pixels (N, 3)."""
    return Context(pixels, 0, 1.0, _PLACE)


def encode_image(image: Image, xyz: np.ndarray, context: Context) -> bytes:
    """Coordinates (N, 3) at the pixels of a context, both in coding order."""
    depth = np.ascontiguousarray(xyz[:, image.depth])
    kind = image.depth | (0 if image.exact else INEXACT_IMAGE)
    pieces = [bytes([kind]), encode_varint(image.width), encode_part(represent(depth, image.step), Curve(), context, ())]
    for axis, projection in zip(_others(image.depth), image.projections, strict=True):
        values = as_integers(np.ascontiguousarray(xyz[:, axis])) - projection.of(context.grid, depth)
        pieces += [projection.pack(), *sized(encode_channel(values, context.everywhere)[0])]
    return b"".join(pieces)


def decode_image(data: memoryview, count: int, dtype: np.dtype) -> tuple[np.ndarray, Context, np.ndarray]:
    """Coordinates (N, 3), context and numbers (N,) of so many pixels. Raises StreamError subclasses."""
    if dtype.kind != "f":
        raise CorruptStreamError(f"an image of {dtype}")
    axis = data[0] & ~INEXACT_IMAGE if len(data) else 3
    width, at = decode_varint(data, 1)
    if not width or count % width or axis > 2:
        raise CorruptStreamError(f"{count} pixels in rows of {width}, depth is axis {axis}")
    pixels, order = pixels_of(count, width)
    context = context_of(pixels)
    part, at = decode_part(data, at, 1, context, ())
    if part.kind == Kind.COLOURS:
        raise CorruptStreamError("colours for depth")
    xyz = np.empty((count, 3), dtype)
    xyz[:, axis] = depth = restore(part, dtype)
    for other in _others(axis):
        projection, at = Projection.unpack(data, at)
        payload, at = take_sized(data, at)
        values, _ = decode_channel(payload, context.everywhere)
        xyz[:, other] = from_integers(values + projection.of(pixels, depth), dtype)
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after an image")
    return xyz, context, order


def _others(depth: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(3) if axis != depth)


# -- What an encoder may find ------------------------------------------------------------------------------------------


def find_image(xyz: np.ndarray, height: int) -> Image | None:
    """How the coordinates (N, 3) of an organised cloud make a depth image, if they do."""
    if height < 2 or len(xyz) // height < 2 or xyz.dtype.kind != "f":
        return None
    width = len(xyz) // height
    valid = np.flatnonzero(np.isfinite(xyz).all(axis=1))
    if len(valid) < _FEWEST:
        return None
    rows = valid[:: len(valid) // _SAMPLE + 1]
    sample, places = np.ascontiguousarray(xyz[rows]), np.stack([rows % width, rows // width], axis=1)
    for depth in (2, 0, 1):
        if not sample[:, depth].all():
            continue
        found = [_find_projection(sample[:, axis].copy(), sample[:, depth].copy(), places) for axis in _others(depth)]
        projections = tuple(projection for projection in found if projection)
        if len(projections) == len(found):
            return Image(width, depth, projections)
    return None


def within(image: Image, xyz: np.ndarray, step: float) -> tuple[Image | None, np.ndarray]:
    """The image and coordinates (N, 3) as they follow from depth alone; None if any is then off by more than step / 2."""
    number, depth, ideal = np.arange(len(xyz)), np.ascontiguousarray(xyz[:, image.depth]), xyz.copy()
    lattice = find_lattice(depth)
    if lattice is None or _step_of(lattice) < step:
        depth = restore(represent(depth, step), depth.dtype)
        image = replace(image, step=step)
    pixels = np.stack([number % image.width, number // image.width], axis=1)
    ideal[:, image.depth] = depth
    for axis, projection in zip(_others(image.depth), image.projections, strict=True):
        ideal[:, axis] = from_integers(projection.of(pixels, depth), xyz.dtype)
    with np.errstate(invalid="ignore"):
        near = np.abs(ideal.astype(np.float64) - xyz) <= step / 2
    as_near = (near | (as_integers(ideal) == as_integers(xyz))).all()
    return replace(image, exact=False) if as_near else None, ideal


def _step_of(lattice: Represented) -> float:
    return 1 / lattice.factor if lattice.kind == Kind.QUOTIENTS else lattice.factor


def _find_projection(values: np.ndarray, depth: np.ndarray, places: np.ndarray) -> Projection | None:
    """The projection that leaves the least of values (N,) at depths (N,) other than 0 and places (N, 2), if that is little."""
    best, cost = None, _WORTH
    for candidate in _projections(values, depth, places):
        left = as_integers(values) - candidate.of(places, depth)
        if (bits := float(np.log2(1.0 + zigzag(left)).mean())) < cost:
            best, cost = candidate, bits
    return best


def _projections(values: np.ndarray, depth: np.ndarray, places: np.ndarray) -> Iterator[Projection]:
    """Those of a camera fitted to the sample: the very numbers, and round ones near them."""
    lattice = find_lattice(depth)
    factor = 0.0 if lattice is None else 1 / _step_of(lattice)
    with np.errstate(over="ignore"):
        ratios = values.astype(np.float64) / depth
    for along in (0, 1):
        slope, centre = _line(places[:, along].astype(np.float64), ratios)
        if not slope:
            continue
        for middle, whole in itertools.product({centre, round(2 * centre) / 2}, {0.0, factor}):
            scale = slope / (whole or 1.0)
            yield Projection(along, middle, scale, whole)
            rounded = np.array(scale, depth.dtype)
            for _ in range(_ROUNDINGS):
                rounded = np.nextafter(rounded, -np.inf, dtype=depth.dtype)
            for _ in range(2 * _ROUNDINGS + 1):
                yield Projection(along, middle, float(rounded), whole)
                rounded = np.nextafter(rounded, np.inf, dtype=depth.dtype)


def _line(place: np.ndarray, ratios: np.ndarray) -> tuple[float, float]:
    """Slope and zero of the line through ratios (N,) at these places, but for those that are far off it; 0 for no line."""
    near = np.abs(ratios) < _STEEPEST
    for _ in range(_FITS):
        across, along = place[near], ratios[near]
        spread = across - across.mean() if len(across) else across
        slope = float((spread * along).sum() / max((spread * spread).sum(), 1.0))
        if not abs(slope) > 1 / _STEEPEST:  # or not a number
            return 0.0, 0.0
        centre = float(across.mean() - along.mean() / slope)
        apart = np.abs(slope * (place - centre) - ratios)
        near = apart <= _NEAR * np.median(apart)
    return slope, centre
