"""Round trips through every file format, files as others write them, and files that are broken."""

from __future__ import annotations

import json
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

laspy = pytest.importorskip("laspy", reason="needs the extra [files]")
plyfile = pytest.importorskip("plyfile", reason="needs the extra [files]")

from anypcc_ros import PointCloud  # noqa: E402
from anypcc_ros.codec.errors import FileError  # noqa: E402
from anypcc_ros.files import WRITABLE, atomic_write, read_cloud, unit_of, write_cloud  # noqa: E402
from anypcc_ros.files.pcd import lzf_decompress  # noqa: E402


@pytest.fixture
def cloud() -> PointCloud:
    rng = np.random.default_rng(3)
    return PointCloud(
        rng.normal(0, 30, (500, 3)).astype(np.float32),
        {
            "intensity": rng.random(500).astype(np.float32),
            "ring": rng.integers(0, 64, 500).astype(np.uint16),
            "t": rng.integers(0, 10**8, 500).astype(np.uint32),
            "rgb": rng.integers(0, 256, (500, 3)).astype(np.uint8),
        },
    )


def assert_same(one: PointCloud, other: PointCloud) -> None:
    assert one.xyz.dtype == other.xyz.dtype
    np.testing.assert_array_equal(one.xyz, other.xyz)
    assert list(one.fields) == list(other.fields)
    assert (one.height, one.position) == (other.height, other.position)
    for name, values in one.fields.items():
        assert values.dtype == other.fields[name].dtype, name
        np.testing.assert_array_equal(values, other.fields[name])


# ---- round trips


KEEPING_TYPES = (".ply", ".pcd", ".npz")


@pytest.mark.parametrize("ending", KEEPING_TYPES)
def test_round_trip_keeps_every_bit_of_every_field(cloud: PointCloud, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cloud{ending}"
    cloud = replace(cloud, position=0 if ending == ".npz" else 2)
    write_cloud(path, cloud)
    back = read_cloud(path)
    if ending == ".pcd":  # which packs colours as PCL does
        colours = back.fields["rgb"].view(np.uint32)
        assert back.fields["rgb"].dtype == np.float32
        np.testing.assert_array_equal(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1), cloud.fields["rgb"])
        back = replace(back, fields={**back.fields, "rgb": cloud.fields["rgb"]})
    assert_same(back, cloud)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", KEEPING_TYPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("points", [0, 1, 7])
def test_round_trip_of_coordinate_types_and_sizes(tmp_path: Path, ending: str, dtype: str, points: int) -> None:
    xyz = (np.arange(3 * points).reshape(-1, 3) * 1_000_003 - 7).astype(dtype)
    write_cloud(tmp_path / f"cloud{ending}", PointCloud(xyz))
    assert_same(read_cloud(tmp_path / f"cloud{ending}"), PointCloud(xyz))


ODD_FIELDS = {
    "packed": np.array([0, 0xFF00FF01, 2**32 - 1, 0x7F800001, 0x80000000, 1], np.uint32).view(np.float32),
    "normal": np.arange(18, dtype=np.float64).reshape(6, 3),
    "byte": np.arange(-3, 3).astype(np.int8),
    "far": np.array([0, 1, 2**40, -1, 2**62, 5]),
    "half": np.arange(6).astype(np.float16),
    "flag": np.array([0, 1, 1, 0, 0, 1], np.bool_),
}


@pytest.mark.parametrize(("ending", "names"), [(".npz", [*ODD_FIELDS]), (".pcd", ["packed", "normal", "byte", "far"])])
def test_organised_clouds_of_any_types(tmp_path: Path, ending: str, names: list[str]) -> None:
    xyz = np.arange(18, dtype=np.float32).reshape(6, 3)
    xyz[4] = np.nan
    cloud = PointCloud(xyz, {name: ODD_FIELDS[name] for name in names}, height=2)
    write_cloud(tmp_path / f"a{ending}", cloud)
    back = read_cloud(tmp_path / f"a{ending}")
    assert_same(back, cloud)
    assert back.fields["packed"].tobytes() == ODD_FIELDS["packed"].tobytes()


