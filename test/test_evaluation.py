"""Metrics against values worked out by hand, and measurements of real clouds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anypcc_ros import CodecConfig, PointCloud
from anypcc_ros.codec.errors import FileError, InputError
from anypcc_ros.codec.model.integer import IntegerModel, save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.evaluation import metrics, peers, suite
from anypcc_ros.evaluation.evaluate import (
    Evaluator,
    Measurement,
    grid_points,
    same_points,
    step_of_bits,
    unique_cells,
    write_csv,
)
from anypcc_ros.evaluation.pictures import before_after
from anypcc_ros.files import read_cloud, unit_of, write_cloud

X, Y = [1.0, 0, 0], [0, 1.0, 0]


# ---- D1 and D2


def test_errors_of_one_moved_point() -> None:
    """One of two points moves by 1 along x: the mean of 1 and 0, in both directions."""
    before, after = np.array([[0, 0, 0], [10, 0, 0]]), np.array([[1, 0, 0], [10, 0, 0]])
    result = metrics.distortion(before, after, normals=np.array([X, X]))
    assert (result.d1_mse, result.d2_mse, result.peak) == (0.5, 0.5, 10)
    assert result.d1_psnr == pytest.approx(10 * math.log10(3 * 100 / 0.5))
    across = metrics.distortion(before, after, normals=np.array([Y, Y]))
    assert (across.d1_mse, across.d2_mse, across.d2_psnr) == (0.5, 0, math.inf)


def test_the_worse_direction_counts() -> None:
    """A lost point, 4 from the one that is left, is seen from the original only: (0 + 16) / 2."""
    result = metrics.distortion(np.array([[0, 0, 0], [4, 0, 0]]), np.array([[0, 0, 0]]), normals=np.array([X, X]))
    assert (result.d1_mse, result.d2_mse) == (8, 8)
    assert metrics.distortion(np.array([[0, 0, 0]]), np.array([[0, 0, 0], [4, 0, 0]]), peak=1).d1_mse == 8


def test_equally_near_points_are_averaged() -> None:
    """(0,0,0) with normal x becomes (1,0,0) and (0,1,0): along x the errors are 1 and 0, their mean 1/2."""
    result = metrics.distortion(np.zeros((1, 3)), np.array([X, Y]), peak=1, normals=np.array([X]))
    assert (result.d1_mse, result.d2_mse) == (1, 0.5)


def test_decoded_normals_are_means_of_the_originals() -> None:
    """0 and 0.2 on the x axis with normals x and y merge at 0.1, which gets the normal (1/2, 1/2, 0), not of length 1.

    Forward each error is 0.1 long and 0.05 along that normal; backward the two are equally near and give 0.1 and 0.
    """
    before = np.array([[0, 0, 0], [0.2, 0, 0]])
    result = metrics.distortion(before, np.array([[0.1, 0, 0]]), normals=np.array([X, Y]))
    assert result.d1_mse == pytest.approx(0.01)
    assert result.d2_mse == pytest.approx(max(0.05**2, (0.1**2 + 0) / 2))


def test_coinciding_points_count_once() -> None:
    before, after = np.array([[0, 0, 0], [10, 0, 0]]), np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [10, 0, 0]])
    assert metrics.distortion(before, after).d1_mse == 0.5


def test_estimated_normals_of_a_plane() -> None:
    """A plane lifted by h has D1 = D2 = h^2; moved within itself by half a spacing it has D2 = 0 and D1 = 1/4."""
    grid = np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0), [0.0]), axis=-1).reshape(-1, 3)
    lifted = metrics.distortion(grid, grid + np.array([0, 0, 0.25]))
    assert lifted.d1_mse == pytest.approx(0.0625)
    assert lifted.d2_mse == pytest.approx(0.0625)
    moved = metrics.distortion(grid, grid + np.array([0.5, 0, 0]))
    assert moved.d1_mse == pytest.approx(0.25)
    assert moved.d2_mse == pytest.approx(0, abs=1e-12)


def test_equal_and_empty_clouds() -> None:
    xyz = np.random.default_rng(0).normal(size=(50, 3))
    assert metrics.distortion(xyz, xyz[::-1]).d1_psnr == math.inf
    with pytest.raises(InputError, match="50 and 0 points"):
        metrics.distortion(xyz, xyz[:0])


# ---- measurements


def test_grid_points_round_half_to_even_and_keep_or_merge_duplicates() -> None:
    cloud = PointCloud(np.array([[0.5, 1.5, -0.5], [0.4, 2.4, 0.1], [7, 0, 0]], np.float32))
    kept, voxels = grid_points(cloud, CodecConfig(step=1))
    assert voxels == 2
    np.testing.assert_array_equal(kept, np.array([[0, 2, 0], [0, 2, 0], [7, 0, 0]], np.float32))
    merged, _ = grid_points(cloud, CodecConfig(step=1, merge_duplicates=True))
    assert same_points(merged, np.array([[7, 0, 0], [0, 2, 0]], np.float32))
    shifted, _ = grid_points(cloud, CodecConfig(step=2, origin=(1, 0, 0)))
    np.testing.assert_array_equal(shifted[:, 0], np.array([1, 1, 7], np.float32))


@pytest.mark.parametrize("extent", [1, 1000, 2**40])
def test_unique_cells(extent: int) -> None:
    cells = np.random.default_rng(0).integers(-extent, extent + 1, (300, 3))
    cells = np.concatenate([cells, cells[:50]])
    np.testing.assert_array_equal(unique_cells(cells), np.unique(cells, axis=0))
    assert len(unique_cells(cells[:0])) == 0


def test_same_points_sees_order_counts_and_types_apart() -> None:
    xyz = np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3]], np.float32)
    assert same_points(xyz, xyz[[2, 1, 0]])
    assert not same_points(xyz, xyz[[0, 1, 1]])
    assert not same_points(xyz, xyz[:2])
    assert not same_points(xyz, xyz.astype(np.float64))
    assert not same_points(xyz, np.nextafter(xyz, np.float32(9)))


@pytest.mark.parametrize("merge", [True, False])
def test_a_real_cloud_comes_back_exactly(sample_cloud: PointCloud, merge: bool) -> None:
    evaluator = Evaluator(CodecConfig(merge_duplicates=merge))
    row, decoded = evaluator.measure("frame", sample_cloud, 0.02)
    assert row.exact
    assert row.points == len(sample_cloud) == 29770
    assert row.voxels < row.points
    assert len(decoded) == (row.voxels if merge else row.points)
    assert row.bpp == 8 * row.bytes / row.points
    assert 0 < row.bpp < 12
    assert row.encode_s > 0
    assert row.decode_s > 0


def test_a_model_named_by_its_file(scan: PointCloud, make_model: Callable[..., IntegerModel], tmp_path: Path) -> None:
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=0)), tmp_path / "mine.safetensors")
    config = CodecConfig(model=str(tmp_path / "mine.safetensors"), merge_duplicates=True)
    assert Evaluator(config).measure("scan", PointCloud(scan.xyz[:500]), 0.1)[0].exact


def test_dropped_scales_are_not_exact_and_have_distortion(sample_cloud: PointCloud) -> None:
    row, decoded = Evaluator(CodecConfig(merge_duplicates=True, drop_scales=3)).measure("frame", sample_cloud, 0.01)
    assert not row.exact
    result = metrics.distortion(sample_cloud.xyz, decoded.xyz)
    worst = math.sqrt(3) * 0.08 / 2 + 0.01
    assert 0 < result.d2_mse < result.d1_mse < worst**2


def test_step_of_bits(sample_cloud: PointCloud) -> None:
    extent = np.ptp(sample_cloud.xyz.astype(float), axis=0).max()
    assert step_of_bits(sample_cloud, 10) == extent / 1024
    with pytest.raises(InputError, match="without extent"):
        step_of_bits(PointCloud(np.ones((5, 3), np.float32)), 10)


def test_csv_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [Measurement("a,b", 0.01, 3, 2, 9, 24.0, 0.5, 0.25, True)], Measurement)
    assert (tmp_path / "a.csv").read_text() == (
        'file,step,points,voxels,bytes,bpp,encode_s,decode_s,exact\n"a,b",0.01,3,2,9,24,0.5,0.25,True\n'
    )


# ---- peers and suites


PEERS = """file,category,grid,step,points,voxels,peer,bytes,bpp,enc_s
test/lidar/frame.npz,lidar,50mm,0.05,29770,8828,ctc3-octree,6000,1.612,0.1
test/lidar/frame.npz,lidar,50mm,0.05,29770,8828,idcm0,5900,1.585,0.1
test/lidar/frame.npz,lidar,50mm,0.05,29770,8828,RENO-KITTI,5800,1.559,
test/lidar/frame.npz,lidar,1mm,0.001,29770,29770,idcm0,1,0.1,0.1
"""


def test_suite_beside_a_table_of_peers(sample_cloud: PointCloud, tmp_path: Path) -> None:
    """A float cloud on the table's grid; an integer cloud in millimetres, unknown to the table, on its own."""
    for folder in ("lidar", "bodies"):
        (tmp_path / "clouds" / folder).mkdir(parents=True)
    write_cloud(tmp_path / "clouds" / "lidar" / "frame.npz", sample_cloud)
    body = np.unique(np.rint(sample_cloud.xyz[:5000] * 50).astype(np.int32), axis=0)
    np.savez(tmp_path / "clouds" / "bodies" / "body.npz", xyz=body, scale=np.full(3, 0.001))
    (tmp_path / "peers.csv").write_text(PEERS)

    table = peers.load_peers(tmp_path / "peers.csv")
    assert [grid.gpcc for grid in table["lidar/frame.npz"]] == [1.585, 0.1]
    rows = suite.evaluate_suite(tmp_path / "clouds", Evaluator(), table, grids=("50mm", "native"))
    assert [(row.file, row.grid, row.exact) for row in rows] == [
        ("bodies/body.npz", "native", True),
        ("lidar/frame.npz", "50mm", True),
    ]
    native, frame = rows
    assert (native.step, native.voxels, native.peer_voxels, native.gpcc_bpp) == (0.001, len(body), None, None)
    assert (frame.voxels, frame.peer_voxels, frame.gpcc_bpp, frame.reno_bpp) == (8828, 8828, 1.585, 1.559)
    pytest.importorskip("DracoPy")
    assert 1 < (frame.draco_bpp or 0) < 3

    mean = suite.by_category(rows)[1]
    assert (mean.category, mean.clouds, mean.exact, mean.bpp) == ("lidar", 1, 1, frame.bpp)
    assert mean.versus_gpcc == pytest.approx(100 * (frame.bpp / 1.585 - 1))
    tables = suite.markdown(rows)
    assert "| lidar | 50mm | 1 |" in tables
    assert "| lidar/frame.npz | 50mm | 29770 | 8828 |" in tables


