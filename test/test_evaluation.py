"""Metrics against values worked out by hand, and measurements of real clouds."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anypcc_ros import CodecConfig, PointCloud
from anypcc_ros.codec.errors import FileError, InputError
from anypcc_ros.codec.model.integer import IntegerModel, save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.evaluation import document, metrics, peers, plots, report, results, suite
from anypcc_ros.evaluation.evaluate import (
    Evaluator,
    Measurement,
    grid_points,
    same_points,
    step_of_bits,
    unique_cells,
)
from anypcc_ros.evaluation.pictures import before_after
from anypcc_ros.evaluation.results import GPCC_OCTREE, TABLE, Journal, Result
from anypcc_ros.evaluation.rows import read_csv, write_csv
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
    """A float cloud on the table's grid; an integer cloud in millimetres, unknown to the table, on its own grid."""
    for folder in ("lidar", "bodies"):
        (tmp_path / "clouds" / folder).mkdir(parents=True)
    write_cloud(tmp_path / "clouds" / "lidar" / "frame.npz", sample_cloud)
    body = np.unique(np.rint(sample_cloud.xyz[:5000] * 50).astype(np.int32), axis=0)
    np.savez(tmp_path / "clouds" / "bodies" / "body.npz", xyz=body, scale=np.full(3, 0.001))
    (tmp_path / "peers.csv").write_text(PEERS)

    table = peers.load_peers(tmp_path / "peers.csv")
    assert [grid.gpcc for grid in table["lidar/frame.npz"]] == [1.585, 0.1]
    sources = suite.folder_sources(tmp_path / "clouds", table)
    plan = suite.Plan((CodecConfig(merge_duplicates=True),), grids=("50mm", "native"), distortion=False)
    rows = suite.evaluate(sources, plan)
    assert all(row.exact for row in rows if not row.is_peer)
    native, frame = results.by_cloud(rows)
    assert (native.name, native.grid, native.voxels) == ("bodies/body.npz", "native", len(body))
    assert next(row.step for row in rows if row.grid == "native") == 0.001
    assert GPCC_OCTREE not in native.peers or shutil.which(peers.GPCC_PROGRAM)
    assert (frame.name, frame.grid, frame.voxels) == ("lidar/frame.npz", "50mm", 8828)
    assert frame.peers["RENO"] == 1.559
    assert frame.peers[GPCC_OCTREE] <= 1.585
    pytest.importorskip("DracoPy")
    assert 1 < frame.peers["Draco"] < 3
    assert frame.peers["Draco"] < frame.peers["zstd"] < 96

    [_, mean] = results.by_category([native, frame])
    assert (mean.name, mean.clouds, mean.exact, mean.ours) == ("lidar", 1, 1, frame.ours)
    tables = report.markdown(rows)
    assert "| lidar | 50mm | 1 |" in tables
    assert "| lidar/frame.npz | 50mm | 29,770 | 8,828 |" in tables


def _row(codec: str, bpp: float, file: str = "c/f", **other: object) -> Result:
    whole = {"category": "c", "grid": "g", "step": 1.0, "stretch": 1.0, "drop_scales": 0, "points": 8, "voxels": 8}
    version = TABLE if codec in ("idcm0", "ctc3-octree", "RENO-KITTI") else "0123"
    ours = {"version": version, "bytes": round(bpp), "bpp": bpp, "exact": True} | other
    return Result(file=file, codec=codec, **{**whole, **ours})  # type: ignore[arg-type]


def test_category_means_need_every_cloud() -> None:
    rows = [_row("a", 1.0), _row("idcm0", 2.0), _row("ctc3-octree", 3.0), _row("a", 2.0, "c/g"), _row("idcm0", 4.0, "c/g")]
    [mean] = results.by_category(results.by_cloud([*rows, _row("b", 5.0)]))
    assert mean.ours == {"a": 1.5}, "b has one cloud of two"
    assert mean.peers == {GPCC_OCTREE: 3.0}, "the smaller setting of each cloud"
    assert mean.versus("a") == -50
    assert mean.versus("b") is None
    lines = results.by_cloud([*rows, _row("a", 9.0, "d/h", category="d")])
    *_, group = results.by_category(lines, {"one": "c/*", "both": "*"})
    assert (group.name, group.clouds, group.ours, group.peers) == ("both", 3, {"a": 4.0}, {})


def test_means_of_distortion() -> None:
    def mean(*values: float) -> float | None:
        rows = [_row("a", 1.0, f"c/{i}", d1_psnr=value) for i, value in enumerate(values)]
        return results.by_category(results.by_cloud(rows))[0].d1_psnr

    assert mean(60.0, 70.0) == 65
    assert mean(math.inf, math.inf) == math.inf
    assert mean(math.inf, 60.0) is None


def test_journal_survives_an_interrupted_run(tmp_path: Path) -> None:
    """What was added is on disk at once; a line cut short by a crash is measured again; finishing leaves one sorted file."""
    path = tmp_path / "r.csv"
    journal = Journal(path)
    journal.add([_row("b", 1 / 3, d1_psnr=math.inf), _row("a", 2.0, encode_s=0.5)])
    part = tmp_path / "r.csv.part"
    part.write_text(part.read_text() + "c/f,c,g,1,1,0,8,8,z,01")
    again = Journal(path, resume=True)
    assert [row.codec for row in again.rows] == ["a", "b"]
    assert _row("b", 0.0).key in again
    assert _row("b", 0.0, drop_scales=1).key not in again
    again.add([_row("a", 3.0)])
    again.finish()
    assert not part.exists()
    kept = read_csv(path, Result)
    assert [(row.codec, row.exact) for row in kept] == [("a", True), ("b", True)]
    assert kept[0].bpp == 3
    assert kept[1].d1_psnr == math.inf
    assert kept[1].bpp == pytest.approx(1 / 3)
    assert Journal(tmp_path / "fresh.csv").rows == []
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match=r"no\.csv: not rows of Result"):
        read_csv(tmp_path / "no.csv", Result)


