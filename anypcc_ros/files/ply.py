"""PLY files by plyfile."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.files.columns import cloud_from_columns, columns_of_cloud
from anypcc_ros.optional import optional


def read(path: Path) -> PointCloud:
    """The cloud of a PLY file's element vertex, with all its properties. Raises FileError, MissingPackageError."""
    plyfile = optional("plyfile", "files")
    try:
        data = plyfile.PlyData.read(str(path), mmap=False)
        if "vertex" not in data:
            raise FileError(f"no element vertex (it has {', '.join(e.name for e in data.elements) or 'none'})")
        vertex = data["vertex"]
    except (plyfile.PlyParseError, UnicodeDecodeError) as error:
        raise FileError(f"not a readable PLY: {error}") from error
    others = [f"{element.name} ({len(element)})" for element in data.elements if element.name != "vertex" and len(element)]
    if others:
        warnings.warn(f"{path}: left out what is no point: {', '.join(others)}", stacklevel=2)
    columns = {}
    for item in vertex.properties:
        values = vertex.data[item.name]
        if isinstance(item, plyfile.PlyListProperty):
            lengths = {len(row) for row in values}
            if len(lengths) != 1 or 0 in lengths:
                warnings.warn(f"{path}: left out {item.name}, lists of different lengths", stacklevel=2)
                continue
            values = np.stack(list(values))
        columns[item.name] = values.astype(values.dtype.newbyteorder("="), copy=True)
    return cloud_from_columns(columns)


def write(out: IO[bytes], cloud: PointCloud) -> None:
    """Write a binary PLY, little endian. Raises FileError, MissingPackageError."""
    plyfile = optional("plyfile", "files")
    columns = {name: _as_ply_type(name, values) for name, values in columns_of_cloud(cloud).items()}
    vertices = np.empty(len(cloud), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        vertices[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<").write(out)


def _as_ply_type(name: str, values: np.ndarray) -> np.ndarray:
    """The same values in a type that PLY has: no 64-bit integers, booleans or half floats."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        for dtype in (np.int32, np.uint32):
            if not len(values) or (values.min() >= np.iinfo(dtype).min and values.max() <= np.iinfo(dtype).max):
                return values.astype(dtype)
        raise FileError(f"{name} goes from {values.min()} to {values.max()}; PLY has 32-bit integers at most")
    if values.dtype.kind not in "fiu":
        raise FileError(f"{name} has type {values.dtype}, which PLY does not have")
    return values
