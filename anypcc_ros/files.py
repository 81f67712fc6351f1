"""Point cloud files: .ply .pcd .npz .bin .las .laz to PointCloud and back.

Coordinates keep the file's own type: float32 and float64 stay, integers become int32 or int64. What a file says besides
the position of a point is kept in ``PointCloud.fields`` under the file's own names and in its order. Colours are one field:
``rgb`` (N, 3) where the file has red, green and blue, and packed into 32 bits as they are in a PCD or a ROS message; either
form is written as the format has it. plyfile and laspy are imported when a file needs them.
"""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from anypcc_ros import las, pcd
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError, InputError
from anypcc_ros.optional import MissingPackageError, optional

NPZ_EXTRAS = ("scale", "offset", "step", "height", "meta")  # describe the whole cloud of an .npz, not its points

COLOURS = ("red", "green", "blue")

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


def read_cloud(path: str | os.PathLike[str], metres: bool = False) -> PointCloud:
    """Read one cloud; the format follows from the name's ending.

    ``.npz``: ``xyz`` and any arrays with a row per point. Integers stay on their grid (see ``unit_of``), or, with ``metres``,
    become float64 where the file has their scale.
    ``.bin``: KITTI's float32 x, y, z, intensity. ``.las``/``.laz``: float64, scale and offset applied.
    Raises FileError, with the file's name and the numbers, for anything that is not a whole cloud.
    """
    path = Path(path)
    read = _format(path, _READERS, "read")
    with _naming(path, "read"):
        cloud: PointCloud = read(path)
        return _scaled(path, cloud) if metres and path.suffix.lower() == ".npz" else cloud


def write_cloud(path: str | os.PathLike[str], cloud: PointCloud) -> None:
    """Write one cloud, .ply and .pcd in their binary form; the file appears whole or not at all.

    Raises FileError where the format cannot hold all of the cloud's fields or the place cannot be written. LAS holds
    coordinates in decimal steps, see ``las.write``; what is organised stays so in .pcd and .npz.
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


def _scaled(path: Path, cloud: PointCloud) -> PointCloud:
    """The cloud of an .npz times the scale and plus the offset that the file has, if any."""
    with np.load(path, allow_pickle=False) as data:
        given = [data[name] for name in ("scale", "step") if name in data.files]
        if not given or cloud.xyz.dtype.kind != "i":
            return cloud
        offset = data["offset"] if "offset" in data.files else 0.0
    return replace(cloud, xyz=cloud.xyz * given[0].astype(np.float64) + offset)


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


def _cloud_from_columns(columns: Mapping[str, np.ndarray], height: int = 1) -> PointCloud:
    """A cloud of named columns: x, y, z; red, green, blue become ``rgb``; the rest are fields as they are."""
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise FileError(f"no field {', '.join(missing)} (it has {', '.join(columns) or 'none'})")
    xyz = _coordinates([columns[axis] for axis in "xyz"])
    fields = {name: np.ascontiguousarray(values) for name, values in columns.items() if name not in ("x", "y", "z")}
    before = list(columns)[: min(list(columns).index(axis) for axis in "xyz")]
    if all(colour in columns for colour in COLOURS) and "rgb" not in columns:
        rgb = np.stack([columns[colour] for colour in COLOURS], axis=1)
        fields = {"rgb" if name == "red" else name: rgb if name == "red" else values for name, values in fields.items()}
        fields = {name: values for name, values in fields.items() if name not in COLOURS}
        before = ["rgb" if name == "red" else name for name in before if name not in COLOURS[1:]]
    return PointCloud(xyz, fields, height, len(before))


def _columns_of_cloud(cloud: PointCloud) -> dict[str, np.ndarray]:
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
        rgba = pcd.unpack_colour(values)
        with_alpha = name == "rgba" or bool(rgba[:, 3].any())
        return dict(zip((*COLOURS, "alpha") if with_alpha else COLOURS, rgba.T, strict=False))
    if name == "rgb" and values.shape[1:] == (3,):
        return dict(zip(COLOURS, values.T, strict=True))
    if values.ndim == 1:
        return {name: values}
    return {f"{name}_{i}": column for i, column in enumerate(values.T)}


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
        height = int(data["height"]) if "height" in data.files else 1
    fields = {name: values for name, values in arrays.items() if values.ndim and len(values) == len(xyz)}
    return PointCloud(_coordinates(list(xyz.T)), fields, height)


def _write_npz(out: IO[bytes], cloud: PointCloud) -> None:
    taken = [name for name in cloud.fields if name in ("xyz", *NPZ_EXTRAS)]
    if taken:
        raise FileError(f"field {taken[0]} would stand for something else in an .npz")
    height = {"height": np.int64(cloud.height)} if cloud.height > 1 else {}
    # Not savez_compressed, whose own parameters are names that a field may have.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in {"xyz": cloud.xyz, **cloud.fields, **height}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)


def _read_bin(path: Path) -> PointCloud:
    size = path.stat().st_size
    if size % 16:
        raise FileError(f"{size} bytes are not a multiple of 16 (float32 x, y, z, intensity)")
    rows = np.fromfile(path, "<f4").reshape(-1, 4)
    return PointCloud(np.ascontiguousarray(rows[:, :3]), {"intensity": np.ascontiguousarray(rows[:, 3])})


def _write_bin(out: IO[bytes], cloud: PointCloud) -> None:
    kinds = {name: values.dtype for name, values in cloud.fields.items()}
    if cloud.xyz.dtype != np.float32 or kinds not in ({}, {"intensity": np.dtype(np.float32)}):
        fields = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise FileError(f"xyz {cloud.xyz.dtype}, {fields or 'no other fields'}: .bin holds x, y, z and intensity, all float32")
    intensity = cloud.fields.get("intensity", np.zeros(len(cloud), np.float32))
    out.write(np.concatenate([cloud.xyz, intensity[:, None]], axis=1).astype("<f4").tobytes())


def _read_pcd(path: Path) -> PointCloud:
    columns, height = pcd.read(path)
    return _cloud_from_columns(columns, height)


def _write_pcd(out: IO[bytes], cloud: PointCloud) -> None:
    columns = list(cloud.fields.items())
    columns[cloud.position : cloud.position] = zip("xyz", cloud.xyz.T, strict=True)
    if len({name for name, _ in columns}) < len(columns):
        raise FileError("a field is called x, y or z besides the coordinates")
    pcd.write(out, dict(columns), cloud.height)


def _read_ply(path: Path) -> PointCloud:
    plyfile = optional("plyfile", "files")
    try:
        data = plyfile.PlyData.read(str(path), mmap=False)
        if "vertex" not in data:
            raise FileError(f"no element vertex (it has {', '.join(e.name for e in data.elements) or 'none'})")
        vertex = data["vertex"]
    except plyfile.PlyParseError as error:
        raise FileError(f"not a readable PLY: {error}") from error
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
    return _cloud_from_columns(columns)


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
    return _cloud_from_columns(las.read(path))


def _write_las(out: IO[bytes], cloud: PointCloud, compressed: bool = False) -> None:
    las.write(out, _columns_of_cloud(cloud), compressed)


def _write_laz(out: IO[bytes], cloud: PointCloud) -> None:
    _write_las(out, cloud, compressed=True)


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
    ".las": _write_las,
    ".laz": _write_laz,
    ".bin": _write_bin,
}
READABLE, WRITABLE = tuple(_READERS), tuple(_WRITERS)
