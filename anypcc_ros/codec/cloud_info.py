"""The chunk CLOU, specified in docs/bitstream.md: the grid, the counts, the model."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.cloud import COORDINATE_DTYPES
from anypcc_ros.codec.entropy import decode_signed, decode_varint, encode_signed, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.octree import MAX_DEPTH

HASH_SIZE = 8
"""Bytes of the hash of a model or an adaptation."""

_STEP = struct.Struct("<d")
_ORIGIN = struct.Struct("<3d")
_CHECKSUM = struct.Struct("<I")


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


def cells_checksum(coords: np.ndarray) -> int:
    """The checksum of cells (N, 3) in Morton order, as in CloudInfo."""
    return zlib.crc32(np.ascontiguousarray(coords, "<u4").data)


def encode_cloud_info(cloud: CloudInfo) -> bytes:
    """The chunk's payload."""
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


def decode_cloud_info(data: memoryview) -> CloudInfo:
    """Inverse of ``encode_cloud_info``. Raises CorruptStreamError, TruncatedError."""
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
        raise TruncatedError(f"chunk CLOU of {len(data)} bytes is too short") from error
    position += 2
    digest, name = data[position : position + digest_size], data[position + digest_size :]
    x, y, z, points, voxels = numbers
    dtype = kind & 15
    if digest_size not in (0, HASH_SIZE):
        raise CorruptStreamError(f"a model's hash of {digest_size} bytes, not {HASH_SIZE}")
    if dtype >= len(COORDINATE_DTYPES) or kind >> 6 or len(name) != name_size:
        raise CorruptStreamError(f"chunk CLOU is inconsistent (kind {kind}, {len(data)} bytes)")
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
