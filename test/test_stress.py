"""The stress set: the same clouds from the same seed, each harder in the way that its name says."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anypcc_ros import CodecConfig, PointCloud
from anypcc_ros.codec.model.integer import IntegerModel, save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.evaluation import results, stress, suite
from anypcc_ros.files import write_cloud

STEP = 0.02


@pytest.mark.parametrize("kind", stress.KINDS)
def test_seeded(scan: PointCloud, kind: str) -> None:
    one, same, other = (stress.stressed(scan, kind, STEP, seed).xyz for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert 0 < len(one) <= len(scan)
    whole = PointCloud(np.rint(scan.xyz * 50).astype(np.int32))
    assert stress.stressed(whole, kind, 1.0, 3).xyz.dtype == np.int32


def test_pinned(scan: PointCloud) -> None:
    """The very same clouds on every machine and with every NumPy, or figures of different days could not be compared."""
    digests = {}
    for kind in stress.KINDS:
        cells = np.rint(stress.stressed(scan, kind, STEP, 0).xyz / STEP).astype(np.int32)
        digests[kind] = (len(cells), zlib.crc32(np.ascontiguousarray(cells)))
    assert digests == {
        "noise": (6000, 113155192),
        "dropout": (1808, 2798052788),
        "structured dropout": (2868, 3304903399),
        "deformation": (6000, 119966544),
        "mixed density": (1311, 2162962152),
    }


def test_noise_is_two_steps(scan: PointCloud) -> None:
    moved = stress.stressed(scan, "noise", STEP, 1).xyz - scan.xyz
    assert moved.std() == pytest.approx(2 * STEP, rel=0.03)


def test_dropout_keeps_its_share_everywhere(scan: PointCloud) -> None:
    xyz = stress.stressed(scan, "dropout", STEP, 1).xyz
    assert len(xyz) == pytest.approx(0.3 * len(scan), rel=0.06)
    left, all_left = (xyz[:, 0] < 0).mean(), (scan.xyz[:, 0] < 0).mean()
    assert left == pytest.approx(all_left, abs=0.03)
    assert _rows(xyz) <= _rows(scan.xyz)


def test_structured_dropout_leaves_half_and_empties_balls(scan: PointCloud) -> None:
    xyz = stress.stressed(scan, "structured dropout", STEP, 1).xyz
    assert 0.2 * len(scan) < len(xyz) <= 0.5 * len(scan)
    lost = np.array(sorted(_rows(scan.xyz) - _rows(xyz)))
    nearest = [np.sort(((lost - point) ** 2).sum(axis=1))[5] for point in lost[::40]]
    to_left = [((xyz - point) ** 2).sum(axis=1).min() for point in lost[::40]]
    assert np.median(nearest) < np.median(to_left) / 4, "what is lost lies together"


def test_deformation_is_smooth_and_keeps_every_point(scan: PointCloud) -> None:
    xyz = stress.stressed(scan, "deformation", STEP, 1).xyz.astype(np.float64)
    moved = xyz - scan.xyz
    extent = np.ptp(scan.xyz, axis=0).max()
    assert len(xyz) == len(scan)
    assert 0.002 * extent < np.linalg.norm(moved, axis=1).mean() < 0.02 * extent
    step = np.linalg.norm(np.diff(scan.xyz.astype(np.float64), axis=0), axis=1)
    near = step < 0.1
    assert np.linalg.norm(np.diff(moved, axis=0), axis=1)[near].max() < 0.1 * 0.6


def test_mixed_density_is_full_here_and_thin_there(scan: PointCloud) -> None:
    left = _rows(stress.stressed(scan, "mixed density", STEP, 1).xyz)
    kept = np.array([tuple(row) in left for row in scan.xyz.tolist()])
    block = np.minimum(((scan.xyz - scan.xyz.min(axis=0)) * (6 / np.ptp(scan.xyz, axis=0).max())).astype(int), 5)
    shares = [kept[(block == b).all(axis=1)].mean() for b in np.unique(block, axis=0) if (block == b).all(axis=1).sum() > 100]
    assert max(shares) == 1
    assert min(shares) < 0.15


def test_from_files_to_results(scan: PointCloud, make_model: Callable[..., IntegerModel], tmp_path: Path) -> None:
    """Every kind of every cloud, on one grid each; a cloud's random numbers do not depend on the others."""
    (tmp_path / "lidar_other").mkdir()
    for name in ("a", "b"):
        write_cloud(tmp_path / "lidar_other" / f"{name}.npz", PointCloud(scan.xyz[:800]))
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=0)), tmp_path / "m.safetensors")
    plan = suite.Plan((CodecConfig(model=str(tmp_path / "m.safetensors"), merge_duplicates=True),), live_peers=False)
    rows = suite.evaluate(stress.stress_sources(suite.folder_sources(tmp_path)), plan)
    assert len(rows) == 2 * len(stress.KINDS)
    assert all(row.exact and row.grid == "16mm" for row in rows)
    assert {line.name for line in results.by_category(results.by_cloud(rows))} == set(stress.KINDS)
    alone = suite.evaluate(stress.stress_sources(suite.folder_sources(tmp_path, only=["*/b.npz"])), plan)
    assert {row.file: row.bytes for row in alone}.items() <= {row.file: row.bytes for row in rows}.items()
    noisy = {row.file: row.bytes for row in rows if row.category == "noise"}
    assert len(set(noisy.values())) == 2, "equal clouds of other names get other noise"


def _rows(xyz: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, xyz.tolist()))
