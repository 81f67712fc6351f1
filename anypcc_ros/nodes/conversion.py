"""PointCloud2 to PointCloud and back.

sensor_msgs_py does the same on a ROS installation, but is not among the Python wheels, copies the points more often, and
leaves a message whose sizes contradict each other to numpy's own errors.
"""

from __future__ import annotations

import array
import sys

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import InputError

AXES = ("x", "y", "z")
_FORMATS = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
_DATATYPES = {"float32": PointField.FLOAT32, "float64": PointField.FLOAT64, "int32": PointField.INT32}


def cloud_from_message(message: PointCloud2) -> PointCloud:
    """The coordinates of every point of ``message``, row by row, NaN and infinity included.

    Reads any offsets, padding, row step and byte order. The xyz of the result is (N, 3) in native byte order: float32 or
    float64 as in the message, int32 for integers of up to 32 bits, int64 for uint32; of mixed types the widest.
    The other fields are not read. Raises InputError where the sizes in the message contradict each other.
    """
    layout = _layout(message)
    # The buffer may hold more than the points; ndarray itself only refuses one that holds less.
    points = np.ndarray(
        shape=(message.height, message.width),
        dtype=layout,
        buffer=memoryview(message.data) if len(message.data) else b"",
        strides=(_row_step(message), message.point_step),
    )
    columns = [points[axis] for axis in AXES]
    xyz = np.empty((message.height, message.width, 3), _coordinate_dtype(columns))
    for axis, column in enumerate(columns):
        xyz[..., axis] = column
    return PointCloud(xyz.reshape(-1, 3))


def message_from_cloud(cloud: PointCloud, header: Header) -> PointCloud2:
    """An unorganised PointCloud2 with the fields x, y and z and nothing else; ``header`` is used as it is.

    The fields have the cloud's dtype; int64, which PointField does not know, becomes float64.
    """
    xyz = cloud.xyz if cloud.xyz.dtype.name in _DATATYPES else cloud.xyz.astype(np.float64)
    size = xyz.dtype.itemsize
    message = PointCloud2()
    message.header = header
    message.height, message.width = 1, len(xyz)
    message.fields = [
        PointField(name=name, offset=axis * size, datatype=_DATATYPES[xyz.dtype.name], count=1)
        for axis, name in enumerate(AXES)
    ]
    message.is_bigendian = sys.byteorder == "big"
    message.point_step = 3 * size
    message.row_step = message.point_step * message.width
    message.data = as_uint8_sequence(np.ascontiguousarray(xyz))
    message.is_dense = True
    return message


def other_fields(message: PointCloud2) -> tuple[str, ...]:
    """Names of the fields that the codec does not carry."""
    return tuple(field.name for field in message.fields if field.name not in AXES)


def as_uint8_sequence(data: bytes | np.ndarray) -> array.array[int]:
    """The bytes of ``data`` (bytes or a C-contiguous array) as array.array.

    It is the one type that rclpy takes over without looking at every byte; a list costs 100 times as much.
    """
    sequence = array.array("B")
    view = memoryview(data)  # type: ignore[arg-type]  # NumPy's stubs know of buffers from Python 3.12 on
    sequence.frombytes(view.cast("B") if view.nbytes else b"")  # an empty view of several dimensions cannot be cast
    return sequence


def _row_step(message: PointCloud2) -> int:
    """Drivers of unorganised clouds leave row_step at 0 or worse; it only matters where there are several rows."""
    return message.row_step if message.height > 1 else message.width * message.point_step


def _layout(message: PointCloud2) -> np.dtype:
    """The structured dtype of x, y and z within one point, once every size in the message has been checked."""
    fields = {field.name: field for field in message.fields}
    missing = [axis for axis in AXES if axis not in fields]
    if missing:
        raise InputError(f"PointCloud2 has no field {', '.join(missing)} (fields: {', '.join(fields) or 'none'})")
    formats, offsets = [], []
    for axis in AXES:
        field = fields[axis]
        if field.datatype not in _FORMATS:
            raise InputError(f"PointCloud2 field {axis} has datatype {field.datatype}; 1 to 8 are defined")
        if field.count > 1:
            raise InputError(f"PointCloud2 field {axis} has {field.count} values for each point; 1 is needed")
        form = np.dtype((">" if message.is_bigendian else "<") + _FORMATS[field.datatype])
        if field.offset + form.itemsize > message.point_step:
            raise InputError(
                f"PointCloud2 field {axis} ends at byte {field.offset + form.itemsize} of points of {message.point_step} bytes"
            )
        formats.append(form)
        offsets.append(field.offset)
    if message.height and message.width:
        row = message.width * message.point_step
        if _row_step(message) < row:
            raise InputError(
                f"PointCloud2 has a row_step of {message.row_step} bytes for rows of {message.width} points "
                f"of {message.point_step} bytes ({row} bytes)"
            )
        needed = (message.height - 1) * _row_step(message) + row
        if len(message.data) < needed:
            raise InputError(
                f"PointCloud2 has {len(message.data)} bytes of data; {message.height} x {message.width} points "
                f"of {message.point_step} bytes need {needed}"
            )
    return np.dtype({"names": AXES, "formats": formats, "offsets": offsets, "itemsize": message.point_step})


def _coordinate_dtype(columns: list[np.ndarray]) -> np.dtype:
    """The dtype of PointCloud.xyz that holds the values of all columns."""
    common = np.result_type(*columns)
    if common.kind == "f":
        return np.dtype(np.float32 if common.itemsize <= 4 else np.float64)
    return np.dtype(np.int32 if np.can_cast(common, np.int32) else np.int64)
