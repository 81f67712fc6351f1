"""LAS and LAZ files by laspy: every dimension of a point, to a cloud and back."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.files.columns import cloud_from_columns, columns_of_cloud
from anypcc_ros.optional import optional

LAZ_MAXIMUM_RATIO = 1000  # points per byte of file; what claims to be denser is taken for a broken header
POINT_FORMATS = (0, 1, 2, 3, 6, 7, 8)
"""Those that are written: without wave packets."""
_OF_THE_FORMAT, _PROJECTION = ("LASF_Spec", "laszip encoded"), "LASF_Projection"
"""Who has written a record: what says how points are stored, and what says where they are."""

FINEST_SCALE = 9
"""Decimal places of the finest scale that is written."""


def read(path: Path) -> PointCloud:
    """The cloud of a LAS or LAZ file, with every dimension. Raises FileError, MissingPackageError."""
    return cloud_from_columns(_read_columns(path))


def write_las(out: IO[bytes], cloud: PointCloud) -> None:
    """Write a LAS file, see ``_write_columns``. Raises FileError, MissingPackageError."""
    _write_columns(out, columns_of_cloud(cloud), compressed=False)


def write_laz(out: IO[bytes], cloud: PointCloud) -> None:
    """The same, compressed."""
    _write_columns(out, columns_of_cloud(cloud), compressed=True)


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """x, y, z as float64, scale and offset applied, and every other dimension, extra ones too.

    Raises FileError for anything that is not a whole file, MissingPackageError without laspy (and lazrs, for .laz).
    """
    laspy = optional("laspy", "files")
    unreadable: tuple[type[Exception], ...] = (laspy.errors.LaspyException,)
    if path.suffix.lower() == ".laz":
        unreadable += (optional("lazrs", "files").LazrsError,)
    _check_records(path)
    try:
        with laspy.open(str(path), laz_backend=laspy.LazBackend.Lazrs) as reader:  # not LazrsParallel, see below
            declared = reader.header.point_count
            _check_points(path, reader.header)
            data = reader.read()
    except unreadable as error:
        raise FileError(f"not a readable {path.suffix[1:].upper()} file: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the compiled LAZ decoder's, and no Exception
            raise
        raise FileError(f"not a readable LAZ file: {error}") from error
    if len(data.points) != declared:
        raise FileError(f"{len(data.points)} points where its header declares {declared}")
    records = [record for record in (*data.header.vlrs, *(data.header.evlrs or ())) if record.user_id not in _OF_THE_FORMAT]
    if records:
        system = ", the coordinate system among them" if any(r.user_id == _PROJECTION for r in records) else ""
        warnings.warn(f"{path}: left out {len(records)} record{'s' * (len(records) > 1)} of the file{system}", stacklevel=2)
    columns = {axis: np.asarray(getattr(data, axis), np.float64) for axis in "xyz"}
    for name in data.point_format.dimension_names:
        if name not in ("X", "Y", "Z"):
            columns[name] = np.array(data[name])
    return columns


def _write_columns(out: IO[bytes], columns: Mapping[str, np.ndarray], compressed: bool) -> None:
    """Write columns (N,) under their names: as the dimensions of the smallest point format that has most of them, where the
    type fits, and the others as extra dimensions. Both keep every value.

    Coordinates are stored in the coarsest decimal step in which all of them come back, float64 to its last bits, or, if
    there is none, the finest that 32 bits allow: then they are off by half of that. Raises FileError where LAS cannot hold
    something, MissingPackageError without laspy (and lazrs).
    """
    laspy = optional("laspy", "files")
    if compressed:
        optional("lazrs", "files")
    others = {name: values for name, values in columns.items() if name not in ("x", "y", "z")}
    xyz = np.stack([columns[axis] for axis in "xyz"], axis=1)
    if bad := int((~np.isfinite(xyz)).any(axis=1).sum()):
        raise FileError(f"{bad} of {len(xyz)} points are not finite, which LAS cannot hold")
    form = max(map(laspy.PointFormat, POINT_FORMATS), key=lambda form: (len(_standard(form, others)), -form.size))
    standard = _standard(form, others)
    header = laspy.LasHeader(point_format=form, version="1.4" if form.id >= 6 else "1.2")
    header.offsets, header.scales = _offsets_and_scales(xyz)
    extra = {
        f"{name}_{values.dtype}" if name in form.dimension_names else name: values
        for name, values in others.items()
        if name not in standard
    }
    try:
        header.add_extra_dims([laspy.ExtraBytesParams(name, _extra_type(name, values)) for name, values in extra.items()])
        data = laspy.LasData(header, laspy.ScaleAwarePointRecord.zeros(len(xyz), header=header))
        data.x, data.y, data.z = xyz.astype(np.float64).T
        for name, values in {**{name: others[name] for name in standard}, **extra}.items():
            data[name] = values.astype(np.uint8) if values.dtype == np.bool_ else values
        data.write(out, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    except laspy.errors.LaspyException as error:
        raise FileError(f"cannot be written as LAS: {error}") from error


def _standard(form: Any, columns: Mapping[str, np.ndarray]) -> list[str]:
    """The columns that a dimension of the point format holds."""
    names = [name for name in columns if name in form.standard_dimension_names]
    return [name for name in names if _fits(form.dimension_by_name(name), columns[name])]


def _fits(dimension: Any, values: np.ndarray) -> bool:
    if not np.can_cast(values.dtype, dimension.dtype or np.uint8):
        return False
    return dimension.kind.name != "BitField" or not len(values) or int(values.max()) < 1 << dimension.num_bits


def _extra_type(name: str, values: np.ndarray) -> np.dtype:
    if len(name.encode()) > 32:
        raise FileError(f"field {name} has a name of {len(name.encode())} bytes; LAS has 32 at most")
    if values.dtype.kind not in "iufb" or values.dtype == np.float16:
        raise FileError(f"field {name} has type {values.dtype}, which LAS does not have")
    return np.dtype(np.uint8) if values.dtype == np.bool_ else values.dtype


def _offsets_and_scales(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per axis, as ``_write_columns`` says; whole numbers as offsets."""
    offsets, scales = np.zeros(3), np.ones(3)
    for axis, values in enumerate(xyz.astype(np.float64).T if len(xyz) else ()):
        low, high = np.floor(values.min()), np.ceil(values.max())
        if high - low >= 2**31:
            raise FileError(f"coordinates from {low:g} to {high:g} do not fit into 32 bits")
        offsets[axis] = low if max(abs(low), abs(high)) >= 2**31 * 10.0**-FINEST_SCALE else 0.0
        precision = np.finfo(np.float64).eps * max(abs(low), abs(high))
        for places in range(FINEST_SCALE + 1):
            finer = 10.0**-places
            if (high - offsets[axis]) / finer >= 2**31 - 1 or (low - offsets[axis]) / finer <= -(2**31):
                break
            scales[axis] = finer
            stored = np.rint((values - offsets[axis]) / finer) * finer + offsets[axis]
            if (np.abs(stored.astype(xyz.dtype) - values) <= precision).all():
                break
    return offsets, scales


