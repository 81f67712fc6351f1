"""Hostile bytes end in a typed error, extreme clouds in InputError or within half a step of what they were."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.cloud_info import CloudInfo
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.counts import encode_counts
from anypcc_ros.codec.entropy import encode_signed, encode_varint
from anypcc_ros.codec.errors import (
    CorruptStreamError,
    InputError,
    LimitExceededError,
    ModelFileError,
    StreamError,
    UnsupportedVersionError,
)
from anypcc_ros.codec.layout import FieldInfo, Layout, encode_layout
from anypcc_ros.codec.octree import quantise

PAIR = np.array([[0, 0, 0], [5, 1, 2]])
"""Two cells in Morton order, three levels deep."""

INT64 = np.iinfo(np.int64)


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # NumPy's word for wrapped integers and overflown floats


@pytest.fixture
def round_trip(golden, decoder):
    def run(xyz: np.ndarray, **options) -> np.ndarray:
        encoder = Encoder(CodecConfig(model=str(golden / "tiny.safetensors"), **options))
        return decoder.decode(encoder.encode(PointCloud(xyz))).xyz

    return run


def raw_stream(
    cells: np.ndarray = PAIR, depth: int = 3, chunks: dict[str, bytes] | None = None, layout: Layout | None = None, **changes
) -> bytes:
    """A stream of raw cells with right checksums, with other chunks and another CLOU than an encoder would write."""
    bits = (cells[:, :, None] >> np.arange(depth)[::-1]) & 1
    info = CloudInfo(
        dtype="float64", step=1.0, origin=(0.0, 0.0, 0.0), shift=(0, 0, 0), points=len(cells), voxels=len(cells),
        depth=depth, drop_scales=0, checksum=zlib.crc32(cells.astype("<u4").tobytes()), model_name="", model_hash="",
    )  # fmt: skip
    payloads = {"RAWC": np.packbits(bits.astype(np.uint8).ravel()).tobytes()} if len(cells) else {}
    return bitstream.write_stream(replace(info, **changes), payloads | (chunks or {}), layout)


def part(kind: int, factor: float, channels: int, curve: bytes = b"\0") -> bytes:
    """A field's part of zeros."""
    zeros = struct.pack("<Bq", 0, 0) + encode_varint(0)
    return struct.pack("<Bd", kind, factor) + b"\0" + curve + (encode_varint(len(zeros)) + zeros) * channels


def field_stream(values: bytes, dtype: str, count: int = 1, name: str = "a") -> bytes:
    field = FieldInfo(name, dtype, count, "exact", 0.0, 0.0, len(values))
    return raw_stream(chunks={"ATTR": values}, layout=Layout(fields=(field,)))


def large_counts(*excess: int) -> bytes:
    """Counts of 15 + excess each, in context 0."""
    coded = encode_counts(np.full(len(excess), 15), np.zeros(len(excess), np.uint8))
    large = b"".join(map(encode_varint, excess))
    return encode_varint(len(large)) + large + coded[1 + len(excess) :]


# -- Decoder -----------------------------------------------------------------------------------------------------------


def test_the_forged_streams_below_are_right_but_for_what_they_forge(decoder):
    assert np.array_equal(decoder.decode(raw_stream()).xyz, PAIR)
    assert len(decoder.decode(raw_stream(cells=PAIR[:1], chunks={"DUPL": large_counts(4)}, points=20))) == 20


def test_counts_that_wrap_are_refused(decoder):
    cells = np.array([[0, 0, 0], [4, 0, 0]])
    # 16 + these are -2^63 + 15 and 2^63 - 1 in 64 bits: 14 points.
    wrapping = large_counts((1 << 63) - 1, (1 << 63) - 17)
    with pytest.raises(CorruptStreamError):
        decoder.decode(raw_stream(cells, chunks={"DUPL": wrapping}, points=14))


def test_raw_cells_are_few_sorted_and_different(decoder):
    many = np.zeros((65, 3), np.int64)
    with pytest.raises(CorruptStreamError, match="65"):
        decoder.decode(raw_stream(many, depth=0))
    for cells in (PAIR[::-1], PAIR[[0, 0]]):
        with pytest.raises(CorruptStreamError, match="order"):
            decoder.decode(raw_stream(cells))


def test_padding_of_raw_cells_is_zero(decoder):
    payload = bytearray(np.packbits(np.zeros(18, np.uint8)))
    payload[-1] |= 1
    with pytest.raises(CorruptStreamError):
        decoder.decode(raw_stream(chunks={"RAWC": bytes(payload)}))


