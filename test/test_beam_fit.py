"""Beams: the fit finds the sensor that made a cloud, its description survives, and streams get smaller by it."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros import CodecConfig, Decoder, Encoder, PointCloud, inspect
from anypcc_ros.codec import beam_finder, occupancy
from anypcc_ros.codec.beam_finder import BeamFinder
from anypcc_ros.codec.beams import RADIAN, SLOPE_BITS, Beams, angle, decode_beams, encode_beams
from anypcc_ros.codec.errors import StreamError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.octree import Place

LASERS, COLUMNS, STEP = 24, 1024, 0.002
SLOPES = np.tan(np.radians(np.linspace(-24.0, 8.0, LASERS)))
HEIGHTS = np.where(np.arange(LASERS) % 2, 0.12, 0.2)  # metres: lasers in two blocks
LATERALS = np.where(np.arange(LASERS) % 3, 0.02, -0.03)


@pytest.fixture(scope="module")
def sweep() -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) and the ring (N,) of one turn, laser after laser, in a room with a hill."""
    rng = np.random.default_rng(7)
    ring, column = (v.ravel() for v in np.meshgrid(np.arange(LASERS), np.arange(COLUMNS), indexing="ij"))
    azimuth = 2 * np.pi * (column + 0.3 * (ring % 5)) / COLUMNS
    rho = 9 + 4 * np.sin(3 * azimuth) + 0.4 * ring + rng.normal(0, 0.02, len(ring))
    seen = rng.random(len(ring)) < 0.9
    direction, lateral = np.stack([np.cos(azimuth), np.sin(azimuth)]), LATERALS[ring]
    along = np.sqrt(rho**2 - lateral**2)
    x = along * direction[0] - lateral * direction[1]
    y = along * direction[1] + lateral * direction[0]
    xyz = np.stack([x, y, rho * SLOPES[ring] + HEIGHTS[ring]], axis=1)
    return xyz[seen], ring[seen]


def on_grid(xyz: np.ndarray) -> np.ndarray:
    return np.rint(xyz / STEP).astype(np.int64)


