"""Morton order and the octree kernels against plain NumPy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))


def reference_keys(coords: np.ndarray) -> np.ndarray:
    keys = np.zeros(len(coords), np.uint64)
    for bit in range(21):
        for axis in range(3):
            value = coords[:, axis].astype(np.uint64) >> np.uint64(bit) & np.uint64(1)
            keys |= value << np.uint64(3 * bit + 2 - axis)
    return keys


def clouds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0, 0], [2**21 - 1] * 3, [2**21 - 1, 0, 0], [0, 1, 0]])
    return [
        np.zeros((0, 3), np.int32),
        np.full((1, 3), 2**21 - 1, np.int32),
        corners.repeat(3, 0).astype(np.int32),
        rng.integers(0, 2**21, (5000, 3)).astype(np.int32),
        rng.integers(0, 16, (5000, 3)).astype(np.int32),
        rng.integers(0, 1024, (100_000, 3)).astype(np.int32),
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("coords", clouds())
def test_octree(coords: np.ndarray, threads: int) -> None:
    n = len(coords)
    keys = np.empty(n, np.uint64)
    native.morton_encode(coords, keys, threads)
    expected = reference_keys(coords)
    assert np.array_equal(keys, expected)
    back = np.empty((n, 3), np.int64)
    native.morton_decode(keys, back, threads)
    assert np.array_equal(back, coords)

    order = np.empty(n, np.uint32)
    native.sort_keys(keys, order)
    assert np.array_equal(order, np.argsort(expected, kind="stable"))
    assert np.array_equal(keys, expected[order])

    occurrences = np.empty(n, np.int64)
    count = native.unique_keys(keys, occurrences)
    unique, counts = np.unique(expected, return_counts=True)
    keys = keys[:count]
    assert np.array_equal(keys, unique)
    assert np.array_equal(occurrences[:count], counts)

    for _ in range(21):
        parents, codes = np.empty_like(keys), np.empty(len(keys), np.uint8)
        above = native.parent_keys(keys, parents, codes)
        parents, codes = parents[:above], codes[:above]
        wanted, owner = np.unique(keys >> np.uint64(3), return_inverse=True)
        wanted_codes = np.zeros(len(wanted), np.uint8)
        np.bitwise_or.at(wanted_codes, owner, (1 << (keys & np.uint64(7)).astype(int)).astype(np.uint8))
        assert np.array_equal(parents, wanted)
        assert np.array_equal(codes, wanted_codes)
        children = np.empty_like(keys)
        assert native.child_keys(parents, codes, children) == len(keys)
        assert np.array_equal(children, keys)
        keys = parents
    assert not keys.any()


def test_parents_may_replace_the_keys() -> None:
    keys = np.array([0, 1, 8, 9, 63, 64], np.uint64)
    codes = np.empty(6, np.uint8)
    assert native.parent_keys(keys, keys, codes) == 4
    assert keys[:4].tolist() == [0, 1, 7, 8]
    assert codes[:4].tolist() == [3, 3, 128, 1]


def test_bad_input_is_refused() -> None:
    keys = np.empty(1, np.uint64)
    for bad in (-1, 2**21, -(2**31)):
        with pytest.raises(IndexError):
            native.morton_encode(np.array([[0, bad, 0]], np.int32), keys)
    with pytest.raises(ValueError, match="a size"):
        native.child_keys(np.zeros(2, np.uint64), np.full(2, 255, np.uint8), np.empty(15, np.uint64))
    with pytest.raises(TypeError):
        native.morton_encode(np.zeros((1, 3), np.int64), keys)


def test_a_level_goes_when_nothing_refers_to_it() -> None:
    """At once, without the garbage collector, which knows nothing of NumPy arrays; and not before the last of its arrays."""
    root = np.full((1, 27), -1, np.int32)
    root[0, 13] = 0
    made = native.LevelData.from_table(root, np.zeros(1, np.int32), np.zeros(1, np.uint8))
    below = made.expand(np.full(1, 255, np.uint8))
    gone = [weakref.ref(level._native) for level in (made, below)]
    octants = below.octant
    del made, below
    assert gone[0]() is None
    assert gone[1]() is not None
    np.testing.assert_array_equal(octants, np.arange(8))
    del octants
    assert gone[1]() is None
