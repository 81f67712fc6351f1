"""The exact integer kernels against plain NumPy: equal in every bit, on every code path, threaded or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from anypcc_ros.codec.kernels import integer_layers, native

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))

ISAS = native.usable_isas() if native.available() else []
EXP2 = np.round(2.0 ** (16 - np.arange(512) / 32)).astype(np.uint32)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def exact_product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """int64; float64 holds these sums exactly and multiplies much faster."""
    return (x.astype(np.float64) @ weight.astype(np.float64)).astype(np.int64)


class Reference:
    """A layer in int64 NumPy, and the native one made from the same numbers."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, multiplier: np.ndarray, shift: int, bits: int = 32) -> None:
        self.weight, self.bias, self.multiplier, self.shift = weight, bias, multiplier, shift
        self.native = native.Layer(weight.astype(np.int8), bias.astype(np.int32), multiplier.astype(np.int32), shift)

    def rescale(self, sums: np.ndarray) -> np.ndarray:
        assert np.abs(sums).max(initial=0) < 2**31
        return (sums * self.multiplier + (1 << (self.shift - 1))) >> self.shift

    def conv(self, table: np.ndarray, x: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        sums = np.repeat(self.bias, len(table), 0)
        for k in range(table.shape[1]):
            rows = np.flatnonzero(table[:, k] >= 0)
            sums[rows] += exact_product(x[table[rows, k]], self.weight[k])
        return self._activate(sums, residual)

    def sums(self, x: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
        return self.bias[0 if codes is None else codes] + exact_product(x, self.weight[0])

    def linear(self, x: np.ndarray, codes: np.ndarray | None, residual: np.ndarray | None = None) -> np.ndarray:
        return self._activate(self.sums(x, codes), residual)

    def _activate(self, sums: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        value = self.rescale(sums) + (0 if residual is None else residual.astype(np.int64))
        return np.clip(value, 0, 127).astype(np.uint8)


def reference_frequencies(logits: np.ndarray, exp2: np.ndarray) -> np.ndarray:
    symbols = logits.shape[1]
    below = np.minimum(logits.max(1, keepdims=True) - logits, 511)
    weight = exp2.astype(np.int64)[below]
    count = 1 + weight * (65536 - symbols) // weight.sum(1, keepdims=True)
    count[np.arange(len(count)), logits.argmax(1)] += 65536 - count.sum(1)
    return count.astype(np.float32)


def random_layer(rng: np.random.Generator, taps: int, cin: int, cout: int, rows: int = 1, kind: str = "random") -> Reference:
    if kind == "usual":  # multipliers small enough for sums that are clamped first, and others at that limit
        weight = rng.integers(-127, 128, (taps, cin, cout))
        shift = int(rng.integers(8, 25))
        half = 1 << (shift - 1)
        multiplier = rng.integers(0, max(half // 2000, 2), cout)
        multiplier[rng.random(cout) < 0.4] = rng.choice([0, 1, half - 1, half])
        bias = rng.integers(-(2**17), 2**17, (rows, cout))
    elif kind == "random":  # outputs spread over 0 .. 127
        weight = rng.integers(-127, 128, (taps, cin, cout))
        shift = int(rng.integers(8, 40))
        scale = 2.0**shift / (60 * np.sqrt(taps * cin))
        multiplier = np.round(rng.uniform(-1, 1, cout) * min(scale, 2.0**31 - 1)).astype(np.int64)
        bias = rng.integers(-(2**17), 2**17, (rows, cout))
    else:  # every sum as far out as it can be, multipliers at their limit
        weight = rng.choice([-127, 127], (taps, 1, cout)).repeat(cin, 1)
        shift = {"small": 1, "middle": 31, "large": 62}[kind]
        limit = min(1 << shift, 2**31 - 1)
        multiplier = rng.choice([-limit, limit, 0, 1, -1], cout).astype(np.int64)
        bias = rng.choice([-(2**30), 2**30, 0, 1, -1], (rows, cout))
    return Reference(weight, bias, multiplier, shift)


CASES = [
    # n_in, n_out, taps, filled, cin, cout
    (0, 0, 27, 0.5, 16, 16),
    (1, 1, 27, 1.0, 32, 32),
    (5, 3, 2, 1.0, 16, 48),
    (300, 259, 27, 0.0, 32, 32),
    (300, 259, 27, 1.0, 32, 32),
    (700, 1000, 27, 0.2, 32, 32),
    (700, 613, 14, 0.4, 48, 64),
    (400, 513, 8, 0.15, 64, 96),
    (130, 255, 9, 0.3, 96, 128),
    (150, 140, 27, 0.6, 128, 112),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["random", "usual", "small", "middle", "large"])
@pytest.mark.parametrize("case", CASES)
def test_conv(isa: str, case: tuple, kind: str, threads: int) -> None:
    n_in, n_out, taps, filled, cin, cout = case
    rng = np.random.default_rng(1)
    table = rng.integers(0, max(n_in, 1), (n_out, taps)).astype(np.int32)
    table[rng.random((n_out, taps)) >= filled] = -1
    layer = random_layer(rng, taps, cin, cout, kind=kind)
    x = rng.integers(0, 128, (n_in, cin)).astype(np.uint8)
    if kind != "random":
        x[rng.random(n_in) < 0.5] = 127
    residual = rng.integers(0, 128, (n_out, cout)).astype(np.uint8)
    plan = native.Plan(table, n_in, threads)
    y = np.full((n_out, cout), 255, np.uint8)
    native.conv_int8(plan, layer.native, x, y, threads=threads)
    assert np.array_equal(y, layer.conv(table, x, None))
    native.conv_int8(plan, layer.native, x, y, residual, threads=threads)
    assert np.array_equal(y, layer.conv(table, x, residual))
    many = rng.integers(0, 128, (n_out + 9, cout)).astype(np.uint8)
    rows = rng.integers(0, len(many), n_out).astype(np.int32)
    native.conv_int8(plan, layer.native, x, y, many, rows, threads)
    assert np.array_equal(y, layer.conv(table, x, many[rows]))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["random", "usual", "small", "middle", "large"])
@pytest.mark.parametrize(
    ("count", "cin", "cout", "rows"), [(0, 32, 32, 1), (1, 16, 64, 16), (1500, 32, 32, 256), (700, 64, 48, 1)]
)
def test_linear(isa: str, count: int, cin: int, cout: int, rows: int, kind: str, threads: int) -> None:
    rng = np.random.default_rng(2)
    layer = random_layer(rng, 1, cin, cout, rows, kind)
    x = rng.integers(0, 128, (count, cin)).astype(np.uint8)
    codes = rng.integers(0, rows, count).astype(np.uint8)
    y = np.full((count, cout), 255, np.uint8)
    native.linear_int8(layer.native, x, y, threads=threads)
    assert np.array_equal(y, layer.linear(x, None))
    native.linear_int8(layer.native, x, y, codes=codes, threads=threads)
    assert np.array_equal(y, layer.linear(x, codes))
    index = rng.integers(0, max(count, 1), count).astype(np.int32)
    residual = rng.integers(0, 128, (count, cout)).astype(np.uint8)
    native.linear_int8(layer.native, x, y, index, codes, residual, threads)
    assert np.array_equal(y, layer.linear(x[index], codes, residual))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["random", "small", "middle", "large", "even"])
@pytest.mark.parametrize("symbols", [16, 256])
@pytest.mark.parametrize("count", [0, 1, 900])
def test_head(isa: str, count: int, symbols: int, kind: str, threads: int) -> None:
    rng = np.random.default_rng(3)
    hidden = random_layer(rng, 1, 32, 48, 16)
    if kind == "even":  # many equal logits
        out = random_layer(rng, 1, 48, symbols)
        out.multiplier[:] = rng.integers(0, 3, symbols)
        out = Reference(out.weight, out.bias, out.multiplier, 20)
    elif kind == "random":  # logits a few bits apart
        weight = rng.integers(-127, 128, (1, 48, symbols))
        out = Reference(weight, rng.integers(-999, 999, (1, symbols)), rng.integers(1, 3000, symbols), 20)
    else:
        out = random_layer(rng, 1, 48, symbols, kind=kind)
    x = rng.integers(0, 128, (700, 32)).astype(np.uint8)
    rows = rng.integers(0, 700, count).astype(np.int32)
    codes = rng.integers(0, 16, count).astype(np.uint8)
    found = np.zeros((count, symbols), np.int32)
    native.head_int8(hidden.native, out.native, x, found, rows, codes, threads)
    assert np.array_equal(found, out.rescale(out.sums(hidden.linear(x[rows], codes), None)))


@pytest.mark.parametrize("spread", [0, 3, 40, 3000, 2**31])
@pytest.mark.parametrize("symbols", [16, 256])
@pytest.mark.parametrize("count", [0, 1, 15, 900])
def test_softmax(isa: str, count: int, symbols: int, spread: int) -> None:
    """Equal logits, a few bits apart, and as far apart as int32 holds."""
    logits = np.random.default_rng(7).integers(-spread, max(spread, 1), (count, symbols)).astype(np.int32)
    found = np.zeros((count, symbols), np.float32)
    native.softmax(logits, native.Exp2(EXP2), found)
    assert np.array_equal(found, reference_frequencies(logits.astype(np.int64), EXP2))
    assert (found.sum(1) == 65536).all()
    assert (found >= 1).all()


@pytest.mark.parametrize("exp2", ["ones", "largest", "first", "powers"])
def test_softmax_division_is_exact(isa: str, exp2: str) -> None:
    """Quotients on and next to integers."""
    table = {
        "ones": np.ones(512),
        "largest": np.full(512, 2**23 - 1),
        "first": np.eye(1, 512)[0],
        "powers": 2.0 ** (22 - np.minimum(np.arange(512) // 16, 22)),
    }[exp2].astype(np.uint32)
    rng = np.random.default_rng(4)
    for symbols in (16, 256):
        logits = rng.normal(0, 80, (3000, symbols)).astype(np.int32)
        found = np.zeros((3000, symbols), np.float32)
        native.softmax(logits, native.Exp2(table), found)
        assert np.array_equal(found, reference_frequencies(logits.astype(np.int64), table))


def test_sums_are_clamped_where_nothing_changes() -> None:
    """Around both bounds of every multiplier, the result with and without them."""
    rng = np.random.default_rng(8)
    for shift in (1, 2, 8, 24):
        half = 1 << (shift - 1)
        multiplier = np.unique(np.concatenate([[0, 1, half], rng.integers(0, half + 1, 500)])).astype(np.int32)
        lowest, highest = integer_layers._sum_bounds(multiplier, shift)
        assert lowest is not None
        assert highest is not None
        for bound in (lowest, highest):
            sums = bound.astype(np.int64) + np.arange(-3, 4)[:, None]
            within = np.clip(sums, lowest, highest)
            assert np.abs(within * multiplier + half).max() < 2**31
            for residual in (0, 1, 127):
                results = [np.clip((s * multiplier + half >> shift) + residual, 0, 127) for s in (sums, within)]
                assert np.array_equal(*results)
    assert integer_layers._sum_bounds(np.array([half + 1], np.int32), 24) == (None, None)
    assert integer_layers._sum_bounds(np.array([-1], np.int32), 24) == (None, None)
    assert integer_layers._sum_bounds(np.array([1], np.int32), 25) == (None, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_up(isa: str, threads: int) -> None:
    rng = np.random.default_rng(5)
    table = np.full((3000, 27), -1, np.int32)
    table[:, 13] = np.arange(3000)
    roots = native.LevelData.from_table(table, np.zeros(3000, np.int32), np.zeros(3000, np.uint8))
    level = roots.expand(rng.integers(0, 256, 3000).astype(np.uint8))
    one = np.full((level.nodes, 8), -1, np.int32)
    one[np.arange(level.nodes), level.octant] = level.parent_row
    layer = random_layer(rng, 8, 32, 16)
    x = rng.integers(0, 128, (3000, 32)).astype(np.uint8)
    y = np.empty((level.nodes, 16), np.uint8)
    native.up_int8(level, layer.native, x, y, threads)
    assert np.array_equal(y, layer.conv(one, x, None))
    y[:] = 0
    native.conv_int8(native.Plan().build_one_tap(level.parent_row, level.octant, 3000, 8), layer.native, x, y)
    assert np.array_equal(y, layer.conv(one, x, None))
    with pytest.raises(IndexError):
        native.up_int8(level, layer.native, x[:2000], y)


def test_bad_indices_are_refused() -> None:
    plan = native.Plan()
    tap = np.array([0, 255], np.uint8)
    with pytest.raises(IndexError):
        plan.build_one_tap(np.zeros(2, np.int32), tap, 1, 8)
    assert plan.n_pairs == plan.n_out == 0

    layer = random_layer(np.random.default_rng(6), 1, 16, 16, rows=3).native
    x, y = np.zeros((2, 16), np.uint8), np.zeros((2, 16), np.uint8)
    native.linear_int8(layer, x, y, rows=np.array([1, 0], np.int32), codes=np.array([2, 0], np.uint8))
    with pytest.raises(IndexError):
        native.linear_int8(layer, x, y, rows=np.array([2, 0], np.int32))
    with pytest.raises(IndexError):
        native.linear_int8(layer, x, y, rows=np.array([-1, 0], np.int32))
    with pytest.raises(IndexError):
        native.linear_int8(layer, x, y, codes=np.array([3, 0], np.uint8))
    plan.build(np.zeros((2, 1), np.int32), 2)
    single = random_layer(np.random.default_rng(6), 1, 16, 16).native
    for rows in ([0, 2], [-1, 0]):
        with pytest.raises(IndexError):
            native.conv_int8(plan, single, x, y, x, np.array(rows, np.int32))


def test_bad_layers_are_refused() -> None:
    weight, bias, one = np.zeros((1, 16, 16), np.int8), np.zeros((1, 16), np.int32), np.ones(16, np.int32)
    native.Layer(weight, bias + (1 << 30), one * 511, 8)
    with pytest.raises(ValueError, match="exceed 32 bits"):
        native.Layer(weight, bias + (1 << 30), one * 512, 8)
    with pytest.raises(ValueError, match="shift=0"):
        native.Layer(weight, bias, one, 0)
    with pytest.raises(ValueError, match="multiples of 16"):
        native.Layer(weight[:, :8], bias, one, 8)
    with pytest.raises(TypeError):
        native.Layer(weight.astype(np.int32), bias, one, 8)
    layer = native.Layer(weight, bias, one, 8)
    with pytest.raises(ValueError, match="exp2 must"):
        native.Exp2(np.zeros(512, np.uint32))
    with pytest.raises(ValueError, match="a size"):
        native.softmax(np.zeros((1, 32), np.int32), native.Exp2(EXP2), np.zeros((1, 32), np.float32))
    x = np.zeros((1, 16), np.uint8)
    with pytest.raises(ValueError, match="a size"):  # three taps in the plan, one in the layer
        native.conv_int8(native.Plan(np.zeros((1, 3), np.int32), 1), layer, x, x.copy())