def test_lossy_points_several_models_and_processes(
    scan: PointCloud, make_model: Callable[..., IntegerModel], tmp_path: Path
) -> None:
    """Two models in two processes: coarser means less PSNR, the same for both models; a resumed run has nothing to do."""
    (tmp_path / "lidar_other").mkdir()
    write_cloud(tmp_path / "lidar_other" / "scan.npz", PointCloud(scan.xyz[:1500]))
    shape = ModelConfig(channels=16, parent_convs=1, child_convs=0)
    for name, seed in (("zeta", 1), ("alpha", 2)):
        save_model(make_model(shape, seed), tmp_path / f"{name}.safetensors")
    models = [CodecConfig(model=str(tmp_path / f"{n}.safetensors"), merge_duplicates=True) for n in ("zeta", "alpha")]
    plan = suite.Plan(tuple(models), grids=("50mm",), live_peers=False, curves=("*/scan*",))
    sources = suite.folder_sources(tmp_path)
    journal = Journal(tmp_path / "r.csv")
    rows = suite.evaluate(sources, plan, journal, jobs=2)
    assert results.models_of(rows) == ["zeta", "alpha"]
    assert len(rows) == 2 * (1 + len(suite.LOSSY_STEPS) + len(suite.LOSSY_DROPS))
    zeta = [row for row in rows if row.codec == "zeta"]
    steps = [row for row in zeta if not row.drop_scales]
    drops = [row for row in zeta if row.drop_scales]
    assert all(row.exact for row in steps)
    for curve in (steps, drops):
        assert [row.voxels for row in curve] == sorted((row.voxels for row in curve), reverse=True)
        quality = [row.d1_psnr or 0 for row in curve]
        assert quality == sorted(quality, reverse=True)
        assert 20 < quality[-1] < quality[0] - 5
    assert [row.d1_psnr for row in zeta] == [row.d1_psnr for row in rows if row.codec == "alpha"]

    said: list[Result] = []
    again = suite.evaluate(sources, plan, Journal(tmp_path / "r.csv", resume=True), progress=said.append)
    assert [row.key for row in again] == [row.key for row in rows]
    assert not said
    assert "| lidar_other/scan.npz | 50mm | 2 scales dropped |" in report.markdown(rows)

    save_model(make_model(shape, 3), tmp_path / "zeta.safetensors")  # trained on under its old name
    fresh = suite.evaluate(sources, plan, Journal(tmp_path / "r.csv", resume=True), progress=said.append)
    assert len(fresh) == len(rows)
    assert {row.codec for row in said} == {"zeta"}
    assert not {row.version for row in fresh if row.codec == "zeta"} & {row.version for row in zeta}
    assert [row.d1_psnr for row in fresh if row.codec == "zeta"] == pytest.approx([row.d1_psnr for row in zeta])
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    plots.plot_curves(rows, tmp_path / "curves.png")
    plots.plot_bits([*rows, _row("idcm0", 9.0, "lidar_other/scan.npz", grid="50mm")], tmp_path / "bits.png")
    for name in ("curves", "bits"):
        assert float(imread(tmp_path / f"{name}.png")[:, :, :3].std()) > 0.02


def test_only_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_cloud(tmp_path / "a" / "x.npz", PointCloud(np.zeros((1, 3), np.float32)))
    assert [source.file for source in suite.folder_sources(tmp_path, only=["b/*", "a/*"])] == ["a/x.npz"]
    with pytest.raises(FileError, match=r"no clouds like b/\* in folders"):
        suite.folder_sources(tmp_path, only=["b/*"])


def test_sections_of_documents(tmp_path: Path) -> None:
    """Text around the marks stays; text without marks is not overwritten."""
    path = tmp_path / "d.md"
    document.write_section(path, "suite", "    one\n\ntwo\n")
    path.write_text("# Title\n\n" + path.read_text() + "\nby hand\n")
    document.write_section(path, "suite", "three")
    assert path.read_text() == "# Title\n\n<!-- begin suite -->\n\nthree\n\n<!-- end suite -->\n\nby hand\n"
    with pytest.raises(FileError, match=r"d\.md: has text, but not the marks <!-- begin stress -->"):
        document.write_section(path, "stress", "four")
    assert document.table(["a", ">b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_plot_of_training_logs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    log = tmp_path / "run" / "log.csv"
    log.parent.mkdir()
    log.write_text("step,seconds,train_bits_per_node,gs,medical\n500,290,4.07,25.3,2.7\n750,462,3.9,25.2,2.6\n")
    plots.plot_training([log, log], tmp_path / "t.png")
    assert float(imread(tmp_path / "t.png")[:, :, :3].std()) > 0.02
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match=r"other\.csv: not a training log"):
        plots.plot_training([tmp_path / "other.csv"], tmp_path / "t.png")


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
