"""Other codecs on the same grids: figures from a table, and Draco, zstd and G-PCC run live where they are installed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import AnypccError, FileError
from anypcc_ros.evaluation.evaluate import unique_cells
from anypcc_ros.files import read_cloud, write_cloud
from anypcc_ros.optional import MissingPackageError, optional

GPCC = ("ctc3-octree", "idcm0")  # settings of G-PCC's octree coder; the smaller result counts
GPCC_STATIC = "ctc1-octree"  # the common test conditions of static objects; only in tables, within 0.02 % of idcm0 or above it
RENO, DRACO, ZSTD = "RENO-KITTI", "draco", "zstd"
ZSTD_LEVEL = 3
FLOAT_BITS = 24
"""Draco and G-PCC take float32 positions, which hold integers up to here."""

GPCC_PROGRAM = "tmc3"  # MPEG's reference software, github.com/MPEGGroup/mpeg-pcc-tmc13
_GPCC_COMMON = {
    "disableAttributeCoding": 1,
    "positionQuantizationScale": 1,
    "trisoupNodeSizeLog2": 0,
    "neighbourAvailBoundaryLog2": 8,
    "intra_pred_max_node_size_log2": 6,
    "partitionMethod": 0,
    "maxNumQtBtBeforeOt": 6,
    "minQtbtSizeLog2": 0,
    "planarEnabled": 1,
    "planarModeIdcmUse": 32,
}
_GPCC_SETTINGS = {
    "ctc3-octree": {"inferredDirectCodingMode": 3},  # common test conditions of category 3, single frames
    "idcm0": {"inferredDirectCodingMode": 0},
}

_GPCC_DENSE = {  # common test conditions of category 1 (dense and solid clouds), lossy geometry
    "disableAttributeCoding": 1,
    "mergeDuplicatedPoints": 1,
    "neighbourAvailBoundaryLog2": 8,
    "intra_pred_max_node_size_log2": 6,
    "planarEnabled": 0,
    "planarModeIdcmUse": 0,
}
_GPCC_OCTREE: dict[str, float] = {"trisoupNodeSizeLog2": 0, "maxNumQtBtBeforeOt": 4, "minQtbtSizeLog2": 0}
_GPCC_TRISOUP: dict[str, float] = {
    "positionQuantizationScale": 1,
    "inferredDirectCodingMode": 0,
    "sliceMaxPointsTrisoup": 1_100_000,
    "sliceMaxPoints": 1_000_000,
    "sliceMinPoints": 449_000,
    "trisoupQuantizationBits": 2,
    "trisoupFineRayTracingEnabled": 0,
    "trisoupImprovedEncoderEnabled": 1,
}
GPCC_LOSSY: dict[str, dict[str, float]] = {
    **{f"octree, scale {s:g}": _GPCC_OCTREE | {"positionQuantizationScale": s} for s in (0.875, 0.75, 0.5, 0.25, 0.125)},
    **{
        f"trisoup, nodes of {1 << size}": _GPCC_TRISOUP
        | {"trisoupNodeSizeLog2": size, "trisoupCentroidResidualEnabled": size > 2, "trisoupFaceVertexEnabled": size > 2}
        for size in (2, 3, 4, 5)
    },
}
"""Settings of G-PCC's lossy geometry: rates of its octree coder, and of its surfaces of triangles."""


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
        """Bits per input point of the best G-PCC setting."""
        return min((self.bpp[name] for name in (*GPCC, GPCC_STATIC) if name in self.bpp), default=None)


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


class PeerError(AnypccError):
    """Another codec failed on a cloud, or did not return what it was given."""


@dataclass(frozen=True)
class PeerRun:
    """One run of another codec: bytes, and the seconds its encoder and its decoder took."""

    bytes: int
    encode_s: float
    decode_s: float


def run_draco(cells: np.ndarray) -> PeerRun | None:
    """Draco's kd-tree coder on unique grid cells (V, 3) int64, lossless, its strongest level.

    None where DracoPy is not installed or the grid is beyond what float32 positions hold. Raises PeerError.
    """
    positions, bits = _float_positions(cells)
    draco = _installed("DracoPy")
    if draco is None or positions is None:
        return None
    start = time.perf_counter()
    data = encode_draco(draco, positions, bits)
    encoded = time.perf_counter()
    decoded = np.asarray(draco.decode(data).points)
    end = time.perf_counter()
    _check_cells("Draco", decoded, cells)
    return PeerRun(len(data), encoded - start, end - encoded)


