"""Streams of a given size: found for one cloud, kept over the frames of a sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, TargetConfig
from anypcc_ros.codec.errors import ConfigError
from anypcc_ros.codec.rate import DEFAULT_PERIOD, RateControl
from anypcc_ros.nodes.frame_period import FramePeriod


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(CodecConfig(step=0.02))


@pytest.fixture(scope="module")
def frames(shared: Path) -> list[PointCloud]:
    """Consecutive frames of a sensor that moves through fog, with their fields."""
    files = sorted((shared / "sequences" / "radiate_hdl32_tiny_foggy_000020-000034").glob("frame_*.npz"))[:8]
    loaded = [np.load(file) for file in files]
    return [
        PointCloud((data["xyz"] * 0.001).astype(np.float32), {"intensity": data["intensity"], "ring": data["ring"]})
        for data in loaded
    ]


@pytest.mark.parametrize("target", [TargetConfig(target_bpp=9.0), TargetConfig(target_bytes=25_000)])
def test_one_cloud_meets_its_target(encoder, sample_cloud, target):
    cloud = replace(sample_cloud, fields={})
    data = RateControl(target).encode(encoder, cloud)
    assert len(data) == pytest.approx(target.bytes_of(len(cloud), 0), rel=0.0101)
    assert len(Decoder().decode(data)) == len(cloud)


def test_frames_follow_their_bit_rate_in_one_pass(encoder, frames):
    control = RateControl(TargetConfig(target_bitrate=1.6e6))
    sizes = [len(control.encode(encoder, frame, 0.1)) for frame in frames]
    assert sizes == pytest.approx([20_000] * len(sizes), rel=0.03)


@pytest.mark.parametrize("size", [8_000, 14_000, 20_000])
def test_with_a_second_pass_every_frame_is_within_one_percent(encoder, frames, size):
    """Where points crowd in cells, or nearly so, too: there sizes hardly depend on the grid, and go up and down with it."""
    control = RateControl(TargetConfig(target_bytes=size, target_passes=2))
    sizes = [len(control.encode(encoder, frame)) for frame in frames[:6]]
    assert sizes == pytest.approx([size] * len(sizes), rel=0.01)


def test_scales_are_dropped_where_fields_would_not_fit(encoder, sample_cloud):
    target = TargetConfig(target_bpp=2.0)
    control = RateControl(target)
    data = control.encode(encoder, sample_cloud)
    info = inspect(data)
    assert info.drop_scales > 0
    assert info.voxels < info.points
    assert len(data) == pytest.approx(target.bytes_of(len(sample_cloud), 0), rel=0.0101)
    again = control.encode(encoder, sample_cloud)
    assert inspect(again).drop_scales > 0


def test_points_that_must_all_be_kept_are(sample_cloud):
    cloud = sample_cloud.take(np.arange(0, len(sample_cloud), 10))
    encoder = Encoder(CodecConfig(step=0.02, order="original"))
    data = RateControl(TargetConfig(target_bytes=100)).encode(encoder, cloud)
    assert len(Decoder().decode(data)) == len(cloud)


def test_clouds_without_points_and_controls_without_target(encoder, scan):
    empty = PointCloud(np.zeros((0, 3), np.float32))
    invalid = PointCloud(np.full((3, 3), np.nan, np.float32))
    control = RateControl(TargetConfig(target_bytes=1000))
    assert inspect(control.encode(encoder, empty)).points == 0
    for _ in range(2):
        assert inspect(control.encode(encoder, invalid)).left_out == 3
    assert RateControl(TargetConfig()).encode(encoder, scan) == encoder.encode(scan)


@pytest.mark.parametrize("few", [1, 3, 20])
def test_a_few_points_at_the_start_do_not_mislead(encoder, sample_cloud, few):
    """As of a sensor that is covered: no grid gives them the size wanted."""
    control = RateControl(TargetConfig(target_bytes=12_500))
    control.encode(encoder, sample_cloud.take(np.arange(few)))
    sizes = [len(control.encode(encoder, sample_cloud.take(np.arange(first, 16_000)))) for first in (0, 100)]
    assert sizes == pytest.approx([12_500] * 2, rel=0.03)


def test_a_cloud_that_grows_again_slowly_meets_its_target(encoder, sample_cloud):
    control = RateControl(TargetConfig(target_bytes=12_500))
    for points in 3 * 1.8 ** np.arange(15):
        data = control.encode(encoder, sample_cloud.take(np.arange(int(points))))
    assert len(data) == pytest.approx(12_500, rel=0.1)


def test_positions_do_not_suffer_for_what_fields_take(encoder, sample_cloud):
    """Which no grid makes less where every point is kept."""
    keeping = Encoder(replace(encoder.config, order="original"))
    data = RateControl(TargetConfig(target_bpp=1.0)).encode(keeping, sample_cloud)
    assert inspect(data).step < 1.0
    assert len(data) > len(sample_cloud) / 8


def test_a_search_stays_within_what_grids_can_be(encoder):
    rng = np.random.default_rng(0)
    wide = PointCloud(rng.normal(size=(500, 3)) * 5_000.0)
    data = RateControl(TargetConfig(target_bpp=200.0)).encode(encoder, wide)  # finer than 2^32 cells across would be
    assert len(Decoder().decode(data)) == 500
    large = PointCloud((rng.normal(size=(500, 3)) * 1e6).astype(np.float32))
    data = RateControl(TargetConfig(target_bytes=10)).encode(Encoder(CodecConfig(step=1000.0)), large)  # beyond a step of 1e6
    assert inspect(data).points == 500
    far = PointCloud(np.concatenate([large.xyz, [[1e20, 0, 0]]]).astype(np.float32))
    data = RateControl(TargetConfig(target_bpp=80.0)).encode(Encoder(CodecConfig(step=0.01, exact=True)), far)
    assert np.array_equal(np.sort(Decoder().decode(data).xyz, axis=0), np.sort(far.xyz, axis=0))


@pytest.mark.parametrize("keeping", [{"order": "original"}, {"exact": True}])
def test_another_configuration_begins_anew(encoder, sample_cloud, keeping):
    """Even where scales were dropped, which every point's being kept forbids."""
    control = RateControl(TargetConfig(target_bpp=2.0))
    assert inspect(control.encode(encoder, sample_cloud)).drop_scales > 0
    data = control.encode(Encoder(replace(encoder.config, **keeping)), sample_cloud)
    assert len(Decoder().decode(data)) == len(sample_cloud)


