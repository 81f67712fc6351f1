"""NumPy archives, .npz: ``xyz``, fields, and what describes the whole cloud."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.files.columns import coordinates

EXTRAS = ("scale", "offset", "step", "height", "meta")
"""Arrays that describe the whole cloud, not its points."""


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays by name. Raises FileError."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):  # np.load would take it for a pickle, and advise to trust it
            file.seek(0)
            raise FileError(f"not an .npz archive: {path.stat().st_size} bytes that begin with {file.read(4)!r}")
    with np.load(path, allow_pickle=False) as data:
        yield data


def read(path: Path) -> PointCloud:
    """The cloud of an archive: ``xyz`` (N, 3) and any arrays with a row per point. Raises FileError."""
    with _opened(path) as data:
        if "xyz" not in data.files:
            raise FileError(f"no array xyz (it has {', '.join(data.files) or 'none'})")
        xyz = data["xyz"]
        if xyz.ndim != 2 or xyz.shape[1] != 3:
            raise FileError(f"xyz has shape {xyz.shape}; (N, 3) is needed")
        names = [name for name in data.files if name != "xyz" and name not in EXTRAS]
        arrays = {name: data[name] for name in names}
        height = int(data["height"]) if "height" in data.files else 1
    fields = {}
    for name, values in arrays.items():
        if height > 1 and values.shape[:2] == (height, len(xyz) // height):
            values = values.reshape(len(xyz), *values.shape[2:])
        if values.ndim and len(values) == len(xyz):
            fields[name] = values
        else:
            warnings.warn(
                f"{path}: left out {name} of shape {values.shape}, not a row for each of {len(xyz)} points", stacklevel=2
            )
    return PointCloud(coordinates(list(xyz.T)), fields, height)


def write(out: IO[bytes], cloud: PointCloud) -> None:
    """Write an archive with ``xyz``, the fields, and the rows of an organised cloud. Raises FileError."""
    taken = [name for name in cloud.fields if name in ("xyz", *EXTRAS)]
    if taken:
        raise FileError(f"field {taken[0]} would stand for something else in an .npz")
    height = {"height": np.int64(cloud.height)} if cloud.height > 1 else {}
    # Not savez_compressed, whose own parameters are names that a field may have.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in {"xyz": cloud.xyz, **cloud.fields, **height}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)


def unit(path: Path) -> float:
    """Length of one unit of the coordinates: the scale that the file has, else 1. Raises FileError."""
    with _opened(path) as data:
        for name in ("scale", "step"):
            if name in data.files:
                scales = np.unique(data[name])
                if len(scales) != 1:
                    raise FileError(f"the axes have different scales {scales.tolist()}; one is needed")
                return float(scales[0])
    return 1.0


def scaled(path: Path, cloud: PointCloud) -> PointCloud:
    """The file's cloud, integers times the scale and plus the offset that the file has, if any."""
    with _opened(path) as data:
        given = [data[name] for name in ("scale", "step") if name in data.files]
        if not given or cloud.xyz.dtype.kind != "i":
            return cloud
        offset = data["offset"] if "offset" in data.files else 0.0
    return replace(cloud, xyz=cloud.xyz * given[0].astype(np.float64) + offset)
