"""The body of a sensor_msgs/PointCloud2 to PointCloud and back.

Works on messages of any class that has the attributes of the ROS message: rclpy's, rosbags', or one's own. What is read
are any datatypes, counts, offsets, padding, overlaps, row steps and either byte order; what is written is little endian.
sensor_msgs_py does some of this on a ROS installation, but is not among the Python wheels, copies the points more often,
and leaves a message whose sizes contradict each other to NumPy's own errors.
"""

from __future__ import annotations

import array
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import option, validate
from anypcc_ros.codec.errors import CorruptStreamError, InputError

FORMAT = f"apcc/{bitstream.MAJOR}"
"""CompressedCloud.format of the streams that this version writes."""

ADAPTATION_SUFFIX = "/adaptation"
"""Behind the name of a topic of streams: a latched one with the adaptation that they name, as an .apad file has it."""

AXES = ("x", "y", "z")
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""sensor_msgs/PointField's constants INT8 ... FLOAT64 to NumPy's names."""

PADDING_LIMIT = 256
"""Bytes of padding for each point that a layout may have: a few bytes of a message must not make the decoder take gigabytes."""

_NUMBERS = {name: number for number, name in DATATYPES.items()}
_REPEATED = re.compile(r"#[1-9][0-9]*\Z")


@dataclass(frozen=True)
class MessageConfig:
    """What is kept of a message besides its points. Raises ConfigError."""

    keep_padding: bool = option(
        False, "give decoded messages the point_step, row_step and offsets of the original; the padding is zero"
    )

    def __post_init__(self) -> None:
        validate(self)


class PointCloud2(Protocol):
    """What is read of a sensor_msgs/PointCloud2."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fields(self) -> Sequence[Any]:
        """sensor_msgs/PointField."""

    @property
    def is_bigendian(self) -> bool: ...
    @property
    def point_step(self) -> int: ...
    @property
    def row_step(self) -> int: ...
    @property
    def data(self) -> Any:
        """A buffer of bytes: array.array, ndarray, bytes."""


@dataclass(frozen=True)
class Field:
    """One field of a point: ``offset`` in bytes from the point's beginning, ``datatype`` of DATATYPES, ``count`` of values."""

    name: str
    offset: int
    datatype: int
    count: int = 1

    @property
    def form(self) -> np.dtype:
        """Of one value, little endian."""
        return np.dtype("<" + DATATYPES[self.datatype])

    @property
    def values(self) -> int:
        """How many there are in each point; some drivers leave the count of a single one at 0."""
        return max(self.count, 1)

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.form.itemsize * self.values


@dataclass(frozen=True)
class MessageLayout:
    """How points lie in a message: their fields, bytes from point to point, and bytes of padding after each row of points."""

    fields: tuple[Field, ...]
    point_step: int
    row_padding: int = 0

    @classmethod
    def packed(cls, fields: Iterable[Field]) -> MessageLayout:
        """Those fields one directly after the other."""
        placed, end = [], 0
        for field in fields:
            placed.append(replace(field, offset=end, count=field.values))
            end = placed[-1].end
        return cls(tuple(placed), end)


