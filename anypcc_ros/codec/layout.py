"""The chunk FLDS, specified in docs/bitstream.md: the fields, and what the points are besides those of the grid."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from anypcc_ros.codec.cloud import FIELD_DTYPES
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError

POLICIES = ("exact", "step", "drop")

_LOSS = struct.Struct("<2d")  # step, largest error


@dataclass(frozen=True)
class FieldInfo:
    """One field of the cloud that went into the encoder, as the FLDS chunk lists it.

    ``policy``: exact, step or drop; ``step``: that of the policy, or 0. ``largest_error``: as the encoder measured it, in the
    field's unit; 0 where every value comes back bit for bit. ``size``: bytes of its values in the stream.
    """

    name: str
    dtype: str
    count: int
    policy: str
    step: float
    largest_error: float
    size: int


@dataclass(frozen=True)
class Layout:
    """What the FLDS chunk says of the points: everything but the grid. The default goes without the chunk.

    ``height`` and ``position``: as in PointCloud. ``left_out``: points with coordinates that are not finite, which the
    stream does not hold. ``off_grid``: points that it holds besides those of the grid.
    """

    height: int = 1
    position: int = 0
    left_out: int = 0
    off_grid: int = 0
    fields: tuple[FieldInfo, ...] = ()


def encode_layout(layout: Layout) -> bytes:
    """The chunk's payload."""
    numbers = (layout.height, layout.position, layout.left_out, layout.off_grid, len(layout.fields))
    return b"".join([*map(encode_varint, numbers), *map(_encode_field, layout.fields)])


def _encode_field(field: FieldInfo) -> bytes:
    name, policy = field.name.encode(), POLICIES.index(field.policy)
    parts = [bytes([FIELD_DTYPES.index(field.dtype) | policy << 4]), encode_varint(field.count), encode_varint(len(name)), name]
    if field.policy == "step":
        parts.append(_LOSS.pack(field.step, field.largest_error))
    if field.policy != "drop":
        parts.append(encode_varint(field.size))
    return b"".join(parts)


def decode_layout(data: memoryview) -> Layout:
    """Inverse of ``encode_layout``. Raises CorruptStreamError, TruncatedError."""
    numbers, at = [], 0
    for _ in range(5):
        value, at = decode_varint(data, at)
        numbers.append(value)
    height, position, left_out, off_grid, count = numbers
    if not height or position > count or count > len(data):
        raise CorruptStreamError(f"{count} fields in {len(data)} bytes, x, y and z after {position}, {height} rows")
    fields = []
    for _ in range(count):
        field, at = _decode_field(data, at)
        fields.append(field)
    if at != len(data):
        raise CorruptStreamError(f"{len(data) - at} bytes after the last field")
    if len({field.name for field in fields}) != count:
        raise CorruptStreamError(f"the names of {count} fields are not different")
    return Layout(height, position, left_out, off_grid, tuple(fields))


def _decode_field(data: memoryview, at: int) -> tuple[FieldInfo, int]:
    if at >= len(data):
        raise TruncatedError(f"chunk FLDS of {len(data)} bytes is too short")
    dtype, policy = data[at] & 15, data[at] >> 4
    count, at = decode_varint(data, at + 1)
    length, at = decode_varint(data, at)
    if dtype >= len(FIELD_DTYPES) or policy >= len(POLICIES) or length > len(data) - at:
        raise CorruptStreamError(f"a field of dtype {dtype} and policy {policy} with a name of {length} bytes")
    try:
        name = bytes(data[at : at + length]).decode()
    except UnicodeDecodeError as error:
        raise CorruptStreamError(f"the name of a field is not UTF-8: {error}") from error
    at += length
    step = largest_error = 0.0
    if POLICIES[policy] == "step":
        if len(data) - at < _LOSS.size:
            raise TruncatedError(f"chunk FLDS of {len(data)} bytes is too short")
        step, largest_error = _LOSS.unpack_from(data, at)
        at += _LOSS.size
        if not (0.0 < step < float("inf") and 0.0 <= largest_error <= step):
            raise CorruptStreamError(f"field {name!r} in steps of {step} with an error of {largest_error}")
    size = 0
    if POLICIES[policy] != "drop":
        size, at = decode_varint(data, at)
    return FieldInfo(name, FIELD_DTYPES[dtype], count, POLICIES[policy], step, largest_error, size), at
