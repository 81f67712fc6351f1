"""Published data sets: tiny files in their true formats, read on their published grids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("plyfile")

from anypcc_ros import CodecConfig, PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.codec.model.integer import IntegerModel, save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.evaluation import published, suite
from anypcc_ros.evaluation.cli import DATASET_NAMES
from anypcc_ros.evaluation.meshes import read_obj, sample_surface
from anypcc_ros.evaluation.published import DATASETS, dataset_sources
from anypcc_ros.files import write_cloud

VOXELS = np.array([[0, 0, 0], [5, 1023, 7], [412, 3, 200], [412, 4, 200]], np.int32)
CUBE = """# a cube
o cube
""" + "".join(f"v {x} {y} {z}\n" for x in (0, 2) for y in (0, 2) for z in (0, 2)) + """vt 0 0
usemtl skin
f 1/1 2/1 4/1 3/1
f 5//1 7//1 8//1 6//1
f 1 5 6 2
f 3 4 8 7
f -8 -6 -2 -4
f 2 6 8 4
"""  # fmt: skip


def ascii_ply(path: Path, rows: np.ndarray, kind: str = "float", colour: bool = True) -> Path:
    """As 8i, Microsoft and MPEG write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue")) if colour else ""
    head = f"ply\nformat ascii 1.0\ncomment Version 2\nelement vertex {len(rows)}\n"
    head += "".join(f"property {kind} {axis}\n" for axis in "xyz") + extra + "end_header\n"
    path.write_text(head + "".join(f"{x:g} {y:g} {z:g}{' 10 20 30' if colour else ''}\n" for x, y, z in rows.tolist()))
    return path


def loaded(name: str, folder: Path) -> dict[str, tuple[PointCloud, dict[str, float]]]:
    """By file name: the cloud, and its grids with their steps."""
    found = {}
    for source in dataset_sources(name, folder):
        cloud, unit = source.load()
        assert unit == 1
        found[source.path.name] = (cloud, {grid.grid: grid.step for grid in source.grids(cloud, unit)})
    return found


@pytest.mark.parametrize(
    ("name", "file", "other"),
    [
        ("8ivfb", "loot/Ply/loot_vox10_1000.ply", "soldier/Ply/soldier_vox10_0536.ply"),
        ("mvub", "phil10/ply/frame0000.ply", "sarah10/ply/frame0000.ply"),
        ("owlii", "dancer_vox11/dancer_vox11_00000001.ply", "readme.ply"),
        ("thuman", "0500/pcd_0.ply", "0500/scan.ply"),
        ("ford", "Ford_02_q_1mm/Ford_02_vox1mm-0100.ply", "Ford_01_q_1mm/Ford_01_vox1mm-0100.ply"),
    ],
)
def test_voxelised_sets_keep_their_integers(tmp_path: Path, name: str, file: str, other: str) -> None:
    """And of a whole download only the test clouds are taken."""
    ascii_ply(tmp_path / file, VOXELS)
    ascii_ply(tmp_path / other, VOXELS[:2], "double", colour=False)
    found = loaded(name, tmp_path)
    assert list(found) == [Path(file).name]
    [(cloud, grids)] = found.values()
    np.testing.assert_array_equal(cloud.xyz, VOXELS)
    assert cloud.xyz.dtype == np.int32
    assert grids == ({"1mm": 1.0, "16mm": 16.0} if name == "ford" else {"native": 1.0})
    (tmp_path / file).unlink()
    ascii_ply(tmp_path / file, VOXELS + np.float32(0.5))
    with pytest.raises(FileError, match="not all on the integer grid"):
        loaded(name, tmp_path)


def test_several_test_folders_count_together(tmp_path: Path) -> None:
    for body in ("loot", "redandblack", "longdress"):
        ascii_ply(tmp_path / body / "Ply" / f"{body}_vox10_1.ply", VOXELS)
    assert list(loaded("8ivfb", tmp_path)) == ["loot_vox10_1.ply", "redandblack_vox10_1.ply"]


