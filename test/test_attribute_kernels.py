"""The native kernels of attributes equal their NumPy forms bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import channels, mixing, surroundings
from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built here")


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("spread", [2, 50])
def test_the_mixers_learn_the_same(bits, spread):
    rng = np.random.default_rng(bits)
    sizes, selectors = (7, 1, 300), 5
    fast, plain = mixing.mixer(bits, sizes, selectors), mixing.Mixer(bits, sizes, selectors)
    assert isinstance(fast, native.Mixer)
    for count in (1, 64, 0, 2048, 700, 2048):
        contexts = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
        selector = rng.integers(0, selectors, count)
        tokens = np.minimum(contexts[:, 2] // spread, (1 << bits) - 1)
        fast.begin(contexts, selector)
        plain.begin(contexts, selector)
        for place in range(bits - 1, -1, -1):
            frequencies = plain.predict()
            assert np.array_equal(fast.predict(), frequencies)
            assert (frequencies.sum(axis=1) == 65536).all()
            assert (frequencies > 0).all()
            for mixer in (fast, plain):
                mixer.learn((tokens >> place & 1).astype(np.int32))


def test_the_native_mixer_refuses_contexts_out_of_range():
    mixer = mixing.mixer(3, (4, 5), 2)
    for contexts, selector in (([[4, 0]], [0]), ([[0, -1]], [0]), ([[0, 0]], [2]), ([[0, 0]], [-1])):
        with pytest.raises(IndexError):
            mixer.begin(np.array(contexts), np.array(selector))


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_the_contexts_are_the_same(bits, monkeypatch):
    rng = np.random.default_rng(bits)
    around = surroundings.surroundings(rng.integers(-99, 99, (2500, 3)))
    channel = channels.Direct(around, 0, bits)
    channel.tokens[:] = rng.integers(0, 1 << bits, 2500)
    fast = [channel.contexts(rows) for rows in around.blocks]
    monkeypatch.setattr(native, "available", lambda: False)
    for (contexts, spread), rows in zip(fast, around.blocks, strict=True):
        expected, selector = channel.contexts(rows)
        assert np.array_equal(contexts, expected)
        assert np.array_equal(spread, selector)


@pytest.mark.parametrize("spread", [0, 3, 1000, (1 << 32) - 1])
@pytest.mark.parametrize("points", [0, 1, 2, 9, 3000])
def test_the_searches_find_the_same(points, spread, monkeypatch):
    rng = np.random.default_rng(points)
    grid = np.sort(rng.integers(0, spread, (points, 3), endpoint=True), axis=0) - (1 << 40)
    fast = surroundings.surroundings(grid)
    monkeypatch.setattr(native, "available", lambda: False)
    plain = surroundings.surroundings(grid)
    for name in ("nearest", "weights", "distance", "reach"):
        assert np.array_equal(getattr(fast, name), getattr(plain, name)), name
    for rows, others in zip(fast.blocks, plain.blocks, strict=True):
        assert np.array_equal(rows, others)
