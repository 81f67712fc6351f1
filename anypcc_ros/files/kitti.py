"""Bare float32 rows: KITTI's .bin of x, y, z, intensity, and nuScenes' .pcd.bin, whose fifth column is the ring."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError

_COLUMNS = {".bin": ("intensity",), ".pcd.bin": ("intensity", "ring")}
"""Those behind x, y and z, by how the name ends."""


def read(path: Path) -> PointCloud:
    """A scan of float32 x, y, z, intensity, and ring in a .pcd.bin. Raises FileError."""
    names = _COLUMNS[".pcd.bin" if path.name.lower().endswith(".pcd.bin") else ".bin"]
    size, row = path.stat().st_size, 4 * (3 + len(names))
    if not size or size % row:
        raise FileError(f"{size} bytes are not a multiple of {row} (float32 x, y, z, {', '.join(names)})")
    rows = np.fromfile(path, "<f4").reshape(-1, 3 + len(names))
    columns = {name: np.ascontiguousarray(rows[:, 3 + i]) for i, name in enumerate(names)}
    return PointCloud(np.ascontiguousarray(rows[:, :3]), columns)


def write(out: IO[bytes], cloud: PointCloud) -> None:
    """Write a scan; an intensity that the cloud does not have is 0. Raises FileError."""
    kinds = {name: values.dtype for name, values in cloud.fields.items()}
    if cloud.xyz.dtype != np.float32 or kinds not in ({}, {"intensity": np.dtype(np.float32)}):
        fields = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise FileError(f"xyz {cloud.xyz.dtype}, {fields or 'no other fields'}: .bin holds x, y, z and intensity, all float32")
    intensity = cloud.fields.get("intensity", np.zeros(len(cloud), np.float32))
    out.write(np.concatenate([cloud.xyz, intensity[:, None]], axis=1).astype("<f4").tobytes())