def test_two_forms_of_the_cells_are_refused(decoder):
    with pytest.raises(CorruptStreamError, match="OCCU"):
        decoder.decode(raw_stream(chunks={"OCCU": b"\x81"}))


@pytest.mark.parametrize("digest", ["", "00", "79be3a875ecb192400"])
def test_a_model_is_named_by_eight_bytes(golden, tmp_path, digest):
    # A file of other weights, whose metadata has no hash, must not answer to the empty one.
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1, np.int8)}, tmp_path / "foreign.safetensors")
    data = (golden / "scan.tiny.apcc").read_bytes()
    cloud, _, payloads = bitstream.read_stream(data, DecoderConfig())
    forged = bitstream.write_stream(replace(cloud, model_hash=digest), {t: bytes(p) for t, p in payloads.items()})
    with pytest.raises(CorruptStreamError, match="hash"):
        Decoder(DecoderConfig(model_dir=str(tmp_path))).decode(forged)


def test_only_ascii_capitals_are_critical(decoder):
    for tag, critical in ((b"\xc0bcd", False), (b"Abcd", True), (b"@bcd", False), (b"[bcd", False), (b"Zbcd", True)):
        stream = raw_stream()
        head, body = bytearray(stream[: 20 + 32]), stream[20 + 32 :]
        head[6] += 1
        head[8:16] = (len(stream) + 16).to_bytes(8, "little")
        head += struct.pack("<4sQI", tag, 0, 0)
        head[16:20] = bytes(4)
        head[16:20] = zlib.crc32(head).to_bytes(4, "little")
        if critical:
            with pytest.raises(UnsupportedVersionError):
                decoder.decode(head + body)
        else:
            assert len(decoder.decode(head + body)) == 2


def axis(count: int, first: int, gaps: bytes) -> bytes:
    return encode_varint(count) + encode_signed(first) + encode_varint(len(gaps)) + gaps


@pytest.mark.parametrize(
    "lattice",
    [
        b"",
        b"\x00",
        b"\x08" + axis(1, 0, b"\x00"),
        b"\x02" + axis(0, 0, b"\x00"),
        b"\x02" + axis(3, 0, encode_counts(np.ones(2, np.int64), np.zeros(2, np.uint8))),  # more than there are cells
        b"\x02" + axis(20_000_000, 0, b"\x00" + bytes(8)),
        b"\x02" + axis(2, 0, large_counts((1 << 63) - 1)),
        b"\x02" + axis(2, 0, large_counts(1 << 40)),
        b"\x02" + axis(2, 1 << 60, b"\x00"),
        b"\x02" + axis(1, 0, b"\x00"),  # less than there are coordinates
    ],
)
def test_forged_lattices_are_refused(decoder, lattice):
    # Points without cells of their own, as after merging, must not count as room for lattice coordinates.
    with pytest.raises(StreamError):
        decoder.decode(raw_stream(chunks={"LATT": lattice}, points=20_000_000))


ONE_ROW = encode_varint(2) + encode_varint(0) + bytes(4)


def test_forged_fields_are_refused(decoder):
    assert decoder.decode(field_stream(part(6, 1.0, 3), "uint8", 3)).fields["a"].shape == (2, 3)
    assert decoder.decode(field_stream(part(5, 2.0**52, 1), "uint8")).fields["a"].tolist() == [0, 0]
    for values, dtype, count in (
        (part(6, 1.0, 1, ONE_ROW), "uint32", 1),  # colours along a track, packed and not
        (part(6, 1.0, 1, ONE_ROW), "uint8", 3),
        (part(6, 1.0, 9), "uint8", 9),  # more channels than a colour has
        (part(5, 2.0**63, 1), "uint8", 1),
        (part(6, 1e300, 4), "uint32", 1),
        (part(0, 1.0, 1), "uint8", 2),  # of the second value nothing
    ):
        with pytest.raises(StreamError):
            decoder.decode(field_stream(values, dtype, count))


@pytest.mark.parametrize("count", [1 << 31, 1 << 62, (1 << 63) - 1])
def test_an_empty_cloud_has_no_endless_fields(decoder, count):
    layout = Layout(fields=(FieldInfo("a", "float64", count, "exact", 0.0, 0.0, 0),))
    with pytest.raises(LimitExceededError):
        decoder.decode(raw_stream(np.zeros((0, 3), np.int64), 0, layout=layout))
    with pytest.raises(LimitExceededError):
        decoder.decode(raw_stream(np.zeros((0, 3), np.int64), 0, layout=Layout(height=count)))


