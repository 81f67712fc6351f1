"""The nodes as a user runs them: separate processes, real DDS. What comes out, what is counted, what is survived."""

from __future__ import annotations

import dataclasses
import queue
import struct
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from anypcc_ros.msg import CompressedCloud
from rclpy.serialization import serialize_message
from ros_network import (
    cloud_message,
    contents,
    coordinates,
    on_grid,
    started,
    structured_message,
    until,
)

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.layout import encode_layout
from anypcc_ros.codec.model.integer import save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.nodes.codec_node import WARNING_PERIOD
from anypcc_ros.nodes.conversion import as_uint8_sequence, message_from_cloud

STEP = 0.02
ENCODER, DECODER = "anypcc_encoder", "anypcc_decoder"


@pytest.fixture(scope="module")
def pair(ros):
    """An encoder and a decoder that several tests share; each test brings its own peer."""
    with (
        started("encoder_node", step=STEP, diagnostics_period=0.2) as encoder,
        started("decoder_node", diagnostics_period=0.2) as decoder,
    ):
        yield encoder, decoder


@pytest.fixture
def chain(pair, peer):
    peer.listen_decoded()
    peer.settle(ENCODER, DECODER)
    return peer


@pytest.fixture(scope="session")
def stream(scan):
    return Encoder(CodecConfig(step=STEP)).encode(scan)


def compressed(data: bytes, **fields) -> CompressedCloud:
    return CompressedCloud(data=as_uint8_sequence(data), format="apcc/1", **fields)


# The way through


@pytest.mark.parametrize("stamp", [(0, 0), (1_700_000_000, 123_456_789), (-(2**31), 999_999_999), (2**31 - 1, 2**32 - 1)])
def test_a_cloud_comes_back_exact_with_its_header(chain, xyz, stamp):
    sent = cloud_message(xyz, stamp, "lidar/front ü")
    back = chain.pass_through(sent)
    assert back.header == sent.header
    assert contents(back) == contents(sent, STEP)
    assert [field.name for field in back.fields] == ["x", "y", "z", "intensity", "ring"]
    assert (back.point_step, back.is_dense, back.is_bigendian) == (18, True, False)


def layout_padded_big_endian(xyz):
    layout = np.dtype(
        {
            "names": ["z", "t", "x", "y", "ring"],
            "formats": [">f4", ">f8", ">f4", ">f4", ">u2"],
            "offsets": [3, 7, 15, 20, 25],
            "itemsize": 31,
        }
    )
    points = np.zeros(len(xyz), layout)
    points["x"], points["y"], points["z"] = xyz.T
    points["t"], points["ring"] = np.arange(len(xyz)) * 1e-6, np.arange(len(xyz)) % 16
    return structured_message(points, big_endian=True)


def layout_organised_with_holes(xyz):
    xyz = xyz.copy()
    xyz[::7] = np.nan
    xyz[3, 1] = np.inf
    message = cloud_message(xyz)
    message.height, message.width, message.is_dense = 16, len(xyz) // 16, False
    message.row_step = message.width * message.point_step + 5
    rows = np.frombuffer(message.data, np.uint8).reshape(16, -1)
    message.data = as_uint8_sequence(np.pad(rows, ((0, 0), (0, 5)), constant_values=255))
    return message


def layout_doubles_far_away(xyz):
    points = np.zeros(len(xyz), [(axis, "<f8") for axis in "xyz"])
    for axis, values, offset in zip("xyz", xyz.T, (500_000.0, 5_400_000.0, 300.0), strict=True):  # a UTM map
        points[axis] = values + offset
    return structured_message(points)


def layout_colours_before_short_integers(xyz):
    points = np.zeros(len(xyz), [("rgb", "<f4"), ("x", "<i2"), ("y", "<i2"), ("z", "<i2"), ("label", "i1")])
    points["x"], points["y"], points["z"] = np.rint(xyz.T)
    points["rgb"] = np.random.default_rng(0).integers(0, 1 << 24, len(xyz)).astype("<u4").view("<f4")
    return structured_message(points)


def layout_single_point(xyz):
    return cloud_message(xyz[:1])


def layout_empty(xyz):
    return cloud_message(xyz[:0])


def layout_duplicates(xyz):
    return cloud_message(np.repeat(xyz[:500], 3, axis=0))


@pytest.mark.parametrize(
    "make",
    [
        layout_padded_big_endian,
        layout_organised_with_holes,
        layout_doubles_far_away,
        layout_colours_before_short_integers,
        layout_single_point,
        layout_empty,
        layout_duplicates,
    ],
    ids=lambda make: make.__name__.removeprefix("layout_"),
)
def test_other_layouts_come_back_exact(chain, xyz, make):
    message = make(xyz)
    back = chain.pass_through(message)
    assert contents(back) == contents(message, STEP)
    assert [(f.name, f.datatype) for f in back.fields] == [(f.name, f.datatype) for f in message.fields]


