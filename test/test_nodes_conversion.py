"""What pointcloud2.py does, with rclpy's messages; its own tests are in test_pointcloud2.py."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from anypcc_ros.msg import CompressedCloud
from rclpy.serialization import deserialize_message, serialize_message
from ros_network import cloud_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.nodes.conversion import message_from_cloud, put_layout
from anypcc_ros.pointcloud2 import cloud_from_message, layout_in, special_layout

XYZ = np.array([[1.5, -2.25, 3.0], [1e-3, 200.125, -7.0], [0.0, -0.0, 8.5]], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_a_cloud_as_a_message(dtype):
    header = Header(frame_id="map")
    header.stamp.sec, header.stamp.nanosec = -3, 999_999_999
    xyz = np.array([[1, -2, 3], [2**31 - 1, 0, -(2**31)]]).astype(dtype)
    result = message_from_cloud(PointCloud(xyz), header)
    assert result.header is header
    assert (result.height, result.width, result.is_dense) == (1, 2, True)
    assert result.row_step == 2 * result.point_step == len(result.data)
    received = deserialize_message(serialize_message(result), PointCloud2)
    assert received == result
    back = cloud_from_message(received).xyz
    np.testing.assert_array_equal(back, xyz)
    assert back.dtype == (np.float64 if dtype == np.int64 else dtype)


def test_a_list_of_bytes_can_be_read_as_well():
    message = cloud_message(XYZ)
    message.data = list(message.data)
    np.testing.assert_array_equal(cloud_from_message(message).xyz, XYZ)


@pytest.mark.parametrize("keep_padding", [False, True])
def test_a_layout_travels_with_the_compressed_cloud(keep_padding):
    message = cloud_message(XYZ)
    compressed = CompressedCloud()
    put_layout(compressed, special_layout(message, keep_padding))
    received = deserialize_message(serialize_message(compressed), CompressedCloud)
    layout = layout_in(received)
    assert layout == special_layout(message, keep_padding)
    back = message_from_cloud(cloud_from_message(message), message.header, layout)
    assert back.point_step == (20 if keep_padding else 18)
    assert (back == message) is keep_padding
