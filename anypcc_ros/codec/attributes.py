"""The fields besides x, y and z, each by its policy: values become integers, integers become bytes by their surroundings."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec import colours
from anypcc_ros.codec.channels import DIRECT_BITS, best_predictor, decode_channel, encode_channel, sized, take_sized, zigzag
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.firing import Found, Scan, ScanReader, Times, decode_times, encode_scan, encode_times, times_of
from anypcc_ros.codec.layout import FieldInfo
from anypcc_ros.codec.representation import NOTHING, Kind, Represented, as_integers, find_lattice, represent, restore
from anypcc_ros.codec.surroundings import Context, in_a_row
from anypcc_ros.codec.tracks import AROUND, SCANNED, Curve, Sources, curve_along, track_of

_KIND = struct.Struct("<Bd")  # kind, factor
_MARKER = struct.Struct("<q")
_UNFORETOLD = 3.0  # bits of a value from which on tracks are tried
_FORETOLD = 2.0  # bits that columns and turns leave of times at most
_GAP_BITS = 6.0  # of a column's azimuth, or its time
_UNSURE = 1.0  # bits by which estimates may be wrong
_EVEN = 1.0  # bits of a value that tracks take at least


def encode_fields(
    fields: Mapping[str, np.ndarray], config: CodecConfig, context: Context, measured: Measured | None = None
) -> tuple[tuple[FieldInfo, ...], bytes, dict[str, np.ndarray]]:
    """What the stream says of the fields, (N,) or (N, count) in the codec's order of points; their coded values; and, but for
    dropped ones, the values that the decoder will have. ``measured``: where a sensor measured the points, if that is known."""
    infos, payloads = [], []
    decoded: dict[str, np.ndarray] = {}
    for name, values in fields.items():
        policy = config.policy(name)
        count = 1 if values.ndim == 1 else values.shape[1]
        one = values[:, 0] if values.shape[1:] == (1,) else values  # as it will be decoded
        native = np.ascontiguousarray(one, values.dtype.newbyteorder("="))
        payload, error = b"", 0.0
        if policy.kind != "drop":
            payload, decoded[name] = _encode_field(name, native, policy.step, context, sources_of(decoded), measured)
        if policy.kind == "step":
            error = _largest_error(native, decoded[name], colours.is_colour(name, native))
        infos.append(FieldInfo(name, native.dtype.name, count, policy.kind, policy.step, error, len(payload)))
        payloads.append(payload)
    return tuple(infos), b"".join(payloads), decoded


def decode_fields(
    infos: tuple[FieldInfo, ...], data: memoryview, context: Context, reader: ScanReader | None = None
) -> tuple[dict[str, np.ndarray], Scan | None]:
    """Inverse of ``encode_fields`` for the fields that were not dropped; and the scan, where there is a reader of it.

    Raises StreamError subclasses.
    """
    fields: dict[str, np.ndarray] = {}
    scan, at = None, 0
    for info in infos:
        if info.policy == "drop":
            continue
        if info.size > len(data) - at:
            raise TruncatedError(f"field {info.name!r} of {info.size} bytes in {len(data) - at}")
        fields[info.name] = _decode_field(info, data[at : at + info.size], context, sources_of(fields), scan)
        at += info.size
        if reader and reader.field + 1 == len(fields):
            scan = reader.read(sources_of(fields)[-1], context)
    if at != len(data):
        raise CorruptStreamError(f"{len(data)} bytes of fields, {at} are declared")
    if reader and scan is None:
        raise CorruptStreamError(f"rings in field {reader.field} of {len(fields)}")
    return fields, scan


class Measured:
    """A firing sequence, and where it has the points, which is only looked for when somebody asks.

    ``find``: gives it, of the points in the codec's order, if there is one. ``used``: whether the stream needs it.
    """

    def __init__(self, find: Callable[[], Found | None]) -> None:
        self._find = find
        self.used = False
        self._scan: Scan | None = None
        self._payload = b""

    @cached_property
    def _found(self) -> Found | None:
        return self._find()

    def scan(self, sources: Sources) -> Scan | None:
        """If there is one, and the rings are among the fields that are known."""
        if self._scan is None and self._found and self._found.firing.field < len(sources):
            rings = sources[self._found.firing.field]
            if rings is not None:
                self._scan = self._found.firing.scan(self._found.columns, rings)
        return self._scan

    def encode(self, context: Context) -> bytes:
        """The scan, once it is known."""
        if self._scan and self._found and not self._payload:
            self._payload = encode_scan(self._found.firing, self._scan, self._found.beside, context)
        return self._payload

    def price(self, context: Context) -> int:
        """Bytes that the scan takes in addition if it is used."""
        return 0 if self.used else len(self.encode(context))

    def estimate(self, scan: Scan, context: Context) -> float:
        """About how many bits for each point that is."""
        if self.used or self._found is None:
            return 0.0
        return float(np.log2(1.0 + zigzag(self._found.beside)).mean()) + _GAP_BITS * scan.count / len(context)


def sources_of(fields: Mapping[str, np.ndarray]) -> Sources:
    """The fields as tracks may use them."""
    return [as_integers(values) if values.ndim == 1 else None for values in fields.values()]


def _encode_field(
    name: str, values: np.ndarray, step: float, context: Context, sources: Sources, measured: Measured | None
) -> tuple[bytes, np.ndarray]:
    """The coded values and those that will be decoded."""
    count = 1 if values.ndim == 1 else values.shape[1]
    if colours.is_colour(name, values):
        parts = [colours.represent_colours(values, step)]
    else:
        parts = [represent(np.ascontiguousarray(column), step) for column in values.reshape(len(values), count).T]
    payload = b""
    if len(values):
        bits = [_bits(part, context) for part in parts]
        scan = measured.scan(sources) if measured and count == 1 and bits[0] > _UNSURE else None
        foretold = _foretold(parts[0], values, context, scan, measured) if measured and scan else None
        if not (foretold and foretold.bits < _EVEN):
            curves = [_curve(part, least, context, sources) for part, least in zip(parts, bits, strict=True)]
            if foretold and not foretold.bits < curves[0][1] + _UNSURE:
                foretold = None
            if not (foretold and foretold.bits + _UNSURE < curves[0][1]):
                coded = (encode_part(part, curve, context, sources) for part, (curve, _) in zip(parts, curves, strict=True))
                payload = b"".join(coded)
        if measured and foretold:
            by_scan = b"".join([_head(foretold.part, Curve(SCANNED)), *encode_times(foretold.times, context)])
            if not payload or len(by_scan) + measured.price(context) < len(payload):
                measured.used, parts, payload = True, [foretold.part], by_scan
    return payload, _values_of(iter(parts), values.dtype, count, len(values)) if step else values


def _decode_field(info: FieldInfo, data: memoryview, context: Context, sources: Sources, scan: Scan | None) -> np.ndarray:
    at = 0

    def parts() -> Iterator[Represented]:
        nonlocal at
        while True:
            part, at = decode_part(data, at, info.count, context, sources, scan)
            yield part

    values = _values_of(parts(), np.dtype(info.dtype), info.count, len(context))
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after field {info.name!r}")
    return values


def _values_of(parts: Iterator[Represented], dtype: np.dtype, count: int, points: int) -> np.ndarray:
    """Restores one part before it asks for the next: a part takes up to eight times the memory of its values."""
    values = np.empty((points, count), dtype)
    for column in range(count if points else 0):
        part = next(parts)
        if part.kind == Kind.COLOURS and not column:
            return colours.restore_colours(part, dtype, packed=count == 1)
        values[:, column] = restore(part, dtype)
    return values[:, 0].copy() if count == 1 else values


def _largest_error(values: np.ndarray, restored: np.ndarray, colour: bool) -> float:
    """Between values that are finite; of a colour, of its parts."""
    one, other = (colours.parts_of(v) if colour else v for v in (values, restored))
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(other.astype(np.float64) - one.astype(np.float64))
    return float(errors[np.isfinite(errors)].max(initial=0.0))


# -- Parts: one column of a field, or all channels of a colour ---------------------------------------------------------


def encode_part(part: Represented, curve: Curve, context: Context, sources: Sources) -> bytes:
    """A part along a curve, with the fields that tracks may use."""
    pieces = [_head(part, curve)]
    if curve.rows != AROUND:
        track = track_of(curve, context.grid_everywhere, sources)
        return b"".join([*pieces, *sized(encode_channel(part.channels[0][track], in_a_row(len(track)))[0])])
    reference = None
    for values in part.channels:
        payload, reference = encode_channel(values, context.everywhere, reference)
        pieces += sized(payload)
    return b"".join(pieces)


def _head(part: Represented, curve: Curve) -> bytes:
    pieces = [_KIND.pack(part.kind, part.factor), encode_varint(len(part.listed))]
    if len(part.listed):
        listed = np.diff(part.listed, prepend=0) if part.kind == Kind.LIST else part.listed  # which ascends
        pieces += [_MARKER.pack(part.marker), *sized(encode_channel(listed, in_a_row(len(listed)))[0])]
    return b"".join([*pieces, curve.pack()])


class _Foretold(NamedTuple):
    """Values as numbers, these as sums of their columns' and turns', and about how many bits each takes then."""

    part: Represented
    times: Times
    bits: float


def _foretold(part: Represented, values: np.ndarray, context: Context, scan: Scan, measured: Measured) -> _Foretold | None:
    """What a scan makes of values (N,) or (N, 1), if it leaves little of them."""
    if part.kind == Kind.LIST:
        values = values.reshape(-1)
        kind = Kind.FLOAT_BITS if values.dtype.kind == "f" else Kind.INTEGERS
        lattice = find_lattice(values) if kind == Kind.FLOAT_BITS else None
        part = lattice or Represented(kind, (as_integers(values),), NOTHING)
    times = times_of(part.channels[0], scan)
    left = float(np.log2(1.0 + zigzag(times[2])).mean())
    bits = left + _GAP_BITS * scan.count / len(values) + measured.estimate(scan, context)
    return _Foretold(part, times, bits) if left < _FORETOLD else None


def _bits(part: Represented, context: Context) -> float:
    """About how many bits each of the values takes, 0 for few different ones."""
    values = part.channels[0]
    if part.kind == Kind.COLOURS or int(values.max()) - int(values.min()) < 1 << DIRECT_BITS:
        return 0.0
    return best_predictor(values, context.everywhere)[1]


def _curve(part: Represented, bits: float, context: Context, sources: Sources) -> tuple[Curve, float]:
    """A track for values that the surroundings do not foretell, or none; and about how many bits each takes then."""
    if bits <= _UNFORETOLD:
        return Curve(), bits
    return curve_along(part.channels[0], context.grid_everywhere, sources, bits)


def decode_part(
    data: memoryview, at: int, count: int, context: Context, sources: Sources, scan: Scan | None = None
) -> tuple[Represented, int]:
    """Inverse of ``encode_part``, for a field of ``count`` values, or of what a scan foretells: the part, and the place after
    it. Raises StreamError subclasses."""
    if len(data) - at < _KIND.size:
        raise TruncatedError(f"{len(data) - at} bytes of a field's values")
    kind, factor = _KIND.unpack_from(data, at)
    if kind not in Kind.__members__.values() or not (0.0 < factor < math.inf):
        raise CorruptStreamError(f"values of kind {kind} and factor {factor}")
    size, at = decode_varint(data, at + _KIND.size)
    if size > len(context):
        raise CorruptStreamError(f"a list of {size} values for {len(context)} points")
    listed, marker = NOTHING, 0
    if size:
        if len(data) - at < _MARKER.size:
            raise TruncatedError(f"{len(data) - at} bytes of a list of {size} values")
        (marker,) = _MARKER.unpack_from(data, at)
        payload, at = take_sized(data, at + _MARKER.size)
        listed, _ = decode_channel(payload, in_a_row(size))
        listed = np.cumsum(listed) if kind == Kind.LIST else listed
    curve, at = Curve.unpack(data, at)
    if kind == Kind.COLOURS and curve.rows != AROUND:
        raise CorruptStreamError("colours along a track")
    channels, reference = [], None
    if curve.rows == SCANNED:
        if scan is None:
            raise CorruptStreamError("times by columns without any")
        values, at = decode_times(data, at, scan, context)
        return Represented(Kind(kind), (values,), listed, factor, marker), at
    if curve.rows != AROUND:
        track = track_of(curve, context.grid_everywhere, sources)
        payload, at = take_sized(data, at)
        values = np.empty(len(track), np.int64)
        values[track], _ = decode_channel(payload, in_a_row(len(track)))
        return Represented(Kind(kind), (values,), listed, factor, marker), at
    for _ in range(colours.channels(count) if kind == Kind.COLOURS else 1):
        payload, at = take_sized(data, at)
        values, reference = decode_channel(payload, context.everywhere, reference)
        channels.append(values)
    return Represented(Kind(kind), tuple(channels), listed, factor, marker), at
