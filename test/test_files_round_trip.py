"""Files through the command: encoded, decoded, and nothing of them missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import anypcc

pytest.importorskip("laspy", reason="needs the extra [files]")
pytest.importorskip("plyfile", reason="needs the extra [files]")

from anypcc_ros import CodecConfig, Decoder, Encoder, PointCloud
from anypcc_ros.files import WRITABLE, read_cloud, write_cloud


def lidar(ending: str, scan: PointCloud) -> PointCloud:
    """What a file of this format may hold."""
    rng = np.random.default_rng(0)
    points = len(scan)
    intensity = (rng.integers(0, 100, points) / 100).astype(np.float32)
    if ending == ".bin":
        return PointCloud(scan.xyz, {"intensity": intensity})
    fields = {"intensity": intensity, "ring": np.repeat(np.arange(16, dtype=np.uint16), points // 16)}
    if ending in (".las", ".laz"):
        fields |= {"gps_time": 3e8 + np.arange(points) * 1e-5, "return_number": rng.integers(1, 4, points).astype(np.uint8)}
        fields["intensity"] = rng.integers(0, 65536, points).astype(np.uint16)
        return PointCloud(np.rint(scan.xyz.astype(np.float64) * 1000) / 1000, fields)
    fields["rgb"] = rng.integers(0, 256, (points, 3)).astype(np.uint8)
    if ending == ".ply":
        return PointCloud(scan.xyz, fields | {"label": rng.integers(-1, 9, points).astype(np.int8)}, position=1)
    fields |= {"normal": rng.normal(size=(points, 3)).astype(np.float32), "time": np.arange(points) * 1e-9}
    xyz = scan.xyz.copy()
    xyz[::97] = np.nan
    return PointCloud(xyz, fields, height=16)


@pytest.mark.parametrize("ending", WRITABLE)
def test_archived_files_are_the_files_again(tmp_path: Path, ending: str, scan: PointCloud) -> None:
    given, stream, back = (tmp_path / name for name in (f"in{ending}", "a.apcc", f"back{ending}"))
    write_cloud(given, lidar(ending, scan))
    config = CodecConfig(exact=True, order="original")
    stream.write_bytes(Encoder(config).encode(read_cloud(given)))
    write_cloud(back, Decoder().decode(stream.read_bytes()))
    if ending == ".npz":  # a zip, with the time of day in it
        with np.load(given) as one, np.load(back) as other:
            assert one.files == other.files
            assert all(one[name].tobytes() == other[name].tobytes() for name in one.files)
            assert all(one[name].dtype == other[name].dtype for name in one.files)
    else:
        assert given.read_bytes() == back.read_bytes()


def test_the_command_keeps_fields_by_their_policies(tmp_path: Path, scan: PointCloud) -> None:
    write_cloud(tmp_path / "a.pcd", lidar(".pcd", scan))
    anypcc("encode", "a.pcd", "-o", "a.apcc", "--step", "0.02", "--fields", "time=step:1e-7", "normal=drop", cwd=tmp_path)
    told = anypcc("info", "a.apcc", cwd=tmp_path).stdout
    assert "field ring: uint16, exact" in told
    assert "field normal: 3 x float32, dropped" in told
    assert "field time: float64, step 1e-07, largest error " in told
    anypcc("decode", "a.apcc", "-o", "a.las", cwd=tmp_path)
    back, original = read_cloud(tmp_path / "a.las"), lidar(".pcd", scan).finite()[0]
    assert len(back) == len(original)
    assert {"ring", "rgb", "time", "intensity_float32"} <= set(back.fields)
    colours = [np.sort(cloud.fields["rgb"].astype(np.int64) @ [65536, 256, 1]) for cloud in (back, original)]
    np.testing.assert_array_equal(*colours)


def test_integers_with_a_scale_are_encoded_in_metres(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).integers(0, 5000, (300, 3)).astype(np.int32)
    np.savez(tmp_path / "a.npz", xyz=xyz, scale=np.full(3, 0.01), offset=np.array([1000.0, 0.0, -20.0]), intensity=xyz[:, 0])
    anypcc("encode", "a.npz", "-o", "a.apcc", "--step", "0.01", cwd=tmp_path)
    anypcc("decode", "a.apcc", "-o", "b.npz", cwd=tmp_path)
    back = read_cloud(tmp_path / "b.npz")
    order = np.lexsort(np.rint(back.xyz * 100).astype(np.int64).T)
    metres = xyz * 0.01 + [1000.0, 0.0, -20.0]
    expected = np.lexsort(np.rint(metres * 100).astype(np.int64).T)
    np.testing.assert_allclose(back.xyz[order], metres[expected], rtol=1e-14, atol=1e-12)
    np.testing.assert_array_equal(back.fields["intensity"][order], xyz[expected, 0])
