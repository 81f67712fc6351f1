"""Point cloud files: .ply .pcd .npz .bin .las .laz to PointCloud, and PointCloud to .ply .pcd .npz.

Coordinates keep the file's own type: float32 and float64 stay, integers become int32 or int64. What a file
says besides the position of a point is kept in ``PointCloud.fields`` under the file's own names; colours are
one ``rgb`` field (N, 3) in every format. plyfile and laspy are imported when a file needs them.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from anypcc_ros import pcd
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError, InputError
from anypcc_ros.optional import MissingPackageError, optional

NPZ_EXTRAS = ("scale", "offset", "step", "meta")  # describe the whole cloud of an .npz, not its points
LAZ_MAXIMUM_RATIO = 1000  # points per byte of file; what claims to be denser is taken for a broken header

_MALFORMED = (  # what numpy, zipfile, plyfile and laspy raise on bytes that are not what they claim to be
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def read_cloud(path: str | os.PathLike[str]) -> PointCloud:
    """Read one cloud; the format follows from the name's ending.

    ``.npz``: ``xyz`` and any arrays with a row per point. Integers stay on their grid, see ``unit_of``.
    ``.bin``: KITTI's float32 x, y, z, intensity. ``.las``/``.laz``: float64, scale and offset applied.
    Raises FileError, with the file's name and the numbers, for anything that is not a whole cloud.
    """
    path = Path(path)
    read = _format(path, _READERS, "read")
    with _naming(path, "read"):
        cloud: PointCloud = read(path)
    return cloud


def write_cloud(path: str | os.PathLike[str], cloud: PointCloud) -> None:
    """Write one cloud as .ply (binary), .pcd (binary) or .npz; the file appears whole or not at all.

    Raises FileError where the format cannot hold the cloud or the place cannot be written.
    """
    path = Path(path)
    write = _format(path, _WRITERS, "write")
    with atomic_write(path) as out, _naming(path, "write"):
        write(out, cloud)


def unit_of(path: str | os.PathLike[str]) -> float:
    """Length of one unit of the file's coordinates: the scale of an integer .npz cloud (metres), else 1."""
    path = Path(path)
    if path.suffix.lower() != ".npz":
        return 1.0
    with _naming(path, "read"), np.load(path, allow_pickle=False) as data:
        for name in ("scale", "step"):
            if name in data.files:
                scales = np.unique(data[name])
                if len(scales) != 1:
                    raise FileError(f"{path}: the axes have different scales {scales.tolist()}; one is needed")
                return float(scales[0])
    return 1.0


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes its place when the block ends well, and leaves nothing when it does not."""
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: not a regular file, refusing to replace it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as out:
            yield out
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path, verb: str) -> Iterator[None]:
    """Turn what libraries raise on bad files into a FileError that names the file."""
    try:
        yield
    except FileError as error:
        raise error if str(path) in str(error) else FileError(f"{path}: {error}") from error
    except OSError as error:
        raise FileError(f"{path}: cannot {verb}: {error.strerror or error}") from error
    except (InputError, MissingPackageError) as error:
        raise FileError(f"{path}: {error}") from error
    except _MALFORMED as error:
        raise FileError(f"{path}: cannot {verb}: {type(error).__name__}: {error}") from error


def _format(path: Path, known: Mapping[str, Callable[..., Any]], verb: str) -> Callable[..., Any]:
    try:
        return known[path.suffix.lower()]
    except KeyError:
        raise FileError(f"{path}: cannot {verb} {path.suffix or 'a file without ending'}; one of {' '.join(known)}") from None


def _coordinates(columns: list[np.ndarray]) -> np.ndarray:
    """x, y and z of one length as (N, 3), in the smallest coordinate type that holds all three exactly."""
    common = np.result_type(*columns)
    if common.kind == "f":
        dtype = np.dtype(np.float32 if common.itemsize <= 4 else np.float64)
    elif common.kind in "iu":
        dtype = np.dtype(np.int32 if common.itemsize < 4 or common == np.int32 else np.int64)
        if common == np.uint64 and any(len(c) and c.max() > np.iinfo(np.int64).max for c in columns):
            raise FileError("coordinates beyond the range of int64")
    else:
        raise FileError(f"coordinates of type {common}; numbers are needed")
    return np.stack(columns, axis=1).astype(dtype, copy=False)


def _cloud_from_columns(columns: dict[str, np.ndarray]) -> PointCloud:
    """A cloud of named columns: x, y, z; red, green, blue become ``rgb``; the rest are fields as they are."""
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise FileError(f"no field {', '.join(missing)} (it has {', '.join(columns) or 'none'})")
    xyz = _coordinates([columns.pop(axis) for axis in "xyz"])
    if all(colour in columns for colour in ("red", "green", "blue")):
        columns["rgb"] = np.stack([columns.pop(colour) for colour in ("red", "green", "blue")], axis=1)
    return PointCloud(xyz, {name: np.ascontiguousarray(values) for name, values in columns.items()})


def _columns_of_cloud(cloud: PointCloud) -> dict[str, np.ndarray]:
    """The reverse; a field of several values per point becomes ``name_0``, ``name_1``..."""
    columns = dict(zip("xyz", cloud.xyz.T, strict=True))
    for name, values in cloud.fields.items():
        if values.ndim == 1:
            columns[name] = values
        elif name == "rgb" and values.shape[1:] == (3,):
            columns.update(zip(("red", "green", "blue"), values.T, strict=True))
        else:
            columns.update((f"{name}_{i}", column) for i, column in enumerate(values.reshape(len(values), -1).T))
    return columns


def _read_npz(path: Path) -> PointCloud:
    with np.load(path, allow_pickle=False) as data:
        if not isinstance(data, np.lib.npyio.NpzFile):
            raise FileError("not an .npz archive")
        if "xyz" not in data.files:
            raise FileError(f"no array xyz (it has {', '.join(data.files) or 'none'})")
        xyz = data["xyz"]
        if xyz.ndim != 2 or xyz.shape[1] != 3:
            raise FileError(f"xyz has shape {xyz.shape}; (N, 3) is needed")
        names = [name for name in data.files if name != "xyz" and name not in NPZ_EXTRAS]
        arrays = {name: data[name] for name in names}
    fields = {name: values for name, values in arrays.items() if values.ndim and len(values) == len(xyz)}
    return PointCloud(_coordinates(list(xyz.T)), fields)


def _write_npz(out: IO[bytes], cloud: PointCloud) -> None:
    np.savez_compressed(out, xyz=cloud.xyz, **cloud.fields)  # type: ignore[arg-type]


def _read_bin(path: Path) -> PointCloud:
    size = path.stat().st_size
    if size % 16:
        raise FileError(f"{size} bytes are not a multiple of 16 (float32 x, y, z, intensity)")
    rows = np.fromfile(path, "<f4").reshape(-1, 4)
    return PointCloud(np.ascontiguousarray(rows[:, :3]), {"intensity": np.ascontiguousarray(rows[:, 3])})


def _read_pcd(path: Path) -> PointCloud:
    return _cloud_from_columns(pcd.read(path))


def _write_pcd(out: IO[bytes], cloud: PointCloud) -> None:
    pcd.write(out, {**dict(zip("xyz", cloud.xyz.T, strict=True)), **cloud.fields})


def _read_ply(path: Path) -> PointCloud:
    plyfile = optional("plyfile", "files")
    try:
        data = plyfile.PlyData.read(str(path), mmap=False)
        if "vertex" not in data:
            raise FileError(f"no element vertex (it has {', '.join(e.name for e in data.elements) or 'none'})")
        vertex = data["vertex"]
    except plyfile.PlyParseError as error:
        raise FileError(f"not a readable PLY: {error}") from error
    lists = {p.name for p in vertex.properties if isinstance(p, plyfile.PlyListProperty)}
    native = {name: np.asarray(vertex.data[name]) for name in vertex.data.dtype.names if name not in lists}
    return _cloud_from_columns({name: c.astype(c.dtype.newbyteorder("="), copy=True) for name, c in native.items()})


def _write_ply(out: IO[bytes], cloud: PointCloud) -> None:
    plyfile = optional("plyfile", "files")
    columns = {name: _as_ply_type(name, values) for name, values in _columns_of_cloud(cloud).items()}
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


def _read_las(path: Path) -> PointCloud:
    laspy = optional("laspy", "files")
    unreadable: tuple[type[Exception], ...] = (laspy.errors.LaspyException,)
    if path.suffix.lower() == ".laz":
        unreadable += (optional("lazrs", "files").LazrsError,)
    _check_las_records(path)
    try:
        with laspy.open(str(path), laz_backend=laspy.LazBackend.Lazrs) as reader:  # not LazrsParallel, see below
            declared = reader.header.point_count
            _check_las_points(path, reader.header)
            data = reader.read()
    except unreadable as error:
        raise FileError(f"not a readable {path.suffix[1:].upper()} file: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the compiled LAZ decoder's, and no Exception
            raise
        raise FileError(f"not a readable LAZ file: {error}") from error
    if len(data.points) != declared:
        raise FileError(f"{len(data.points)} points where its header declares {declared}")
    columns = {axis: np.asarray(getattr(data, axis), np.float64) for axis in "xyz"}
    for name in data.point_format.dimension_names:
        if name not in ("X", "Y", "Z"):
            columns[name] = np.array(data[name])
    return _cloud_from_columns(columns)


# laspy reads as many records as a LAS header declares; the LAZ decoder allocates what it declares and ends
# the process when that fails. So the counts of a header are held against the size of the file first.


def _check_las_records(path: Path) -> None:
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


def _check_las_points(path: Path, header: Any) -> None:
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


_READERS: dict[str, Callable[[Path], PointCloud]] = {
    ".ply": _read_ply,
    ".pcd": _read_pcd,
    ".npz": _read_npz,
    ".bin": _read_bin,
    ".las": _read_las,
    ".laz": _read_las,
}
_WRITERS: dict[str, Callable[[IO[bytes], PointCloud], None]] = {
    ".ply": _write_ply,
    ".pcd": _write_pcd,
    ".npz": _write_npz,
}
READABLE, WRITABLE = tuple(_READERS), tuple(_WRITERS)
