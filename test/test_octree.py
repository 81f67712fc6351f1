"""The octree, the grid and the neighbour tables against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import neighbors, octree
from anypcc_ros.codec.errors import InputError
from anypcc_ros.codec.kernels import native


def random_cloud(rng: np.random.Generator, points: int, span: int) -> np.ndarray:
    return rng.integers(-span, span, (points, 3))


def test_quantise_rounds_half_to_even():
    xyz = np.array([[0.5, 1.5, 2.5], [-0.5, -1.5, -2.5]])
    assert octree.quantise(xyz, 1.0, (0, 0, 0)).tolist() == [[0, 2, 2], [0, -2, -2]]


def test_quantise_keeps_utm_offsets():
    xyz = np.array([[500_000.001, 5_400_000.002, 123.004]])
    assert octree.quantise(xyz, 0.001, (0.0, 0.0, 0.0)).tolist() == [[500_000_001, 5_400_000_002, 123_004]]
    assert octree.quantise(xyz, 0.001, (500_000.0, 5_400_000.0, 100.0)).tolist() == [[1, 2, 23_004]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_positions_are_refused(bad):
    with pytest.raises(InputError, match="1 of 2 points"):
        octree.quantise(np.array([[0, 0, 0], [0, bad, 0]]), 0.1, (0, 0, 0))


def test_an_extent_beyond_the_deepest_octree_is_refused():
    with pytest.raises(InputError, match="octree holds at most"):
        octree.voxelise(np.array([[0, 0, 0], [1 << 32, 0, 0]]))


@pytest.mark.parametrize("span", [1, 2, 7, 300, 1 << 20, (1 << 31) - 1])
def test_pyramid_expands_back_to_the_voxels(span):
    rng = np.random.default_rng(span)
    grid = random_cloud(rng, 500, span)
    voxels, order = octree.voxelise(grid)
    expected, counts = np.unique(grid, axis=0, return_counts=True)
    level, coords = neighbors.root_level(), np.zeros((1, 3), np.uint32)
    for codes in octree.occupancy_pyramid(voxels):
        level = neighbors.expand_level(level, codes)
        coords = octree.child_coords(coords, codes)
    assert np.array_equal(coords, voxels.coords)
    decoded = coords + voxels.shift
    sort = np.lexsort(decoded.T[::-1])
    assert np.array_equal(decoded[sort], expected)
    assert np.array_equal(voxels.counts[sort], counts)
    assert np.array_equal(np.repeat(decoded, voxels.counts, axis=0), grid[order])


def test_neighbors_and_groups_agree_with_brute_force():
    rng = np.random.default_rng(3)
    voxels, _ = octree.voxelise(random_cloud(rng, 400, 6))
    level, coords = neighbors.root_level(), np.zeros((1, 3), np.uint32)
    for codes in octree.occupancy_pyramid(voxels):
        level = neighbors.expand_level(level, codes)
        coords = octree.child_coords(coords, codes)
        row_of = {tuple(c): i for i, c in enumerate(coords.tolist())}
        expected = [[row_of.get(tuple(c + d), -1) for d in neighbors.OFFSETS] for c in coords]
        assert level.neighbors.tolist() == expected
        for group in (0, 1):
            assert level.groups[group].tolist() == np.flatnonzero(coords.sum(1) % 2 == group).tolist()
        across = neighbors.cross_table(level, 1)
        readers, seen = level.groups[1], level.groups[0]
        for i, row in enumerate(readers):
            for j, tap in enumerate(neighbors.CROSS_TAPS):
                node = level.neighbors[row, tap]
                assert (seen[across[i, j]] if across[i, j] >= 0 else -1) == node


def test_dropping_scales_merges_cells():
    grid = np.array([[0, 0, 0], [1, 1, 1], [2, 0, 0], [9, 9, 9]])
    voxels, _ = octree.voxelise(grid, drop_scales=1)
    assert voxels.depth == 3
    assert voxels.coords.tolist() == [[0, 0, 0], [1, 0, 0], [4, 4, 4]]
    assert voxels.counts.tolist() == [2, 1, 1]


@pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
@pytest.mark.parametrize("span", [1, 5, 4000, (1 << 20) - 1])
def test_native_sorting_and_pyramid_equal_numpy(span, monkeypatch):
    local = np.asfortranarray(random_cloud(np.random.default_rng(span), 3000, span) + span)  # any memory layout will do
    fast = octree.sort_cells(local)
    voxels = octree.Voxels(np.zeros(3, np.int64), fast[0], fast[1], int(local.max()).bit_length())
    fast_pyramid = octree.occupancy_pyramid(voxels)
    monkeypatch.setattr(native, "available", lambda: False)
    for one, other in zip(fast, octree.sort_cells(local), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    for one, other in zip(fast_pyramid, octree.occupancy_pyramid(voxels), strict=True):
        assert np.array_equal(one, other)