@dataclass(frozen=True)
class Body:
    """All of a PointCloud2 but its header. ``data`` is the one type that rclpy takes over without looking at every byte."""

    height: int
    width: int
    fields: tuple[Field, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: array.array[int]
    is_dense: bool


# ---- reading


def cloud_from_message(message: PointCloud2) -> PointCloud:
    """The points of ``message``, row by row, with every field and with those that hold NaN or infinity.

    xyz is (N, 3) in native byte order: float32 or float64 as in the message, int32 for integers of up to 32 bits, int64
    for uint32; of mixed types the smallest of these that holds them all exactly. The second x of a message is a field like
    any other. A field's name is that in the message, the k-th field of one name is ``name#k`` (and one that has such a
    name already is ``name#1``). No value's bits change, but those of a signalling NaN among coordinates of mixed types.

    Raises InputError, with the numbers, where the message has no x, y and z, where one of them has several values, where
    a datatype is unknown or the sizes contradict each other.
    """
    layout = layout_of(message)
    columns = {name: _column(message, field) for name, field in zip(_unique_names(layout.fields), layout.fields, strict=True)}
    axes = [columns.pop(axis) for axis in AXES]
    points = message.height * message.width
    xyz = np.empty((message.height, message.width, 3), coordinate_dtype(layout))
    with np.errstate(invalid="ignore"):  # signalling NaN, where the types are mixed
        for axis, column in enumerate(axes):
            xyz[..., axis] = column
    fields = {
        name: np.array(column, column.dtype.newbyteorder("="), order="C").reshape(points, *column.shape[2:])
        for name, column in columns.items()
    }
    # An empty cloud has no shape worth keeping.
    return PointCloud(xyz.reshape(-1, 3), fields, message.height if points else 1, _position(layout))


def layout_of(message: PointCloud2) -> MessageLayout:
    """The layout of ``message``, once every size in it has been checked. Raises InputError as ``cloud_from_message``."""
    fields = tuple(Field(str(f.name), int(f.offset), int(f.datatype), int(f.count)) for f in message.fields)
    names = [field.name for field in fields]
    missing = [axis for axis in AXES if axis not in names]
    if missing:
        raise InputError(f"PointCloud2 has no field {', '.join(missing)} (fields: {', '.join(names) or 'none'})")
    for field in fields:
        if field.datatype not in DATATYPES:
            raise InputError(f"PointCloud2 field {field.name} has datatype {field.datatype}; 1 to 8 are defined")
        if field.end > message.point_step:
            raise InputError(f"PointCloud2 field {field.name} ends at byte {field.end} of points of {message.point_step} bytes")
    for axis in AXES:
        count = fields[names.index(axis)].count
        if count > 1:
            raise InputError(f"PointCloud2 field {axis} has {count} values for each point; 1 is needed")
    _check_size(message)
    return MessageLayout(fields, message.point_step, _row_padding(message))


def _check_size(message: PointCloud2) -> None:
    if not (message.height and message.width):
        return
    row = message.width * message.point_step
    if message.height > 1 and message.row_step < row:
        raise InputError(
            f"PointCloud2 has a row_step of {message.row_step} bytes for rows of {message.width} points "
            f"of {message.point_step} bytes ({row} bytes)"
        )
    needed = (message.height - 1) * message.row_step + row
    if len(message.data) < needed:
        raise InputError(
            f"PointCloud2 has {len(message.data)} bytes of data; {message.height} x {message.width} points "
            f"of {message.point_step} bytes need {needed}"
        )


def _row_padding(message: PointCloud2) -> int:
    """Drivers of unorganised clouds leave row_step at 0 or worse: there only what is really in the data counts."""
    padding = message.row_step - message.width * message.point_step
    present = message.height > 1 or message.row_step <= len(message.data)
    return padding if padding > 0 and present else 0


def _column(message: PointCloud2, field: Field) -> np.ndarray:
    """A view of one field: (height, width) or (height, width, values), in the message's byte order."""
    form = field.form.newbyteorder(">") if message.is_bigendian else field.form
    row_step = message.row_step if message.height > 1 else 0
    shape: tuple[int, ...] = (message.height, message.width)
    strides: tuple[int, ...] = (row_step, message.point_step)
    if field.values > 1:
        shape, strides = (*shape, field.values), (*strides, form.itemsize)
    if not (message.height and message.width):
        return np.empty(shape, form)
    # The buffer may hold more than the points; ndarray itself only refuses one that holds less.
    return np.ndarray(shape, form, memoryview(message.data), field.offset, strides)


def coordinate_dtype(layout: MessageLayout) -> np.dtype:
    """The dtype of PointCloud.xyz that holds the values of x, y and z exactly, in native byte order."""
    common = np.result_type(*(field.form for field in _axes(layout)))
    if common.kind == "f":
        return np.dtype(np.float32 if common.itemsize <= 4 else np.float64)
    return np.dtype(np.int32 if np.can_cast(common, np.int32) else np.int64)


def _axes(layout: MessageLayout) -> list[Field]:
    names = [field.name for field in layout.fields]
    return [layout.fields[names.index(axis)] for axis in AXES]


def _position(layout: MessageLayout) -> int:
    """How many other fields stand before the first of x, y and z."""
    names = [field.name for field in layout.fields]
    return min(names.index(axis) for axis in AXES)


def _unique_names(fields: Sequence[Field]) -> list[str]:
    """Different names of all fields, from which ``_original_name`` gets the original ones."""
    seen: dict[str, int] = {}
    unique = []
    for field in fields:
        occurrence = seen[field.name] = seen.get(field.name, 0) + 1
        plain = occurrence == 1 and not _REPEATED.search(field.name)
        unique.append(field.name if plain else f"{field.name}#{occurrence}")
    return unique


def _original_name(unique: str) -> str:
    return _REPEATED.sub("", unique)


# ---- layouts that a cloud alone does not tell


def special_layout(message: PointCloud2, keep_padding: bool = False) -> MessageLayout | None:
    """What ``body_from_cloud`` has to know besides the cloud to make ``message`` again; None if nothing.

    That is the case of x, y and z that are not adjacent or of a type that PointCloud.xyz does not have, and of padding
    where it is to be kept. Raises InputError as ``layout_of``, and where there is more padding to keep than may be.
    """
    layout = layout_of(message)
    if keep_padding:
        _check_padding(layout, message.height * message.width, message.height, InputError)
    else:
        layout = MessageLayout.packed(layout.fields)
    names, forms = [field.name for field in layout.fields], {field.form for field in _axes(layout)}
    adjacent = tuple(names[_position(layout) :][:3]) == AXES
    told_by_cloud = adjacent and forms == {coordinate_dtype(layout).newbyteorder("<")}
    return None if told_by_cloud and layout == MessageLayout.packed(layout.fields) else layout


def layout_in(message: Any) -> MessageLayout | None:
    """What ``special_layout`` has found, out of an anypcc_ros/CompressedCloud; None if it is not there."""
    if not message.fields:
        return None
    fields = tuple(Field(field.name, field.offset, field.datatype, field.count) for field in message.fields)
    return MessageLayout(fields, message.point_step, message.row_padding)


def packed_layout(cloud: PointCloud) -> MessageLayout:
    """The fields of a cloud, packed, in their order. int64 coordinates, which PointField does not know, become float64.

    Raises InputError for a field of another type that PointField does not know.
    """
    xyz = "f8" if cloud.xyz.dtype == np.int64 else _form_name(AXES[0], cloud.xyz)
    fields = [
        Field(_original_name(name), 0, _NUMBERS[_form_name(name, values)], _values_per_point(values))
        for name, values in cloud.fields.items()
    ]
    fields[cloud.position : cloud.position] = [Field(axis, 0, _NUMBERS[xyz]) for axis in AXES]
    return MessageLayout.packed(fields)


def _form_name(name: str, values: np.ndarray) -> str:
    form = f"{values.dtype.kind}{values.dtype.itemsize}"
    if form not in _NUMBERS:
        raise InputError(f"field {name} has type {values.dtype}, which PointField does not have")
    return form


def _values_per_point(values: np.ndarray) -> int:
    return int(np.prod(values.shape[1:], dtype=np.int64))


def _check_padding(layout: MessageLayout, points: int, height: int, error: type[Exception]) -> None:
    needed = MessageLayout.packed(layout.fields).point_step
    padding = max(layout.point_step - needed, 0) * points + layout.row_padding * height
    if padding > PADDING_LIMIT * (points + 16):
        raise error(
            f"{padding} bytes of padding for {points} points in {height} rows; {PADDING_LIMIT} for each point are kept at most"
        )


# ---- writing


def body_from_cloud(cloud: PointCloud, layout: MessageLayout | None = None) -> Body:
    """The message that holds ``cloud``, little endian: packed, or in a ``layout`` that came with it (``special_layout``).

    Padding is zero. Fields of the layout that the cloud has no more, because they were dropped, leave their place empty
    if the layout has padding, and no trace otherwise. Fields that overlapped and no longer agree, because one of them was
    rounded or the other way round in a big-endian original, are packed. Raises CorruptStreamError where the layout is not
    one of this cloud, and InputError where the cloud has a field that PointField cannot describe.
    """
    columns = dict(zip(AXES, cloud.xyz.T, strict=True)) | dict(cloud.fields)
    if layout is None:
        layout = packed_layout(cloud)
    else:
        _check_fields(layout)
        layout = _without_dropped(layout, columns)
        _check_layout(layout, columns, cloud)
    row_step = len(cloud) // cloud.height * layout.point_step + layout.row_padding
    data = array.array("B", bytes(1)) * (cloud.height * row_step)
    values = [_values(field, columns[name]) for name, field in zip(_unique_names(layout.fields), layout.fields, strict=True)]
    places = [_place(data, field, cloud, (row_step, layout.point_step)) for field in layout.fields]
    for place, given in zip(places, values, strict=True):
        place[...] = given.reshape(place.shape)
    if _overlapping(layout) and any(p.tobytes() != v.tobytes() for p, v in zip(places, values, strict=True)):
        return body_from_cloud(cloud, MessageLayout.packed(layout.fields))
    dense = cloud.xyz.dtype.kind != "f" or bool(np.isfinite(cloud.xyz).all())
    width = len(cloud) // cloud.height
    return Body(cloud.height, width, layout.fields, False, layout.point_step, row_step, data, dense)


def _without_dropped(layout: MessageLayout, columns: dict[str, np.ndarray]) -> MessageLayout:
    names = _unique_names(layout.fields)
    kept = tuple(field for name, field in zip(names, layout.fields, strict=True) if name in columns)
    was_packed = layout == MessageLayout.packed(layout.fields)
    return MessageLayout.packed(kept) if was_packed else replace(layout, fields=kept)


# A layout travels beside the stream, unprotected by its checksums.


def _check_fields(layout: MessageLayout) -> None:
    for field in layout.fields:
        if field.datatype not in DATATYPES or field.offset < 0 or field.end > layout.point_step:
            raise CorruptStreamError(
                f"field {field.name} of datatype {field.datatype} at byte {field.offset} of points of {layout.point_step} bytes"
            )


def _check_layout(layout: MessageLayout, columns: dict[str, np.ndarray], cloud: PointCloud) -> None:
    names = _unique_names(layout.fields)
    if sorted(names) != sorted(columns):
        raise CorruptStreamError(f"a layout of {', '.join(names)} for a cloud of {', '.join(columns)}")
    for name, field in zip(names, layout.fields, strict=True):
        values = columns[name]
        same_form = name in AXES or field.form == values.dtype.newbyteorder("<")
        if not same_form or field.values != _values_per_point(values):
            raise CorruptStreamError(
                f"a layout of {field.values} x {field.form} for field {name} of {_values_per_point(values)} x {values.dtype}"
            )
    if coordinate_dtype(layout) != cloud.xyz.dtype:
        raise CorruptStreamError(f"a layout of {coordinate_dtype(layout)} for coordinates of {cloud.xyz.dtype}")
    if layout.row_padding < 0:
        raise CorruptStreamError(f"rows with {layout.row_padding} bytes of padding")
    _check_padding(layout, len(cloud), cloud.height, CorruptStreamError)


def _overlapping(layout: MessageLayout) -> bool:
    fields = sorted(layout.fields, key=lambda field: field.offset)
    return any(later.offset < earlier.end for earlier, later in pairwise(fields))


def _values(field: Field, values: np.ndarray) -> np.ndarray:
    """In the type of the field. A coordinate may come from a wider type; then integers are rounded and clamped."""
    if field.form.kind in "iu" and values.dtype != field.form:
        limits = np.iinfo(field.form)
        values = np.clip(np.nan_to_num(np.rint(values), nan=0.0), limits.min, limits.max)
    return values.astype(field.form, copy=False)


def _place(data: array.array[int], field: Field, cloud: PointCloud, strides: tuple[int, ...]) -> np.ndarray:
    """Where the values of a field stand in the rows of points."""
    shape: tuple[int, ...] = (cloud.height, len(cloud) // cloud.height)
    if field.values > 1:
        shape, strides = (*shape, field.values), (*strides, field.form.itemsize)
    return np.ndarray(shape, field.form, data, field.offset, strides) if len(cloud) else np.empty(shape, field.form)