def test_category_means_need_every_cloud() -> None:
    def row(bpp: float, gpcc: float | None) -> suite.SuiteRow:
        return suite.SuiteRow("f", "c", "g", 1, 8, 8, 8, bpp, 1, 2, True, None, gpcc, None, None, None)

    [mean] = suite.by_category([row(1, 2), row(2, 4)])
    assert (mean.bpp, mean.gpcc_bpp, mean.versus_gpcc, mean.encode_s) == (1.5, 3, -50, 1)
    [mean] = suite.by_category([row(1, 2), row(2, None)])
    assert (mean.bpp, mean.gpcc_bpp, mean.versus_gpcc) == (1.5, None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,grid\na/b,16mm\n", "not a table of peers"),
        ("file,grid,step,points,voxels,peer,bpp\na/b,16mm,x,1,1,idcm0,1\n", "not a table of peers"),
        ("file,grid,step,points,voxels,peer,bpp\na/b,g,1,1,1,idcm0,1\na/b,g,2,1,1,draco,1\n", "two different grids"),
    ],
)
def test_broken_tables_of_peers(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "peers.csv").write_text(text)
    with pytest.raises(FileError, match=rf"peers\.csv: .*{reason}"):
        peers.load_peers(tmp_path / "peers.csv")
    with pytest.raises(FileError, match=r"no\.csv: cannot read"):
        peers.load_peers(tmp_path / "no.csv")


