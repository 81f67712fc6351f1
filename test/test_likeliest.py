"""Scales that are filled in with the likeliest cells: what is chosen, how near it is, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anypcc_ros.codec import bitstream, filling
from anypcc_ros.codec.bitstream import Filling, inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.cutting import cut
from anypcc_ros.codec.entropy import encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, CutError, LimitExceededError, StreamError, TruncatedError
from anypcc_ros.codec.likeliest import NOTHING, cell_chances, doubt, likeliest
from anypcc_ros.codec.nearness import CellIndex, squared_error
from anypcc_ros.codec.octree import voxelise
from anypcc_ros.evaluation.metrics import distortion


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """A dense surface, as a body of the data sets is: (15,000 or so, 3) int32 on its own grid."""
    direction = np.random.default_rng(8).normal(size=(200_000, 3))
    return np.unique(np.rint(direction / np.linalg.norm(direction, axis=1, keepdims=True) * 45).astype(np.int32), axis=0)


def encode(xyz: np.ndarray, values: dict[str, np.ndarray] | None = None, **options) -> bytes:
    return Encoder(CodecConfig(step=1.0, **options)).encode(PointCloud(xyz, values or {}))


# -- Choice ------------------------------------------------------------------------------------------------------------


def test_chances_are_sums_of_frequencies_and_doubt_is_what_is_expected_to_be_wrong():
    logits = np.full((2, 16), -(1 << 18), np.int32)
    logits[0, 5], logits[1, [0, 15]] = 0, 0
    sure, torn = cell_chances(logits)
    # Frequencies are at least 1, and 8 symbols have each cell.
    assert sure.tolist() == [65536 - 8, 8, 65536 - 8, 8]
    assert torn.tolist() == [torn[0]] * 4
    assert doubt(cell_chances(logits)).tolist() == [32, 4 * min(torn[0], 65536 - torn[0])]
    assert abs(int(torn[0]) - 32768) < 16
    assert cell_chances(np.zeros((3, 256), np.int32)).tolist() == [[32768] * 8] * 3


@pytest.mark.parametrize("ties", [3, 60_000])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_likeliest_are_those_of_a_plain_sort(bits, ties):
    rng = np.random.default_rng(bits)
    chances = rng.integers(1, ties, (200, bits)).astype(np.int32)
    needy = rng.random(200) < 0.3
    for number in (int(needy.sum()), 300, 200 * bits):
        forced = [(node, int(chances[node].argmax())) for node in np.flatnonzero(needy)]
        others = sorted(set(np.ndindex(200, bits)) - set(forced), key=lambda cell: (-chances[cell], cell))
        expected = np.zeros((200, bits), int)
        for cell in (forced + others)[:number]:
            expected[cell] = 1
        assert np.array_equal(likeliest(chances, number, needy), expected @ (1 << np.arange(bits)))


# -- Streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_a_surface_is_filled_in_nearer_than_middles_for_the_same_bytes(ball, scales):
    filled, left_out = encode(ball, drop_scales=scales), encode(ball, drop_scales=scales, lossy="scales")
    info = inspect(filled)
    assert (info.filled_scales, info.drop_scales, info.order) == (scales, 0, "codec")
    assert len(filled) < len(left_out) + 60
    decoded = Decoder().decode(filled).xyz
    assert len(decoded) == info.voxels
    assert abs(len(decoded) - len(ball)) < 0.02 * len(ball)
    measured = distortion(ball, decoded)
    assert measured.d1_mse < 0.5 * distortion(ball, Decoder().decode(left_out).xyz).d1_mse
    assert info.rms_error == pytest.approx(math.sqrt(measured.d1_mse), rel=0.01)


def test_every_point_has_a_decoded_one_within_the_stated_error_and_the_other_way_round(scan):
    cKDTree = pytest.importorskip("scipy.spatial", reason="needs the extra [eval]").cKDTree

    data = Encoder(CodecConfig(step=0.1, drop_scales=3, lossy="likeliest")).encode(PointCloud(scan.xyz))
    decoded = Decoder().decode(data).xyz
    for one, other in ((scan.xyz, decoded), (decoded, scan.xyz)):
        distances, _ = cKDTree(other).query(one, p=np.inf)
        assert distances.max() <= inspect(data).axis_error + 1e-4
    assert inspect(data).axis_error == pytest.approx(0.75)


def test_truth_leads_from_the_likeliest_cells_to_the_cloud(ball):
    streams = [encode(ball, drop_scales=1, truth=share) for share in (0.0, 0.3, 0.7, 1.0)]
    errors = [inspect(data).rms_error for data in streams]
    assert errors == sorted(errors, reverse=True)
    assert [len(data) for data in streams] == sorted(map(len, streams))
    assert errors[-1] == 0
    back = Decoder().decode(streams[-1]).xyz
    assert np.array_equal(np.unique(back, axis=0), ball)


def test_scales_of_lone_cells_are_left_out_by_themselves(ball, scan):
    lidar = Encoder(CodecConfig(step=0.005, drop_scales=1))
    assert inspect(lidar.encode(PointCloud(scan.xyz))).drop_scales == 1
    sparse = inspect(encode(ball * 2, drop_scales=3))
    assert (sparse.drop_scales, sparse.filled_scales) == (1, 2)
    told = inspect(encode(ball * 2, drop_scales=3, lossy="likeliest"))
    assert (told.drop_scales, told.filled_scales) == (0, 3)


def test_no_more_scales_are_filled_in_than_there_are(ball):
    voxels, _ = voxelise(ball.astype(np.int64))
    for scales, filled in ((voxels.depth - 1, voxels.depth - 1), (voxels.depth, 0), (20, 0)):
        assert filling.scales_to_fill(voxels, CodecConfig(drop_scales=scales, lossy="likeliest"), []) == filled
    assert len(Decoder().decode(encode(ball, drop_scales=20, lossy="likeliest"))) == 1


def test_a_decoded_point_has_the_fields_of_the_nearest_one(ball):
    height = {"height": ball[:, 2].astype(np.float32), "half": (ball[:, 0] > 0)}
    assert inspect(encode(ball, height, drop_scales=2)).filled_scales == 0  # each cell's fields would cost more than places
    assert inspect(encode(ball, height, drop_scales=2, fields=("*=drop",))).filled_scales == 2
    decoded = Decoder().decode(encode(ball, height, drop_scales=2, lossy="likeliest"))
    error = np.abs(decoded.fields["height"] - decoded.xyz[:, 2])
    assert error.max() <= 3
    assert error.mean() < 0.4


def test_what_was_not_sent_cannot_be_cut(ball):
    with pytest.raises(CutError, match="filled in"):
        cut(encode(ball, drop_scales=1), 1)


# -- Hostile bytes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forge(golden):
    """The golden stream with another LIKE chunk, further chunks or another CLOU."""
    cloud, layout, chunks = bitstream.read_stream((golden / "likeliest.tiny.apcc").read_bytes(), DecoderConfig())

    def run(likeliest: bytes, more: dict[str, bytes] | None = None) -> bytes:
        payloads = {tag: bytes(payload) for tag, payload in chunks.items()} | {"LIKE": likeliest} | (more or {})
        return bitstream.write_stream(cloud, payloads, layout)

    return run, bytes(chunks["LIKE"]), cloud


def test_forged_fillings_are_refused(golden, forge):
    run, genuine, cloud = forge
    decoder = Decoder(DecoderConfig(model_dir=str(golden)))
    assert len(decoder.decode(run(genuine))) == cloud.voxels
    levels, error = genuine[:1], genuine[1:9]
    for payload in (
        b"",
        genuine[:8],
        genuine[:-1],
        genuine + b"\0",
        b"\0" + genuine[1:],
        bytes([cloud.coded_depth]) + genuine[1:],
        levels + np.array([np.nan]).tobytes() + genuine[9:],
        levels + np.array([-1.0]).tobytes() + genuine[9:],
        levels + error + encode_varint(NOTHING) + encode_varint(1 << 40) + b"\0" * 9,
        levels + error + encode_varint(NOTHING) + b"\0" * 9,
        levels + error + b"\0" * 10,
    ):
        with pytest.raises((CorruptStreamError, TruncatedError)):
            decoder.decode(run(payload))
    with pytest.raises(CorruptStreamError, match="DUPL"):
        decoder.decode(run(genuine, {"DUPL": b"\0"}))
    with pytest.raises(LimitExceededError):
        Decoder(DecoderConfig(model_dir=str(golden), max_points=cloud.voxels - 1)).decode(run(genuine))
    refused, expected = 0, decoder.decode(run(genuine)).xyz
    for seed in range(60):
        damaged = bytearray(genuine)
        damaged[np.random.default_rng(seed).integers(9, len(genuine))] ^= 1 << seed % 8
        try:  # a threshold may be another one and have the same effect
            assert np.array_equal(decoder.decode(run(bytes(damaged))).xyz, expected)
        except StreamError:
            refused += 1
    assert refused > 40


def test_cells_beyond_the_points_need_a_filling(golden, forge):
    _, _, cloud = forge
    assert cloud.voxels > cloud.points
    with pytest.raises(CorruptStreamError, match="voxels"):
        bitstream.read_stream(bitstream.write_stream(cloud, {"OCCU": b""}), DecoderConfig())
    assert bitstream.decode_filling(memoryview(bitstream.encode_filling(Filling(2, 0.5), b"rest")))[0] == Filling(2, 0.5)


# -- Nearness ----------------------------------------------------------------------------------------------------------


def test_the_nearest_cell_is_found(ball):
    cKDTree = pytest.importorskip("scipy.spatial", reason="needs the extra [eval]").cKDTree

    cells, _ = voxelise(ball.astype(np.int64))
    places = cells.coords[::7] + np.random.default_rng(1).integers(-2, 3, (len(cells.coords[::7]), 3))
    rows = CellIndex(cells.coords).nearest(places)
    expected, _ = cKDTree(cells.coords).query(places)
    found = np.linalg.norm(cells.coords[rows] - places, axis=1)
    near = expected <= 3
    assert np.allclose(found[near], expected[near])
    assert near.mean() > 0.9
    assert (found < 4 * expected + 1).all()


def test_cells_of_a_deep_octree_are_told_apart():
    far = np.array([[0, 0, 0], [5, 5, 5], [1 << 21, 0, 0], [(1 << 31) + 5, 5, 5]])
    index = CellIndex(far)
    places = np.array([[5, 5, 5], [(1 << 31) + 5, 5, 5], [1 << 22, 0, 0], [0, 0, 1]])
    assert [tuple(far[row]) if row >= 0 else None for row in index.find(places)][2:] == [None, None]
    assert len(index.nearest(places)) == 4


def test_the_error_of_middles_is_that_of_the_decoder(ball):
    voxels, _ = voxelise(ball.astype(np.int64))
    for scales in (1, 2):
        decoded, _ = voxelise(ball.astype(np.int64), scales)
        assert squared_error(voxels.coords, decoded.coords, scales) == pytest.approx(
            filling.error_of_middles(voxels.coords, scales), rel=0.05
        )
