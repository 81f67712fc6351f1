"""ROS messages to PointCloud and back: what pointcloud2.py does, for rclpy's classes."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.pointcloud2 import Field, MessageLayout, body_from_cloud


def message_from_cloud(cloud: PointCloud, header: Header, layout: MessageLayout | None = None) -> PointCloud2:
    """A PointCloud2 with all fields of the cloud; ``header`` is used as it is. Raises as ``body_from_cloud``."""
    body = body_from_cloud(cloud, layout)
    message = PointCloud2()
    message.header = header
    message.height, message.width = body.height, body.width
    message.fields = _to_ros(body.fields)
    message.is_bigendian = body.is_bigendian
    message.point_step, message.row_step = body.point_step, body.row_step
    message.data = body.data
    message.is_dense = body.is_dense
    return message


def put_layout(message: CompressedCloud, layout: MessageLayout | None) -> None:
    """Say in a compressed cloud how the original was laid out; ``pointcloud2.layout_in`` reads it."""
    if layout is not None:
        message.fields = _to_ros(layout.fields)
        message.point_step, message.row_padding = layout.point_step, layout.row_padding


def as_uint8_sequence(data: bytes | np.ndarray) -> array.array[int]:
    """The bytes of ``data`` (bytes or a C-contiguous array) as array.array.

    It is the one type that rclpy takes over without looking at every byte; a list costs 100 times as much.
    """
    sequence = array.array("B")
    view = memoryview(data)  # type: ignore[arg-type]  # NumPy's stubs know of buffers from Python 3.12 on
    sequence.frombytes(view.cast("B") if view.nbytes else b"")  # an empty view of several dimensions cannot be cast
    return sequence


def _to_ros(fields: tuple[Field, ...]) -> list[PointField]:
    return [PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in fields]