# laspy reads as many records as a LAS header declares; the LAZ decoder allocates what it declares and ends
# the process when that fails. So the counts of a header are held against the size of the file first.


def _check_records(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(375)  # of LAS 1.4, the longest
    if len(header) < 227 or header[:4] != b"LASF":
        raise FileError(f"not a LAS file: {size} bytes that begin with {header[:4]!r}")
    header_size, points_at, records = struct.unpack_from("<HII", header, 94)
    if not header_size + 54 * records <= points_at <= size:
        raise FileError(f"declares {records} records before its points at byte {points_at} of {size}")
    if header[25] >= 4 and len(header) == 375:
        extended_at, extended = struct.unpack_from("<QI", header, 235)
        if extended and extended_at + 60 * extended > size:
            raise FileError(f"declares {extended} extended records at byte {extended_at} of {size}")


def _check_points(path: Path, header: Any) -> None:
    points, point_size, start = header.point_count, header.point_format.size, header.offset_to_point_data
    available = path.stat().st_size - start
    if points > (available * LAZ_MAXIMUM_RATIO if header.are_points_compressed else available // point_size):
        raise FileError(f"declares {points} points of {point_size} bytes, and has {available} bytes for them")
    if header.are_points_compressed and points:
        with open(path, "rb") as file:
            file.seek(start)
            (table,) = struct.unpack("<q", file.read(8))
            if not start < table <= path.stat().st_size - 8:
                raise FileError(f"its table of chunks would be at byte {table} of {path.stat().st_size}")
            file.seek(table + 4)
            (chunks,) = struct.unpack("<I", file.read(4))
        if chunks > points:
            raise FileError(f"declares {chunks} chunks for {points} points")