def test_kitti_is_rounded_to_millimetres_and_then_to_sixteen(tmp_path: Path) -> None:
    """The coordinates of the cloud are whole millimetres, on which 16 mm is a step of 16."""
    for sequence in ("00", "11", "21"):
        folder = tmp_path / "sequences" / sequence / "velodyne"
        folder.mkdir(parents=True)
        rows = np.array([[0.0084, -0.0244999, 1.0, 0.3], [0.0076, 59.7, -2.0004, 0.0]], "<f4")
        rows.tofile(folder / "000000.bin")
    assert [s.file for s in dataset_sources("kitti", tmp_path)] == [
        f"kitti/sequences/{sequence}/velodyne/000000.bin" for sequence in ("11", "21")
    ]
    [(cloud, grids)] = loaded("kitti", tmp_path).values()
    np.testing.assert_array_equal(cloud.xyz, [[8, -24, 1000], [8, 59700, -2000]])
    assert grids == {"1mm": 1.0, "16mm": 16.0}


def test_scannet_and_s3dis(tmp_path: Path) -> None:
    metres = np.array([[0.5, 1.25, 3.001], [-2.5, 0.015, 0.025]])
    write_cloud(tmp_path / "scene_vh_clean_2.ply", PointCloud(metres.astype(np.float32)))
    [(cloud, grids)] = loaded("scannet", tmp_path).values()
    assert grids == {"20mm": 0.02}
    np.testing.assert_array_equal(np.rint(cloud.xyz / 0.02), np.rint(50 * metres))

    room = tmp_path / "Area_5" / "hallway_6"
    (room / "Annotations").mkdir(parents=True)
    lines = [f"{x:.3f} {y:.3f} {z:.3f} 100 90 80" for x, y, z in np.repeat(metres, 100, axis=0)]
    lines[7] = "-22.\x10 1 2 3 4 5"  # such a line is in the data set
    (room / "hallway_6.txt").write_text("\n".join(lines) + "\n")
    (room / "Annotations" / "ceiling_1.txt").write_text(lines[0])
    (tmp_path / "Area_1" / "office_1").mkdir(parents=True)
    (tmp_path / "Area_1" / "office_1" / "office_1.txt").write_text(lines[0])
    found = loaded("s3dis", tmp_path)
    assert list(found) == ["hallway_6.txt"]
    [(cloud, grids)] = found.values()
    assert len(cloud) == 199
    assert grids == {"1mm": 0.001}
    np.testing.assert_array_equal(cloud.xyz[0], metres[0])
    (room / "hallway_6.txt").write_text("not a room\n" * 9)
    with pytest.raises(FileError, match=r"hallway_6\.txt: 9 of 9 lines"):
        loaded("s3dis", tmp_path)


@pytest.mark.parametrize(("name", "grid"), [("gs", "14bit"), ("vggt", "12bit"), ("ct", "10bit")])
def test_extent_grids_unless_quantised_already(tmp_path: Path, name: str, grid: str) -> None:
    place = tmp_path / "scene" / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    place.parent.mkdir(parents=True)
    splats = np.array([[0, 0, 0], [8, 1.5, 2], [3, 0.25, 1]], np.float32)
    write_cloud(place, PointCloud(splats, {"opacity": np.ones(3, np.float32), "f_dc_0": np.zeros(3, np.float32)}))
    [(cloud, grids)] = loaded(name, tmp_path).values()
    np.testing.assert_array_equal(cloud.xyz, splats)
    assert grids == {grid: 8 / 2 ** int(grid.removesuffix("bit"))}
    write_cloud(place, PointCloud(VOXELS.astype(np.float32)))
    [(cloud, grids)] = loaded(name, tmp_path).values()
    assert (cloud.xyz.dtype, grids) == (np.int32, {"native": 1.0})