@pytest.mark.parametrize("name", ["rgb", "rgba"])
@pytest.mark.parametrize("alpha", [0, 200])
def test_packed_colours_become_columns_where_a_format_has_them(tmp_path: Path, name: str, alpha: int) -> None:
    packed = (np.array([0x010203, 0xFFFEFD], np.uint32) | alpha << 24).astype(np.uint32).view(np.float32)
    write_cloud(tmp_path / "a.ply", PointCloud(np.zeros((2, 3), np.float32), {name: packed}))
    fields = read_cloud(tmp_path / "a.ply").fields
    np.testing.assert_array_equal(fields["rgb"], [[1, 2, 3], [255, 254, 253]])
    assert ("alpha" in fields) == (name == "rgba" or alpha > 0)
    assert set(fields.get("alpha", [alpha])) == {alpha}


def test_names_that_clash(tmp_path: Path) -> None:
    xyz = np.zeros((2, 3), np.float32)
    for ending, fields in (
        (".npz", {"scale": xyz}),
        (".ply", {"rgb": xyz.astype("u1"), "red": xyz[:, 0]}),
        (".pcd", {"x": xyz[:, 0]}),
    ):
        with pytest.raises(FileError, match=r"stand for something else|would be called|besides the coordinates"):
            write_cloud(tmp_path / f"a{ending}", PointCloud(xyz, fields))


def test_large_integers_need_a_format_that_holds_them(tmp_path: Path) -> None:
    cloud = PointCloud(np.array([[0, 1, 2**40]]))
    for ending in (".npz", ".pcd"):
        write_cloud(tmp_path / f"a{ending}", cloud)
        assert_same(read_cloud(tmp_path / f"a{ending}"), cloud)
    with pytest.raises(FileError, match=r"a\.ply: .*1099511627776.*32-bit"):
        write_cloud(tmp_path / "a.ply", cloud)
    assert not (tmp_path / "a.ply").exists()


# ---- files as others write them


def test_integer_npz_stays_on_its_grid_and_tells_its_unit(tmp_path: Path) -> None:
    xyz = np.array([[0, 5, -3], [7, 7, 7]], np.int32)
    meta = json.dumps({"sensor": "x"})
    np.savez(
        tmp_path / "a.npz",
        xyz=xyz,
        scale=np.full(3, 0.01),
        offset=np.array([1e6, 0, 0]),
        meta=meta,
        ring=[1, 2],
    )
    cloud = read_cloud(tmp_path / "a.npz")
    np.testing.assert_array_equal(cloud.xyz, xyz)
    assert cloud.xyz.dtype == np.int32
    assert list(cloud.fields) == ["ring"]
    assert unit_of(tmp_path / "a.npz") == 0.01
    metric = read_cloud(tmp_path / "a.npz", metres=True)
    np.testing.assert_allclose(metric.xyz, [[1e6, 0.05, -0.03], [1e6 + 0.07, 0.07, 0.07]], rtol=1e-15)
    assert list(metric.fields) == ["ring"]
    np.savez(tmp_path / "b.npz", xyz=xyz, step=np.float64(0.001))
    assert unit_of(tmp_path / "b.npz") == 0.001
    np.savez(tmp_path / "c.npz", xyz=xyz)
    assert unit_of(tmp_path / "c.npz") == 1.0
    np.testing.assert_array_equal(read_cloud(tmp_path / "c.npz", metres=True).xyz, xyz)


def test_three_points_with_offset_are_not_mistaken_for_a_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=np.zeros((3, 3), np.int32), scale=np.ones(3), offset=np.ones(3))
    assert not read_cloud(tmp_path / "a.npz").fields


