"""The stress set: real clouds made harder by seeded code, after the extreme data of AnyPcc (arXiv 2510.20331).

The paper's benchmark adds clouds that no sensor gives to the standard and the out-of-distribution ones: noise, points and
whole regions missing, non-rigid deformation, mixed density. Its clouds are not reproduced here (their parameters are not
published with the code); these are our own, from any folder of clouds, and the same from the same seed on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.evaluation.peers import PeerGrid
from anypcc_ros.evaluation.suite import FileSource, category_grids

GRIDS = {"lidar_spinning": "16mm", "lidar_other": "16mm", "indoor_rgbd": "5mm"}
"""Grids of the categories that have several; the others keep theirs."""

NOISE_STEPS = 2.0
KEPT_AT_RANDOM = 0.3
KEPT_OUTSIDE_HOLES = 0.5
HOLE_RADIUS = (0.03, 0.12)
AMPLITUDE = 0.02
WAVES = 6
BLOCKS = 6
SPARSEST = 5


def noise(xyz: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Every coordinate moves by a Gaussian of NOISE_STEPS grid steps: surfaces become clouds, the finest levels noise."""
    return xyz + rng.standard_normal(xyz.shape) * NOISE_STEPS * step


def dropout(xyz: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """KEPT_AT_RANDOM of the points stay."""
    return xyz[rng.random(len(xyz)) < KEPT_AT_RANDOM]


def structured_dropout(xyz: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Balls around random points are emptied, of HOLE_RADIUS of the extent, until KEPT_OUTSIDE_HOLES of the points are left."""
    extent = float(np.ptp(xyz, axis=0).max())
    left = xyz
    while len(left) > max(KEPT_OUTSIDE_HOLES * len(xyz), 1):
        centre = left[rng.integers(len(left))]
        radius = extent * rng.uniform(*HOLE_RADIUS)
        outside = ((left - centre) ** 2).sum(axis=1) > radius * radius
        if not outside.any():
            break
        left = left[outside]
    return left


def deformation(xyz: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth displacement: WAVES plane sine waves of half to a tenth of the extent, AMPLITUDE of it high together.

    Only additions, products and the sine of the C library in float64 are used; what a last bit of the sine could change
    is far below a grid step.
    """
    extent = max(float(np.ptp(xyz, axis=0).max()), 1e-12)
    moved = xyz.copy()
    for _ in range(WAVES):
        direction, towards = (_unit_vector(rng) for _ in range(2))
        length, phase = extent * rng.uniform(0.1, 0.5), rng.uniform(0, 2 * np.pi)
        along = xyz[:, 0] * direction[0] + xyz[:, 1] * direction[1] + xyz[:, 2] * direction[2]
        wave = np.sin(along * (2 * np.pi / length) + phase)
        moved += wave[:, None] * (towards * (AMPLITUDE * extent / WAVES))
    return moved


def mixed_density(xyz: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """The extent is cut into BLOCKS^3 blocks, and of each a share of 2^0 to 2^-SPARSEST of its points stays."""
    low, extent = xyz.min(axis=0), max(float(np.ptp(xyz, axis=0).max()), 1e-12)
    block = np.minimum(((xyz - low) * (BLOCKS / extent)).astype(np.int64), BLOCKS - 1)
    share = 2.0 ** -rng.integers(0, SPARSEST + 1, (BLOCKS, BLOCKS, BLOCKS))
    return xyz[rng.random(len(xyz)) < share[tuple(block.T)]]


def _unit_vector(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2))


KINDS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "dropout": dropout,
    "structured dropout": structured_dropout,
    "deformation": deformation,
    "mixed density": mixed_density,
}
"""Each takes (N, 3) float64 positions, the step of the grid they are going to, and a generator; returns (M, 3) float64."""


def stressed(cloud: PointCloud, kind: str, step: float, seed: int) -> PointCloud:
    """A cloud made harder, in its own dtype (integers are rounded). ``step``: of the grid, in the cloud's unit."""
    rng = np.random.default_rng(np.random.Philox([seed, zlib.crc32(kind.encode())]))
    xyz = KINDS[kind](cloud.xyz.astype(np.float64), step, rng)
    return PointCloud((np.rint(xyz) if cloud.xyz.dtype.kind == "i" else xyz).astype(cloud.xyz.dtype))


@dataclass(frozen=True)
class StressSource:
    """One kind of stress on one cloud; its category is the kind."""

    base: FileSource
    kind: str
    seed: int = 0

    @property
    def file(self) -> str:
        return f"{self.kind}/{self.base.file.replace('/', ': ')}"

    @property
    def category(self) -> str:
        return self.kind

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def peak(self) -> float | None:
        return None

    def load(self) -> tuple[PointCloud, float]:
        cloud, unit = self.base.load()
        [grid] = self._grid(cloud, unit)
        # Every cloud has random numbers of its own, which do not depend on which others are measured.
        seed = self.seed + (zlib.crc32(self.base.file.encode()) << 16)
        return stressed(cloud, self.kind, grid.step / unit, seed), unit

    def grids(self, cloud: PointCloud, unit: float) -> Sequence[PeerGrid]:
        return self._grid(cloud, unit)

    def _grid(self, cloud: PointCloud, unit: float) -> list[PeerGrid]:
        grids = category_grids(self.base.category, cloud, unit)
        name = GRIDS.get(self.base.category)
        return [grid for grid in grids if name in (None, grid.grid)]


def stress_sources(sources: Sequence[FileSource], seed: int = 0) -> list[StressSource]:
    """Every kind of stress on every cloud."""
    return [StressSource(source, kind, seed) for kind in KINDS for source in sources]
