"""Morton order and the octree kernels against plain NumPy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from anypcc_ros.codec import octree
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_grid(dtype: type, threads: int) -> None:
    rng = np.random.default_rng(5)
    near = rng.uniform(-300, 300, (70_000, 3))
    halves = rng.integers(-1000, 1000, (500, 3)) * 0.125 + 0.0625
    xyz = np.concatenate([near, halves, rng.uniform(-1, 1, (500, 3)) * 2.0**50, np.zeros((1, 3))]).astype(dtype)
    for step, origin in ((0.125, (0.0, 0.0, 0.0)), (0.016, (500.25, -3.0, 1e-3)), (1.0, (0.0, 0.0, 1e6))):
        grid = np.empty(xyz.shape, np.int64)
        largest = native.grid_coords(xyz, np.array(origin), step, grid, threads)
        expected = np.rint((xyz.astype(np.float64) - np.array(origin)) / step)
        assert largest == np.abs(expected).max()
        near = np.abs(expected).max(axis=1) < 2.0**53
        assert near.sum() > 70_000
        assert np.array_equal(grid[near], expected[near])
        bounds = native.grid_bounds(grid)
        assert np.array_equal(bounds, [grid.min(axis=0), grid.max(axis=0)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_a_grid_cannot_hold_everything(bad: float) -> None:
    xyz, grid = np.ones((9, 3)), np.empty((9, 3), np.int64)
    xyz[4, 1] = bad
    assert not np.isfinite(native.grid_coords(xyz, np.zeros(3), 1e-9, grid))


@pytest.mark.parametrize("dropped", [0, 1, 7])
def test_keys_of_cells(dropped: int) -> None:
    grid = np.random.default_rng(2).integers(-(1 << 19), 1 << 19, (40_000, 3))
    low, keys = grid.min(axis=0), np.empty(40_000, np.uint64)
    for threads in (1, 2):
        native.grid_keys(grid, low, dropped, keys, threads)
        assert np.array_equal(keys, reference_keys((grid - low >> dropped).astype(np.int32)))
    with pytest.raises(IndexError):
        native.grid_keys(grid, low + 1, dropped, keys)
    with pytest.raises(IndexError):
        native.grid_keys(grid << 3, low << 3, 0, keys)


def test_points_by_coordinate() -> None:
    grid = np.random.default_rng(1).integers(-40, 90, (5000, 3)) - [1 << 50, 0, -(1 << 40)]
    low, high = native.grid_bounds(grid)
    sizes = (high - low + 1) * [1, 0, 1]
    x, y, z = native.axis_counts(grid, low, sizes)
    assert np.array_equal(x, np.bincount(grid[:, 0] - low[0]))
    assert not len(y)
    assert np.array_equal(z, np.bincount(grid[:, 2] - low[2]))
    for shift, less in (([0, 0, 1], 0), ([0, 0, 0], 1)):
        with pytest.raises(IndexError):
            native.axis_counts(grid, low + shift, sizes - [0, 0, less])


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_of_grid_points_and_their_repetition(dtype: type) -> None:
    rng = np.random.default_rng(1)
    grid = np.concatenate([rng.integers(-reach, reach, (500, 3)) for reach in (2000, 1 << 40)] + [[[2**53, -(2**53), 0]]])
    for step in (0.001, 1 / 3, 1e300):
        xyz = np.empty(grid.shape, dtype)
        native.grid_positions(grid, step, xyz)
        with np.errstate(over="ignore"):
            assert np.array_equal(xyz, (grid.astype(np.float64) * step).astype(dtype))
    repeats = rng.integers(0, 4, len(grid))
    for rows in (xyz, grid):
        repeated = np.empty((int(repeats.sum()), 3), rows.dtype)
        assert native.repeat_rows(rows, repeats, repeated) == len(repeated)
        assert np.array_equal(repeated, np.repeat(rows, repeats, axis=0))
        with pytest.raises(ValueError, match="out of range"):
            native.repeat_rows(rows, repeats, repeated[1:])


@pytest.mark.parametrize("above", [0, 1, 2, 9])
def test_children_per_node(above: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    grid = rng.integers(0, 300, (4000, 3))
    cells = octree.voxelise(grid)[0]
    found = cells.children_per_node(above)
    nodes = [len(np.unique(cells.coords >> scales, axis=0)) for scales in (above, above + 1)]
    assert found == nodes[0] / nodes[1]
    monkeypatch.setattr(native, "available", lambda: False)
    assert octree.voxelise(grid)[0].children_per_node(above) == found
