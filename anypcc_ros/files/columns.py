"""A cloud as named columns, as files hold them: x, y, z, red, green, blue and whatever else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError

COLOURS = ("red", "green", "blue")


def coordinates(columns: list[np.ndarray]) -> np.ndarray:
    """x, y and z of one length as (N, 3), in the smallest coordinate type that holds all three exactly."""
    common = np.result_type(*columns)
    if common.kind == "f":
        dtype = np.dtype(np.float32 if common.itemsize <= 4 else np.float64)
    elif common.kind in "iu":
        dtype = np.dtype(np.int32 if common.itemsize < 4 or common == np.int32 else np.int64)
        largest = max((int(column.max()) for column in columns if len(column)), default=0)
        if largest > np.iinfo(np.int64).max:
            raise FileError(f"coordinates up to {largest}, beyond the range of int64")
    else:
        raise FileError(f"coordinates of type {common}; numbers are needed")
    return np.stack(columns, axis=1).astype(dtype, copy=False)


def cloud_from_columns(columns: Mapping[str, np.ndarray], height: int = 1) -> PointCloud:
    """A cloud of named columns: x, y, z; red, green, blue become ``rgb``; the rest are fields as they are."""
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise FileError(f"no field {', '.join(missing)} (it has {', '.join(columns) or 'none'})")
    xyz = coordinates([columns[axis] for axis in "xyz"])
    fields = {name: np.ascontiguousarray(values) for name, values in columns.items() if name not in ("x", "y", "z")}
    before = list(columns)[: min(list(columns).index(axis) for axis in "xyz")]
    if all(colour in columns for colour in COLOURS) and "rgb" not in columns:
        rgb = np.stack([columns[colour] for colour in COLOURS], axis=1)
        fields = {"rgb" if name == "red" else name: rgb if name == "red" else values for name, values in fields.items()}
        fields = {name: values for name, values in fields.items() if name not in COLOURS}
        before = ["rgb" if name == "red" else name for name in before if name not in COLOURS[1:]]
    return PointCloud(xyz, fields, height, len(before))


def columns_of_cloud(cloud: PointCloud) -> dict[str, np.ndarray]:
    """The reverse, every column (N,): colours, also packed ones, become red, green, blue, and any other field of several
    values per point ``name_0``, ``name_1``..."""
    columns: dict[str, np.ndarray] = {}
    for index, (name, values) in enumerate([*cloud.fields.items(), ("", cloud.xyz)]):
        if index == cloud.position:
            _add_columns(columns, dict(zip("xyz", cloud.xyz.T, strict=True)))
        if index < len(cloud.fields):
            _add_columns(columns, _split(name, values))
    return columns


def _add_columns(columns: dict[str, np.ndarray], more: Mapping[str, np.ndarray]) -> None:
    for name, values in more.items():
        if name in columns:
            raise FileError(f"two fields would be called {name!r} in this format")
        columns[name] = values


def _split(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    if name in ("rgb", "rgba") and values.ndim == 1 and values.dtype.itemsize == 4:
        rgba = unpack_colour(values)
        with_alpha = name == "rgba" or bool(rgba[:, 3].any())
        return dict(zip((*COLOURS, "alpha") if with_alpha else COLOURS, rgba.T, strict=False))
    if name == "rgb" and values.shape[1:] == (3,):
        return dict(zip(COLOURS, values.T, strict=True))
    if values.ndim == 1:
        return {name: values}
    return {f"{name}_{i}": column for i, column in enumerate(values.T)}


def unpack_colour(packed: np.ndarray) -> np.ndarray:
    """PCL's 0xAARRGGBB (N,), whatever type of 32 bits it was declared as, to (N, 4) r, g, b, a uint8."""
    bits = packed.view(np.uint32)
    return np.stack([bits >> shift & 255 for shift in (16, 8, 0, 24)], axis=1).astype(np.uint8)
