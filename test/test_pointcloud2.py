"""The body of a PointCloud2 to PointCloud and back, without ROS: every layout that drivers send, and more."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from any_message import Message, messages
from hypothesis import given, settings
from hypothesis import strategies as st

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import CorruptStreamError, InputError
from anypcc_ros.pointcloud2 import (
    AXES,
    DATATYPES,
    Field,
    MessageLayout,
    body_from_cloud,
    cloud_from_message,
    special_layout,
)

NUMBERS = {form: number for number, form in DATATYPES.items()}


def message_of(points: np.ndarray, big_endian: bool = False) -> Message:
    """One row of points of a structured dtype."""
    assert points.dtype.fields is not None
    fields = []
    for name, (form, offset) in points.dtype.fields.items():
        base, shape = form.subdtype or (form, ())
        fields.append(Field(name, offset, NUMBERS[base.str[1:]], shape[0] if shape else 1))
    step = points.dtype.itemsize
    return Message(1, len(points), fields, big_endian, step, step * len(points), points.tobytes())


def lidar(points: int = 3) -> np.ndarray:
    """x, y, z, intensity, ring and time as a driver packs them, with two bytes of padding."""
    layout = np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "ring", "t"],
            "formats": ["<f4"] * 4 + ["<u2", "<f8"],
            "offsets": [0, 4, 8, 12, 16, 20],
            "itemsize": 28,
        }
    )
    rng = np.random.default_rng(0)
    result = np.zeros(points, layout)
    for name in layout.names:
        result[name] = rng.integers(0, 1000, points) / (1 if name == "ring" else 8)
    return result


# ---- any layout


def bits(message: Message, index: int, row: int, column: int) -> bytes:
    """One field of one point, little endian."""
    field = message.fields[index]
    start = row * message.row_step + column * message.point_step + field.offset
    values = np.frombuffer(message.data[start : start + field.end - field.offset], f"V{field.form.itemsize}")
    return b"".join(value.tobytes()[::-1] if message.is_bigendian else value.tobytes() for value in values)


def not_a_number(value: bytes) -> bool:
    return bool(np.isnan(np.frombuffer(value, f"<f{len(value)}")[0]))


def overlapping(message: Message) -> bool:
    places = [byte for field in message.fields for byte in range(field.offset, field.end)]
    return len(set(places)) < len(places)


@settings(max_examples=300, deadline=None)
@given(messages(), st.booleans())
def test_any_message_comes_back(message: Message, keep_padding: bool) -> None:
    cloud = cloud_from_message(message)
    layout = special_layout(message, keep_padding)
    back = Message(**vars(body_from_cloud(cloud, layout)))
    points = message.height * message.width
    assert (back.height, back.width) == ((message.height, message.width) if points else (1, 0))
    assert [(f.name, f.datatype, f.values) for f in back.fields] == [(f.name, f.datatype, f.values) for f in message.fields]
    assert not back.is_bigendian
    packed = sum(f.end - f.offset for f in message.fields)
    if keep_padding and (not overlapping(message) or back.point_step != packed):
        assert [f.offset for f in back.fields] == [f.offset for f in message.fields]
        assert back.point_step == message.point_step
        assert not points or back.row_step == message.row_step
    else:
        assert back.point_step == packed
    assert len(back.data) == back.height * back.row_step
    assert back.is_dense == bool(np.isfinite(cloud.xyz).all())
    types = {field.datatype for field in message.fields if field.name in AXES}
    for row in range(message.height):
        for column in range(message.width):
            for index, field in enumerate(message.fields):
                one, other = bits(message, index, row, column), bits(back, index, row, column)
                # A NaN becomes quiet on its way through a wider type.
                quiet = len(types) > 1 and field.name in AXES and field.form.kind == "f"
                assert one == other or (quiet and not_a_number(one) and not_a_number(other)), field


@pytest.mark.parametrize("form", DATATYPES.values())
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_datatype_of_coordinates(form: str, order: str) -> None:
    rng = np.random.default_rng(1)
    kind = np.dtype(form)
    low, high = (-100, 100) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = rng.uniform(low, high, (50, 3)).astype(kind)
    points = np.zeros(50, [(axis, order + form) for axis in "xyz"])
    for axis, column in zip("xyz", values.T, strict=True):
        points[axis] = column
    message = message_of(points, order == ">")
    xyz = cloud_from_message(message).xyz
    np.testing.assert_array_equal(xyz, values)
    assert xyz.dtype == {"f4": np.float32, "f8": np.float64, "u4": np.int64}.get(form, np.int32)
    assert xyz.dtype.isnative
    assert xyz.flags.c_contiguous
    back = body_from_cloud(PointCloud(xyz), special_layout(message))
    assert bytes(back.data) == points.astype([(axis, "<" + form) for axis in "xyz"]).tobytes()


def test_the_usual_message_of_a_driver() -> None:
    points = lidar()
    message = message_of(points)
    cloud = cloud_from_message(message)
    assert list(cloud.fields) == ["intensity", "ring", "t"]
    for name, values in cloud.fields.items():
        np.testing.assert_array_equal(values, points[name])
        assert values.dtype == points[name].dtype
        assert values.flags.c_contiguous and values.flags.aligned  # noqa: PT018
    assert special_layout(message) is None, "the stream tells it all"
    back = body_from_cloud(cloud)
    assert (back.point_step, back.row_step, len(back.data)) == (26, 78, 78)
    padded = body_from_cloud(cloud, special_layout(message, keep_padding=True))
    assert vars(padded) == vars(message) | {"data": padded.data, "fields": tuple(message.fields)}
    assert bytes(padded.data) == message.data


def test_views_of_a_colour_are_fields_of_their_own() -> None:
    layout = np.dtype(
        {
            "names": ["x", "y", "z", "rgb", "r", "g", "b"],
            "formats": ["<f4"] * 4 + ["u1"] * 3,
            "offsets": [0, 4, 8, 12, 14, 13, 12],
            "itemsize": 16,
        }
    )
    points = np.frombuffer(np.random.default_rng(0).bytes(16 * 9), layout)
    message = message_of(points)
    cloud = cloud_from_message(message)
    np.testing.assert_array_equal(cloud.fields["rgb"].view(np.uint32) >> 16 & 255, cloud.fields["r"])
    assert bytes(body_from_cloud(cloud, special_layout(message, keep_padding=True)).data) == message.data
    assert body_from_cloud(cloud).point_step == 19, "packed, they no longer overlap"


def test_mixed_coordinates_take_the_smallest_type_that_holds_them() -> None:
    points = np.array([(1, 2.5, 1e-12), (-7, np.nan, 0)], [("x", "<i2"), ("y", "<f4"), ("z", "<f8")])
    message = message_of(points)
    cloud = cloud_from_message(message)
    assert cloud.xyz.dtype == np.float64
    assert cloud.xyz[0].tolist() == [1.0, 2.5, 1e-12]
    assert bytes(body_from_cloud(cloud, special_layout(message)).data) == message.data
    # An integer cannot say what the codec's grid made of it, nor that there is nothing.
    moved = PointCloud(np.array([[1.4, 2.5, 0], [np.nan, np.nan, 0], [1e9, np.inf, 0]]))
    body = body_from_cloud(moved, special_layout(message))
    assert np.frombuffer(body.data, points.dtype)["x"].tolist() == [1, 0, 32767]
    assert not body.is_dense


def test_coordinates_that_are_not_together() -> None:
    points = np.zeros(2, [("z", "<f4"), ("intensity", "u1"), ("x", "<f4"), ("y", "<f4"), ("ring", "<u2")])
    points["x"], points["ring"] = [1, 2], [3, 4]
    message = message_of(points)
    layout = special_layout(message)
    assert layout is not None
    cloud = cloud_from_message(message)
    assert (list(cloud.fields), cloud.position) == (["intensity", "ring"], 0)
    assert bytes(body_from_cloud(cloud, layout).data) == message.data


def test_coordinates_behind_other_fields() -> None:
    points = np.zeros(2, [("intensity", "u1"), ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2")])
    message = message_of(points)
    assert special_layout(message) is None
    cloud = cloud_from_message(message)
    assert cloud.position == 1
    assert list(body_from_cloud(cloud).fields) == message.fields


def test_names_that_occur_twice() -> None:
    message = message_of(lidar())
    message.fields = [
        replace(field, name={"intensity": "x", "ring": "t"}.get(field.name, field.name)) for field in message.fields
    ]
    message.fields.append(Field("t#2", 0, 1))
    cloud = cloud_from_message(message)
    assert list(cloud.fields) == ["x#2", "t", "t#2", "t#2#1"]
    assert [field.name for field in body_from_cloud(cloud).fields] == ["x", "y", "z", "x", "t", "t", "t#2"]


def test_fields_that_were_dropped_leave_their_place_only_where_padding_is_kept() -> None:
    message = message_of(lidar())
    cloud = cloud_from_message(message)
    kept = replace(cloud, fields={"t": cloud.fields["t"]})
    assert [(f.name, f.offset) for f in body_from_cloud(kept).fields] == [("x", 0), ("y", 4), ("z", 8), ("t", 12)]
    padded = body_from_cloud(kept, special_layout(message, keep_padding=True))
    assert [(f.name, f.offset) for f in padded.fields] == [("x", 0), ("y", 4), ("z", 8), ("t", 20)]
    assert padded.point_step == 28
    split = np.zeros(2, [("z", "<f4"), ("intensity", "u1"), ("x", "<f4"), ("y", "<f4")])
    body = body_from_cloud(PointCloud(np.zeros((2, 3), np.float32)), special_layout(message_of(split)))
    assert [(f.name, f.offset) for f in body.fields] == [("z", 0), ("x", 4), ("y", 8)]


@pytest.mark.parametrize("row_step", [0, 1, 2**32 - 1])
def test_row_step_of_an_unorganised_cloud_does_not_matter(row_step: int) -> None:
    message = replace(message_of(lidar()), row_step=row_step)
    np.testing.assert_array_equal(cloud_from_message(message).xyz[:, 0], lidar()["x"])
    assert body_from_cloud(cloud_from_message(message), special_layout(message, keep_padding=True)).row_step == 84


@pytest.mark.parametrize(("height", "width"), [(0, 0), (1, 0), (0, 5), (4, 0)])
@pytest.mark.parametrize("keep_padding", [False, True])
def test_empty_clouds_keep_their_fields(height: int, width: int, keep_padding: bool) -> None:
    message = replace(message_of(lidar()), height=height, width=width, row_step=0, data=b"")
    cloud = cloud_from_message(message)
    assert cloud.xyz.shape == (0, 3)
    back = body_from_cloud(cloud, special_layout(message, keep_padding))
    assert [(f.name, f.datatype) for f in back.fields] == [(f.name, f.datatype) for f in message.fields]
    assert (back.height, back.width, len(back.data)) == (1, 0, 0)


# ---- messages that are wrong


def broken(**changes: object) -> Message:
    return replace(message_of(lidar()), **changes)  # type: ignore[arg-type]


def with_field(index: int, **changes: object) -> Message:
    message = message_of(lidar())
    message.fields[index] = replace(message.fields[index], **changes)  # type: ignore[arg-type]
    return message


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        (broken(fields=[]), "no field x, y, z (fields: none)"),
        (with_field(1, name="Y"), "no field y (fields: x, Y, z, intensity, ring, t)"),
        (with_field(2, datatype=9), "field z has datatype 9"),
        (with_field(4, datatype=0), "field ring has datatype 0"),
        (with_field(0, count=2), "field x has 2 values"),
        (with_field(2, offset=25), "field z ends at byte 29 of points of 28 bytes"),
        (with_field(5, count=2), "field t ends at byte 36 of points of 28 bytes"),
        (with_field(2, offset=2**32 - 1), "field z ends at byte 4294967299 of points of 28 bytes"),
        (broken(point_step=0), "ends at byte 4 of points of 0 bytes"),
        (broken(width=4), "84 bytes of data; 1 x 4 points of 28 bytes need 112"),
        (broken(height=2, row_step=84), "84 bytes of data; 2 x 3 points of 28 bytes need 168"),
        (broken(height=3, width=1, row_step=19), "row_step of 19 bytes for rows of 1 points of 28 bytes (28 bytes)"),
        (broken(width=2**32 - 1, height=2**32 - 1, row_step=2**32 - 1), "row_step of 4294967295"),
        (broken(data=b""), "0 bytes of data"),
    ],
)
def test_contradicting_sizes_are_refused_with_the_numbers(message: Message, numbers: str) -> None:
    for read in (cloud_from_message, special_layout):
        with pytest.raises(InputError) as refused:
            read(message)
        assert numbers in str(refused.value)


def test_padding_without_measure_is_not_kept() -> None:
    points = np.zeros(40, {"names": ["x", "y", "z"], "formats": ["<f4"] * 3, "itemsize": 4000})
    message = message_of(points)
    assert special_layout(message) is None
    with pytest.raises(InputError, match="159520 bytes of padding for 40 points"):
        special_layout(message, keep_padding=True)


def layouts() -> list[tuple[MessageLayout, str]]:
    good = special_layout(message_of(lidar()), keep_padding=True)
    assert good is not None

    def field(index: int, **changes: object) -> MessageLayout:
        fields = list(good.fields)
        fields[index] = replace(fields[index], **changes)  # type: ignore[arg-type]
        return replace(good, fields=tuple(fields))

    return [
        (MessageLayout((), 0), "a layout of  for a cloud of x, y, z, intensity, ring, t"),
        (replace(good, point_step=27), "field t of datatype 8 at byte 20 of points of 27"),
        (replace(good, point_step=2**32 - 1), "bytes of padding for 3 points"),
        (replace(good, row_padding=2**32 - 1), "bytes of padding for 3 points"),
        (replace(good, row_padding=-1), "-1 bytes of padding"),
        (field(3, datatype=6), "a layout of 1 x uint32 for field intensity of 1 x float32"),
        (field(3, datatype=9), "field intensity of datatype 9"),
        (field(4, count=2), "a layout of 2 x uint16 for field ring of 1 x uint16"),
        (field(4, offset=-1), "field ring of datatype 4 at byte -1"),
        (field(0, datatype=8, offset=20), "a layout of float64 for coordinates of float32"),
        (field(0, count=3), "a layout of 3 x float32 for field x"),
    ]


@pytest.mark.parametrize(("layout", "reason"), layouts(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_layout_of_another_cloud_is_refused(layout: MessageLayout, reason: str) -> None:
    """It comes over the network, beside the stream and its checksums."""
    cloud = cloud_from_message(message_of(lidar()))
    with pytest.raises(CorruptStreamError) as refused:
        body_from_cloud(cloud, layout)
    assert reason in str(refused.value)


def test_clouds_that_a_message_cannot_hold() -> None:
    xyz = np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match="field id has type int64, which PointField does not have"):
        body_from_cloud(PointCloud(xyz, {"id": np.zeros(2, np.int64)}))
    body = body_from_cloud(PointCloud(xyz.astype(np.int64) + 5))
    assert [f.datatype for f in body.fields] == [8, 8, 8]
    assert sys.byteorder == "big" or np.frombuffer(body.data).tolist() == [5.0] * 6
