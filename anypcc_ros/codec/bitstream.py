"""The container of a compressed cloud, specified in docs/bitstream.md: header, chunk table, limits, checksums."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from anypcc_ros.codec.cloud import COORDINATE_DTYPES, FIELD_DTYPES
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import (
    CorruptStreamError,
    LimitExceededError,
    NotAStreamError,
    TruncatedError,
    UnsupportedVersionError,
)
from anypcc_ros.codec.octree import MAX_DEPTH

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"APCC"
MAJOR, MINOR = 1, 0

CLOUD = "CLOU"
OCCUPANCY = "OCCU"
RAW = "RAWC"
COUNTS = "DUPL"
LATTICE = "LATT"
BEAMS = "BEAM"
ADAPTATION = "ADAP"
LIKELIEST = "LIKE"
FIELDS = "FLDS"
ATTRIBUTES = "ATTR"
OFF_GRID = "OFFG"
IMAGE = "IMAG"
REMAINDERS = "REST"
SCAN = "SCAN"
ORDER = "ORDR"
CUTS = "cuts"
GRID_CHUNKS = (OCCUPANCY, RAW, COUNTS, LATTICE, BEAMS, ADAPTATION, LIKELIEST)
CRITICAL_CHUNKS = (CLOUD, *GRID_CHUNKS, FIELDS, ATTRIBUTES, OFF_GRID, IMAGE, REMAINDERS, SCAN, ORDER)

KNOWN_CHUNKS = (*CRITICAL_CHUNKS, CUTS)

INEXACT_IMAGE = 4
"""Of the first byte of an IMAG chunk: its coordinates are not bit for bit those that were encoded."""

POLICIES = ("exact", "step", "drop")

_HEADER = struct.Struct("<4sBBHQI")  # magic, major, minor, chunks, stream bytes, CRC-32 of header and table
_ENTRY = struct.Struct("<4sQI")  # tag, payload bytes, CRC-32 of the payload
ENTRY_SIZE = _ENTRY.size
"""Bytes that a chunk takes besides its payload."""

_STEP = struct.Struct("<d")
_ORIGIN = struct.Struct("<3d")
_CHECKSUM = struct.Struct("<I")
_LOSS = struct.Struct("<2d")  # step, largest error
_FILLING = struct.Struct("<Bd")  # levels, error
_HASH_SIZE = 8


@dataclass(frozen=True)
class ChunkInfo:
    """One entry of the chunk table. Readers skip an unknown chunk unless it is critical (upper-case first letter)."""

    tag: str
    size: int
    critical: bool


@dataclass(frozen=True)
class CloudInfo:
    """What the CLOU chunk says: the grid, the counts and what is needed to decode.

    ``shift``: grid coordinates of the octree's corner. ``depth``: octree levels of the full grid, ``drop_scales`` of
    which were left out. ``checksum``: CRC-32 of the decoded cell coordinates, (voxels, 3) little-endian uint32 relative
    to the corner, in Morton order. ``model_hash`` is empty where no model is needed. ``calibrated``: whether the model's
    predictions are corrected while coding.
    """

    dtype: str
    step: float
    origin: tuple[float, float, float]
    shift: tuple[int, int, int]
    points: int
    voxels: int
    depth: int
    drop_scales: int
    checksum: int
    model_name: str
    model_hash: str
    calibrated: bool = True

    @property
    def coded_depth(self) -> int:
        """Octree levels that the stream holds."""
        return self.depth - self.drop_scales


@dataclass(frozen=True)
class Filling:
    """What the LIKE chunk says first: the octree's finest ``levels`` are filled in; ``error``: root mean square of the distance
    between the cloud on its grid and the decoded one, the larger of both directions, in the coordinates' unit, as the encoder
    measured it. The default goes without the chunk."""

    levels: int = 0
    error: float = 0.0


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


@dataclass(frozen=True)
class StreamInfo:
    """What can be known of a stream without decoding it: that of ``CloudInfo`` and ``Layout``, the version and the chunks.

    ``adaptation``: "inline" where the stream brings a delta of the model, the hash of a shared one, or "".
    ``points``: points that decoding gives, unless scales were dropped or duplicates merged; ``order``: "codec" or "original".
    ``filled_scales`` and ``rms_error``: as in ``Filling``.
    """

    version: int
    model_name: str
    model_hash: str
    calibrated: bool
    adaptation: str
    step: float
    origin: tuple[float, float, float]
    points: int
    voxels: int
    depth: int
    drop_scales: int
    filled_scales: int
    rms_error: float
    dtype: str
    order: str
    exact: bool
    height: int
    position: int
    left_out: int
    fields: tuple[FieldInfo, ...]
    size: int
    chunks: tuple[ChunkInfo, ...]

    @property
    def bpp(self) -> float:
        """Bits per input point; 0 for an empty cloud."""
        return 8 * self.size / self.points if self.points else 0.0

    @property
    def axis_error(self) -> float:
        """How far a coordinate may be from that of its point, at most, before it is rounded to its dtype.

        0 where it comes back bit for bit: exact streams, and integers on their own grid. With scales filled in: from that of
        some decoded point, and as far from any decoded one to some point of the cloud.
        """
        on_grid = math.ldexp(self.step, self.drop_scales + self.filled_scales) - math.ldexp(self.step, self.drop_scales)
        own_grid = self.step == 1 and not self.drop_scales and "int" in self.dtype and all(v.is_integer() for v in self.origin)
        return 0.0 if self.exact else on_grid + (0.0 if own_grid else math.ldexp(self.step, self.drop_scales - 1))

    @property
    def point_error(self) -> float:
        """Length of the diagonal of such errors."""
        return math.sqrt(3) * self.axis_error

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bpp": self.bpp, "axis_error": self.axis_error, "point_error": self.point_error}


def cells_checksum(coords: np.ndarray) -> int:
    """The checksum of cells (N, 3) in Morton order, as in CloudInfo."""
    return zlib.crc32(np.ascontiguousarray(coords, "<u4").data)


def write_stream(cloud: CloudInfo, payloads: Mapping[str, bytes], layout: Layout | None = None) -> bytes:
    """A complete stream: header, chunk table, the CLOU chunk, the FLDS chunk if it is needed, then ``payloads`` by tag."""
    described = {} if layout in (None, Layout()) else {FIELDS: _encode_layout(layout)}
    chunks = {CLOUD: _encode_cloud(cloud), **described, **payloads}
    table = b"".join(_ENTRY.pack(tag.encode(), len(data), zlib.crc32(data)) for tag, data in chunks.items())
    size = _HEADER.size + len(table) + sum(map(len, chunks.values()))
    unsigned = _HEADER.pack(MAGIC, MAJOR, MINOR, len(chunks), size, 0)
    header = _HEADER.pack(MAGIC, MAJOR, MINOR, len(chunks), size, zlib.crc32(unsigned + table))
    return b"".join([header, table, *chunks.values()])


def encode_filling(filling: Filling, words: bytes) -> bytes:
    """The LIKE chunk: ``words`` are what ``likeliest.FillingEncoder`` has to tell."""
    return _FILLING.pack(filling.levels, filling.error) + words


def decode_filling(data: memoryview) -> tuple[Filling, memoryview]:
    """Inverse of ``encode_filling``. Raises StreamError subclasses."""
    if len(data) < _FILLING.size:
        raise TruncatedError(f"chunk {LIKELIEST} of {len(data)} bytes is too short")
    levels, error = _FILLING.unpack_from(data)
    if not levels or not 0.0 <= error < float("inf"):
        raise CorruptStreamError(f"{levels} levels filled in with an error of {error}")
    return Filling(levels, error), data[_FILLING.size :]


def read_stream(data: Buffer, limits: DecoderConfig) -> tuple[CloudInfo, Layout, dict[str, memoryview]]:
    """The cloud's description and the payloads of all other known chunks, every checksum verified.

    Raises StreamError subclasses; allocates nothing that depends on declared numbers.
    """
    view = _bytes_of(data)
    payloads = {}
    for tag, payload, checksum in _read_table(view, limits.max_bytes):
        if tag in KNOWN_CHUNKS:
            if tag in payloads:
                raise CorruptStreamError(f"chunk {tag} occurs twice")
            if zlib.crc32(payload) != checksum:
                raise CorruptStreamError(f"chunk {tag} of {len(payload)} bytes fails its checksum")
            payloads[tag] = payload
        elif _is_critical(tag):
            raise UnsupportedVersionError(f"chunk {tag!r} is needed for decoding and unknown to this reader")
    if CLOUD not in payloads:
        raise CorruptStreamError(f"chunk {CLOUD} is missing")
    cloud = _decode_cloud(payloads.pop(CLOUD))
    layout = _decode_layout(payloads.pop(FIELDS)) if FIELDS in payloads else Layout()
    if cloud.voxels > cloud.points and LIKELIEST not in payloads:
        raise CorruptStreamError(f"{cloud.voxels} voxels for {cloud.points} points")
    points = max(cloud.points, cloud.voxels) + layout.off_grid
    if points > limits.max_points:
        raise LimitExceededError(f"{points} points declared, the limit is {limits.max_points}")
    size = points * sum(np.dtype(field.dtype).itemsize * field.count for field in layout.fields if field.policy != "drop")
    if size > limits.max_field_bytes:
        raise LimitExceededError(f"fields of {size} bytes declared, the limit is {limits.max_field_bytes}")
    if (cloud.points + layout.off_grid) % layout.height:
        raise CorruptStreamError(f"{points} points do not make {layout.height} rows of one length")
    return cloud, layout, payloads


def inspect(data: Buffer, limits: DecoderConfig | None = None) -> StreamInfo:
    """Describe a stream without decoding it. Raises StreamError subclasses, as ``read_stream`` does."""
    limits = limits or DecoderConfig()
    cloud, layout, payloads = read_stream(data, limits)
    filling, _ = decode_filling(payloads[LIKELIEST]) if LIKELIEST in payloads else (Filling(), None)
    view = _bytes_of(data)
    chunks = tuple(ChunkInfo(tag, len(payload), _is_critical(tag)) for tag, payload, _ in _read_table(view, limits.max_bytes))
    return StreamInfo(
        version=view[4],
        model_name=cloud.model_name,
        model_hash=cloud.model_hash,
        calibrated=cloud.calibrated,
        adaptation=_adaptation_named(payloads),
        step=cloud.step,
        origin=cloud.origin,
        points=cloud.points + layout.off_grid,
        voxels=cloud.voxels,
        depth=cloud.depth,
        drop_scales=cloud.drop_scales,
        filled_scales=filling.levels,
        rms_error=filling.error,
        dtype=cloud.dtype,
        order="original" if ORDER in payloads or (IMAGE in payloads and layout.height > 1) else "codec",
        exact=REMAINDERS in payloads or _holds_exact_image(payloads),
        height=layout.height,
        position=layout.position,
        left_out=layout.left_out,
        fields=layout.fields,
        size=len(view),
        chunks=chunks,
    )


def write_adaptation(delta: bytes = b"", shared: str = "") -> bytes:
    """The ADAP chunk: a delta of the model, or else the hash of a shared one."""
    return b"\1" + bytes.fromhex(shared) if shared else b"\0" + delta


def read_adaptation(payload: memoryview) -> tuple[memoryview, str]:
    """Inverse of ``write_adaptation``: the delta, and the hash, which is empty where the delta itself is there.

    Raises CorruptStreamError.
    """
    kind = payload[0] if len(payload) else 255
    if kind > 1 or (kind == 1 and len(payload) != 1 + _HASH_SIZE):
        raise CorruptStreamError(f"chunk {ADAPTATION} of kind {kind} and {len(payload)} bytes")
    return (payload[1:], "") if kind == 0 else (payload[:0], bytes(payload[1:]).hex())


def _adaptation_named(payloads: Mapping[str, memoryview]) -> str:
    if ADAPTATION not in payloads:
        return ""
    return read_adaptation(payloads[ADAPTATION])[1] or "inline"


def _holds_exact_image(payloads: Mapping[str, memoryview]) -> bool:
    image = payloads.get(IMAGE, b"")
    return len(image) > 0 and not image[0] & INEXACT_IMAGE


def _bytes_of(data: Buffer) -> memoryview:
    """A flat view of bytes. Raises NotAStreamError for a buffer that is not one contiguous piece of memory."""
    view = memoryview(data)
    if not view.contiguous or not view.ndim:
        raise NotAStreamError(f"a buffer of {view.ndim} dimensions and {view.nbytes} bytes that are not contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _is_critical(tag: str) -> bool:
    return "A" <= tag[0] <= "Z"


def _read_table(data: memoryview, max_bytes: int) -> list[tuple[str, memoryview, int]]:
    """Tag, payload and declared CRC-32 of every chunk."""
    if len(data) < 4 or bytes(data[:4]) != MAGIC:
        raise NotAStreamError(f"{len(data)} bytes that begin with {bytes(data[:4])!r}, not with {MAGIC!r}")
    if len(data) < _HEADER.size:
        raise TruncatedError(f"{len(data)} bytes, shorter than the header of {_HEADER.size}")
    _, major, _, count, size, checksum = _HEADER.unpack_from(data)
    if major != MAJOR:
        raise UnsupportedVersionError(f"stream version {major}; this reader knows version {MAJOR}")
    if max(size, len(data)) > max_bytes:
        raise LimitExceededError(f"{max(size, len(data))} bytes, the limit is {max_bytes}")
    end = _HEADER.size + count * _ENTRY.size
    if len(data) < max(size, end):
        raise TruncatedError(f"{len(data)} of {max(size, end)} bytes")
    if len(data) > size:
        raise CorruptStreamError(f"{len(data) - size} bytes after the end of the stream")
    unsigned = bytearray(data[:end])
    unsigned[_HEADER.size - 4 : _HEADER.size] = bytes(4)
    if zlib.crc32(unsigned) != checksum:
        raise CorruptStreamError("the header fails its checksum")
    chunks, position = [], end
    for i in range(count):
        tag, length, crc = _ENTRY.unpack_from(data, _HEADER.size + i * _ENTRY.size)
        if length > size - position:
            raise CorruptStreamError(f"chunk {i} of {length} bytes exceeds the stream by {length - size + position}")
        chunks.append((tag.decode("latin-1"), data[position : position + length], crc))
        position += length
    if position != size:
        raise CorruptStreamError(f"chunks end at byte {position} of {size}")
    return chunks


def _encode_cloud(cloud: CloudInfo) -> bytes:
    has_origin = any(cloud.origin)
    kind = COORDINATE_DTYPES.index(cloud.dtype) | has_origin << 4 | (not cloud.calibrated) << 5
    name, digest = cloud.model_name.encode("utf-8", "replace")[:255], bytes.fromhex(cloud.model_hash)
    parts = [
        bytes([kind, cloud.depth, cloud.drop_scales]),
        _STEP.pack(cloud.step),
        _ORIGIN.pack(*cloud.origin) if has_origin else b"",
        *(encode_signed(value) for value in cloud.shift),
        encode_varint(cloud.points),
        encode_varint(cloud.voxels),
        _CHECKSUM.pack(cloud.checksum),
        bytes([len(digest), len(name)]),
        digest,
        name,
    ]
    return b"".join(parts)


def _decode_cloud(data: memoryview) -> CloudInfo:
    try:
        kind, depth, drop_scales = data[0], data[1], data[2]
        (step,) = _STEP.unpack_from(data, 3)
        position = 3 + _STEP.size
        origin = (0.0, 0.0, 0.0)
        if kind >> 4 & 1:
            origin = _ORIGIN.unpack_from(data, position)
            position += _ORIGIN.size
        numbers = []
        for decode in (decode_signed, decode_signed, decode_signed, decode_varint, decode_varint):
            value, position = decode(data, position)
            numbers.append(value)
        (checksum,) = _CHECKSUM.unpack_from(data, position)
        position += _CHECKSUM.size
        digest_size, name_size = data[position], data[position + 1]
    except (IndexError, struct.error) as error:
        raise TruncatedError(f"chunk {CLOUD} of {len(data)} bytes is too short") from error
    position += 2
    digest, name = data[position : position + digest_size], data[position + digest_size :]
    x, y, z, points, voxels = numbers
    dtype = kind & 15
    if digest_size not in (0, _HASH_SIZE):
        raise CorruptStreamError(f"a model's hash of {digest_size} bytes, not {_HASH_SIZE}")
    if dtype >= len(COORDINATE_DTYPES) or kind >> 6 or len(name) != name_size:
        raise CorruptStreamError(f"chunk {CLOUD} is inconsistent (kind {kind}, {len(data)} bytes)")
    if not 0.0 < step < float("inf") or not all(abs(v) < float("inf") for v in origin):
        raise CorruptStreamError(f"step {step} and origin {origin} do not make a grid")
    if depth > MAX_DEPTH or drop_scales > depth:
        raise CorruptStreamError(f"{depth} octree levels, {drop_scales} of them dropped")
    if bool(voxels) != bool(points) or max(abs(x), abs(y), abs(z)) >= 1 << 53:
        raise CorruptStreamError(f"{voxels} voxels for {points} points at {x, y, z}")
    return CloudInfo(
        dtype=COORDINATE_DTYPES[dtype],
        step=step,
        origin=origin,
        shift=(x, y, z),
        points=points,
        voxels=voxels,
        depth=depth,
        drop_scales=drop_scales,
        checksum=checksum,
        model_name=bytes(name).decode("utf-8", "replace"),
        model_hash=bytes(digest).hex(),
        calibrated=not kind >> 5,
    )


def _encode_layout(layout: Layout) -> bytes:
    numbers = (layout.height, layout.position, layout.left_out, layout.off_grid, len(layout.fields))
    return b"".join([*map(encode_varint, numbers), *map(_encode_field, layout.fields)])


def _encode_field(field: FieldInfo) -> bytes:
    name, policy = field.name.encode("utf-8", "surrogatepass"), POLICIES.index(field.policy)
    parts = [bytes([FIELD_DTYPES.index(field.dtype) | policy << 4]), encode_varint(field.count), encode_varint(len(name)), name]
    if field.policy == "step":
        parts.append(_LOSS.pack(field.step, field.largest_error))
    if field.policy != "drop":
        parts.append(encode_varint(field.size))
    return b"".join(parts)


def _decode_layout(data: memoryview) -> Layout:
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
        raise TruncatedError(f"chunk {FIELDS} of {len(data)} bytes is too short")
    dtype, policy = data[at] & 15, data[at] >> 4
    count, at = decode_varint(data, at + 1)
    length, at = decode_varint(data, at)
    if dtype >= len(FIELD_DTYPES) or policy >= len(POLICIES) or length > len(data) - at:
        raise CorruptStreamError(f"a field of dtype {dtype} and policy {policy} with a name of {length} bytes")
    try:
        name = bytes(data[at : at + length]).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CorruptStreamError(f"the name of a field is not UTF-8: {error}") from error
    at += length
    step = largest_error = 0.0
    if POLICIES[policy] == "step":
        if len(data) - at < _LOSS.size:
            raise TruncatedError(f"chunk {FIELDS} of {len(data)} bytes is too short")
        step, largest_error = _LOSS.unpack_from(data, at)
        at += _LOSS.size
        if not (0.0 < step < float("inf") and 0.0 <= largest_error <= step):
            raise CorruptStreamError(f"field {name!r} in steps of {step} with an error of {largest_error}")
    size = 0
    if POLICIES[policy] != "drop":
        size, at = decode_varint(data, at)
    return FieldInfo(name, FIELD_DTYPES[dtype], count, POLICIES[policy], step, largest_error, size), at