def test_grid_names() -> None:
    cloud = PointCloud(np.array([[0, 0, 0], [1000, 10, 1]], np.int32))
    assert suite.step_of_grid("16mm", cloud, 0.001) == 0.016
    assert suite.step_of_grid("native", cloud, 0.001) == 0.001
    assert suite.step_of_grid("4bit", cloud, 0.001) == pytest.approx(1 / 16)
    with pytest.raises(ValueError, match="'16'"):
        suite.step_of_grid("16", cloud)


def test_draco_is_lossless_and_knows_its_limits() -> None:
    pytest.importorskip("DracoPy")
    cells = np.unique(np.random.default_rng(0).integers(-500, 500, (2000, 3)), axis=0)
    draco = peers.run_draco(cells)
    assert draco is not None
    assert 0 < draco.bytes < 12 * len(cells)
    assert peers.run_draco(np.array([[0, 0, 0], [2**24, 0, 0]])) is None


def test_grids_are_those_of_the_shared_peers(shared: Path) -> None:
    """The occupied cells of every third cloud on every grid of the peers, and the published means."""
    table = peers.load_peers(shared / "facts" / "peers.csv")
    for key in sorted(table)[::3]:
        for split in ("test", "val"):
            path = shared / "data" / split / key
            if path.exists():
                cloud, unit = read_cloud(path), unit_of(path)
                for grid in table[key]:
                    assert grid.points == len(cloud)
                    _, voxels = grid_points(cloud, CodecConfig(step=grid.step / unit))
                    assert voxels == grid.voxels, (key, grid.grid)
                    # The 10 bit grids of the table divide by 2^10 - 1, the others by 2^bits.
                    assert grid.step == pytest.approx(suite.step_of_grid(grid.grid, cloud, unit), rel=1e-3), key