def encode_draco(draco: Any, cells: np.ndarray, bits: int, attributes: Mapping[int, np.ndarray] | None = None) -> bytes:
    """Draco's kd-tree coder at its strongest level, by the module ``DracoPy``: cells (N, 3) float32, from 0 to below 2**bits,
    and integers (N, 1) by number, all of them exact."""
    data: bytes = draco.encode(
        cells,
        quantization_bits=bits,
        quantization_range=2**bits - 1,
        quantization_origin=[0, 0, 0],
        compression_level=10,
        generic_attributes=dict(attributes) if attributes else None,
    )
    return data


def run_zstd(cloud: PointCloud) -> PeerRun | None:
    """zstd on the coordinates as they stand in memory, not rounded; None where zstandard is not installed."""
    zstd = _installed("zstandard")
    if zstd is None:
        return None
    plain = np.ascontiguousarray(cloud.xyz).tobytes()
    start = time.perf_counter()
    data: bytes = zstd.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
    encoded = time.perf_counter()
    decoded = zstd.ZstdDecompressor().decompress(data)
    end = time.perf_counter()
    if decoded != plain:
        raise PeerError(f"zstd returned other bytes than the {len(plain)} it was given")
    return PeerRun(len(data), encoded - start, end - encoded)


def run_gpcc(cells: np.ndarray, setting: str) -> PeerRun | None:
    """G-PCC's octree coder on unique grid cells (V, 3) int64, lossless, in one of its settings ``GPCC``.

    Seconds are those that ``tmc3`` reports of its coder, without reading and writing its files. None where no ``tmc3``
    is on the PATH or the grid is beyond what float32 positions hold. Raises PeerError.
    """
    positions, _ = _float_positions(cells)
    program = shutil.which(GPCC_PROGRAM)
    if program is None or positions is None:
        return None
    with tempfile.TemporaryDirectory(prefix="anypcc-") as name:
        given, stream, back = (Path(name) / file for file in ("in.ply", "out.bin", "back.ply"))
        write_cloud(given, PointCloud(positions))
        flags = _GPCC_COMMON | _GPCC_SETTINGS[setting]
        encode_s = _run_tmc3(program, mode=0, uncompressedDataPath=given, compressedStreamPath=stream, **flags)
        decode_s = _run_tmc3(program, mode=1, compressedStreamPath=stream, reconstructedDataPath=back, outputBinaryPly=1)
        _check_cells("G-PCC", read_cloud(back).xyz, cells)
        return PeerRun(stream.stat().st_size, encode_s, decode_s)


def run_gpcc_lossy(cells: np.ndarray, setting: str) -> tuple[PeerRun, np.ndarray] | None:
    """The same with a setting of ``GPCC_LOSSY``; and the decoded points (M, 3), where the cells are."""
    positions, _ = _float_positions(cells)
    program = shutil.which(GPCC_PROGRAM)
    if program is None or positions is None:
        return None
    chosen = _GPCC_DENSE | GPCC_LOSSY[setting]
    with tempfile.TemporaryDirectory(prefix="anypcc-") as name:
        given, stream, back = (Path(name) / file for file in ("in.ply", "out.bin", "back.ply"))
        write_cloud(given, PointCloud(positions))
        flags = {flag: int(value) if isinstance(value, bool) else value for flag, value in chosen.items()}
        encode_s = _run_tmc3(program, mode=0, uncompressedDataPath=given, compressedStreamPath=stream, **flags)
        decode_s = _run_tmc3(program, mode=1, compressedStreamPath=stream, reconstructedDataPath=back, outputBinaryPly=1)
        run = PeerRun(stream.stat().st_size, encode_s, decode_s)
        return run, np.unique(read_cloud(back).xyz.astype(np.float64), axis=0) + cells.min(axis=0)


def _run_tmc3(program: str, **flags: object) -> float:
    command = [program, *(f"--{flag}={value}" for flag, value in flags.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    time_line = re.search(r"Processing time \(user\): ([0-9.]+) s", done.stdout)
    if done.returncode or time_line is None:
        raise PeerError(f"{GPCC_PROGRAM} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(time_line[1])


def _installed(package: str) -> Any:
    try:
        return optional(package, "eval")
    except MissingPackageError:
        return None


def _float_positions(cells: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Cells moved to the origin as (V, 3) float32, or None if that cannot hold them; and the bits of their extent."""
    local = cells - cells.min(axis=0)
    bits = max(int(local.max()).bit_length(), 1)
    return (local.astype(np.float32) if bits <= FLOAT_BITS else None), bits


def _check_cells(peer: str, decoded: np.ndarray, cells: np.ndarray) -> None:
    back = np.rint(decoded).astype(np.int64).reshape(-1, 3)
    if len(back) != len(cells) or not np.array_equal(unique_cells(back), unique_cells(cells - cells.min(axis=0))):
        raise PeerError(f"{peer} returned other cells than the {len(cells)} it was given")
