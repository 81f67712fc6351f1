"""Fields, order and exact coordinates: what comes back is what the policy says, for any layout and any bytes."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import StreamInfo, inspect
from anypcc_ros.codec.cloud import FIELD_DTYPES, PointCloud
from anypcc_ros.codec.cloud_info import decode_cloud_info
from anypcc_ros.codec.codec import Decoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.errors import ConfigError, CorruptStreamError, InputError, LimitExceededError, StreamError
from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

COORDINATES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}


@pytest.fixture(scope="module")
def round_trip(encode, decoder):
    def run(cloud: PointCloud, **options) -> tuple[PointCloud, StreamInfo]:
        data = encode(cloud, **options)
        return decoder.decode(data), inspect(data)

    return run


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def assert_same_cloud(one: PointCloud, other: PointCloud) -> None:
    assert same(one.xyz, other.xyz)
    assert (one.height, one.position) == (other.height, other.position)
    assert list(one.fields) == list(other.fields)
    for name, values in one.fields.items():
        assert same(values, other.fields[name]), name


def numbered(points: int, **fields: np.ndarray) -> PointCloud:
    """Points of which the x coordinate is the number."""
    xyz = np.zeros((points, 3), np.int32)
    xyz[:, 0] = np.arange(points)
    return PointCloud(xyz, fields)


def bits_per_point(info: StreamInfo, tag_or_field: str) -> float:
    sizes = {chunk.tag: chunk.size for chunk in info.chunks} | {field.name: field.size for field in info.fields}
    return 8 * sizes[tag_or_field] / info.points


# -- Everything comes back ---------------------------------------------------------------------------------------------


@st.composite
def clouds(draw) -> PointCloud:
    """Any layout, any bytes; few or many different points."""
    points = draw(st.sampled_from([0, 1, 2, 3, 17, 60]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))

    def column(dtype: str, count: int) -> np.ndarray:
        size = points * count
        values = np.frombuffer(rng.bytes(size * np.dtype(dtype).itemsize), dtype) if dtype != "bool" else rng.random(size) < 0.5
        if draw(st.booleans()) and size:
            values = values[rng.integers(0, min(size, 3), size)]
        return values if count == 1 else values.reshape(points, count)

    known = st.sampled_from(["rgb", "rgba", "ring", "t"])
    names = draw(st.lists(st.one_of(known, st.text(max_size=5)), max_size=5, unique=True))
    fields = {name: column(draw(st.sampled_from(FIELD_DTYPES)), draw(st.sampled_from([1, 1, 2, 3, 4]))) for name in names}
    xyz = column(draw(st.sampled_from(sorted(COORDINATES))), 3).reshape(points, 3)
    height = draw(st.sampled_from([h for h in range(1, points + 1) if points % h == 0] or [1]))
    return PointCloud(xyz, fields, height, draw(st.integers(0, len(fields))))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cloud=clouds())
def test_any_cloud_comes_back_bit_for_bit(round_trip, cloud):
    decoded, info = round_trip(cloud, exact=True, order="original")
    assert_same_cloud(decoded, cloud)
    assert (info.points, info.left_out, info.height) == (len(cloud), 0, cloud.height)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cloud=clouds())
def test_in_the_codecs_order_every_valid_point_keeps_its_values(round_trip, cloud):
    fields = dict(cloud.fields) | {"number": np.arange(len(cloud))}
    decoded, info = round_trip(PointCloud(cloud.xyz, fields, position=cloud.position), exact=True)
    number = decoded.fields["number"]
    assert_same_cloud(decoded, PointCloud(cloud.xyz, fields, position=cloud.position).take(number))
    assert sorted(number) == np.flatnonzero(np.isfinite(cloud.xyz).all(axis=1)).tolist()
    assert info.left_out == len(cloud) - len(number)


def test_duplicates_keep_their_own_values(round_trip):
    cloud = PointCloud(np.zeros((500, 3), np.int32), {"number": np.arange(500)})
    decoded, _ = round_trip(cloud, step=1.0)
    assert decoded.fields["number"].tolist() == list(range(500))


@pytest.mark.parametrize("options", [{"merge_duplicates": True}, {"drop_scales": 2}])
def test_merged_points_keep_the_values_of_the_first(round_trip, options):
    rng = np.random.default_rng(0)
    xyz = rng.integers(0, 12, (3000, 3)).astype(np.int32)
    decoded, _ = round_trip(PointCloud(xyz, {"number": np.arange(3000), "value": rng.normal(size=3000)}), step=1.0, **options)
    cells = (xyz - xyz.min(0)) >> options.get("drop_scales", 0)
    _, first = np.unique(cells, axis=0, return_index=True)
    assert sorted(decoded.fields["number"]) == sorted(first)


def test_native_kernels_and_numpy_write_the_same_stream(encode, sample_cloud, monkeypatch):
    if not native.available():
        pytest.skip("the native kernels are not built here")
    cloud = sample_cloud.take(np.arange(0, 29_000, 7))
    fast = encode(cloud, step=0.05, order="original", backend="native")
    monkeypatch.setattr(native, "available", lambda: False)
    plain = encode(cloud, step=0.05, order="original", backend="torch")
    wanted = ("FLDS", "ATTR", "ORDR")
    assert [payload_of(fast, tag) for tag in wanted] == [payload_of(plain, tag) for tag in wanted]


def payload_of(data: bytes, tag: str) -> bytes:
    return next(bytes(payload) for name, payload, _ in bitstream._read_table(memoryview(data), 1 << 30) if name == tag)


# -- Policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1e-3, 0.4, 1.0, 2.0, 7.0, 1000.0, 1e30])
@pytest.mark.parametrize("dtype", [dtype for dtype in FIELD_DTYPES if dtype != "bool"])
def test_a_step_bounds_the_error_that_the_stream_states(round_trip, dtype, step):
    rng = np.random.default_rng(3)
    values = (rng.normal(size=400) * 300).clip(0 if dtype[0] == "u" else -120, 120).astype(dtype)
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    values[:2] = limits.min, limits.max
    if dtype.startswith("float"):
        values[2:5] = np.nan, np.inf, -np.inf
    decoded, info = round_trip(numbered(400, value=values), step=1.0, fields=(f"v*=step:{step}",))
    (field,) = info.fields
    back = decoded.fields["value"]
    exact = values.astype(object) if dtype[0] in "iu" else values.astype(np.float64)
    finite = np.isfinite(values)
    errors = np.abs(back[finite].astype(exact.dtype) - exact[finite])
    assert max(errors) == field.largest_error <= step / 2
    assert same(back[~finite], values[~finite])
    if step >= 7 and dtype not in ("int64", "uint64"):
        assert field.size < round_trip(numbered(400, value=values), step=1.0)[1].fields[0].size


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_field_of_one_column_is_as_one_of_values(round_trip, dtype):
    values = np.arange(500).astype(dtype)
    for policy, allowed in (("a=exact", 0.0), ("a=step:10", 5.0)):
        back, info = round_trip(numbered(500, a=values[:, None]), fields=(policy,))
        assert back.fields["a"].shape == (500,)
        error = np.abs(back.fields["a"].astype(float) - back.xyz[:, 0]).max()
        assert error == info.fields[0].largest_error <= allowed


def test_the_first_pattern_that_matches_decides(round_trip):
    fields = {name: np.arange(50) for name in ("intensity", "t", "time", "ring", "other")}
    policies = ("intensity=exact", "t?=drop", "t*=step:5", "r[a-i]ng=drop", "*=step:3")
    decoded, info = round_trip(PointCloud(numbered(50).xyz, fields, position=4), step=1.0, fields=policies)
    assert [(field.name, field.policy, field.step) for field in info.fields] == [
        ("intensity", "exact", 0), ("t", "step", 5), ("time", "step", 5), ("ring", "drop", 0), ("other", "step", 3),
    ]  # fmt: skip
    assert list(decoded.fields) == ["intensity", "t", "time", "other"]
    assert decoded.position == 3


@pytest.mark.parametrize(
    "policy", ["a", "=", "a=b", "a=exact:1", "a=drop:2", "a=step", "a=step:", "a=step:0", "a=step:-1", "a=step:nan"]
)
def test_bad_policies_are_refused(policy):
    with pytest.raises(ConfigError, match="fields"):
        CodecConfig(fields=("*=exact", policy))


@pytest.mark.parametrize("options", [{"order": "original"}, {"exact": True}])
@pytest.mark.parametrize("merging", [{"drop_scales": 1}, {"merge_duplicates": True}])
def test_points_cannot_be_merged_and_kept(options, merging):
    with pytest.raises(ConfigError, match="merge"):
        CodecConfig(**options, **merging)


# -- What fields cost --------------------------------------------------------------------------------------------------


def scattered(points: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 200, (points, 3)).astype(np.int32)


@pytest.mark.parametrize(
    "make",
    [
        lambda k: (k / 100).astype(np.float32),
        lambda k: k / 255,
        lambda k: (k * np.float32(0.01)).astype(np.float32),
        lambda k: (k / 65536).astype(np.float16),
        lambda k: k * 0.0371,
        lambda k: 1.7e9 + k / 1e6,
        lambda k: k.astype(np.uint64) << np.uint64(55),
        lambda k: k.astype(np.int64) ** 7,
    ],
)
def test_values_on_a_lattice_cost_what_their_numbers_cost(round_trip, make):
    k = np.random.default_rng(1).integers(0, 200, 6000)
    _, plain = round_trip(PointCloud(scattered(6000), {"v": k.astype(np.uint8)}), step=1.0)
    values = make(k)
    decoded, info = round_trip(PointCloud(scattered(6000), {"v": values}), step=1.0, order="original")
    assert same(decoded.fields["v"], values)
    assert info.fields[0].size < plain.fields[0].size + 1800  # of a list


def test_a_few_strange_values_do_not_hide_a_lattice(round_trip):
    values = (np.random.default_rng(1).integers(0, 100, 6000) / 100).astype(np.float32)
    values[::100] = np.frombuffer(struct.pack("<I", 0x7FC12345), np.float32)
    values[1::500], values[2::500], values[3::500] = -0.0, math.pi, 1e-42
    decoded, info = round_trip(PointCloud(scattered(6000), {"v": values}), step=1.0, order="original")
    assert same(decoded.fields["v"], values)
    assert bits_per_point(info, "v") < 8


def test_grey_costs_one_channel_in_every_form_of_colour(round_trip):
    grey = np.random.default_rng(2).integers(0, 256, 4000).astype(np.uint32)
    packed = 0xFF000000 | grey << 16 | grey << 8 | grey
    forms = {"rgb": packed.view(np.float32), "rgba": packed}
    for values in (*forms.values(), np.stack([grey] * 3, axis=1).astype(np.uint8)):
        decoded, info = round_trip(PointCloud(scattered(4000), {"rgb": values}), step=1.0, order="original")
        assert same(decoded.fields["rgb"], values)
        assert bits_per_point(info, "rgb") < 9


def test_neighbours_ring_and_time_are_used(round_trip, scan):
    ring = np.repeat(np.arange(16), 375).astype(np.uint16)
    time = np.tile(np.arange(375) * 267_111, 16).astype(np.uint32)
    smooth = np.clip(40 * np.abs(np.sin(scan.xyz[:, 0])) + 20, 0, 255).astype(np.uint8)
    cloud = PointCloud(scan.xyz, {"intensity": smooth, "ring": ring, "t": time})
    decoded, info = round_trip(cloud, step=0.02, order="original")
    assert all(same(decoded.fields[name], values) for name, values in cloud.fields.items())
    assert bits_per_point(info, "intensity") < 5
    assert bits_per_point(info, "ring") < 1.5
    assert bits_per_point(info, "t") < 3
    assert bits_per_point(info, "ORDR") < 0.5


def test_a_real_frame(round_trip, sample_cloud):
    decoded, info = round_trip(sample_cloud, step=0.02, order="original")
    for name, values in sample_cloud.fields.items():
        assert same(decoded.fields[name], values)
    assert bits_per_point(info, "intensity") < 4.3
    assert bits_per_point(info, "ring") < 2
    assert bits_per_point(info, "ORDR") < 9


# -- Order, shape, exactness -------------------------------------------------------------------------------------------


def test_an_organised_cloud_comes_back_organised_with_its_holes(round_trip):
    u, v = np.meshgrid(np.arange(80) - 40, np.arange(60) - 30)
    depth = 2 + 0.3 * np.sin(u / 9) + (u + 2 * v > 40)
    xyz = np.stack([u * depth / 70, v * depth / 70, depth], axis=-1).reshape(-1, 3).astype(np.float32)
    holes = np.random.default_rng(0).random(4800) < 0.2
    xyz[holes] = np.nan
    curvature = np.where(holes, np.nan, depth.ravel()).astype(np.float32)
    cloud = PointCloud(xyz, {"curvature": curvature}, height=60)
    decoded, info = round_trip(cloud, step=0.002, order="original")
    assert (decoded.height, info.points, info.left_out) == (60, 4800, 0)
    assert np.array_equal(np.isnan(decoded.xyz).all(axis=1), holes)
    assert np.nanmax(np.abs(decoded.xyz - xyz)) <= 0.001 + 1e-6
    assert same(decoded.fields["curvature"], curvature)
    assert bits_per_point(info, "IMAG") < 8
    with pytest.raises(InputError, match="7 rows"):
        PointCloud(xyz, height=7)


def test_coordinates_in_millimetres_are_found_to_be_that(round_trip, scan):
    for dtype, cost in ((np.float32, 0.2), (np.float64, 3)):  # k / 1000 and k * 0.001 may differ in the last bit
        xyz = (np.rint(scan.xyz.astype(np.float64) * 1000) / 1000).astype(dtype)
        decoded, info = round_trip(PointCloud(xyz), step=0.05, exact=True, order="original")
        assert same(decoded.xyz, xyz)
        assert (info.step, info.exact) == (0.001, True)
        assert bits_per_point(info, "REST") < cost


def test_exact_coordinates_cost_less_than_their_bits(round_trip, scan):
    decoded, info = round_trip(scan, step=0.01, exact=True, order="original")
    assert same(decoded.xyz, scan.xyz)
    assert info.step == 0.01
    floats_in_a_cell = (math.log2(0.01) - np.log2(np.spacing(np.abs(scan.xyz)))).sum(axis=1).mean()
    assert bits_per_point(info, "REST") < floats_in_a_cell + 2


# -- Hostile streams ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rich(encode, scan) -> bytes:
    """A stream with every chunk of this chapter."""
    xyz = scan.xyz[:400].copy()
    xyz[::40] = np.nan
    rng = np.random.default_rng(4)
    fields = {
        "ring": np.arange(400).astype(np.uint16) // 100,
        "t": np.arange(400) * 1000,
        "rgb": rng.integers(0, 1 << 24, 400).astype(np.uint32),
        "x_error": rng.normal(size=400).astype(np.float32),
        "value": (rng.integers(0, 50, (400, 2)) / 10).astype(np.float32),
    }
    return encode(PointCloud(xyz, fields, height=4), step=0.05, exact=True, order="original", fields=("x*=step:0.1",))


def resealed(data: bytes, tag: str, payload: bytes) -> bytes:
    """The stream with another payload for one chunk and right checksums."""
    table = bitstream._read_table(memoryview(data), 1 << 30)
    others = {name: bytes(old) for name, old, _ in table} | {tag: payload}
    cloud = decode_cloud_info(memoryview(others.pop("CLOU")))
    return bitstream.write_stream(cloud, others)


def test_the_stream_of_the_next_test_has_all_chunks(rich, decoder):
    assert {"FLDS", "ATTR", "OFFG", "REST", "ORDR"} <= {chunk.tag for chunk in inspect(rich).chunks}
    assert len(decoder.decode(resealed(rich, "ATTR", payload_of(rich, "ATTR")))) == 400


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_hostile_fields_behind_right_checksums_are_refused(rich, decoder, data):
    tag = data.draw(st.sampled_from(["FLDS", "ATTR", "OFFG", "REST", "ORDR"]))
    payload = bytearray(payload_of(rich, tag))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(payload), data.draw(st.sampled_from([30, 1 << 20]))) - 1))
        payload[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, data.draw(st.integers(0, 255))]))
    if data.draw(st.booleans()):
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        cloud = decoder.decode(resealed(rich, tag, bytes(payload)))
    except StreamError:
        return
    assert len(cloud) <= 400


@pytest.mark.parametrize("dtype", FIELD_DTYPES)
def test_values_of_any_kind_in_any_field_are_values_or_refused(encode, decoder, dtype):
    data = encode(numbered(30, value=np.arange(30).astype(dtype)), step=1.0)
    payload = payload_of(data, "ATTR")
    for kind in range(8):
        for factor in (1.0, 1e-300, 1.7e308, 0.5, math.nan, -1.0):
            try:
                cloud = decoder.decode(resealed(data, "ATTR", struct.pack("<Bd", kind, factor) + payload[9:]))
            except StreamError:
                continue
            assert cloud.fields["value"].dtype == np.dtype(dtype)


def test_declared_fields_are_bounded_before_memory_is_taken(encode):
    data = encode(numbered(1000, value=np.arange(1000)), step=1.0)
    with pytest.raises(LimitExceededError, match="8000 bytes"):
        Decoder(DecoderConfig(max_field_bytes=7999)).decode(data)
    payload = bytearray(payload_of(data, "FLDS"))
    assert payload[6] == 1, "values for each point"
    forged = resealed(data, "FLDS", bytes(payload[:6]) + b"\xff\xff\xff\xff\x7f" + bytes(payload[7:]))
    with pytest.raises(LimitExceededError):
        Decoder().decode(forged)


def test_strided_and_empty_buffers_give_typed_errors(decoder, encode):
    data = encode(numbered(3), step=1.0)
    for buffer in (memoryview(data)[::2], np.frombuffer(data, np.uint8)[::3].data, memoryview(np.array(7)), b""):
        with pytest.raises(StreamError):
            decoder.decode(buffer)
    with pytest.raises(InputError, match="shape"):
        PointCloud(np.zeros((3, 3)), {"a": np.array(1)})
    with pytest.raises(InputError, match="dtype"):
        PointCloud(np.zeros((1, 3)), {"a": np.array(["text"])})


def test_a_missing_chunk_is_noticed(rich, decoder):
    table = bitstream._read_table(memoryview(rich), 1 << 30)
    cloud = decode_cloud_info(memoryview(payload_of(rich, "CLOU")))
    for missing in ("ATTR", "OFFG"):
        others = {name: bytes(old) for name, old, _ in table if name not in ("CLOU", missing)}
        with pytest.raises(StreamError):
            decoder.decode(bitstream.write_stream(cloud, others))


def test_rows_that_do_not_fit_are_noticed(rich, decoder):
    payload = bytearray(payload_of(rich, "FLDS"))
    payload[0] = 7
    with pytest.raises(CorruptStreamError, match="7 rows"):
        decoder.decode(resealed(rich, "FLDS", bytes(payload)))
