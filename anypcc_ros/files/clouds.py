"""Clouds by the ending of their file's name, and what is said of files that cannot be read or written."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError, InputError
from anypcc_ros.files import kitti, las, npz, pcd, ply
from anypcc_ros.files.output import atomic_write
from anypcc_ros.optional import MissingPackageError

_READERS: dict[str, Callable[[Path], PointCloud]] = {
    ".ply": ply.read,
    ".pcd": pcd.read,
    ".npz": npz.read,
    ".bin": kitti.read,
    ".las": las.read,
    ".laz": las.read,
}
_WRITERS: dict[str, Callable[[IO[bytes], PointCloud], None]] = {
    ".ply": ply.write,
    ".pcd": pcd.write,
    ".npz": npz.write,
    ".las": las.write_las,
    ".laz": las.write_laz,
    ".bin": kitti.write,
}
READABLE, WRITABLE = tuple(_READERS), tuple(_WRITERS)

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
    read = _by_ending(path, _READERS, "read")
    with _naming(path, "read"):
        cloud: PointCloud = read(path)
        return npz.scaled(path, cloud) if metres and path.suffix.lower() == ".npz" else cloud


def write_cloud(path: str | os.PathLike[str], cloud: PointCloud) -> None:
    """Write one cloud, .ply and .pcd in their binary form; the file appears whole or not at all.

    Raises FileError where the format cannot hold all of the cloud's fields or the place cannot be written. LAS holds
    coordinates in decimal steps, see ``files.las``; what is organised stays so in .pcd and .npz.
    """
    path = Path(path)
    write = _by_ending(path, _WRITERS, "write")
    with atomic_write(path) as out, _naming(path, "write"):
        write(out, cloud)


def unit_of(path: str | os.PathLike[str]) -> float:
    """Length of one unit of the file's coordinates: the scale of an integer .npz cloud (metres), else 1."""
    path = Path(path)
    if path.suffix.lower() != ".npz":
        return 1.0
    with _naming(path, "read"):
        return npz.unit(path)


def check_format(path: str | os.PathLike[str]) -> None:
    """Raises FileError where ``write_cloud`` knows no format of the name's ending."""
    _by_ending(Path(path), _WRITERS, "write")


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


def _by_ending(path: Path, known: Mapping[str, Callable[..., Any]], verb: str) -> Callable[..., Any]:
    try:
        return known[path.suffix.lower()]
    except KeyError:
        raise FileError(f"{path}: cannot {verb} {path.suffix or 'a file without ending'}; one of {' '.join(known)}") from None