def test_two_targets_are_refused():
    with pytest.raises(ConfigError, match="not together with target_bpp"):
        TargetConfig(target_bpp=1.0, target_bitrate=5.0)


def test_period_of_frames():
    period = FramePeriod()
    assert period.after(5.0, 0.0) == DEFAULT_PERIOD
    assert [period.after(5.0 + 0.05 * i, i) for i in (1, 2, 4)] == pytest.approx([0.05, 0.05, 0.2 / 3])
    assert period.after(1.0, 5.0) == DEFAULT_PERIOD  # played again
    assert period.after(1.2, 6.0) == pytest.approx(0.2)
    assert period.after(20.0, 7.0) == DEFAULT_PERIOD  # after a pause


def test_period_of_frames_without_stamps():
    period = FramePeriod()
    assert [period.after(0.0, came) for came in (3.0, 3.2, 3.4)] == pytest.approx([DEFAULT_PERIOD, 0.2, 0.2])


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """The cells of a sphere's surface."""
    direction = np.random.default_rng(8).normal(size=(100_000, 3))
    return np.unique(np.rint(direction / np.linalg.norm(direction, axis=1, keepdims=True) * 40).astype(np.int32), axis=0)


@pytest.mark.parametrize("lossy", ["likeliest", "auto"])
def test_scales_that_are_filled_in_meet_a_target_on_the_grid_as_it_is(ball, lossy):
    encoder = Encoder(CodecConfig(step=1.0, lossy=lossy))
    for bpp, scales in ((0.5, 1), (0.2, 2)):
        data = RateControl(TargetConfig(target_bpp=bpp)).encode(encoder, PointCloud(ball))
        info = inspect(data)
        assert (info.step, info.drop_scales, info.filled_scales) == (1.0, 0, scales)
        assert info.bpp == pytest.approx(bpp, rel=0.0101)
    lossless = RateControl(TargetConfig(target_bpp=50.0)).encode(encoder, PointCloud(ball))  # more than the grid takes
    assert len(Decoder().decode(lossless)) == len(ball)


def test_a_target_fills_surfaces_in_by_itself_while_frames_are_such(ball, sample_cloud):
    surface, scan = PointCloud(ball), PointCloud((sample_cloud.xyz * 1000).astype(np.int32))
    target = TargetConfig(target_bpp=0.3)
    control, encoder = RateControl(target), Encoder(CodecConfig(step=1.0))

    def step_and_filled(data: bytes) -> tuple[float, int]:
        return inspect(data).step, inspect(data).filled_scales

    step, filled = step_and_filled(control.encode(encoder, surface))
    assert step == 1.0
    assert filled > 0
    assert step_and_filled(control.encode(encoder, scan))[0] != 1.0  # the step is what is changed
    assert step_and_filled(control.encode(encoder, surface))[0] != 1.0  # and is, from then on
    # With values that every cell would need nothing is filled in, nor where scales are to be left out.
    valued = replace(surface, fields={"intensity": np.zeros(len(ball), np.uint8)})
    for chosen, cloud in ((encoder, valued), (Encoder(CodecConfig(step=1.0, lossy="scales")), surface)):
        assert step_and_filled(RateControl(target).encode(chosen, cloud))[1] == 0