def test_every_frame_at_ten_hertz(chain, xyz):
    before = chain.count(ENCODER, "frames received")
    for number in range(20):
        chain.clouds.publish(cloud_message(xyz[: 2000 + number], (number, 0)))
        time.sleep(0.1)
    received = [chain.take(chain.decoded) for _ in range(10)]
    try:  # a machine busy with other things may be late for a few
        while True:
            received.append(chain.decoded.get(timeout=1))
    except queue.Empty:
        pass
    numbers = [message.header.stamp.sec for message in received]
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert [message.width for message in received] == [2000 + number for number in numbers]
    until(
        lambda: (
            chain.count(ENCODER, "frames received") - before == 20 and chain.count(DECODER, "frames received") >= len(received)
        ),
        "all frames in the reports",
    )


def test_the_message_data_is_a_stream_and_its_fields_are_true(pair, peer, xyz, tmp_path):
    peer.listen_compressed()
    sent = cloud_message(xyz, (5, 6))
    peer.clouds.publish(sent)
    message = peer.take(peer.compressed)
    assert (message.header, message.format) == (sent.header, "apcc/1")
    assert (message.points, message.raw_size) == (len(xyz), len(sent.data))
    data = bytes(message.data)
    assert contents(message_from_cloud(Decoder().decode(data), sent.header)) == contents(sent, STEP)
    info = bitstream.inspect(data)
    assert (info.points, info.step) == (len(xyz), STEP)


# Bad messages


def unknown_model(stream, make_model, scan, tmp_path):
    path = tmp_path / "elsewhere.safetensors"
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=1)), path)
    return Encoder(CodecConfig(step=STEP, model=str(path))).encode(scan)


def far_too_many_points(stream):
    """A well-formed stream that declares 4 billion points."""
    cloud, _, payloads = bitstream.read_stream(stream, DecoderConfig())
    return bitstream.write_stream(
        dataclasses.replace(cloud, points=4_000_000_000), {tag: bytes(payload) for tag, payload in payloads.items()}
    )


def next_version(stream):
    return stream[:4] + bytes([stream[4] + 1]) + stream[5:]


def flipped(stream):
    return stream[:-50] + bytes([stream[-50] ^ 1]) + stream[-49:]


def named_strangely(policy):
    """A cloud with a field whose name no ROS string can hold, a lone surrogate in the bytes of UTF-8."""
    cloud = PointCloud(np.zeros((1, 3), np.float32), {"öa": np.zeros(1, np.uint8)})
    stream = Encoder(CodecConfig(fields=(f"*={policy}",))).encode(cloud)
    info, layout, chunks = bitstream.read_stream(stream, DecoderConfig())
    fields = encode_layout(layout).replace("öa".encode(), b"\xed\xa0\x80")
    return bitstream.write_stream(info, {tag: bytes(data) for tag, data in chunks.items()} | {"FLDS": fields})


