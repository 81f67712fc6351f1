"""The float32 training kernels, the levels and their plans against plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))

ISAS = native.usable_isas() if native.available() else []


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def random_table(rng: np.random.Generator, n_in: int, n_out: int, taps: int, filled: float) -> np.ndarray:
    table = rng.integers(0, max(n_in, 1), (n_out, taps)).astype(np.int32)
    table[rng.random((n_out, taps)) >= filled] = -1
    return table


def reference_conv(table: np.ndarray, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    y = np.zeros((len(table), w.shape[2])) + (0 if bias is None else bias)
    for k in range(table.shape[1]):
        rows = np.flatnonzero(table[:, k] >= 0)
        y[rows] += x[table[rows, k]].astype(np.float64) @ w[k]
    return y


CASES = [
    # n_in, n_out, taps, filled, cin, cout
    (0, 0, 27, 0.5, 16, 16),
    (1, 1, 27, 1.0, 32, 32),
    (5, 3, 1, 1.0, 16, 48),
    (300, 259, 27, 0.0, 32, 32),
    (300, 259, 27, 1.0, 32, 32),
    (700, 1000, 27, 0.2, 32, 32),
    (700, 613, 14, 0.4, 48, 64),
    (400, 513, 8, 0.15, 64, 96),
    (130, 255, 9, 0.3, 96, 128),
    (97, 530, 32, 0.05, 16, 80),
    (150, 140, 27, 0.6, 128, 112),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_conv_and_weight_gradient(isa: str, case: tuple, threads: int) -> None:
    n_in, n_out, taps, filled, cin, cout = case
    rng = np.random.default_rng(7)
    table = random_table(rng, n_in, n_out, taps, filled)
    x = rng.standard_normal((n_in, cin)).astype(np.float32)
    w = rng.standard_normal((taps, cin, cout)).astype(np.float32)
    bias = rng.standard_normal(cout).astype(np.float32)
    dy = rng.standard_normal((n_out, cout)).astype(np.float32)
    plan = native.Plan(table, n_in, threads)
    assert plan.n_pairs == (table >= 0).sum()

    y = np.full((n_out, cout), np.nan, np.float32)
    native.conv_f32(plan, x, w, bias, y, threads)
    np.testing.assert_allclose(y, reference_conv(table, x, w, bias), rtol=1e-4, atol=1e-3)
    native.conv_f32(plan, x, w, None, y, threads)
    np.testing.assert_allclose(y, reference_conv(table, x, w, None), rtol=1e-4, atol=1e-3)

    dw = np.full_like(w, np.nan)
    native.conv_f32_dw(plan, x, dy, dw, threads)
    expected = np.zeros(w.shape)
    for k in range(taps):
        rows = np.flatnonzero(table[:, k] >= 0)
        expected[k] = x[table[rows, k]].astype(np.float64).T @ dy[rows]
    np.testing.assert_allclose(dw, expected, rtol=1e-4, atol=2e-3)
    again = np.empty_like(dw)
    native.conv_f32_dw(plan, x, dy, again, threads)
    assert np.array_equal(dw, again)


def test_integers_held_in_float_are_exact(isa: str) -> None:
    rng = np.random.default_rng(8)
    table = random_table(rng, 500, 500, 27, 0.5)
    x = rng.integers(0, 128, (500, 32)).astype(np.float32)
    w = rng.integers(-127, 128, (27, 32, 32)).astype(np.float32)
    y = np.empty((500, 32), np.float32)
    native.conv_f32(native.Plan(table, 500), x, w, None, y)
    assert np.array_equal(y, reference_conv(table, x, w, None))


def test_large_conv_uses_threads_and_matches_one_thread() -> None:
    rng = np.random.default_rng(9)
    table = random_table(rng, 20000, 20000, 27, 0.2)
    x = rng.standard_normal((20000, 32)).astype(np.float32)
    w = rng.standard_normal((27, 32, 32)).astype(np.float32)
    one, two = np.empty_like(x), np.empty_like(x)
    plan = native.Plan(table, 20000, threads=2)
    native.conv_f32(plan, x, w, None, one, threads=1)
    native.conv_f32(plan, x, w, None, two, threads=2)
    assert np.array_equal(one, two)


def test_a_plan_can_be_built_again() -> None:
    rng = np.random.default_rng(10)
    plan = native.Plan()
    for n in (1000, 10, 0, 3000):
        table = random_table(rng, n, n, 27, 0.3)
        plan.build(table, n)
        x = rng.integers(-9, 9, (n, 16)).astype(np.float32)
        w = rng.integers(-9, 9, (27, 16, 16)).astype(np.float32)
        y = np.empty((n, 16), np.float32)
        native.conv_f32(plan, x, w, None, y)
        assert np.array_equal(y, reference_conv(table, x, w, None))


@pytest.mark.parametrize("entry", [-2, 3, 2**31 - 1, -(2**31)])
def test_a_table_entry_outside_the_input_is_refused(entry: int) -> None:
    table = np.array([[0, 1], [2, entry]], np.int32)
    with pytest.raises(IndexError):
        native.Plan(table, 3)


def test_wrong_arrays_are_refused() -> None:
    table = np.zeros((4, 2), np.int32)
    plan = native.Plan(table, 4)
    x, w, y = np.zeros((4, 16), np.float32), np.zeros((2, 16, 16), np.float32), np.zeros((4, 16), np.float32)
    with pytest.raises(TypeError, match="x is float64"):
        native.conv_f32(plan, x.astype(np.float64), w, None, y)
    with pytest.raises(ValueError, match="x has shape"):
        native.conv_f32(plan, x[:3], w, None, y)
    with pytest.raises(ValueError, match="not C-contiguous"):
        native.conv_f32(plan, np.asfortranarray(x), w, None, y)
    with pytest.raises(ValueError, match="a size"):
        native.conv_f32(plan, x[:, :8].copy(), w[:, :8].copy(), None, y)
    with pytest.raises(ValueError, match="a size"):
        native.set_isa("abacus")


def neighbor_table(xyz: np.ndarray) -> np.ndarray:
    """The 3x3x3 table of distinct integer positions, by dictionary."""
    row = {tuple(p): i for i, p in enumerate(xyz.tolist())}
    offsets = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    return np.array(
        [[row.get((x + a, y + b, z + c), -1) for a, b, c in offsets] for x, y, z in xyz.tolist()], np.int32
    ).reshape(-1, 27)


def grow(leaves: np.ndarray, bits: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray, native.LevelData]]:
    """Level by level: positions, the neighbour table they should have, and what the kernels made of the codes."""
    level = native.LevelData.from_table(neighbor_table(np.zeros((1, 3), int)), np.zeros(1, np.int32), np.zeros(1, np.uint8))
    xyz = np.zeros((1, 3), np.int64)
    octants = np.array([[o >> 2, o >> 1 & 1, o & 1] for o in range(8)])
    for depth in range(1, bits + 1):
        present = set(map(tuple, (leaves >> (bits - depth)).tolist()))
        children = (2 * xyz[:, None] + octants).tolist()
        occupied = np.array([[tuple(child) in present for child in family] for family in children]).reshape(-1, 8)
        owner, octant = np.nonzero(occupied)
        level = level.expand((occupied << np.arange(8)).sum(1).astype(np.uint8), threads)
        assert np.array_equal(level.parent_row, owner)
        assert np.array_equal(level.octant, octant)
        xyz = 2 * xyz[owner] + octants[octant]
        yield xyz, neighbor_table(xyz), level


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("points", "bits"), [(1, 4), (60, 2), (300, 3), (2000, 6), (4000, 4), (9000, 7)])
def test_levels(points: int, bits: int, threads: int) -> None:
    leaves = np.random.default_rng(points).integers(0, 1 << bits, (points, 3))
    for xyz, table, level in grow(leaves, bits, threads):
        assert np.array_equal(level.table(threads), table)
        others = table.copy()
        others[:, 13] = -1
        assert np.array_equal(level.masks, ((others >= 0) << np.arange(27)).sum(1))
        for group in (0, 1):
            assert np.array_equal(level.groups[group], np.flatnonzero(xyz.sum(1) % 2 == group))


def test_arrays_keep_their_level_alive() -> None:
    masks = [level.masks for _, _, level in grow(np.arange(300).reshape(100, 3) % 7, 3, 1)]
    again = [level.masks for _, _, level in grow(np.arange(300).reshape(100, 3) % 7, 3, 1)]
    assert all(np.array_equal(one, other) for one, other in zip(masks, again, strict=True))


def test_inconsistent_levels_are_refused() -> None:
    table, row, octant = np.full((1, 27), -1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.uint8)
    for centre, entry in ((-1, -1), (1, -1), (0, 1), (0, -2), (0, 2**31 - 1)):
        table[0, 13], table[0, 4] = centre, entry
        with pytest.raises(IndexError):
            native.LevelData.from_table(table, row, octant)
    table[0, 4] = -1
    table[0, 13] = 0
    level = native.LevelData.from_table(table, row, octant)
    with pytest.raises(ValueError, match="codes has shape"):
        level.expand(np.zeros(2, np.uint8))
    assert level.expand(np.zeros(1, np.uint8)).nodes == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_plans_of_levels(threads: int) -> None:
    """Convolution, its gradient and the step between groups are those of the table."""
    rng = np.random.default_rng(11)
    for xyz, table, level in grow(rng.integers(0, 32, (3000, 3)), 5, threads):
        n = len(xyz)
        x, w = rng.standard_normal((n, 32)).astype(np.float32), rng.standard_normal((27, 32, 16)).astype(np.float32)
        plan = native.Plan().build_neighbors(level, threads)
        assert plan.n_pairs == (table >= 0).sum()
        y, dw = np.empty((n, 16), np.float32), np.empty_like(w)
        native.conv_f32(plan, x, w, None, y, threads)
        np.testing.assert_allclose(y, reference_conv(table, x, w, None), rtol=1e-4, atol=1e-3)
        native.conv_f32_dw(plan, x, y, dw, threads)
        expected = np.empty_like(w)
        native.conv_f32_dw(native.Plan(table, n), x, y, expected, threads)
        np.testing.assert_allclose(dw, expected, rtol=1e-3, atol=1e-2 * n**0.5)

        offsets = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
        odd = np.flatnonzero(offsets.sum(1) % 2)
        for reader in (0, 1):
            readers, others = level.groups[reader], level.groups[1 - reader]
            position = np.full(n + 1, -1, np.int32)
            position[others] = np.arange(len(others))
            part = position[table[np.ix_(readers, odd)]]
            plan = native.Plan().build_across(level, reader, threads)
            assert plan.n_pairs == (part >= 0).sum()
            y = np.empty((len(readers), 16), np.float32)
            native.conv_f32(plan, x[others], w[:14], None, y, threads)
            np.testing.assert_allclose(y, reference_conv(part, x[others], w[:14], None), rtol=1e-4, atol=1e-3)
