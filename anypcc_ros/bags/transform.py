"""The unit of work: some messages in, as many results out. Pure functions, so that any process on any machine may run them."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags.peers import PeerSizes, peer_sizes
from anypcc_ros.bags.types import COMPRESSED_CLOUD, POINT_CLOUD, typestore
from anypcc_ros.codec.bitstream import StreamInfo, inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig, TargetConfig
from anypcc_ros.codec.errors import InputError, StreamError, UnsupportedVersionError
from anypcc_ros.codec.layout import FieldInfo
from anypcc_ros.codec.model.adaptations import Adaptation, adaptations_in
from anypcc_ros.codec.rate import DEFAULT_PERIOD, RateControl
from anypcc_ros.pointcloud2 import (
    FORMAT,
    Field,
    MessageLayout,
    body_from_cloud,
    cloud_from_message,
    layout_in,
    special_layout,
)


@dataclass(frozen=True)
class CompressTask:
    """What to do with each message of a slice. ``target``: how large each stream shall be, found for each by itself, so that no
    message depends on another. ``compare``: also find out what zstd and Draco would need."""

    config: CodecConfig
    target: TargetConfig = TargetConfig()  # noqa: RUF009 - frozen
    compare: bool = False


@dataclass(frozen=True)
class Reading:
    """How streams are decoded, wherever that is done. ``limits``: what one may ask for, without a file of adaptations;
    ``adaptations``: those that it may name."""

    limits: DecoderConfig
    adaptations: tuple[Adaptation, ...] = ()

    @classmethod
    def of(cls, config: DecoderConfig) -> Reading:
        """With the adaptations that are in the configuration's file or folder. Raises FileError, StreamError subclasses."""
        return cls(replace(config, adaptation=""), tuple(adaptations_in(config.adaptation)))

    def knowing(self, adaptations: Mapping[str, Iterable[Adaptation]]) -> Reading:
        """With those as well that are on some topics."""
        more = itertools.chain.from_iterable(adaptations.values())
        return replace(self, adaptations=tuple(dict.fromkeys((*self.adaptations, *more))))


@dataclass(frozen=True)
class RestoreTask:
    reading: Reading


@dataclass(frozen=True)
class Statistics:
    """Figures of one cloud. ``seconds``: of encoding or decoding. ``step`` of its grid; ``exact``: positions bit for bit;
    ``wanted``: bytes that the stream should have had, 0 for any."""

    points: int
    raw_size: int
    stream_size: int
    seconds: float
    left_out: int
    step: float
    exact: bool
    order: str
    fields: tuple[FieldInfo, ...]
    peers: PeerSizes | None = None
    wanted: float = 0.0


@dataclass(frozen=True)
class Done:
    """The new message, serialised. ``adaptation``: hash of the shared one that its stream names, if there is one."""

    data: bytes
    statistics: Statistics
    adaptation: str = ""


@dataclass(frozen=True)
class Failed:
    """Why there is no new message. ``damaged``: the old one contradicts itself, and is not merely one we have no code for."""

    reason: str
    damaged: bool


Result: TypeAlias = Done | Failed


Argument: TypeAlias = tuple[bytes, Adaptation | None]
"""A serialised message, and by which adaptation the model is changed if that is to be compressed."""


def run_slice(task: CompressTask | RestoreTask, messages: Sequence[Argument]) -> list[Result]:
    """The results for some messages, in their order. Raises only what no message can be blamed for."""
    if isinstance(task, CompressTask):
        return [_compress(task, data, adaptation) for data, adaptation in messages]
    return [_restore(task, data) for data, _ in messages]


def _compress(task: CompressTask, data: bytes, adaptation: Adaptation | None) -> Result:
    try:
        message = read_message(data, POINT_CLOUD)
        cloud = cloud_from_message(message)
        layout = special_layout(message, keep_padding=True)
    except SerdeError as error:
        return Failed(f"not a PointCloud2: {error}", damaged=True)
    except InputError as error:
        return Failed(str(error), damaged=_contradicts_itself(message))
    encoder = _encoder(task.config, adaptation)
    start = time.perf_counter()
    try:
        stream = RateControl(task.target).encode(encoder, cloud)
    except InputError as error:
        return Failed(str(error), damaged=False)
    seconds = time.perf_counter() - start
    info = inspect(stream)
    peers = peer_sizes(data, cloud, task.config) if task.compare else None
    statistics = replace(
        _statistics(info, len(message.data), seconds, peers), wanted=task.target.bytes_of(len(cloud), DEFAULT_PERIOD)
    )
    return Done(_compressed_message(message, stream, info, layout), statistics, info.adaptation)


