"""The container of a compressed cloud, specified in docs/bitstream.md: header, chunk table, limits, checksums."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from anypcc_ros.codec.cloud_info import HASH_SIZE, CloudInfo, decode_cloud_info, encode_cloud_info
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.errors import (
    CorruptStreamError,
    LimitExceededError,
    NotAStreamError,
    TruncatedError,
    UnsupportedVersionError,
)
from anypcc_ros.codec.layout import FieldInfo, Layout, decode_layout, encode_layout

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

_HEADER = struct.Struct("<4sBBHQI")  # magic, major, minor, chunks, stream bytes, CRC-32 of header and table
_ENTRY = struct.Struct("<4sQI")  # tag, payload bytes, CRC-32 of the payload
ENTRY_SIZE = _ENTRY.size
"""Bytes that a chunk takes besides its payload."""

_FILLING = struct.Struct("<Bd")  # levels, error


@dataclass(frozen=True)
class ChunkInfo:
    """One entry of the chunk table. Readers skip an unknown chunk unless it is critical (upper-case first letter)."""

    tag: str
    size: int
    critical: bool


@dataclass(frozen=True)
class Filling:
    """What the LIKE chunk says first: the octree's finest ``levels`` are filled in; ``error``: root mean square of the distance
    between the cloud on its grid and the decoded one, the larger of both directions, in the coordinates' unit, as the encoder
    measured it. The default goes without the chunk."""

    levels: int = 0
    error: float = 0.0


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
        cell = self.step * 2.0**self.drop_scales
        on_grid = cell * (2.0**self.filled_scales - 1) if self.filled_scales else 0.0
        own_grid = self.step == 1 and not self.drop_scales and "int" in self.dtype and all(v.is_integer() for v in self.origin)
        return 0.0 if self.exact else on_grid + (0.0 if own_grid else cell / 2)

    @property
    def point_error(self) -> float:
        """Length of the diagonal of such errors."""
        return math.sqrt(3) * self.axis_error

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bpp": self.bpp, "axis_error": self.axis_error, "point_error": self.point_error}


def write_stream(cloud: CloudInfo, payloads: Mapping[str, bytes], layout: Layout | None = None) -> bytes:
    """A complete stream: header, chunk table, the CLOU chunk, the FLDS chunk if it is needed, then ``payloads`` by tag."""
    described = {} if layout in (None, Layout()) else {FIELDS: encode_layout(layout)}
    chunks = {CLOUD: encode_cloud_info(cloud), **described, **payloads}
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
    cloud = decode_cloud_info(payloads.pop(CLOUD))
    layout = decode_layout(payloads.pop(FIELDS)) if FIELDS in payloads else Layout()
    if cloud.voxels > cloud.points and LIKELIEST not in payloads:
        raise CorruptStreamError(f"{cloud.voxels} voxels for {cloud.points} points")
    points = max(cloud.points, cloud.voxels) + layout.off_grid
    if points > limits.max_points:
        raise LimitExceededError(f"{points} points declared, the limit is {limits.max_points}")
    kept = (field for field in layout.fields if field.policy != "drop")
    size = max(points, 1) * sum(np.dtype(field.dtype).itemsize * field.count for field in kept)
    if size > limits.max_field_bytes:
        raise LimitExceededError(f"fields of {size} bytes declared, the limit is {limits.max_field_bytes}")
    if layout.height > limits.max_points:
        raise LimitExceededError(f"{layout.height} rows declared, the limit is {limits.max_points}")
    if (cloud.points + layout.off_grid) % layout.height:
        raise CorruptStreamError(f"{points} points do not make {layout.height} rows of one length")
    return cloud, layout, payloads


def inspect(data: Buffer, limits: DecoderConfig | None = None) -> StreamInfo:
    """Describe a stream without decoding it. Raises StreamError subclasses, as ``read_stream`` does."""
    limits = limits or DecoderConfig()
    cloud, layout, payloads = read_stream(data, limits)
    filling, _ = decode_filling(payloads[LIKELIEST]) if LIKELIEST in payloads else (Filling(), None)
    if filling.levels and filling.levels >= cloud.coded_depth:
        raise CorruptStreamError(f"{filling.levels} of {cloud.coded_depth} levels filled in")
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
    if kind > 1 or (kind == 1 and len(payload) != 1 + HASH_SIZE):
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
