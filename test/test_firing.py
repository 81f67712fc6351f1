"""Firing sequences: found where a sensor has one, and what they save of times and order."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect, read_stream, write_stream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.errors import StreamError
from anypcc_ros.codec.firing import ascends, find_firing

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

RINGS = 12


def measured(
    columns: int = 150, turn: float = 2 * np.pi, sign: int = -1, missing: float = 0.1, times: str = "u4"
) -> PointCloud:
    rng = np.random.default_rng(8)
    column, place = (values.ravel() for values in np.mgrid[:columns, :RINGS])
    ring = np.random.default_rng(2).permutation(RINGS)[place]
    azimuth = 1 + sign * column * (turn / columns) + rng.uniform(-0.1, 0.1, RINGS)[ring]
    reach = 12 + 3 * np.sin(2 * azimuth)
    xyz = np.stack([reach * np.cos(azimuth), reach * np.sin(azimuth), reach * (ring - 7) / 25], axis=1)
    stamp = column * 55_296 + place * 2_304 + rng.integers(0, 2, len(ring))
    t = stamp.astype(times) if times != "f8" else 1_700_000_000.25 + stamp * 1e-9
    cloud = PointCloud(xyz.astype(np.float32), {"ring": ring.astype(np.uint8) + 3, "t": t})
    return cloud.take(rng.random(len(ring)) >= 0.1)


def bits(data: bytes, *names: str) -> float:
    info = inspect(data)
    sizes = {chunk.tag: chunk.size for chunk in info.chunks} | {field.name: field.size for field in info.fields}
    return 8 * sum(sizes[name] for name in names) / info.points


def assert_same(one: PointCloud, other: PointCloud, step: float) -> None:
    assert len(one) == len(other)
    assert np.array_equal(np.isnan(one.xyz), np.isnan(other.xyz))
    assert np.nanmax(np.abs(one.xyz.astype(np.float64) - other.xyz)) <= step / 2 + 1e-5
    for name, values in other.fields.items():
        assert one.fields[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("turn", [2.0, 2 * np.pi, 6.4])
@pytest.mark.parametrize("times", ["u4", "i8", "f8"])
def test_times_and_order_of_a_scan_cost_next_to_nothing(sign, turn, times, encode, decoder):
    cloud = measured(turn=turn, sign=sign, times=times)
    data = encode(cloud, step=0.02, order="original")
    assert_same(decoder.decode(data), cloud, 0.02)
    assert bits(data, "ORDR") < 0.2
    assert bits(data, "t") < 4
    assert bits(data, "SCAN") < 4  # of which the sensor's own parameters are most, with so few points


def test_the_order_of_the_codec_has_a_scan_only_for_times(encode, decoder):
    cloud = measured()
    data = encode(cloud, step=0.02)
    back = decoder.decode(data)
    assert bits(data, "SCAN", "t") < 6
    assert sorted(back.fields["t"].tolist()) == sorted(cloud.fields["t"].tolist())
    for cloud_without in (
        PointCloud(cloud.xyz, {"ring": cloud.fields["ring"]}),
        PointCloud(cloud.xyz, {"t": cloud.fields["t"]}),
    ):
        tags = {chunk.tag for chunk in inspect(encode(cloud_without, step=0.02)).chunks}
        assert bitstream.SCAN not in tags


def test_points_that_are_out_of_turn_or_invalid_or_merged_come_back(encode, decoder):
    cloud = measured()
    rng = np.random.default_rng(4)
    order = np.arange(len(cloud))
    order[100:130] = order[100:130][::-1]
    order[[5, 700]] = order[[700, 5]]
    xyz = cloud.xyz[order].copy()
    xyz[rng.choice(len(cloud), 40)] = np.nan
    odd = PointCloud(xyz, {name: values[order] for name, values in cloud.fields.items()})
    data = encode(odd, step=0.02, order="original")
    assert bits(data, "SCAN") > 0
    assert_same(decoder.decode(data), odd, 0.02)
    merged = encode(odd, step=2.0, merge_duplicates=True)
    assert inspect(merged).points
    decoder.decode(merged)


@pytest.mark.parametrize("policy", [("ring=drop",), ("t=step:100",), ("t=drop",), ("ring=step:2",), ("ring=step:4",)])
def test_policies_of_the_fields_that_a_scan_needs(policy, encode, decoder):
    cloud = measured()
    data = encode(cloud, step=0.02, order="original", fields=(*policy, "*=exact"))
    back, name = decoder.decode(data), policy[0].split("=")[0]
    assert np.abs(back.xyz.astype(np.float64) - cloud.xyz).max() <= 0.01 + 1e-5
    for other in {"ring", "t"} - {name}:
        assert back.fields[other].tobytes() == cloud.fields[other].tobytes()
    if name in back.fields:
        error = np.abs(back.fields[name].astype(np.int64) - cloud.fields[name])
        assert error.max() <= (50 if name == "t" else 2)


@pytest.mark.parametrize("step", [2, 3, 4, 8])
def test_rings_that_are_not_kept_tell_nothing_of_times(step, encode, decoder):
    """Half a column fires at once, so that quantised rings would change the turns of all; in the codec's order, too."""
    cloud = measured()
    at = (cloud.fields["t"] // 55_296).astype(np.uint32)
    cloud = PointCloud(cloud.xyz, {"ring": cloud.fields["ring"], "t": at})
    points = {tuple(point): t for point, t in zip(cloud.xyz.tolist(), at.tolist(), strict=True)}
    for order in ("codec", "original"):
        back = decoder.decode(encode(cloud, step=0.02, order=order, exact=True, fields=(f"ring=step:{step}", "*=exact")))
        assert {tuple(point): t for point, t in zip(back.xyz.tolist(), back.fields["t"].tolist(), strict=True)} == points


def test_a_real_frame_stays_in_order_without_its_rings(sample_cloud, encode, decoder):
    back = decoder.decode(encode(sample_cloud, step=0.01, order="original", fields=("*=step:2",)))
    assert np.abs(back.xyz.astype(np.float64) - sample_cloud.xyz).max() <= 0.005 + 1e-5


@pytest.mark.parametrize("first", [1 << 40, 1 << 50, -(1 << 41), 1 << 62])
def test_numbers_too_large_for_rings(first, encode, decoder):
    cloud = measured()
    rings = cloud.fields["ring"].astype(np.int64) + first
    cloud = PointCloud(cloud.xyz, {"ring": rings, "t": cloud.fields["t"]})
    for order in ("codec", "original"):
        back = decoder.decode(encode(cloud, step=0.02, order=order))
        assert sorted(back.fields["ring"].tolist()) == sorted(rings.tolist())


def test_what_is_no_firing_sequence():
    cloud = measured()
    ring, grid = cloud.fields["ring"].astype(np.int64), np.rint(cloud.xyz / 0.02).astype(np.int64)
    given = np.arange(len(ring))
    found = find_firing(0, ring, grid, given)
    assert found
    shuffled = np.random.default_rng(0).permutation(len(ring))
    assert find_firing(0, ring, grid, shuffled) is None
    assert find_firing(0, ring, grid, np.argsort(ring, kind="stable")) is None
    again = find_firing(0, ring[shuffled], grid[shuffled], np.argsort(shuffled))
    assert again
    assert np.array_equal(again[1], found[1][shuffled])
    for rings in (ring[:0], np.zeros_like(ring), np.arange(len(ring)), ring * 4096, ring - (1 << 62)):
        find_firing(0, rings, grid[: len(rings)], given[: len(rings)])
    assert find_firing(0, np.zeros_like(ring), grid, given) is None


def test_turns_of_lasers_that_are_never_seen_together():
    """Sixteen rings in an order of their own; two parts of the view see twelve of them each, and one ring is rare."""
    rng = np.random.default_rng(3)
    order, columns = rng.permutation(16), []
    for column in range(400):
        seen = order[:12] if column < 200 else np.concatenate([order[:1], order[5:]])
        columns.append(seen[(rng.random(len(seen)) < 0.9) & ((seen != order[7]) | (rng.random() < 0.1))])
    ring = np.concatenate(columns)
    azimuth = np.repeat(np.arange(400), [len(column) for column in columns]) * (2 * np.pi / 400)
    grid = np.rint(np.stack([np.cos(azimuth), np.sin(azimuth), ring / 99], axis=1) * 5000).astype(np.int64)
    found = find_firing(0, ring, grid, np.arange(len(ring)))
    assert found
    assert len(found[0].columns) in (400, 401)  # which of them is the first in a column does not matter
    turns = found[0].turns[order]
    assert np.array_equal((turns - turns[0]) % 16, np.arange(16))


def test_what_may_be_times():
    times = np.repeat(np.arange(500), 3)
    assert ascends(times)
    assert ascends(times / 7)
    assert not ascends(times[::-1])
    assert not ascends(times * 0)
    assert not ascends(np.random.default_rng(0).normal(size=500))
    assert not ascends(times[:1])
    assert not ascends(times > 5)


def test_broken_scans_are_refused_and_damage_gives_a_typed_error_or_some_cloud(encode, decoder):
    data = encode(measured(), step=0.02, order="original")
    info, layout, chunks = read_stream(data, DecoderConfig())
    payloads = {tag: bytes(payload) for tag, payload in chunks.items()}
    scan = payloads[bitstream.SCAN]
    broken = [scan[:size] for size in range(0, len(scan), 9)]
    broken += [scan + b"\0", b"\1" + scan[1:], b"\7" + scan[1:]]  # t for rings; no such field
    for wrong in broken:
        with pytest.raises(StreamError):
            decoder.decode(write_stream(info, {**payloads, bitstream.SCAN: wrong}, layout))
    without = {tag: payload for tag, payload in payloads.items() if tag != bitstream.SCAN}
    with pytest.raises(StreamError, match="without any"):
        decoder.decode(write_stream(info, without, layout))
    rng = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(scan)
        damaged[rng.integers(0, len(damaged))] ^= 1 << rng.integers(0, 8)
        try:
            decoder.decode(write_stream(info, {**payloads, bitstream.SCAN: bytes(damaged)}, layout))
        except StreamError:
            continue
