"""KITTI's .bin files: float32 x, y, z, intensity of every point, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError


def read(path: Path) -> PointCloud:
    """A scan of float32 x, y, z, intensity. Raises FileError."""
    size = path.stat().st_size
    if size % 16:
        raise FileError(f"{size} bytes are not a multiple of 16 (float32 x, y, z, intensity)")
    rows = np.fromfile(path, "<f4").reshape(-1, 4)
    return PointCloud(np.ascontiguousarray(rows[:, :3]), {"intensity": np.ascontiguousarray(rows[:, 3])})


def write(out: IO[bytes], cloud: PointCloud) -> None:
    """Write a scan; an intensity that the cloud does not have is 0. Raises FileError."""
    kinds = {name: values.dtype for name, values in cloud.fields.items()}
    if cloud.xyz.dtype != np.float32 or kinds not in ({}, {"intensity": np.dtype(np.float32)}):
        fields = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise FileError(f"xyz {cloud.xyz.dtype}, {fields or 'no other fields'}: .bin holds x, y, z and intensity, all float32")
    intensity = cloud.fields.get("intensity", np.zeros(len(cloud), np.float32))
    out.write(np.concatenate([cloud.xyz, intensity[:, None]], axis=1).astype("<f4").tobytes())