def _restore(task: RestoreTask, data: bytes) -> Result:
    start = time.perf_counter()
    try:
        message, cloud, info = decode_message(data, task.reading)
        body = body_from_cloud(cloud, layout_in(message))
    except SerdeError as error:
        return Failed(f"not a CompressedCloud: {error}", damaged=True)
    except (StreamError, InputError) as error:
        return Failed(f"{type(error).__name__}: {error}", damaged=True)
    seconds = time.perf_counter() - start
    return Done(point_cloud_message(message.header, body), _statistics(info, message.raw_size, seconds))


def decode_message(data: bytes, reading: Reading) -> tuple[Any, PointCloud, StreamInfo]:
    """A CompressedCloud message, its cloud, and what its stream says. Raises SerdeError, StreamError, InputError."""
    message = read_message(data, COMPRESSED_CLOUD)
    if message.format != FORMAT:
        raise UnsupportedVersionError(f"format {message.format!r}; this version reads {FORMAT!r}")
    stream = memoryview(message.data)
    return message, _decoder(reading).decode(stream), inspect(stream, reading.limits)


def read_message(data: bytes, type_name: str) -> Any:
    """A deserialised message. Raises SerdeError for whatever is wrong with its bytes."""
    try:
        return typestore().deserialize_cdr(data, type_name)
    except SerdeError:
        raise
    except (IndexError, ValueError, AssertionError, MemoryError, struct.error) as error:
        raise SerdeError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=8)
def _encoder(config: CodecConfig, adaptation: Adaptation | None) -> Encoder:
    """Building one takes longer than using it; what it returns depends on its arguments alone."""
    return Encoder(config, adaptation=adaptation)


@lru_cache(maxsize=2)
def _decoder(reading: Reading) -> Decoder:
    return Decoder(reading.limits, reading.adaptations)


def _statistics(info: StreamInfo, raw_size: int, seconds: float, peers: PeerSizes | None = None) -> Statistics:
    return Statistics(
        points=info.points,
        raw_size=raw_size,
        stream_size=info.size,
        seconds=seconds,
        left_out=info.left_out,
        step=info.step,
        exact=info.exact,
        order=info.order,
        fields=info.fields,
        peers=peers,
    )


def _contradicts_itself(message: Any) -> bool:
    """Whether the sizes of a PointCloud2 do not fit together; if they do, it is merely one without x, y and z."""
    ends = [field.offset for field in message.fields]
    row = message.width * message.point_step
    return bool(
        any(end >= message.point_step for end in ends)
        or message.row_step < row
        or message.height * message.row_step != len(message.data)
    )


def _compressed_message(original: Any, stream: bytes, info: StreamInfo, layout: MessageLayout | None) -> bytes:
    types = typestore().types
    message = types[COMPRESSED_CLOUD](
        header=original.header,
        format=FORMAT,
        points=info.points,
        raw_size=len(original.data),
        fields=_fields(layout.fields if layout else ()),
        point_step=layout.point_step if layout else 0,
        row_padding=layout.row_padding if layout else 0,
        data=np.frombuffer(stream, np.uint8),
    )
    return bytes(typestore().serialize_cdr(message, COMPRESSED_CLOUD))


def point_cloud_message(header: Any, body: Any) -> bytes:
    """A serialised PointCloud2 with all of ``body``: of a Body, or of another message."""
    message = typestore().types[POINT_CLOUD](
        header=header,
        height=body.height,
        width=body.width,
        fields=_fields(body.fields),
        is_bigendian=body.is_bigendian,
        point_step=body.point_step,
        row_step=body.row_step,
        data=np.frombuffer(body.data, np.uint8),
        is_dense=body.is_dense,
    )
    return bytes(typestore().serialize_cdr(message, POINT_CLOUD))


def _fields(fields: Sequence[Field]) -> list[Any]:
    kind = typestore().types["sensor_msgs/msg/PointField"]
    return [kind(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in fields]
