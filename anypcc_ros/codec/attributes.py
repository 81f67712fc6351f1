"""The fields besides x, y and z, each by its policy: values become integers, integers become bytes by their surroundings."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import numpy as np

from anypcc_ros.codec import colours
from anypcc_ros.codec.bitstream import FieldInfo
from anypcc_ros.codec.channels import decode_channel, encode_channel, sized, take_sized
from anypcc_ros.codec.config import CodecConfig, FieldPolicy
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.representation import LISTED, NOTHING, Kind, Represented, represent, restore
from anypcc_ros.codec.surroundings import Context, Surroundings, in_a_row

_KIND = struct.Struct("<Bd")  # kind, factor
_MARKER = struct.Struct("<q")


def encode_fields(
    fields: Mapping[str, np.ndarray], config: CodecConfig, context: Context
) -> tuple[tuple[FieldInfo, ...], bytes]:
    """What the stream says of the fields, (N,) or (N, count) in the codec's order of points, and their coded values."""
    infos, payloads = [], []
    for name, values in fields.items():
        native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        info, payload = _encode_field(name, native, config.policy(name), context)
        infos.append(info)
        payloads.append(payload)
    return tuple(infos), b"".join(payloads)


def decode_fields(infos: tuple[FieldInfo, ...], data: memoryview, context: Context) -> dict[str, np.ndarray]:
    """Inverse of ``encode_fields`` for the fields that were not dropped. Raises StreamError subclasses."""
    fields, at = {}, 0
    for info in infos:
        if info.policy == "drop":
            continue
        if info.size > len(data) - at:
            raise TruncatedError(f"field {info.name!r} of {info.size} bytes in {len(data) - at}")
        fields[info.name] = _decode_field(info, data[at : at + info.size], context.everywhere)
        at += info.size
    if at != len(data):
        raise CorruptStreamError(f"{len(data)} bytes of fields, {at} are declared")
    return fields


def _encode_field(name: str, values: np.ndarray, policy: FieldPolicy, context: Context) -> tuple[FieldInfo, bytes]:
    count = 1 if values.ndim == 1 else values.shape[1]
    parts: list[Represented] = []
    if policy.kind != "drop" and len(values):
        if colours.is_colour(name, values):
            parts = [colours.represent_colours(values, policy.step)]
        else:
            parts = [represent(np.ascontiguousarray(column), policy.step) for column in values.reshape(len(values), count).T]
    payload = b"".join(_encode_part(part, context.everywhere) for part in parts)
    error = 0.0
    if policy.kind == "step":
        restored = _values_of(parts, values.dtype, count, len(values))
        error = _largest_error(values, restored, colours.is_colour(name, values))
    return FieldInfo(name, values.dtype.name, count, policy.kind, policy.step, error, len(payload)), payload


def _decode_field(info: FieldInfo, data: memoryview, around: Surroundings) -> np.ndarray:
    parts: list[Represented] = []
    at = 0
    while len(around) and len(parts) < info.count and at < len(data):
        part, at = _decode_part(data, at, info.count, around)
        parts.append(part)
        if part.kind == Kind.COLOURS:
            break
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after field {info.name!r}")
    return _values_of(parts, np.dtype(info.dtype), info.count, len(around))


def _values_of(parts: list[Represented], dtype: np.dtype, count: int, points: int) -> np.ndarray:
    if not points:
        return np.zeros(points if count == 1 else (points, count), dtype)
    if parts and parts[0].kind == Kind.COLOURS:
        return colours.restore_colours(parts[0], dtype, packed=count == 1)
    if len(parts) != count:
        raise CorruptStreamError(f"{len(parts)} of {count} values for each point")
    values = np.empty((points, count), dtype)
    for column, part in enumerate(parts):
        values[:, column] = restore(part, dtype)
    return values[:, 0].copy() if count == 1 else values


def _largest_error(values: np.ndarray, restored: np.ndarray, colour: bool) -> float:
    """Between values that are finite; of a colour, of its parts."""
    one, other = (colours.parts_of(v) if colour else v for v in (values, restored))
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(other.astype(np.float64) - one.astype(np.float64))
    return float(errors[np.isfinite(errors)].max(initial=0.0))


# -- Parts: one column of a field, or all channels of a colour ---------------------------------------------------------


def _encode_part(part: Represented, around: Surroundings) -> bytes:
    pieces = [_KIND.pack(part.kind, part.factor), encode_varint(len(part.listed))]
    if len(part.listed):
        pieces += [_MARKER.pack(part.marker), *sized(encode_channel(part.listed, in_a_row(len(part.listed)))[0])]
    reference = None
    for values in part.channels:
        payload, tokens = encode_channel(values, around, reference)
        pieces += sized(payload)
        reference = tokens
    return b"".join(pieces)


def _decode_part(data: memoryview, at: int, count: int, around: Surroundings) -> tuple[Represented, int]:
    if len(data) - at < _KIND.size:
        raise TruncatedError(f"{len(data) - at} bytes of a field's values")
    kind, factor = _KIND.unpack_from(data, at)
    if kind not in Kind.__members__.values() or not (0.0 < factor < math.inf):
        raise CorruptStreamError(f"values of kind {kind} and factor {factor}")
    size, at = decode_varint(data, at + _KIND.size)
    if size > max(len(around), LISTED):
        raise CorruptStreamError(f"a list of {size} values for {len(around)} points")
    listed, marker = NOTHING, 0
    if size:
        if len(data) - at < _MARKER.size:
            raise TruncatedError(f"{len(data) - at} bytes of a list of {size} values")
        (marker,) = _MARKER.unpack_from(data, at)
        payload, at = take_sized(data, at + _MARKER.size)
        listed, _ = decode_channel(payload, in_a_row(size))
    channels, reference = [], None
    for _ in range(colours.channels(count) if kind == Kind.COLOURS else 1):
        payload, at = take_sized(data, at)
        values, reference = decode_channel(payload, around, reference)
        channels.append(values)
    return Represented(Kind(kind), tuple(channels), listed, factor, marker), at