def test_point_maps(tmp_path: Path) -> None:
    """A network's points for every pixel of an image, some of them invalid."""
    points = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    points[0, 1, 2] = np.nan
    np.save(tmp_path / "view.npy", points)
    [(cloud, _)] = loaded("vggt", tmp_path).values()
    assert (len(cloud), cloud.xyz.dtype) == (39, np.float32)
    np.save(tmp_path / "view.npy", np.zeros((4, 2)))
    with pytest.raises(FileError, match=r"view\.npy: shape \(4, 2\)"):
        loaded("vggt", tmp_path)


def test_meshes_are_sampled_to_ten_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MESH_SAMPLES", 5000)
    (tmp_path / "0500").mkdir()
    (tmp_path / "0500" / "0500.obj").write_text(CUBE)
    [(cloud, grids)] = loaded("thuman", tmp_path).values()
    assert (cloud.xyz.dtype, grids, len(cloud)) == (np.int32, {"native": 1.0}, 5000)
    assert (cloud.xyz.min(axis=0) == 0).all()
    assert (cloud.xyz.max(axis=0) == 1023).all()
    on_faces = [((cloud.xyz[:, axis] == side).mean()) for axis in range(3) for side in (0, 1023)]
    np.testing.assert_allclose(on_faces, 1 / 6, atol=0.03)
    np.testing.assert_array_equal(loaded("thuman", tmp_path)["0500.obj"][0].xyz, cloud.xyz)


def test_samples_lie_in_their_triangles_and_broken_meshes_are_refused(tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], np.float64)
    points = sample_surface(vertices, np.array([[0, 1, 2], [3, 3, 3]]), 1000, np.random.default_rng(0))
    assert (points[:, :2].sum(axis=1) <= 1).all()
    assert (points >= 0).all()
    np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.03)
    with pytest.raises(FileError, match="without area"):
        sample_surface(vertices, np.array([[3, 3, 3]]), 10, np.random.default_rng(0))
    for text, reason in (("v 0 0 0\nf 1 2 3\n", "1 triangles on 1 vertices"), ("v 0 0 x\n", "cannot read as OBJ")):
        (tmp_path / "a.obj").write_text(text)
        with pytest.raises(FileError, match=reason):
            read_obj(tmp_path / "a.obj")


def test_one_command_measures_a_set(make_model: Callable[..., IntegerModel], scan: PointCloud, tmp_path: Path) -> None:
    """Several frames, evenly spread, on both grids, with the published peak of the PSNR."""
    folder = tmp_path / "11" / "velodyne"
    folder.mkdir(parents=True)
    for i in range(5):
        rows = np.concatenate([scan.xyz[i::300], np.zeros((20, 1), np.float32)], axis=1)
        rows.astype("<f4").tofile(folder / f"{i:06}.bin")
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=0)), tmp_path / "m.safetensors")
    plan = suite.Plan((CodecConfig(model=str(tmp_path / "m.safetensors"), merge_duplicates=True),), live_peers=False)
    rows = suite.evaluate(dataset_sources("kitti", tmp_path, limit=2), plan)
    assert [(row.file[-10:-4], row.grid, row.exact) for row in rows] == [
        (frame, grid, True) for frame in ("000000", "000002") for grid in ("1mm", "16mm")
    ]
    assert rows[0].d1_psnr == np.inf
    error = 3 * 59700**2 / 10 ** ((rows[1].d1_psnr or 0) / 10)
    assert 16**2 / 12 < error < 16**2 / 3


def test_the_list_is_complete() -> None:
    assert tuple(DATASETS) == DATASET_NAMES
    table = published.datasets_markdown()
    for dataset in DATASETS.values():
        assert all((dataset.where, dataset.licence, dataset.format, dataset.quantisation, dataset.documented))
        assert f"| `{dataset.name}`: {dataset.title} |" in table
        assert not dataset.published or dataset.at in {**dataset.grids, **dataset.otherwise}
    assert "6.45" in published.remark("kitti")
    assert "not at hand" in published.remark("ford")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no Owlii"):
        dataset_sources("owlii", tmp_path)