def test_published_category_means(shared: Path) -> None:
    table = peers.load_peers(shared / "facts" / "peers.csv")
    names = [p.parent.name + "/" + p.name for p in (shared / "data" / "test").glob("lidar_spinning/*.npz")]
    grids = [grid for name in names for grid in table[name] if grid.grid == "16mm"]
    assert np.mean([grid.gpcc for grid in grids]) == pytest.approx(6.83, abs=0.006)
    assert np.mean([grid.bpp[peers.RENO] for grid in grids]) == pytest.approx(6.72, abs=0.006)


# ---- pictures


@pytest.mark.parametrize("points", [0, 1, 29770])
def test_before_and_after_picture(sample_cloud: PointCloud, tmp_path: Path, points: int) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    cloud = PointCloud(sample_cloud.xyz[:points])
    before_after(cloud, PointCloud(np.round(cloud.xyz, 1)), tmp_path / "a.png", title="a frame")
    image = imread(tmp_path / "a.png")
    assert image.shape[0] > 800
    left, right = image[:, : image.shape[1] // 2, :3], image[:, image.shape[1] // 2 :, :3]
    coloured = [float((np.ptp(half, axis=2) > 0.2).mean()) for half in (left, right)]
    assert all(share > 0.005 for share in coloured) if points > 1 else coloured[0] < 0.005
