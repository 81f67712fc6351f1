"""Training clouds: read from a folder tree, kept in memory, and the grids on which each category is used.

Two layouts are read, and may be mixed: ``<category>/<name>.npz`` with ``xyz`` (float32, or int32 with ``scale``), and
``<category>__<name>.drc`` (Draco, integer coordinates) beside a ``MANIFEST*.csv`` that has the columns file and step.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anypcc_ros.codec.errors import FileError
from anypcc_ros.optional import optional

METRIC = ("lidar_spinning", "lidar_other", "indoor_rgbd")
"""Categories whose unit is the metre, so that a grid step is a length; the others are gridded by their extent."""


@dataclass(frozen=True, eq=False)
class TrainingCloud:
    """``xyz`` (N, 3) float32 or int32 in multiples of ``unit`` (metres for METRIC categories)."""

    name: str
    category: str
    xyz: np.ndarray
    unit: float

    @property
    def voxelised(self) -> bool:
        """Whether the integer coordinates are the cloud's own grid (bodies, objects, CT)."""
        return self.xyz.dtype.kind == "i" and self.unit == 1.0


def load_clouds(folders: list[Path], categories: list[str] | None = None) -> list[TrainingCloud]:
    """Every training cloud below the folders, sorted by name. Raises FileError when there is none or one is unreadable."""
    clouds: list[TrainingCloud] = []
    for folder in folders:
        clouds += [_read_npz(path) for path in folder.glob("*/*.npz")]
        clouds += _read_draco_folder(folder)
    clouds = [c for c in clouds if categories is None or c.category in categories]
    if not clouds:
        raise FileError(f"no training clouds in {', '.join(map(str, folders))} for categories {categories or 'all'}")
    return sorted(clouds, key=lambda cloud: (cloud.category, cloud.name))


def _read_npz(path: Path) -> TrainingCloud:
    with np.load(path, allow_pickle=False) as data:
        xyz = data["xyz"]
        unit = float(data["scale"].ravel()[0]) if "scale" in data else 1.0
    return TrainingCloud(path.stem, path.parent.name, np.ascontiguousarray(xyz), unit)


def _read_draco_folder(folder: Path) -> list[TrainingCloud]:
    manifests = sorted(folder.glob("MANIFEST*.csv"))
    files = {path.name: path for path in folder.glob("*__*.drc")}
    if not files:
        return []
    draco = optional("DracoPy", "train")
    clouds = []
    for manifest in manifests:
        with manifest.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["file"] not in files:
                    continue
                points = draco.decode(files[row["file"]].read_bytes()).points
                xyz = np.rint(np.asarray(points, np.float64)).astype(np.int32)
                unit = 1.0 if row["native_precision"].startswith("integer") else float(row["step"])
                clouds.append(TrainingCloud(Path(row["file"]).stem, row["category"], xyz, unit))
    return clouds
