"""The native kernels of attributes equal their NumPy forms bit for bit, on every code path."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import channels, representation, surroundings
from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built here")

PATHS = native.usable_isas() if native.available() else []
FIELDS = ("order", "lengths", "nearest", "shares", "distance", "reach", "elevation")


@pytest.fixture(params=PATHS)
def path(request):
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def scattered(points: int, seed: int = 0) -> surroundings.Surroundings:
    return surroundings.surroundings(np.random.default_rng(seed).integers(-99, 99, (points, 3)))


def smooth(around: surroundings.Surroundings, scale: float, noise: int) -> np.ndarray:
    """Values that follow their neighbours, and jump now and then."""
    rng = np.random.default_rng(len(around))
    values = (np.sin(np.arange(len(around)) / 50) * scale).astype(np.int64) + rng.integers(0, noise, len(around))
    values[rng.random(len(around)) < 0.01] *= 3
    return values


@pytest.mark.parametrize("spread", [0, 3, 1000, (1 << 21) + 7, (1 << 32) - 1])
@pytest.mark.parametrize("points", [0, 1, 2, 9, 3000])
@pytest.mark.usefixtures("path")
def test_the_searches_find_the_same(points, spread, plainly):
    rng = np.random.default_rng(points)
    grid = np.sort(rng.integers(0, spread, (points, 3), endpoint=True), axis=0) - (1 << 40)
    fast, plain = surroundings.surroundings(grid), plainly(surroundings.surroundings, grid)
    for name in FIELDS:
        one, other = getattr(fast, name), getattr(plain, name)
        assert one.dtype == other.dtype, name
        assert np.array_equal(one, other), name


def assert_same_channel(values: np.ndarray, around: surroundings.Surroundings, reference, plainly) -> int:
    """Also that either decodes it. Returns the kind of the channel."""
    payload, tokens = channels.encode_channel(values, around, reference)
    expected, expected_tokens = plainly(channels.encode_channel, values, around, reference)
    assert payload == expected
    for decode in (channels.decode_channel, lambda *arguments: plainly(channels.decode_channel, *arguments)):
        decoded, decoded_tokens = decode(memoryview(payload), around, reference)
        assert np.array_equal(decoded, values)
        for other in (tokens, expected_tokens):
            assert other.dtype == decoded_tokens.dtype == np.uint8
            assert np.array_equal(decoded_tokens, other)
    return payload[0]


@pytest.mark.parametrize("bits", range(9))
@pytest.mark.usefixtures("path")
def test_direct_channels_are_the_same(bits, plainly):
    around = scattered(5000)
    values = np.clip(smooth(around, 1 << bits, 1 + (1 << bits) // 8), 0, (1 << bits) - 1) - 77
    values[:2] = -77, (1 << bits) - 78
    assert assert_same_channel(values, around, None, plainly) == bits


@pytest.mark.parametrize("predictor", [255, 254, 253])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.usefixtures("path")
def test_residual_channels_are_the_same(predictor, reference, plainly, monkeypatch):
    around = scattered(3000)
    monkeypatch.setattr(channels, "best_predictor", lambda values, around: (predictor, 0.0))
    values = smooth(around, 1e5, 300)
    values[5:9] = [np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0, -1]
    before = np.random.default_rng(1).integers(0, 256, len(around)).astype(np.uint8) if reference else None
    assert assert_same_channel(values, around, before, plainly) == predictor


@pytest.mark.parametrize("points", [1, 2, 511, 2049])
@pytest.mark.usefixtures("path")
def test_values_in_a_row_are_the_same(points, plainly):
    line = surroundings.in_a_row(points)
    assert_same_channel(np.arange(points) * 1000 + 5, line, None, plainly)
    assert_same_channel(np.arange(points) % 3, line, None, plainly)


def test_lists_of_values_are_the_same(plainly):
    limits = np.iinfo(np.int64)
    chosen = np.random.default_rng(3).integers(0, 5, 3000)
    values = np.array([limits.min, -7, 0, 1 << 40, limits.max])[chosen]
    for represented in (representation.represent(values), plainly(representation.represent, values)):
        assert represented.kind == representation.Kind.LIST
        assert np.array_equal(represented.listed, np.unique(values))
        assert np.array_equal(represented.channels[0], chosen)


def test_counts_that_reach_their_limit_are_halved_alike(plainly):
    around = scattered(20_000)
    assert_same_channel((np.arange(20_000) % 501 == 0).astype(np.int64), around, None, plainly)


def test_rests_that_end_early_and_words_of_no_encoder_are_told():
    around = scattered(300)
    kernel = channels._kernel(around)
    _, _, words = kernel.encode(255, 0, None, np.arange(300) * 1_000_003 % 65_537)
    coder = native.RangeDecoder(np.frombuffer(words, np.uint32))
    _, _, used = kernel.decode(255, 0, None, coder, np.zeros(9, np.uint8))
    assert used > 72
    nonsense = native.RangeDecoder(np.full(99, 0xFFFFFFFF, np.uint32))
    with pytest.raises(IndexError):
        kernel.decode(8, 0, None, nonsense, np.zeros(0, np.uint8))


def test_surroundings_out_of_range_are_refused():
    around = scattered(30)
    values = np.arange(30)
    for kind in (0, 9, 252, 256, -1):
        with pytest.raises(ValueError, match="out of range"):
            channels._kernel(around).encode(kind, 0, None, values)
    for name in ("nearest", "order"):
        for wrong in (30, -1):
            changed = scattered(30)
            getattr(changed, name).flat[7] = wrong
            with pytest.raises(IndexError):
                channels._kernel(changed).encode(8, 0, None, values)