def find(xyz: np.ndarray, fields: dict[str, np.ndarray], origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Beams | None:
    return BeamFinder().find(on_grid(xyz), STEP, origin, fields)


def errors(beams: Beams, xyz: np.ndarray) -> np.ndarray:
    """Distance of every point from the nearest cone, in metres."""
    rho = np.hypot(xyz[:, 0], xyz[:, 1])
    cones = beams.slopes / 2.0**SLOPE_BITS * rho[:, None] + beams.heights * STEP / 4
    return np.abs(cones - xyz[:, 2:]).min(axis=1)


@pytest.mark.parametrize("known", ["ring", "float ring", "order", "peaks"])
def test_the_fit_finds_cones_and_planes(sweep, known):
    xyz, ring = sweep
    fields = {"ring": ring.astype(np.uint16)} if known == "ring" else {}
    if known == "float ring":
        fields = {"ring": ring.astype(np.float32)}
    if known == "peaks":
        xyz = xyz[np.random.default_rng(1).permutation(len(xyz))]
    beams = find(xyz, fields)
    assert beams is not None
    assert np.median(errors(beams, xyz)) < STEP / 2
    if known != "peaks":  # those see a laser of the other block as one of their own now and then
        assert len(beams.slopes) == LASERS
        assert beams.columns == COLUMNS
        assert np.abs(beams.laterals * STEP / 4 - LATERALS).max() < 0.005


def test_a_sensor_beside_the_origin_is_found_through_its_axis(sweep):
    xyz, ring = sweep
    shift = np.array([3.0, -2.0, 0.5])
    beams = find(xyz + shift, {"ring": ring}, tuple(-shift))
    assert beams is not None
    assert np.array_equal(beams.axis, np.rint(4 * shift[:2] / STEP))
    assert np.median(errors(beams, xyz + np.array([0, 0, shift[2]]))) < STEP / 2


def test_clouds_without_beams_get_none():
    rng = np.random.default_rng(3)
    box = rng.uniform(-5, 5, (20_000, 3))
    sphere = box / np.linalg.norm(box, axis=1, keepdims=True) * 5
    for xyz in (box, sphere, np.repeat(box[:1], 500, axis=0), box[:5]):
        assert find(xyz, {}) is None
    assert find(box, {"ring": rng.integers(0, 32, len(box))}) is None


def test_sensors_too_far_from_the_origin_of_the_grid_have_no_beams(sweep):
    """Their places are beyond what a stream can say of them."""
    xyz, ring = sweep
    for origin, step in (((4.5e5, 5.4e6, 0.0), 1e-4), ((0.0, 0.0, 18_000.0), 1e-6)):
        data = Encoder(CodecConfig(step=step, origin=origin)).encode(PointCloud(xyz.astype(np.float64), {"ring": ring}))
        assert len(Decoder().decode(data)) == len(xyz)


def test_beams_make_the_stream_smaller_and_it_decodes_alike(sweep, monkeypatch):
    xyz, ring = sweep
    cloud, encoder = PointCloud(xyz, {"ring": ring.astype(np.uint16)}), Encoder(CodecConfig(step=STEP, fields=("*=drop",)))
    data = encoder.encode(cloud)
    assert "BEAM" in {chunk.tag for chunk in inspect(data).chunks}
    monkeypatch.setattr(BeamFinder, "find", lambda *_: None)
    without = encoder.encode(cloud)
    assert "BEAM" not in {chunk.tag for chunk in inspect(without).chunks}
    assert len(data) < 0.9 * len(without)
    assert np.array_equal(Decoder().decode(data).xyz, Decoder().decode(without).xyz)


def turned(xyz: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return xyz @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


@pytest.fixture
def fits(monkeypatch) -> list[int]:
    """Grows by the points of every cloud in which a sensor is looked for anew."""
    clouds: list[int] = []
    fit = beam_finder.fit_sensor
    monkeypatch.setattr(beam_finder, "fit_sensor", lambda grid, *rest: clouds.append(len(grid)) or fit(grid, *rest))
    return clouds


@pytest.mark.parametrize("step", [STEP, 1.5 * STEP])
def test_a_known_sensor_serves_the_next_cloud(sweep, fits, step):
    xyz, ring = sweep
    finder = BeamFinder(successive=True)
    first = finder.find(on_grid(xyz), STEP, (0.0, 0.0, 0.0), {"ring": ring})
    # Elsewhere, without rings, on another grid, and at azimuths that are not those of the turn before.
    moved = turned(xyz, 1.2345)[np.random.default_rng(2).permutation(len(xyz))]
    second = finder.find(np.rint(moved / step).astype(np.int64), step, (0.0, 0.0, 0.0), {})
    assert first is not None
    assert second is not None
    assert len(fits) == 1
    assert len(second.slopes) == LASERS
    assert second.columns == COLUMNS
    grid = np.rint(moved / step) * step
    cones = second.slopes / 2.0**SLOPE_BITS * np.hypot(*grid[:, :2].T)[:, None] + second.heights * step / 4
    assert np.median(np.abs(cones - grid[:, 2:]).min(axis=1)) < step


def test_another_sensor_is_noticed(sweep, fits):
    xyz, ring = sweep
    finder = BeamFinder(successive=True)
    for scale in (1.0, 1.3):
        found = finder.find(on_grid(xyz * [1, 1, scale]), STEP, (0.0, 0.0, 0.0), {"ring": ring})
        assert found is not None
        assert np.median(errors(found, xyz * [1, 1, scale])) < STEP
    assert len(fits) == 2


def test_where_there_are_no_beams_they_are_looked_for_less_and_less_often(sweep, fits):
    xyz, ring = sweep
    finder = BeamFinder(successive=True)
    box = on_grid(np.random.default_rng(3).uniform(-5, 5, (5_000, 3)))
    for _ in range(40):
        assert finder.find(box, STEP, (0.0, 0.0, 0.0), {}) is None
    assert 4 <= len(fits) <= 7
    found = [finder.find(on_grid(xyz), STEP, (0.0, 0.0, 0.0), {"ring": ring}) is not None for _ in range(20)]
    assert found[-1]
    assert found == sorted(found)  # once it is found it stays


def test_beams_that_tell_too_little_are_as_good_as_none(sweep, fits):
    xyz, ring = sweep
    finder, arguments = BeamFinder(successive=True), (on_grid(xyz), STEP, (0.0, 0.0, 0.0), {"ring": ring})
    assert [finder.find(*arguments, least=99.0) for _ in range(30)] == [None] * 30
    assert len(fits) == 1
    assert any(finder.find(*arguments) for _ in range(20))


def test_an_encoder_forgets_unless_told(sweep):
    xyz, ring = sweep
    config = CodecConfig(step=STEP, fields=("*=drop",))
    clouds = [PointCloud(turned(xyz, angle), {"ring": ring.astype(np.uint16)}) for angle in (0.0, 1.2345)]
    encoder, successive = Encoder(config), Encoder(config, successive=True)
    alone = [Encoder(config).encode(cloud) for cloud in clouds]
    assert [encoder.encode(cloud) for cloud in clouds] == alone
    streams = [successive.encode(cloud) for cloud in clouds]
    assert streams[0] == alone[0]
    assert len(streams[1]) < 1.02 * len(alone[1])
    assert all(map(np.array_equal, (Decoder().decode(s).xyz for s in streams), (Decoder().decode(s).xyz for s in alone)))


def test_the_description_survives(sweep):
    xyz, ring = sweep
    beams = find(xyz, {"ring": ring})
    assert beams is not None
    again = decode_beams(encode_beams(beams))
    for name in ("axis", "slopes", "heights", "columns", "phases", "laterals"):
        assert np.array_equal(getattr(again, name), getattr(beams, name)), name


def slow(beams: Beams, place: Place, rows: np.ndarray) -> np.ndarray:
    """The bins in NumPy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: False)
        return beams.bins(place, rows)


def test_broken_descriptions_are_refused(sweep):
    xyz, ring = sweep
    data = encode_beams(find(xyz, {"ring": ring}))
    for size in range(len(data)):
        with pytest.raises(StreamError):
            decode_beams(data[:size])
    with pytest.raises(StreamError):
        decode_beams(data + b"\0")
    with pytest.raises(StreamError, match="without a beam"):
        decode_beams(bytes(3))
    rng, rows = np.random.default_rng(0), np.arange(50, dtype=np.int32)
    place = Place((on_grid(xyz[:50]) >> 3 & 0xFFFF).astype(np.uint32), np.array([-4000, -3000, -1000]), 3)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(len(broken))] = rng.integers(256)
        try:
            beams = decode_beams(bytes(broken))
        except StreamError:
            continue
        # Whatever it says, the kernels and NumPy compute the same from it.
        assert np.array_equal(beams.bins(place, rows), slow(beams, place, rows))


def test_angles_are_exact_to_a_few_parts_in_a_hundred_million():
    rng = np.random.default_rng(5)
    x, y = rng.integers(-(1 << 24), 1 << 24, (2, 50_000))
    x[:4], y[:4] = [0, 0, 5, -5], [7, -7, 0, 0]
    difference = angle(x, y) / RADIAN - np.arctan2(y, x) % (2 * np.pi)
    assert np.abs((difference + np.pi) % (2 * np.pi) - np.pi).max() < 5e-8
    assert angle(np.zeros(1, np.int64), np.zeros(1, np.int64))[0] == 0


@pytest.mark.skipif(not native.available(), reason="one thread where there are no kernels")
def test_bytes_are_the_same_where_contexts_are_looked_up_ahead(sweep, monkeypatch):
    xyz, ring = sweep
    cloud = PointCloud(xyz.astype(np.float32), {"ring": ring.astype(np.uint8)})
    looked_up = []
    foresee = occupancy.OccupancyEncoder.foresee

    def counted(self, *known):
        foresee(self, *known)
        looked_up.append(len(self._foreseen))

    monkeypatch.setattr(occupancy, "FORESEEN", 32)
    monkeypatch.setattr(occupancy.OccupancyEncoder, "foresee", counted)
    one, two = (Encoder(CodecConfig(step=STEP, threads=threads)).encode(cloud) for threads in (1, 2))
    assert "BEAM" in [chunk.tag for chunk in inspect(one).chunks]
    assert one == two
    assert max(looked_up) > 0