def test_arrays_of_an_organised_npz_and_those_that_fit_no_point(tmp_path: Path) -> None:
    xyz, image = np.zeros((6, 3), np.float32), np.arange(6, dtype=np.uint16).reshape(2, 3)
    np.savez(tmp_path / "a.npz", xyz=xyz, height=2, intensity=image, normal=np.ones((2, 3, 3), np.float32))
    cloud = read_cloud(tmp_path / "a.npz")
    assert cloud.fields["intensity"].tolist() == list(range(6))
    assert cloud.fields["normal"].shape == (6, 3)
    np.savez(tmp_path / "b.npz", xyz=xyz, intensity=np.zeros(7))
    with pytest.warns(UserWarning, match=r"b.npz: left out intensity of shape \(7,\), not a row for each of 6 points"):
        assert not read_cloud(tmp_path / "b.npz").fields


def test_nuscenes_bin(tmp_path: Path) -> None:
    """Of a size that would do for KITTI's four columns as well."""
    rows = np.random.default_rng(0).normal(size=(400, 5)).astype("<f4")
    (tmp_path / "a.pcd.bin").write_bytes(rows.tobytes())
    cloud = read_cloud(tmp_path / "a.pcd.bin")
    assert np.array_equal(cloud.xyz, rows[:, :3])
    assert np.array_equal(np.stack([cloud.fields["intensity"], cloud.fields["ring"]], axis=1), rows[:, 3:])
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(FileError, match="0 bytes"):
        read_cloud(tmp_path / "empty.bin")


def test_what_files_have_besides_points_is_told(tmp_path: Path) -> None:
    plyfile, laspy = pytest.importorskip("plyfile"), pytest.importorskip("laspy")
    vertices = np.zeros(3, [(axis, "f4") for axis in "xyz"])
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))])
    elements = [plyfile.PlyElement.describe(vertices, "vertex"), plyfile.PlyElement.describe(faces, "face")]
    plyfile.PlyData(elements).write(str(tmp_path / "mesh.ply"))
    with pytest.warns(UserWarning, match=r"mesh.ply: left out what is no point: face \(1\)"):
        assert len(read_cloud(tmp_path / "mesh.ply")) == 3
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr("PROJCS[]"))
    las = laspy.LasData(header)
    las.x = las.y = las.z = np.zeros(3)
    las.write(str(tmp_path / "map.las"))
    with pytest.warns(UserWarning, match=r"map.las: left out 1 record of the file, the coordinate system among"):
        assert len(read_cloud(tmp_path / "map.las")) == 3


def test_names_of_pcd_fields(tmp_path: Path) -> None:
    cloud = PointCloud(np.zeros((2, 3), np.float32), {"größe": np.arange(2, dtype=np.uint8)})
    write_cloud(tmp_path / "a.pcd", cloud)
    assert list(read_cloud(tmp_path / "a.pcd").fields) == ["größe"]
    with pytest.raises(FileError, match="cannot stand in a PCD header"):
        write_cloud(tmp_path / "b.pcd", PointCloud(cloud.xyz, {"_": np.zeros(2)}))


def test_long_names(tmp_path: Path) -> None:
    name = "ü" * 120 + ".npz"
    write_cloud(tmp_path / name, PointCloud(np.zeros((1, 3))))
    assert len(read_cloud(tmp_path / name)) == 1


