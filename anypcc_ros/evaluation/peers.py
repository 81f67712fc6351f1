"""Other codecs on the same grids: published figures from a table, and Draco and zstd where they are installed."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.evaluation.evaluate import unique_cells
from anypcc_ros.optional import MissingPackageError, optional

GPCC = ("ctc3-octree", "idcm0")  # settings of G-PCC's octree coder; the smaller result counts
RENO, DRACO = "RENO-KITTI", "draco"
ZSTD_LEVEL = 3
_DRACO_BITS = 24  # Draco takes float32 positions, which hold integers up to here


@dataclass(frozen=True)
class PeerGrid:
    """One grid of one cloud in a table of other codecs.

    ``step``: in the length unit of the cloud's file. ``voxels``: occupied cells, for checking that the grids agree.
    ``bpp``: bits per input point by codec.
    """

    grid: str
    step: float
    points: int
    voxels: int
    bpp: dict[str, float]

    @property
    def gpcc(self) -> float | None:
        """Bits per input point of the better G-PCC setting."""
        return min((self.bpp[name] for name in GPCC if name in self.bpp), default=None)


def load_peers(path: str | os.PathLike[str]) -> dict[str, list[PeerGrid]]:
    """A CSV table of peers: grids by ``category/file``, in the table's order.

    Columns: file, grid, step, points, voxels, peer, bpp (others are ignored). Raises FileError.
    """
    grids: dict[tuple[str, str], PeerGrid] = {}
    try:
        with open(path, newline="") as lines:
            for row in csv.DictReader(lines):
                key = (file_key(row["file"]), row["grid"])
                found = PeerGrid(row["grid"], float(row["step"]), int(row["points"]), int(row["voxels"]), {})
                grid = grids.setdefault(key, found)
                if (grid.step, grid.points, grid.voxels) != (found.step, found.points, found.voxels):
                    raise FileError(f"{path}: two different grids {key[1]} of {key[0]}")
                grid.bpp[row["peer"]] = float(row["bpp"])
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise FileError(f"{path}: not a table of peers: {type(error).__name__}: {error}") from error
    by_file: dict[str, list[PeerGrid]] = {}
    for (key_of_file, _), grid in grids.items():
        by_file.setdefault(key_of_file, []).append(grid)
    return by_file


def file_key(path: str | os.PathLike[str]) -> str:
    """``category/file``: what a cloud is known by, wherever its folder stands."""
    return "/".join(Path(path).parts[-2:])


def draco_bytes(cells: np.ndarray) -> int | None:
    """Bytes of Draco's kd-tree coder for unique grid cells (V, 3) int64, lossless, its strongest level.

    None where DracoPy is not installed or the grid is beyond what Draco's float32 positions hold. Raises
    ValueError if what it decodes is not what went in.
    """
    try:
        draco = optional("DracoPy", "eval")
    except MissingPackageError:
        return None
    cells = cells - cells.min(axis=0)
    bits = max(int(cells.max()).bit_length(), 1)
    if bits > _DRACO_BITS:
        return None
    data: bytes = draco.encode(
        cells.astype(np.float32),
        quantization_bits=bits,
        quantization_range=2**bits - 1,
        quantization_origin=[0, 0, 0],
        compression_level=10,
    )
    decoded = np.rint(np.asarray(draco.decode(data).points)).astype(np.int64).reshape(-1, 3)
    if not np.array_equal(unique_cells(decoded), unique_cells(cells)):
        raise ValueError(f"Draco returned other cells than the {len(cells)} it was given")
    return len(data)


def zstd_bytes(cloud: PointCloud) -> int | None:
    """Bytes of the coordinates as they stand in memory, through zstd; None where zstandard is not installed."""
    try:
        zstd = optional("zstandard", "eval")
    except MissingPackageError:
        return None
    return len(zstd.ZstdCompressor(level=ZSTD_LEVEL).compress(np.ascontiguousarray(cloud.xyz).tobytes()))
