"""The message: built by rosidl, light to fill and to read, and its data a complete stream."""

from __future__ import annotations

import array
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from anypcc_ros.msg import CompressedCloud
from rclpy.serialization import deserialize_message, serialize_message

import anypcc_ros
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.nodes.conversion import as_uint8_sequence
from anypcc_ros.pointcloud2 import FORMAT

DEFINITION = Path(__file__).resolve().parents[1] / "msg" / "CompressedCloud.msg"


def test_the_generated_message_is_the_one_in_the_source():
    fields = [line.split()[:2] for line in DEFINITION.read_text().splitlines() if line and not line.startswith("#")]
    generated = CompressedCloud.get_fields_and_field_types()
    assert [name for _, name in fields] == list(generated)
    kinds = {name: re.sub(r"(.*)\[\]", r"sequence<\1>", kind) for kind, name in fields}
    assert kinds | {"header": "std_msgs/Header"} == generated


def test_the_message_lives_beside_the_library():
    assert CompressedCloud.__module__.startswith("anypcc_ros.msg")
    assert anypcc_ros.CodecConfig is CodecConfig


def test_the_data_alone_is_a_stream(scan, tmp_path):
    stream = Encoder(CodecConfig(step=0.02)).encode(scan)
    message = CompressedCloud(format=FORMAT, points=len(scan), data=as_uint8_sequence(stream))
    message.header.frame_id = "lidar"
    received = deserialize_message(serialize_message(message), CompressedCloud)
    assert received == message
    (tmp_path / "cloud.apcc").write_bytes(received.data)
    assert (tmp_path / "cloud.apcc").read_bytes() == stream
    np.testing.assert_array_equal(Decoder().decode(memoryview(received.data)).xyz, Decoder().decode(stream).xyz)


@pytest.mark.parametrize("data", [b"", b"abc", np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3))])
def test_as_uint8_sequence(data):
    sequence = as_uint8_sequence(data)
    assert isinstance(sequence, array.array)
    assert sequence.typecode == "B"
    assert sequence.tobytes() == bytes(data)


def test_megabytes_are_filled_in_without_a_look_at_every_byte():
    """What rclpy takes over as it is where it checks fields: of anything else it looks at each byte."""
    message, data = CompressedCloud(check_fields=True), as_uint8_sequence(bytes(4_000_000))
    message.data = data
    assert message.data is data
