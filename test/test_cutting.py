"""A stream that was cut is the one that the encoder writes with more scales dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.cutting import cut
from anypcc_ros.codec.entropy import encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, CutError, StreamError

WITHOUT_FIELDS = ("*=drop",)


@pytest.fixture(scope="module")
def cloud(sample_cloud: PointCloud) -> PointCloud:
    """A real scan with fields, in which one point is invalid."""
    xyz = sample_cloud.xyz.copy()
    xyz[77] = np.nan
    return replace(sample_cloud, xyz=xyz)


@pytest.fixture(scope="module")
def stream(cloud: PointCloud) -> bytes:
    return Encoder(CodecConfig(step=0.01)).encode(cloud)


def encoded(cloud: PointCloud, scales: int, **options: object) -> bytes:
    """What the encoder writes where fields, order and duplicates are no matter."""
    config = CodecConfig(step=0.01, drop_scales=scales, lossy="scales", fields=WITHOUT_FIELDS, **options)
    return Encoder(config).encode(cloud)


@pytest.mark.parametrize("scales", [1, 2])
def test_cutting_gives_the_bytes_that_the_encoder_writes(cloud, stream, scales):
    assert inspect(stream).left_out == 1
    assert cut(stream, scales) == encoded(cloud, scales)


@pytest.mark.parametrize("scales", [0, 1, 2])
def test_no_point_is_farther_off_than_the_stream_says(cloud, stream, scales):
    shorter = cut(stream, scales) if scales else stream
    decoded = Decoder().decode(shorter).xyz.astype(np.float64)
    xyz = cloud.finite()[0].xyz.astype(np.float64)
    info, rounding = inspect(shorter), float(np.spacing(np.float32(np.abs(xyz).max())))
    edge = 0.01 * 2**scales
    corner = np.rint(xyz / 0.01).astype(np.int64)
    own = (corner - corner.min(axis=0) >> scales) * edge + (corner.min(axis=0) + (2**scales - 1) / 2) * 0.01
    off = np.abs(own - xyz)
    here, there = ({tuple(cell) for cell in np.rint((places - own[0]) / edge).tolist()} for places in (own, decoded))
    assert here == there
    assert 0.9 * info.axis_error < off.max() <= info.axis_error + rounding
    assert np.sqrt((off**2).sum(axis=1)).max() <= info.point_error + rounding


def test_integers_on_their_own_grid_and_exact_coordinates_have_no_error():
    cells = PointCloud(np.random.default_rng(1).integers(0, 90, (300, 3)).astype(np.int32))
    errors = [inspect(Encoder(config).encode(cells)).axis_error for config in (CodecConfig(step=1.0), CodecConfig(step=2.0))]
    assert errors == [0.0, 1.0]
    assert inspect(Encoder(CodecConfig(exact=True)).encode(PointCloud(cells.xyz * np.float32(0.017)))).point_error == 0.0


def test_two_cuts_are_one(stream):
    assert cut(cut(stream, 1), 1) == cut(stream, 2)


def test_order_rows_and_invalid_points_are_dropped(cloud):
    in_order = Encoder(CodecConfig(step=0.01, order="original")).encode(replace(cloud, height=10))
    assert cut(in_order, 2) == encoded(cloud, 2)


def test_points_off_the_grid_stay_and_exact_floats_are_dropped(cloud):
    xyz = cloud.xyz.copy()
    xyz[5] = 1e30
    stream = Encoder(CodecConfig(step=0.01, exact=True, order="original")).encode(replace(cloud, xyz=xyz))
    shorter = cut(stream, 1)
    info = inspect(shorter)
    assert (info.exact, info.order, info.left_out, info.drop_scales) == (False, "codec", 1, 1)
    decoded = Decoder().decode(shorter).xyz
    assert (decoded[-1] == xyz[5]).all()
    near = np.delete(xyz, [5, 77], axis=0).astype(np.float64)
    cells = np.unique(np.rint(near / 0.01).astype(np.int64) - np.rint(near / 0.01).astype(np.int64).min(axis=0) >> 1, axis=0)
    assert len(decoded) == len(cells) + 1


@pytest.mark.parametrize("scales", [1, 3, None])
def test_a_small_raw_cloud(scales):
    rng = np.random.default_rng(5)
    few = PointCloud(rng.integers(0, 1 << 12, (4, 3)).astype(np.int32), {"id": np.arange(4)})
    stream = Encoder(CodecConfig(step=1.0)).encode(few)
    info = inspect(stream)
    assert any(chunk.tag == bitstream.RAW for chunk in info.chunks)
    scales = scales or info.depth
    config = CodecConfig(step=1.0, drop_scales=scales, fields=WITHOUT_FIELDS)
    shorter = cut(stream, scales)  # with a model the encoder may find a smaller form than the raw one
    assert Decoder().decode(shorter).xyz.tobytes() == Decoder().decode(Encoder(config).encode(few)).xyz.tobytes()
    assert inspect(shorter).points == 4


def test_an_empty_cloud_can_be_cut():
    empty = PointCloud(np.zeros((0, 3), np.float32), {"i": np.zeros(0, np.uint8)})
    assert cut(Encoder().encode(empty), 2) == Encoder(CodecConfig(fields=WITHOUT_FIELDS, drop_scales=2)).encode(empty)


def test_what_cannot_be_cut_is_refused(stream, golden):
    with pytest.raises(CutError, match="0 scales"):
        cut(stream, 0)
    with pytest.raises(CutError, match="at most"):
        cut(stream, 9)
    with pytest.raises(CutError, match="lattice"):
        cut((golden / "lattice.tiny.apcc").read_bytes(), 1)
    with pytest.raises(CutError, match="small"):
        cut((golden / "duplicates.tiny.apcc").read_bytes(), 1)
    with pytest.raises(StreamError):
        cut(stream[:-1], 1)


def test_a_forged_table_is_refused(stream):
    info, layout, chunks = bitstream.read_stream(stream, DecoderConfig())
    payloads = {tag: bytes(payload) for tag, payload in chunks.items()}
    table = payloads[bitstream.CUTS]
    rng, expected = np.random.default_rng(0), Decoder().decode(cut(stream, 1)).xyz.tobytes()
    for _ in range(40):
        forged = bytearray(table)
        forged[rng.integers(len(table))] = rng.integers(256)
        forged = forged[: rng.integers(len(table) + 1)]
        shorter = bitstream.write_stream(info, payloads | {bitstream.CUTS: bytes(forged)}, layout)
        try:
            assert Decoder().decode(cut(shorter, 1)).xyz.tobytes() == expected  # the other entries were forged
        except (CutError, StreamError):
            continue


def test_a_table_of_more_cuts_than_levels_is_refused(stream):
    """Each of a few bytes, and as long as the stream once it is put together."""
    info, layout, chunks = bitstream.read_stream(stream, DecoderConfig())
    payloads = {tag: bytes(payload) for tag, payload in chunks.items()}
    words = len(payloads[bitstream.OCCUPANCY]) // 4 - 1
    entry = encode_varint(1) + bytes(4) + encode_varint(words) + encode_varint(0)
    forged = bitstream.write_stream(info, payloads | {bitstream.CUTS: entry * (info.coded_depth + 1)}, layout)
    with pytest.raises(CorruptStreamError, match="cuts of"):
        cut(forged, 1)


def test_the_table_is_small_and_without_it_the_stream_decodes_alike(stream):
    info, layout, chunks = bitstream.read_stream(stream, DecoderConfig())
    payloads = {tag: bytes(payload) for tag, payload in chunks.items()}
    assert len(payloads.pop(bitstream.CUTS)) <= 60
    bare = bitstream.write_stream(info, payloads, layout)
    assert Decoder().decode(bare).xyz.tobytes() == Decoder().decode(stream).xyz.tobytes()


def test_only_long_streams_have_a_table(scan):
    assert bitstream.CUTS not in {chunk.tag for chunk in inspect(Encoder(CodecConfig(step=0.5)).encode(scan)).chunks}
