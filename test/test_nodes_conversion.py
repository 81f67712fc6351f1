"""PointCloud2 to PointCloud and back, for every layout that drivers send and some that they should not."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")

from ros_network import cloud_message, structured_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import InputError
from anypcc_ros.nodes.conversion import as_uint8_sequence, cloud_from_message, message_from_cloud, other_fields

XYZ = np.array([[1.5, -2.25, 3.0], [1e-3, 200.125, -7.0], [0.0, -0.0, 8.5]], np.float32)


def message(points: np.ndarray, big_endian: bool = False) -> PointCloud2:
    result = structured_message(points, points.dtype, big_endian)
    result.data = as_uint8_sequence(points)
    return result


@pytest.mark.parametrize("form", ["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_datatype_in_both_byte_orders(form, order):
    rng = np.random.default_rng(1)
    kind = np.dtype(form)
    low, high = (-100, 100) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = rng.uniform(low, high, (50, 3)).astype(kind)
    points = np.zeros(50, [(axis, order + form) for axis in "xyz"])
    for axis, column in zip("xyz", values.T, strict=True):
        points[axis] = column
    xyz = cloud_from_message(message(points, order == ">")).xyz
    np.testing.assert_array_equal(xyz, values)
    expected = {"f4": np.float32, "f8": np.float64, "u4": np.int64}.get(form, np.int32)
    assert xyz.dtype == expected
    assert xyz.dtype.isnative
    assert xyz.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 4),
    width=st.integers(0, 7),
    offsets=st.permutations([0, 1, 2]),
    gap=st.integers(0, 5),
    point_padding=st.integers(0, 9),
    row_padding=st.integers(0, 9),
    trailing=st.integers(0, 9),
    order=st.sampled_from("<>"),
)
def test_any_layout(height, width, offsets, gap, point_padding, row_padding, trailing, order):
    """Fields in any order and place, padding within points, rows and after everything."""
    offsets = [place * (4 + gap) + 1 for place in offsets]
    point_step = 3 * (4 + gap) + 1 + point_padding
    row_step = width * point_step + row_padding
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, height * row_step + trailing, np.uint8)
    values = rng.normal(size=(height, width, 3)).astype(np.float32)
    for row in range(height):
        for column in range(width):
            for axis in range(3):
                start = row * row_step + column * point_step + offsets[axis]
                data[start : start + 4] = list(struct.pack(order + "f", values[row, column, axis]))
    cloud = cloud_from_message(
        PointCloud2(
            height=height,
            width=width,
            fields=[
                PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
                for name, offset in zip("xyz", offsets, strict=True)
            ],
            is_bigendian=order == ">",
            point_step=point_step,
            row_step=row_step,
            data=as_uint8_sequence(data),
        )
    )
    np.testing.assert_array_equal(cloud.xyz, values.reshape(-1, 3))


def test_mixed_datatypes_take_the_widest():
    points = np.array([(1, 2.5, 1e-12)], [("x", "<i2"), ("y", "<f4"), ("z", "<f8")])
    xyz = cloud_from_message(message(points)).xyz
    assert xyz.dtype == np.float64
    assert xyz.tolist() == [[1.0, 2.5, 1e-12]]


def test_not_a_number_and_infinity_are_dropped_and_counted():
    xyz = XYZ.repeat(3, axis=0)
    xyz[1, 0], xyz[4, 2], xyz[7, 1] = np.nan, np.inf, -np.inf
    cloud, dropped = cloud_from_message(cloud_message(xyz)).finite()
    assert dropped == 3
    np.testing.assert_array_equal(cloud.xyz, xyz[np.isfinite(xyz).all(axis=1)])


@pytest.mark.parametrize("row_step", [0, 1, 2**32 - 1])
def test_row_step_of_an_unorganised_cloud_does_not_matter(row_step):
    cloud = cloud_message(XYZ)
    cloud.row_step = row_step
    np.testing.assert_array_equal(cloud_from_message(cloud).xyz, XYZ)


@pytest.mark.parametrize(("height", "width"), [(0, 0), (1, 0), (0, 5), (4, 0)])
def test_empty_clouds(height, width):
    cloud = cloud_message(XYZ)
    cloud.height, cloud.width, cloud.row_step, cloud.data = height, width, 0, []
    assert cloud_from_message(cloud).xyz.shape == (0, 3)


def broken(**changes) -> PointCloud2:
    cloud = cloud_message(XYZ)
    for name, value in changes.items():
        setattr(cloud, name, value)
    return cloud


def with_field(axis: int, **changes) -> PointCloud2:
    cloud = cloud_message(XYZ)
    for name, value in changes.items():
        setattr(cloud.fields[axis], name, value)
    return cloud


@pytest.mark.parametrize(
    ("cloud", "numbers"),
    [
        (broken(fields=[]), "no field x, y, z (fields: none)"),
        (with_field(1, name="Y"), "no field y (fields: x, Y, z, intensity, ring)"),
        (with_field(2, datatype=9), "field z has datatype 9"),
        (with_field(0, datatype=0), "field x has datatype 0"),
        (with_field(0, count=2), "field x has 2 values"),
        (with_field(2, offset=17), "field z ends at byte 21 of points of 20 bytes"),
        (with_field(2, offset=2**32 - 1), "field z ends at byte 4294967299 of points of 20 bytes"),
        (broken(point_step=0), "ends at byte 4 of points of 0 bytes"),
        (broken(width=4), "60 bytes of data; 1 x 4 points of 20 bytes need 80"),
        (broken(height=2, row_step=60), "60 bytes of data; 2 x 3 points of 20 bytes need 120"),
        (broken(height=3, width=1, row_step=19), "row_step of 19 bytes for rows of 1 points of 20 bytes (20 bytes)"),
        (broken(width=2**32 - 1, height=2**32 - 1, row_step=2**32 - 1), "row_step of 4294967295"),
        (broken(data=[]), "0 bytes of data"),
    ],
)
def test_contradicting_sizes_are_refused_with_the_numbers(cloud, numbers):
    with pytest.raises(InputError) as refused:
        cloud_from_message(cloud)
    assert numbers in str(refused.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_back_to_a_message(dtype):
    header = Header(frame_id="map")
    header.stamp.sec, header.stamp.nanosec = -3, 999_999_999
    xyz = np.array([[1, -2, 3], [2**31 - 1, 0, -(2**31)]]).astype(dtype)
    result = message_from_cloud(PointCloud(xyz), header)
    assert result.header is header
    assert (result.height, result.width, result.is_dense) == (1, 2, True)
    assert result.row_step == 2 * result.point_step == len(result.data)
    back = cloud_from_message(result).xyz
    np.testing.assert_array_equal(back, xyz)
    assert back.dtype == (np.float64 if dtype == np.int64 else dtype)


def test_an_empty_cloud_back_to_a_message():
    result = message_from_cloud(PointCloud(np.zeros((0, 3), np.float32)), Header())
    assert (result.height, result.width, len(result.data)) == (1, 0, 0)
    assert len(cloud_from_message(result)) == 0


def test_other_fields_are_named():
    assert other_fields(cloud_message(XYZ)) == ("intensity", "ring")
