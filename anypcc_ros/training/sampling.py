"""Training samples: a cloud is turned, cropped and put on a grid, each at random, and becomes an octree.

Several crops make one batch: a forest of octrees of equal depth, whose levels are simply concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec import octree
from anypcc_ros.training.dataset import METRIC, TrainingCloud

CATEGORY_WEIGHT = {
    "lidar_spinning": 0.30,
    "lidar_other": 0.12,
    "dense_human": 0.12,
    "dense_object": 0.11,
    "indoor_rgbd": 0.12,
    "gs": 0.05,
    "photogrammetry": 0.05,
    "aerial": 0.04,
    "medical": 0.08,
    "synthetic_volume": 0.12,
}
"""How often each category is drawn among those of its kind. Robots first; the others often enough that one model serves all."""

SURFACES = ("dense_human", "dense_object", "medical", "indoor_rgbd", "synthetic_volume")
"""Categories that have batches of their own. The loss counts nodes, and a LiDAR crop has some ten times the nodes of a crop of
a surface: in one batch with it the surface would hardly count."""

DENSE_CROP = 4
"""Crops of voxelised surfaces take this many times the points: four of their points share one node of the level above,
and the loss counts nodes."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Occupancy codes per level, root first, of ``len(codes[0])`` octrees; and the points that they encode."""

    codes: list[np.ndarray]
    points: int


class Sampler:
    """Endless random batches of about ``points`` points, reproducible from the seed.

    ``dense_share``: of the batches that are of ``SURFACES``, where there are others as well.
    """

    def __init__(self, clouds: list[TrainingCloud], points: int, crops: int, seed: int, dense_share: float = 0.35) -> None:
        self._by_category: dict[str, list[TrainingCloud]] = {}
        for cloud in clouds:
            self._by_category.setdefault(cloud.category, []).append(cloud)
        self._names = sorted(self._by_category)
        weight = np.array([CATEGORY_WEIGHT.get(name, 0.05) for name in self._names])
        dense = np.array([name in SURFACES for name in self._names])
        kinds = [kind * weight for kind in (dense, ~dense) if kind.any()]
        self._kinds = [kind / kind.sum() for kind in kinds]
        self._first = dense_share if len(kinds) == 2 else 1.0
        self._points, self._crops, self._seed = points, crops, seed

    def batch(self, index: int) -> Batch:
        """The batch number ``index``; equal numbers give equal batches, so that a resumed run goes on as it would have."""
        rng = np.random.default_rng([self._seed, index])
        weight = self._kinds[int(rng.random() >= self._first)]
        categories = rng.choice(self._names, self._crops, p=weight)
        return forest([self._grid(rng, category, self._points // self._crops) for category in categories], rng)

    def _grid(self, rng: np.random.Generator, category: str, points: int) -> np.ndarray:
        clouds = self._by_category[category]
        cloud = clouds[rng.integers(len(clouds))]
        step = random_step(rng, cloud)
        xyz = crop(rng, cloud, points * DENSE_CROP if cloud.voxelised else points)
        if step == 1.0:
            return _random_symmetry(rng, xyz)
        xyz = (xyz.astype(np.float64) * cloud.unit) @ _random_rotation(rng, cloud.category).T
        return octree.quantise(xyz + rng.uniform(0, step, 3), step, (0.0, 0.0, 0.0))


def random_step(rng: np.random.Generator, cloud: TrainingCloud) -> float:
    """A grid step in the cloud's unit, spread over octaves around what its users would take.

    1.0 means the native grid of an already voxelised cloud.
    """
    if cloud.voxelised:
        return 1.0 if rng.random() < 0.7 else float(2 ** rng.uniform(0.3, 3))
    if cloud.category == "indoor_rgbd":
        return float(0.001 * 2 ** rng.uniform(0, 5))
    if cloud.category in METRIC:
        return float(0.001 * 2 ** rng.uniform(0, 6))
    extent = float(np.ptp(cloud.xyz, axis=0).max()) * cloud.unit
    low, high = {"dense_object": (8, 12), "dense_human": (8, 12)}.get(cloud.category, (11, 15))
    return extent / 2 ** rng.uniform(low, high)


def crop(rng: np.random.Generator, cloud: TrainingCloud, points: int) -> np.ndarray:
    """About ``points`` neighbouring rows of the cloud: a wedge of a LiDAR scan, a box of anything else."""
    xyz = cloud.xyz
    if len(xyz) <= points * 1.25:
        return xyz
    if cloud.category == "lidar_spinning":
        angle = np.arctan2(xyz[:, 1], xyz[:, 0])
        turned = (angle - rng.uniform(-np.pi, np.pi)) % (2 * np.pi)
        return xyz[np.argpartition(turned, points)[:points]]
    centre = xyz[rng.integers(len(xyz))]
    distance = np.abs(xyz - centre).max(axis=1)
    return xyz[np.argpartition(distance, points)[:points]]


def _random_symmetry(rng: np.random.Generator, grid: np.ndarray) -> np.ndarray:
    """One of the 48 symmetries of the cube."""
    return grid[:, rng.permutation(3)].astype(np.int64) * rng.choice([-1, 1], 3)


def _random_rotation(rng: np.random.Generator, category: str) -> np.ndarray:
    """A rotation about the vertical for clouds that know one, any rotation otherwise; mirrored half of the time."""
    if category.startswith("lidar") or category in ("indoor_rgbd", "aerial"):
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    else:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])


def forest(grids: list[np.ndarray], rng: np.random.Generator) -> Batch:
    """Octrees of all grids at one depth; each grid lies at a random place of its cube, as the octree's alignment is
    arbitrary. ``grids``: (N, 3) int64 each."""
    local = [grid - grid.min(axis=0) for grid in grids]
    depth = max(max(int(grid.max()).bit_length() for grid in local), 1)
    corner = np.zeros(3, np.int64)
    levels: list[list[np.ndarray]] = [[] for _ in range(depth)]
    for grid in local:
        free = (1 << depth) - 1 - grid.max(axis=0)
        coords, counts, _ = octree.sort_cells(grid + rng.integers(0, free + 1))
        tree = octree.occupancy_pyramid(octree.Voxels(corner, coords, counts, depth))
        for level, codes in zip(levels, tree, strict=True):
            level.append(codes)
    return Batch([np.concatenate(level) for level in levels], sum(map(len, grids)))
