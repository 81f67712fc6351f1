"""Encode and decode: what comes out is what the grid says, for every kind of cloud."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anypcc_ros.codec.bitstream import inspect, read_stream, write_stream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.errors import ConfigError, CorruptStreamError, ModelNotFoundError
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.integer import save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.codec.octree import quantise


@pytest.fixture(scope="module")
def model_file(make_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=1)), path)
    return path


@pytest.fixture(scope="module")
def round_trip(model_file):
    decoder = Decoder(DecoderConfig(model_dir=str(model_file.parent)))

    def run(cloud: PointCloud, **options) -> tuple[PointCloud, bytes]:
        data = Encoder(CodecConfig(model=str(model_file), **options)).encode(cloud)
        return decoder.decode(data), data

    return run


def sorted_rows(xyz: np.ndarray) -> np.ndarray:
    return xyz[np.lexsort(xyz.T[::-1])]


def test_a_scan_comes_back_within_half_a_step(round_trip, scan):
    decoded, data = round_trip(scan, step=0.02)
    assert decoded.xyz.dtype == np.float32
    assert len(decoded) == len(scan)
    assert np.array_equal(sorted_rows(quantise(decoded.xyz, 0.02, (0, 0, 0))), sorted_rows(quantise(scan.xyz, 0.02, (0, 0, 0))))
    # Points pair up in grid order; float32 rounding of a coordinate of 10 m adds at most 1e-6.
    order = np.lexsort(quantise(scan.xyz, 0.02, (0, 0, 0)).T[::-1])
    back = np.lexsort(quantise(decoded.xyz, 0.02, (0, 0, 0)).T[::-1])
    assert np.abs(scan.xyz[order] - decoded.xyz[back]).max() <= 0.01 + 1e-6
    info = inspect(data)
    assert (info.points, info.step, info.dtype, info.size) == (len(scan), 0.02, "float32", len(data))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    grid=arrays(np.int64, st.tuples(st.integers(0, 120), st.just(3)), elements=st.integers(-40, 40)),
    scale=st.sampled_from([1, 1000, 1 << 24]),
    offset=st.sampled_from([0, -5, 1 << 40]),
    dtype=st.sampled_from(["float64", "int64"]),
)
def test_any_integer_cloud_is_exact(round_trip, grid, scale, offset, dtype):
    xyz = (grid * scale + offset).astype(dtype)
    decoded, data = round_trip(PointCloud(xyz), step=1.0)
    assert decoded.xyz.dtype == xyz.dtype
    assert np.array_equal(sorted_rows(decoded.xyz), sorted_rows(xyz))
    assert inspect(data).points == len(xyz)


def test_duplicates_are_counted_unless_merged(round_trip):
    xyz = np.repeat(np.array([[0, 0, 0], [3, 1, 2], [9, 9, 9]], np.int32), [1, 40, 2], axis=0)
    kept, _ = round_trip(PointCloud(xyz), step=1.0)
    merged, _ = round_trip(PointCloud(xyz), step=1.0, merge_duplicates=True)
    assert np.array_equal(sorted_rows(kept.xyz), xyz)
    assert np.array_equal(sorted_rows(merged.xyz), np.unique(xyz, axis=0))


def test_utm_coordinates_in_float64_are_kept(round_trip):
    rng = np.random.default_rng(0)
    xyz = np.array([448_262.08, 5_412_345.6, 311.2]) + rng.uniform(0, 30, (500, 3))
    for origin in ((0.0, 0.0, 0.0), (448_000.0, 5_412_000.0, 0.0)):
        decoded, data = round_trip(PointCloud(xyz), step=0.001, origin=origin)
        order = np.lexsort(quantise(xyz, 0.001, origin).T[::-1])
        back = np.lexsort(quantise(decoded.xyz, 0.001, origin).T[::-1])
        assert np.abs(xyz[order] - decoded.xyz[back]).max() <= 0.0005 + 1e-9
        assert inspect(data).origin == origin


def test_dropped_scales_give_the_centres_of_the_coarser_cells(round_trip, scan):
    fine = quantise(scan.xyz, 0.01, (0, 0, 0))
    decoded, data = round_trip(PointCloud(scan.xyz.astype(np.float64)), step=0.01, drop_scales=3)
    cells = np.unique((fine - fine.min(0)) >> 3, axis=0)
    expected = ((cells << 3) + fine.min(0) + 3.5) * 0.01
    assert np.allclose(sorted_rows(decoded.xyz), sorted_rows(expected), atol=1e-12)
    assert (inspect(data).drop_scales, inspect(data).points) == (3, len(scan))


def test_dropping_every_scale_leaves_one_point(round_trip):
    decoded, _ = round_trip(PointCloud(np.array([[0, 0, 0], [5, 6, 7]], np.int32)), step=1.0, drop_scales=9)
    assert len(decoded) == 1


@pytest.mark.parametrize("points", [0, 1, 2, 64])
def test_few_points_need_no_model(round_trip, points):
    xyz = np.random.default_rng(points).integers(-9, 9, (points, 3)).astype(np.int32)
    decoded, data = round_trip(PointCloud(xyz), step=1.0)
    assert np.array_equal(sorted_rows(decoded.xyz), sorted_rows(xyz))
    if points < 2:
        assert len(data) < 80
        assert inspect(data).model_hash == ""


def test_positions_that_are_not_finite_are_left_out_and_counted(round_trip):
    cloud = PointCloud(np.array([[0, 0, 0], [np.nan, 0, 0], [1, np.inf, 0]], np.float32), {"ring": np.arange(3)})
    decoded, data = round_trip(cloud)
    assert (decoded.xyz.tolist(), decoded.fields["ring"].tolist()) == ([[0, 0, 0]], [0])
    assert inspect(data).left_out == 2
    finite, dropped = cloud.finite()
    assert (len(finite), dropped, finite.fields["ring"].tolist()) == (1, 2, [0])


def test_an_unknown_model_names_what_is_installed(model_file, scan):
    with pytest.raises(ModelNotFoundError, match="no_such_model is not installed"):
        Encoder(CodecConfig(model="no_such_model"))
    data = Encoder(CodecConfig(model=str(model_file))).encode(scan)
    with pytest.raises(ModelNotFoundError) as caught:
        Decoder().decode(data)
    assert inspect(data).model_hash in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("step", 0.0), ("step", -1.0), ("step", float("nan")), ("step", "fine"), ("drop_scales", 21), ("drop_scales", True),
     ("backend", "gpu"), ("threads", -1), ("origin", (0, 0)), ("origin", (0, 0, float("inf"))), ("merge_duplicates", 1)],
)  # fmt: skip
def test_bad_options_are_refused_with_their_value(option, value):
    with pytest.raises(ConfigError, match=option):
        CodecConfig(**{option: value})


@pytest.mark.parametrize("offset", [0, -70_000, 1 << 35])
def test_axes_on_a_coarser_lattice_are_renumbered(round_trip, offset):
    rng = np.random.default_rng(2)
    surface = rng.integers(0, 60, (4000, 3))
    surface[:, 2] = (surface[:, 0] + surface[:, 1]) // 3
    plain = surface.astype(np.int64) + offset
    scaled = np.rint(surface * [7.3, 1, 4]).astype(np.int64) + offset
    decoded, data = round_trip(PointCloud(scaled), step=1.0)
    assert np.array_equal(sorted_rows(decoded.xyz), sorted_rows(scaled))
    assert "LATT" in [chunk.tag for chunk in inspect(data).chunks]
    _, reference = round_trip(PointCloud(plain), step=1.0)
    assert "LATT" not in [chunk.tag for chunk in inspect(reference).chunks]
    assert len(data) < len(reference) + 120
    dropped, _ = round_trip(PointCloud(scaled), step=1.0, drop_scales=2)
    assert np.abs(sorted_rows(dropped.xyz)[0] - sorted_rows(scaled)[0]).max() <= 4


def surface(spacing: int, edge: int = 60) -> PointCloud:
    """A wavy sheet of so many points each way, one on about every so-manieth cell of the grid."""
    x, y = (spacing * v.ravel() for v in np.meshgrid(np.arange(edge), np.arange(edge)))
    x, y = (v + np.random.default_rng(spacing + i).integers(0, spacing, len(v)) for i, v in enumerate((x, y)))
    return PointCloud(np.stack([x, y, np.rint(20 * np.sin(x / 90) * np.cos(y / 70))], axis=1).astype(np.int32))


@pytest.mark.parametrize(
    ("calibrate", "of_others", "of_large_sparse"),
    [("always", True, True), ("auto", True, True), ("selective", True, False), ("never", False, False)],
)
def test_predictions_are_corrected_where_the_configuration_says(calibrate, of_others, of_large_sparse):
    clouds = (surface(1, 260), of_others), (surface(9), of_others), (surface(25, 260), of_large_sparse)
    for cloud, expected in clouds:
        data = Encoder(CodecConfig(step=1.0, calibrate=calibrate)).encode(cloud)
        assert inspect(data).calibrated is expected
        assert set(map(tuple, Decoder().decode(data).xyz.tolist())) == set(map(tuple, cloud.xyz.tolist()))


def test_a_model_may_ask_for_another_calibration(tmp_path):
    model = store.by_name("standard")
    path = tmp_path / "quick.safetensors"
    save_model(dataclasses.replace(model, calibrate="never"), path)
    data = Encoder(CodecConfig(step=1.0, model=str(path))).encode(surface(1))
    assert not inspect(data).calibrated
    assert inspect(data).model_hash == model.hash


def test_beams_without_calibration_are_refused():
    info, layout, chunks = read_stream(Encoder(CodecConfig(step=1.0, calibrate="never")).encode(surface(1)), DecoderConfig())
    forged = write_stream(info, {**{tag: bytes(data) for tag, data in chunks.items()}, "BEAM": b"\1\1\1\0\0\0\0"}, layout)
    with pytest.raises(CorruptStreamError, match="not corrected"):
        Decoder().decode(forged)
