"""The fields besides x, y and z: each by its policy, in the order of the codec's points."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from anypcc_ros.codec.bitstream import FieldInfo
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import CorruptStreamError


def encode_fields(fields: Mapping[str, np.ndarray], config: CodecConfig) -> tuple[tuple[FieldInfo, ...], bytes]:
    """What the stream says of the fields, (N,) or (N, count) in the codec's order of points, and their coded values."""
    infos, payloads = [], []
    for name, values in fields.items():
        policy = config.policy(name)
        count = 1 if values.ndim == 1 else values.shape[1]
        payload = b"" if policy.kind == "drop" else zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes())
        infos.append(FieldInfo(name, values.dtype.name, count, policy.kind, policy.step, 0.0, len(payload)))
        payloads.append(payload)
    return tuple(infos), b"".join(payloads)


def decode_fields(infos: tuple[FieldInfo, ...], data: memoryview, points: int) -> dict[str, np.ndarray]:
    """Inverse of ``encode_fields``. Raises StreamError subclasses."""
    fields, position = {}, 0
    for info in infos:
        if info.policy == "drop":
            continue
        payload = data[position : position + info.size]
        position += info.size
        dtype = np.dtype(info.dtype)
        size = points * info.count * dtype.itemsize
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(payload, size + 1)
        except zlib.error as error:
            raise CorruptStreamError(f"field {info.name!r}: {error}") from error
        if len(raw) != size or not inflater.eof:
            raise CorruptStreamError(f"field {info.name!r} has {len(raw)} bytes, {size} are needed")
        values = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
        fields[info.name] = values if info.count == 1 else values.reshape(points, info.count)
    if position != len(data):
        raise CorruptStreamError(f"{len(data)} bytes of fields, {position} are declared")
    return fields