def test_the_name_of_a_field_is_unicode_text(decoder):
    plain = field_stream(part(0, 1.0, 1), "uint8", name="öa")
    assert list(decoder.decode(plain).fields) == ["öa"]
    info, layout, payloads = bitstream.read_stream(plain, DecoderConfig())
    described = encode_layout(layout)
    for name in (b"\xed\xa0\x80", b"\xff\xfe\xfd"):  # a lone surrogate, which no ROS string can be, and no UTF-8 at all
        forged = bitstream.write_stream(info, payloads | {"FLDS": described.replace("öa".encode(), name)})
        with pytest.raises(CorruptStreamError, match="UTF-8"):
            decoder.decode(forged)
    with pytest.raises(InputError, match="not Unicode"):
        PointCloud(np.zeros((1, 3)), {"\ud800": np.zeros(1)})


def test_bounds_beyond_float64_are_infinite():
    filled = struct.pack("<Bd", 2, 0.0)
    assert inspect(raw_stream(chunks={"LIKE": filled}, step=1.7e308)).axis_error == np.inf
    assert inspect(raw_stream(depth=32, drop_scales=29, step=1.7e308)).to_dict()["point_error"] == np.inf
    with pytest.raises(CorruptStreamError, match="200 of 3 levels"):
        inspect(raw_stream(chunks={"LIKE": struct.pack("<Bd", 200, 0.0)}))


@pytest.mark.parametrize("step", [1e300, 1.7e308])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_positions_beyond_the_dtype_are_refused_or_clamped(decoder, dtype, step):
    stream = raw_stream(dtype=dtype, step=step, shift=((1 << 53) - 1, 0, -5))
    if dtype.startswith("float"):
        with pytest.raises(CorruptStreamError, match=dtype):
            decoder.decode(stream)
    else:
        limit = min(np.iinfo(dtype).max, (1 << 53) - 1)
        assert decoder.decode(stream).xyz[:, 0].tolist() == [limit, limit]


@pytest.mark.parametrize("origin", [(1.7e308, 0.0, -1.7e308), (-1e18, 0.0, 1e18)])
def test_far_origins_of_integer_clouds_are_clamped(decoder, origin):
    xyz = decoder.decode(raw_stream(dtype="int32", origin=origin)).xyz
    assert abs(xyz[:, [0, 2]].astype(np.float64)).min() >= 2**31 - 1


def test_any_contiguous_buffer_of_bytes_is_read(decoder):
    stream = raw_stream()
    for data in (bytearray(stream), memoryview(stream), np.frombuffer(stream, np.int8).data):
        assert np.array_equal(decoder.decode(data).xyz, PAIR)


# -- Encoder -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [INT64.min, INT64.max],
        [INT64.min, 0],
        [INT64.max, INT64.max - 3],
        [1 << 53, (1 << 53) + 1],
        [-(1 << 62), -(1 << 62) + 1],
    ],
)
@pytest.mark.parametrize("options", [{"step": 1.0}, {"step": 1e6}, {"step": 1.0, "origin": (1.0, 0.0, 0.0)}])
def test_integers_that_float64_cannot_hold_are_refused(round_trip, values, options):
    with pytest.raises(InputError):
        round_trip(np.array([[v, 0, 0] for v in values], np.int64), **options)


@pytest.mark.parametrize("value", [1e308, -1.7e308, 1e20, 3.4e38])
@pytest.mark.parametrize("options", [{"step": 1e-9}, {"step": 1e6, "origin": (-1.6e308, 0.0, 0.0)}])
def test_positions_beyond_the_grid_are_refused_for_what_they_are(round_trip, value, options):
    with pytest.raises(InputError, match="steps"):
        round_trip(np.array([[value, 0.0, 0.0]]), **options)


@pytest.mark.parametrize("step", [1.0, 2.0, 7.0, 0.3, 1000.0, 1e6])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_integers_at_the_end_of_their_range_come_back(round_trip, step, dtype, sign):
    limit = (1 << 31) - 1 if dtype == np.int32 else int(2**52 * min(step, 2.0)) - 3
    rows = sign * (limit - np.arange(40)[:, None] * [1, 3, 0]) - (sign < 0 and dtype == np.int32)
    decoded = round_trip(rows.astype(dtype), step=step)
    order, back = np.lexsort(rows.T), np.lexsort(decoded.T)
    assert np.abs(rows[order] - decoded[back].astype(np.int64)).max() <= step / 2 + 0.5