def test_kitti_bin(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype("<f4")
    rows.tofile(tmp_path / "000000.bin")
    cloud = read_cloud(tmp_path / "000000.bin")
    np.testing.assert_array_equal(cloud.xyz, rows[:, :3])
    np.testing.assert_array_equal(cloud.fields["intensity"], rows[:, 3])
    write_cloud(tmp_path / "back.bin", cloud)
    assert (tmp_path / "back.bin").read_bytes() == rows.tobytes()
    for wrong in (PointCloud(cloud.xyz.astype(np.float64)), PointCloud(cloud.xyz, {"ring": np.zeros(9, np.uint8)})):
        with pytest.raises(FileError, match=r"\.bin holds x, y, z and intensity"):
            write_cloud(tmp_path / "back.bin", wrong)


@pytest.mark.parametrize("ending", [".las", ".laz"])
def test_las_and_laz(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = [0.01, 0.01, 0.001], [481253.28, 3812921.09, 0.0]
    data = laspy.LasData(header)
    for axis in "XYZ":
        setattr(data, axis, rng.integers(0, 90_000, 1000))
    data.intensity = rng.integers(0, 65536, 1000)
    data.red, data.green, data.blue = rng.integers(0, 65536, (3, 1000))
    data.write(tmp_path / f"a{ending}")
    cloud = read_cloud(tmp_path / f"a{ending}")
    assert cloud.xyz.dtype == np.float64
    np.testing.assert_allclose(cloud.xyz[:, 0], np.array(data.X) * 0.01 + 481253.28, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(cloud.fields["intensity"], data.intensity)
    np.testing.assert_array_equal(cloud.fields["rgb"][:, 1], data.green)


@pytest.mark.parametrize("ending", [".las", ".laz"])
@pytest.mark.parametrize("form", [0, 3, 6, 8])
def test_las_keeps_every_dimension(tmp_path: Path, ending: str, form: int) -> None:
    rng = np.random.default_rng(0)
    data = laspy.LasData(laspy.LasHeader(point_format=form, version="1.4" if form > 3 else "1.2"))
    data.header.scales, data.header.offsets = [0.01, 0.01, 0.00025], [481253.28, 3812921.09, 0.0]
    data.header.add_extra_dims([laspy.ExtraBytesParams("height above ground", "f4"), laspy.ExtraBytesParams("tile", "i8")])
    data = laspy.LasData(data.header, laspy.ScaleAwarePointRecord.zeros(1000, header=data.header))
    for axis in "XYZ":
        data[axis] = rng.integers(0, 90_000, 1000)
    for dimension in data.point_format.dimensions:
        if dimension.name not in "XYZ":
            values = (
                rng.normal(size=1000)
                if dimension.kind.name == "FloatingPoint"
                else rng.integers(0, 1 << min(dimension.num_bits - 1, 60) or 2, 1000)
            )
            data[dimension.name] = values
    data.write(tmp_path / f"a{ending}")
    cloud = read_cloud(tmp_path / f"a{ending}")
    assert len(cloud.fields) == len(list(data.point_format.dimension_names)) - (5 if form in (3, 8) else 3)
    write_cloud(tmp_path / f"b{ending}", cloud)
    assert laspy.read(tmp_path / f"b{ending}").point_format.id == form
    back = read_cloud(tmp_path / f"b{ending}")
    np.testing.assert_allclose(back.xyz, cloud.xyz, rtol=4e-16, atol=0)
    assert_same(replace(back, xyz=cloud.xyz), cloud)


def test_a_lidar_as_las(cloud: PointCloud, tmp_path: Path) -> None:
    """Types that a standard dimension does not have: a reflectance that is no integer, a ring, colours of a byte."""
    grid = replace(cloud, xyz=(np.rint(cloud.xyz.astype(np.float64) / 0.016) * 0.016).astype(np.float32))
    grid = replace(grid, fields={**grid.fields, "normal": np.zeros((500, 3), np.float32), "key_point": np.ones(500, np.bool_)})
    write_cloud(tmp_path / "a.las", grid)
    back = read_cloud(tmp_path / "a.las")
    np.testing.assert_array_equal(back.xyz.astype(np.float32), grid.xyz)
    names = {"intensity": "intensity_float32"}
    for name in ("intensity", "ring", "t", "rgb", "key_point"):
        np.testing.assert_array_equal(back.fields[names.get(name, name)], grid.fields[name])
    assert {"normal_0", "normal_1", "normal_2"} <= set(back.fields)


@pytest.mark.parametrize("points", [0, 1])
def test_small_las(tmp_path: Path, points: int) -> None:
    cloud = PointCloud(np.full((points, 3), 5_400_000.123), {"id": np.arange(points, dtype=np.uint32)})
    write_cloud(tmp_path / "a.las", cloud)
    np.testing.assert_allclose(read_cloud(tmp_path / "a.las").xyz, cloud.xyz, rtol=2e-16)


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (PointCloud(np.array([[0.0, 0, np.inf]])), "not finite"),
        (PointCloud(np.array([[0.0, 0, 0], [0, 3e9, 0]])), "do not fit into 32 bits"),
        (PointCloud(np.zeros((1, 3)), {"x" * 33: np.zeros(1)}), "name of 33 bytes"),
        (PointCloud(np.zeros((1, 3)), {"half": np.zeros(1, np.float16)}), "float16"),
    ],
)
def test_what_las_cannot_hold(cloud: PointCloud, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"a\.las: .*{reason}"):
        write_cloud(tmp_path / "a.las", cloud)


@pytest.mark.parametrize("text", [True, False])
def test_ply_of_another_writer(tmp_path: Path, text: bool) -> None:
    """Double coordinates, colours, a list property, another element."""
    dtype = [
        ("x", "f8"),
        ("y", "f8"),
        ("z", "f8"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("tags", "O"),
        ("pair", "O"),
    ]
    vertices = np.array([(0.1, 2, 3, 9, 8, 7, [1, 2], [5, 6]), (4, 5, 6, 1, 2, 3, [3], [7, 8])], dtype)
    faces = np.array([([0, 1, 0],)], [("vertex_indices", "O")])
    elements = [
        plyfile.PlyElement.describe(vertices, "vertex", val_types={"tags": "u1", "pair": "i2"}),
        plyfile.PlyElement.describe(faces, "face"),
    ]
    plyfile.PlyData(elements, text=text, byte_order="<").write(str(tmp_path / "a.ply"))
    with pytest.warns(UserWarning, match=r"a\.ply: left out tags, lists of different lengths"):
        cloud = read_cloud(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.xyz, [[0.1, 2, 3], [4, 5, 6]])
    assert list(cloud.fields) == ["rgb", "pair"]
    np.testing.assert_array_equal(cloud.fields["pair"], [[5, 6], [7, 8]])
    np.testing.assert_array_equal(cloud.fields["rgb"], [[9, 8, 7], [1, 2, 3]])


def test_big_endian_ply(tmp_path: Path) -> None:
    header = b"ply\nformat binary_big_endian 1.0\nelement vertex 2\nproperty float x\nproperty double y\n"
    header += b"property short z\nproperty ushort ring\nend_header\n"
    rows = np.array([(1, 2.5, -3, 64), (4, 5, 6, 1)], [("x", ">f4"), ("y", ">f8"), ("z", ">i2"), ("ring", ">u2")])
    (tmp_path / "a.ply").write_bytes(header + rows.tobytes())
    cloud = read_cloud(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.xyz, [[1, 2.5, -3], [4, 5, 6]])
    assert cloud.xyz.dtype == np.float64
    assert cloud.fields["ring"].dtype == np.uint16
    np.testing.assert_array_equal(cloud.fields["ring"], [64, 1])


PCD_HEADER = """# .PCD v.7 - Point Cloud Data file format
VERSION .7
FIELDS x y z rgb _ normal
SIZE 4 4 4 4 1 4
TYPE F F F U U F
COUNT 1 1 1 1 3 2
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA {}
"""
PCD_POINTS = np.array(
    [((1, 2, 3), 0x0A0B0C, (0, 0, 0), (0.5, 1)), ((4, 5, np.nan), 0xFF0000, (9, 9, 9), (2, 3))],
    [("xyz", "<f4", 3), ("rgb", "<u4"), ("pad", "u1", 3), ("normal", "<f4", 2)],
)


def lzf_compress_as_literals(data: bytes) -> bytes:
    return b"".join(bytes([len(piece) - 1]) + piece for piece in (data[i : i + 32] for i in range(0, len(data), 32)))


def pcd_body(encoding: str) -> bytes:
    if encoding == "ascii":
        return b"1 2 3  658188 0 0 0 0.5 1\n4\t5 nan 16711680 9 9 9 2 3\n"
    if encoding == "binary":
        return PCD_POINTS.tobytes()
    xyz, columns = PCD_POINTS["xyz"], [PCD_POINTS[name] for name in ("rgb", "pad", "normal")]
    raw = np.ascontiguousarray(xyz.T).tobytes() + b"".join(np.ascontiguousarray(c).tobytes() for c in columns)
    packed = lzf_compress_as_literals(raw)
    return struct.pack("<II", len(packed), len(raw)) + packed


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_of_another_writer(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.pcd").write_bytes(PCD_HEADER.format(encoding).encode() + pcd_body(encoding))
    cloud = read_cloud(tmp_path / "a.pcd")
    np.testing.assert_array_equal(cloud.xyz, PCD_POINTS["xyz"])
    assert sorted(cloud.fields) == ["normal", "rgb"]
    np.testing.assert_array_equal(cloud.fields["rgb"], PCD_POINTS["rgb"])
    np.testing.assert_array_equal(cloud.fields["normal"], PCD_POINTS["normal"])


def test_pcd_without_count_and_points_lines(tmp_path: Path) -> None:
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nHEIGHT 2\nDATA ascii\n"
    (tmp_path / "a.pcd").write_text(header + "1 2 3\n4 5 6\n")
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.pcd").xyz, [[1, 2, 3], [4, 5, 6]])


def test_lzf_back_references() -> None:
    """Seven literals; three bytes from four back; thirteen bytes from one back, which overlaps itself."""
    data = bytes([6]) + b"abcdefg" + bytes([1 << 5, 3]) + bytes([7 << 5, 4, 0])
    assert lzf_decompress(data, 23) == b"abcdefg" + b"def" + b"f" * 13
    for wrong in (22, 24):
        with pytest.raises(FileError, match=str(wrong)):
            lzf_decompress(data, wrong)
    with pytest.raises(FileError, match="before its beginning"):
        lzf_decompress(bytes([0, 65, 1 << 5, 9]), 4)


# ---- broken files


def broken_files() -> dict[str, bytes]:
    header = PCD_HEADER.format("binary").encode()
    axes = b"property float x\nproperty float y\nproperty float z\nend_header\n"
    return {
        "missing.ply": b"",
        "empty.pcd": b"",
        "text.ply": b"hello",
        "short.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n" + axes + bytes(20),
        "noz.ply": b"ply\nformat ascii 1.0\nelement vertex 1\n" + axes.replace(b" z", b" q") + b"1 2 3\n",
        "novertex.ply": b"ply\nformat ascii 1.0\nelement face 0\nproperty float x\nend_header\n",
        "huge.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999\n" + axes + bytes(24),
        "short.pcd": header + bytes(10),
        "huge.pcd": header.replace(b"WIDTH 2", b"WIDTH 99999999999").replace(b"POINTS 2", b"POINTS 99999999999"),
        "counts.pcd": header.replace(b"COUNT 1 1 1 1 3 2", b"COUNT 1 1 1"),
        "points.pcd": header.replace(b"POINTS 2", b"POINTS 3") + PCD_POINTS.tobytes(),
        "type.pcd": header.replace(b"TYPE F F F U U F", b"TYPE F F F U F F"),
        "twice.pcd": header.replace(b"x y z rgb", b"x y x rgb") + PCD_POINTS.tobytes(),
        "nodata.pcd": b"VERSION .7\nFIELDS x y z\n",
        "ascii.pcd": PCD_HEADER.format("ascii").encode() + b"1 2 3\n",
        "words.pcd": PCD_HEADER.format("ascii").encode() + pcd_body("ascii").replace(b"658188", b"red"),
        "lzf.pcd": PCD_HEADER.format("binary_compressed").encode() + pcd_body("binary_compressed")[:-5],
        "zip.npz": b"PK\x03\x04 and no more",
        "pickle.npz": b"\x80\x04K\x01.",
        "odd.bin": bytes(17),
        "odd.las": b"LASF" + bytes(100),
        "odd.laz": b"not a las file at all" * 20,
        "some.xyz": b"1 2 3\n",
        "noending": b"1 2 3\n",
    }


@pytest.mark.parametrize("name", broken_files())
def test_broken_files_raise_file_errors_that_name_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_bytes(broken_files()[name])
    with pytest.raises(FileError, match=f"(?s)^{path}"):
        read_cloud(path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"points": np.zeros((4, 3))}, "no array xyz .it has points"),
        ({"xyz": np.zeros((4, 2))}, r"xyz has shape \(4, 2\)"),
        ({"xyz": np.zeros((4, 3), complex)}, "complex128"),
        ({"xyz": np.zeros((4, 3), object)}, "allow_pickle"),
    ],
)
def test_npz_without_usable_coordinates(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(FileError, match=rf"a\.npz: .*{reason}"):
        read_cloud(tmp_path / "a.npz")


@pytest.mark.parametrize("ending", [".npz", ".ply", ".pcd", ".las", ".laz"])
def test_damaged_bytes_never_raise_anything_else(cloud: PointCloud, tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / f"a{ending}"
    small = PointCloud(cloud.xyz[:40], {name: values[:40] for name, values in cloud.fields.items()})
    if ending in WRITABLE:
        write_cloud(path, small)
    else:
        data = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
        data.x, data.y, data.z = small.xyz.T
        data.write(path)
    whole = path.read_bytes()
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for at in rng.integers(0, min(len(whole), 400 if trial % 3 == 1 else len(whole)), 3):
                damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(FileError):
            read_cloud(path)


@pytest.mark.parametrize(("name", "package"), [("a.ply", "plyfile"), ("a.las", "laspy"), ("a.laz", "lazrs")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    (tmp_path / name).write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, package, None)  # what the import system does for a module that is not there
    with pytest.raises(FileError, match=rf"{name}: needs the Python package {package}: .*anypcc_ros\[files\]"):
        read_cloud(tmp_path / name)


# ---- writing


@pytest.mark.parametrize("name", ["a.xyz", "a.txt", "a"])
def test_formats_that_are_not_written(cloud: PointCloud, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=f"cannot write.*{WRITABLE[0]}"):
        write_cloud(tmp_path / name, cloud)


def test_failed_write_leaves_the_old_file_and_nothing_else(cloud: PointCloud, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_text("precious")
    bad = PointCloud(cloud.xyz, {"name": np.full(len(cloud), 2**40)})
    with pytest.raises(FileError, match=r"a\.ply: name goes from"):
        write_cloud(path, bad)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_places_that_cannot_be_written(cloud: PointCloud, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere/a\.ply: cannot write: there is no folder .*nowhere"):
        write_cloud(tmp_path / "nowhere" / "a.ply", cloud)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileError, match=r"folder\.npz: not a regular file"):
        write_cloud(tmp_path / "folder.npz", cloud)


def test_atomic_write_follows_links_and_survives_exceptions(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    with pytest.raises(KeyError), atomic_write(tmp_path / "real") as out:  # noqa: PT012
        out.write(b"half")
        raise KeyError
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container every process may have the same number."""
    for _ in range(2):
        writing = atomic_write(tmp_path / "a")
        writing.__enter__().write(b"half")  # and is never finished
    with atomic_write(tmp_path / "a") as out:
        out.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_every_shared_test_cloud_is_read(shared: Path) -> None:
    paths = sorted((shared / "data" / "test").glob("*/*.npz"))
    assert paths
    for path in paths[::6]:
        cloud = read_cloud(path)
        with np.load(path) as data:
            np.testing.assert_array_equal(cloud.xyz, data["xyz"])
            assert cloud.xyz.dtype == data["xyz"].dtype
            assert set(cloud.fields) == {n for n in data.files if n not in ("xyz", "scale", "offset", "step", "meta")}