def test_bad_streams_are_counted_by_kind_and_the_next_good_one_is_exact(chain, pair, stream, scan, make_model, tmp_path):
    _, decoder = pair
    bad = {
        "NotAStreamError": [b"", b"x", b"\0" * 100, b"DRACO\x02\x02" + bytes(50), bytes(range(256)) * 40],
        "TruncatedError": [stream[: len(stream) // 2], stream[:-1]],
        "UnsupportedVersionError": [next_version(stream)],
        "CorruptStreamError": [flipped(stream)],
        "LimitExceededError": [far_too_many_points(stream)],
        "ModelNotFoundError": [unknown_model(stream, make_model, scan, tmp_path)],
    }
    bad["CorruptStreamError"] += [named_strangely(policy) for policy in ("exact", "drop")]
    published, start = chain.count(DECODER, "frames published"), time.monotonic()
    for kind, streams in bad.items():
        before = chain.count(DECODER, f"errors {kind}")
        for number, data in enumerate(streams, 1):
            chain.streams.publish(compressed(data))
            chain.wait_for_count(DECODER, f"errors {kind}", before + number)
    assert chain.decoded.empty()
    chain.streams.publish(compressed(stream, points=len(scan)))
    np.testing.assert_array_equal(coordinates(chain.take(chain.decoded)), on_grid(scan.xyz, STEP))
    chain.wait_for_count(DECODER, "frames published", published + 1)
    # Throttled: one warning for the five NotAStreamErrors, or as many as the time allowed on a busy machine.
    decoder.wait_for_log("ModelNotFoundError")
    assert 1 <= decoder.log.count("NotAStreamError") <= 1 + (time.monotonic() - start) // WARNING_PERIOD
    # The missing model is named along with what there is.
    (line,) = [line for line in decoder.log.splitlines() if "ModelNotFoundError" in line]
    digest = bitstream.inspect(bad["ModelNotFoundError"][0]).model_hash
    assert f"model {digest} is not installed" in line
    assert Encoder(CodecConfig()).model_hash in line
    assert decoder.running()
    assert "Traceback" not in decoder.log


def test_bytes_that_are_no_message_are_survived(chain, pair, xyz, stream):
    """What a broken or hostile peer can put on the wire: rclpy publishes serialized bytes as they are.

    (No bytes at all are another matter: Fast DDS then never delivers anything of that publisher again, though all others.)
    """
    encoder, decoder = pair
    good = serialize_message(compressed(stream))
    length_field = good.index(struct.pack("<I", len(stream)) + stream[:8])
    hostile = [
        b"\x00",
        b"\x00\x01\x00\x00",
        good[:20],
        good[:-10],
        good[:length_field] + struct.pack("<I", 2**32 - 1) + good[length_field + 4 :],
        bytes(np.random.default_rng(0).integers(0, 256, 500, np.uint8)),
    ]
    before = {node: chain.count(node, "errors MessageError") for node in (ENCODER, DECODER)}
    for number, data in enumerate(hostile, 1):
        chain.streams.publish(data)
        chain.wait_for_count(DECODER, "errors MessageError", before[DECODER] + number)
    chain.streams.publish(compressed(stream))
    np.testing.assert_array_equal(coordinates(chain.take(chain.decoded)), on_grid(xyz, STEP))
    chain.clouds.publish(serialize_message(cloud_message(xyz))[:1000])
    chain.wait_for_count(ENCODER, "errors MessageError", before[ENCODER] + 1)
    np.testing.assert_array_equal(coordinates(chain.pass_through(cloud_message(xyz))), on_grid(xyz, STEP))
    assert encoder.running()
    assert decoder.running()


def test_bad_clouds_are_counted_and_the_next_good_one_is_exact(chain, pair, xyz):
    encoder, _ = pair
    no_fields = cloud_message(xyz)
    no_fields.fields = []
    too_short = cloud_message(xyz)
    too_short.width += 1
    too_far = cloud_message(np.array([[1e30, 0, 0], [0, 0, 0]], np.float32))
    before = chain.count(ENCODER, "errors InputError")
    for number, bad in enumerate((no_fields, too_short, too_far), 1):
        chain.clouds.publish(bad)
        chain.wait_for_count(ENCODER, "errors InputError", before + number)
    assert chain.decoded.empty()
    np.testing.assert_array_equal(coordinates(chain.pass_through(cloud_message(xyz))), on_grid(xyz, STEP))
    assert encoder.running()
    assert "Traceback" not in encoder.log


# Telling


def test_diagnostics_tell_what_happened(chain, xyz):
    xyz = xyz.copy()
    xyz[:10] = np.nan
    before = {node: chain.count(node, "points dropped, not finite") for node in (ENCODER, DECODER)}
    now = chain.get_clock().now().to_msg()
    chain.pass_through(cloud_message(xyz, (now.sec, now.nanosec)))
    stamp = f"{now.sec}.{now.nanosec:09d}"

    def reports(node):
        """Those since our frame came in: what came in, what went out, and the means may be in two of them."""
        ours = [report for name, report in list(chain.history) if name == node]
        first = next((i for i, report in enumerate(ours) if report.get("last frame stamp") == stamp), len(ours))
        return ours[max(0, first - 2) :]

    for node, verb in ((ENCODER, "encode"), (DECODER, "decode")):
        until(lambda node=node: len(reports(node)) > 3, f"the report on our frame: {chain.reports}")
        (means,) = [report for report in reports(node) if "bits per point" in report and report["last frame stamp"] == stamp]
        assert float(means[f"{verb} time [ms]"]) > 0
        assert float(means["time in node [ms]"]) >= float(means[f"{verb} time [ms]"])
        assert 0 < float(means["age when published [ms]"]) < 60_000
        assert 1 < float(means["bits per point"]) < 30
        assert 5 < float(means["compression ratio"]) < 200
        assert int(means["points per frame"]) == len(xyz) - 10
        assert means["field ring policy"] == "exact"
        assert 0 < float(means["field ring [bits per point]"]) < float(means["bits per point"])
        for key in ("input bandwidth [Mbit/s]", "output bandwidth [Mbit/s]", "input rate [Hz]", "output rate [Hz]"):
            assert max(float(report[key]) for report in reports(node)) > 0
        assert chain.count(node, "points dropped, not finite") == before[node] + 10
    assert chain.reports[ENCODER]["model hash"] == Encoder(CodecConfig()).model_hash