def test_centres_of_coarse_cells_stay_in_the_range_of_the_dtype(round_trip):
    xyz = np.full((3, 3), np.iinfo(np.int32).max, np.int32)
    xyz[0] -= 9
    assert (round_trip(xyz, step=1.0, drop_scales=12) > 1 << 30).all()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<i4", ">i4", "<i8", ">i8"])
@pytest.mark.parametrize("layout", ["C", "F", "reversed", "strided", "read-only", "unaligned"])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_memory_layout_and_byte_order_do_not_matter(round_trip, dtype, layout, step):
    plain = np.random.default_rng(1).integers(-99, 99, (100, 3)).astype(dtype)
    xyz = plain.copy(order="F" if layout == "F" else "C")
    if layout == "reversed":
        xyz = plain[::-1, ::-1].copy()[::-1, ::-1]
    elif layout == "strided":
        xyz = np.repeat(plain, 2, axis=0)[::2]
    elif layout == "read-only":
        xyz.flags.writeable = False
    elif layout == "unaligned":
        xyz = np.frombuffer(b"x" + plain.tobytes(), dtype, offset=1).reshape(-1, 3)
    before = xyz.tobytes()
    decoded = round_trip(xyz, step=step)
    assert xyz.tobytes() == before
    assert decoded.dtype == plain.dtype.newbyteorder("=")
    assert np.array_equal(decoded[np.lexsort(decoded.T)], plain[np.lexsort(plain.T)])


@pytest.mark.parametrize("spread", [1, 3, 1 << 20, 1 << 22, (1 << 32) - 1])
@pytest.mark.parametrize("offset", [0, -(1 << 51), (1 << 51) - 1])
def test_every_extent_up_to_32_levels_is_exact(round_trip, spread, offset):
    rng = np.random.default_rng(spread % 1000)
    grid = np.concatenate([rng.integers(0, spread, (70, 3), endpoint=True), [[0, 0, 0], [spread, spread, spread]]]) + offset
    for dtype in (np.int64, np.float64):
        decoded = round_trip(grid.astype(dtype), step=1.0)
        assert np.array_equal(decoded[np.lexsort(decoded.T)], grid[np.lexsort(grid.T)].astype(dtype))
    with pytest.raises(InputError, match="spans"):
        round_trip(np.array([[0, 0, 0], [0, 1 << 32, 0]]) + offset, step=1.0)


@pytest.mark.parametrize("step", [1e-9, 1e-3, 0.1, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_come_back_within_half_a_step_at_every_scale(round_trip, step, dtype):
    xyz = (np.random.default_rng(3).uniform(-1, 1, (200, 3)) * step * 900 + step * 4000).astype(dtype)
    decoded = round_trip(xyz, step=step)
    order = np.lexsort(quantise(xyz, step, (0, 0, 0)).T)
    back = np.lexsort(quantise(decoded, step, (0, 0, 0)).T)
    rounding = 5000 * step * np.finfo(dtype).eps
    assert np.abs(xyz[order].astype(np.float64) - decoded[back]).max() <= step / 2 + rounding


def test_a_model_file_may_have_any_name(golden, tmp_path, scan):
    path = tmp_path / "caf\udce9.safetensors"
    path.write_bytes((golden / "tiny.safetensors").read_bytes())
    data = Encoder(CodecConfig(model=str(path), step=0.05)).encode(PointCloud(scan.xyz[:500]))
    assert bitstream.inspect(data).model_name == "caf?"


# -- Model files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [b"", b"7", b"[]", b"{}", b"null", b'{"channels": 16.0}', b'{"channels": true}', b'{"parent_convs": 1.0}',
     b'{"parent_convs": 1e9}', b'{"carry": "no"}', b'{"aggregation": 1}', b'{"colour": 1}', b"{" * 100_000, b"\xff"],
)  # fmt: skip
def test_model_files_with_other_configurations_are_refused(golden, tmp_path, config):
    data = (golden / "tiny.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["config"] = config.decode("latin-1")
    forged = json.dumps(header).encode()
    (tmp_path / "forged.safetensors").write_bytes(len(forged).to_bytes(8, "little") + forged + data[8 + size :])
    with pytest.raises(ModelFileError):
        Encoder(CodecConfig(model=str(tmp_path / "forged.safetensors")))
