"""The calibration: native and NumPy agree bit for bit, learning learns, and the encoder's replay is what the decoder does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from anypcc_ros.codec.calibration import (
    BIAS_LIMIT,
    CURVATURE_LIMIT,
    LOGIT_LIMIT,
    SYMBOLS,
    Calibration,
    Corrector,
    NativeCalibration,
    chunk_size,
    chunks,
    corrector,
    softmax,
)
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.integer import EXP2

needs_native = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))
ISAS = native.usable_isas() if native.available() else []
KINDS: list[Callable[[int], Any]] = [Calibration, *([NativeCalibration] if native.available() else [])]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def part(rows: int, tables: int, count: int, seed: int = 0, spread: float = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, contexts and symbols of a code part: ``tables`` tables of ``rows`` rows each, some far more frequent."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (count, SYMBOLS)).astype(np.int32)
    contexts = np.minimum(rng.geometric(min(5 / rows, 0.5), (count, tables)), rows) - 1 + rows * np.arange(tables)
    return logits, contexts.astype(np.int32), rng.integers(0, SYMBOLS, count).astype(np.uint8)


def code_in_chunks(learner: Corrector, logits: np.ndarray, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """What the decoder does."""
    coded = []
    for chunk in chunks(len(symbols)):
        coded.append(learner.frequencies(logits[chunk], contexts[chunk]))
        learner.learn(coded[-1], contexts[chunk], symbols[chunk])
    return np.concatenate([np.zeros((0, SYMBOLS), np.float32), *coded])


@needs_native
@pytest.mark.parametrize("tables", [1, 4, 6, 16])
@pytest.mark.parametrize("count", [0, 1, 17, 3000])
def test_native_equals_reference(isa: str, count: int, tables: int) -> None:
    reference, found = Calibration(300 * tables), NativeCalibration(300 * tables)
    for seed in range(3):  # one after the other, as the parts of a level
        inputs = part(300, tables, count, seed)
        assert np.array_equal(found.replay(*inputs), reference.replay(*inputs))
    logits, contexts, _ = part(300, tables, 2000, 9)
    assert np.array_equal(found.frequencies(logits, contexts), reference.frequencies(logits, contexts))


EXTREMES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "equal": lambda rng, count: np.zeros((count, SYMBOLS)),
    "int32": lambda rng, count: rng.choice([-(2**31), 2**31 - 1, 0], (count, SYMBOLS)),
    "limits": lambda rng, count: rng.choice([-1, 1], (count, SYMBOLS)) * LOGIT_LIMIT + rng.integers(-2, 3, (count, SYMBOLS)),
    "table's end": lambda rng, count: rng.choice([0, -510, -511, -512, -513], (count, SYMBOLS)),
    "even": lambda rng, count: np.repeat(rng.integers(-9, 9, (count, SYMBOLS // 8)), 8, axis=1),
}


@needs_native
@pytest.mark.parametrize("logits", EXTREMES)
@pytest.mark.parametrize("habit", ["one row", "likeliest", "unlikeliest"])
def test_native_equals_reference_on_extremes(isa: str, logits: str, habit: str) -> None:
    """All nodes in one row, and symbols that are always, or never, what is predicted."""
    rng, count = np.random.default_rng(1), 1500
    values = EXTREMES[logits](rng, count).astype(np.int32)
    contexts = np.tile(np.array([0, 3], np.int32), (count, 1))
    if habit == "one row":
        symbols = rng.integers(0, SYMBOLS, count)
    else:
        symbols = values.argmax(axis=1) if habit == "likeliest" else values.argmin(axis=1)
    reference, found = Calibration(4), NativeCalibration(4)
    for _ in range(3):
        expected = reference.replay(values, contexts, symbols.astype(np.uint8))
        assert np.array_equal(found.replay(values, contexts, symbols.astype(np.uint8)), expected)
        assert (expected.sum(axis=1) == 1 << 16).all()
        assert expected.min() >= 1


@needs_native
def test_native_equals_reference_where_biases_and_curvature_end(isa: str) -> None:
    """A symbol that network and biases swear will not come, a hundred thousand times; then one that they cannot tell."""
    count = 1 << 14
    contexts, logits = np.zeros((count, 1), np.int32), np.zeros((count, SYMBOLS), np.int32)
    never = np.ones((count, SYMBOLS), np.float32)
    never[:, 5] = (1 << 16) - SYMBOLS + 1
    even = np.full((count, SYMBOLS), (1 << 16) / SYMBOLS, np.float32)
    coin = np.ones((count, SYMBOLS), np.float32)
    coin[:, :2] = 1 << 15, (1 << 15) - SYMBOLS + 2
    reference, found = Calibration(1), NativeCalibration(1)
    biases, known = [], []
    for frequencies, symbol, times in ((never, 0, 8), (even, 9, 8), (coin, 0, 70)):
        for _ in range(times):
            symbols = np.full(count, symbol, np.uint8)
            reference.learn(frequencies, contexts, symbols)
            found.learn(frequencies, contexts, symbols)
            biases.append(reference.bias.copy())
            known.append(int(reference.curvature.max()))
            assert np.array_equal(found.frequencies(logits[:9], contexts[:9]), reference.frequencies(logits[:9], contexts[:9]))
    assert max(map(np.max, biases)) == BIAS_LIMIT
    assert min(map(np.min, biases)) == -BIAS_LIMIT
    assert known[-1] == CURVATURE_LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 129, 8192, 70_000])
def test_replay_is_what_the_decoder_does(kind: Callable[[int], Corrector], count: int) -> None:
    logits, contexts, symbols = part(200, 4, count, 2)
    encoder, decoder = kind(800), kind(800)
    assert np.array_equal(encoder.replay(logits, contexts, symbols), code_in_chunks(decoder, logits, contexts, symbols))


def test_chunks_cover_a_code_part() -> None:
    for count in (0, 1, 128, 129, 8191, 8192, 65_536, 1_000_000):
        everything = np.arange(count)
        pieces = [everything[chunk] for chunk in chunks(count)]
        assert np.array_equal(np.concatenate([everything[:0], *pieces]), everything)
        assert all(len(piece) == chunk_size(count) for piece in pieces[:-1])
    assert [chunk_size(count) for count in (0, 8192, 8256, 65_536, 10**7)] == [128, 128, 129, 1024, 1024]


@pytest.mark.parametrize("kind", KINDS)
def test_learning_lowers_the_cost_of_what_goes_on_alike(kind: Callable[[int], Corrector]) -> None:
    """A source that depends on its context in a way that the network does not know, and one that it knows already."""
    rng, count, rows = np.random.default_rng(3), 40_000, 8
    shares = rng.dirichlet(np.full(SYMBOLS, 0.3), rows)
    contexts = rng.integers(0, rows, (count, 1)).astype(np.int32)
    symbols = np.array([rng.choice(SYMBOLS, p=shares[row]) for row in contexts[:, 0]], np.uint8)
    entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1)[contexts[:, 0]].mean()
    ignorant = np.zeros((count, SYMBOLS), np.int32)
    expert = np.rint(32 * np.log2(np.maximum(shares, 1e-5))).astype(np.int32)[contexts[:, 0]]

    def bits(logits: np.ndarray) -> np.ndarray:
        frequencies = kind(rows).replay(logits, contexts, symbols)
        return 16 - np.log2(frequencies[np.arange(count), symbols].astype(float))

    learned = bits(ignorant)
    assert learned[:128].mean() == pytest.approx(4)  # nothing is known during the first chunk
    assert learned[-count // 2 :].mean() < entropy + 0.1
    assert bits(expert).mean() < entropy + 0.05


def test_what_is_not_used_stays() -> None:
    learner = Calibration(3)
    logits, _, symbols = part(1, 1, 50)
    learner.replay(logits, np.ones((50, 1), np.int32), symbols)
    assert learner.bias[1].any()
    assert not learner.bias[[0, 2]].any()
    assert not learner.curvature[[0, 2]].any()
    assert np.array_equal(learner.frequencies(logits, np.zeros((50, 1), np.int32)), softmax(logits))


@needs_native
@pytest.mark.parametrize("row", [-1, 12, 2**31 - 1, -(2**31)])
def test_rows_out_of_range_are_refused_and_change_nothing(row: int) -> None:
    logits, contexts, symbols = part(6, 2, 300)
    touched, untouched = NativeCalibration(12), NativeCalibration(12)
    bad = contexts.copy()
    bad[299, 1] = row
    frequencies = touched.frequencies(logits, contexts)
    for attempt in (
        lambda: touched.frequencies(logits, bad),
        lambda: touched.learn(frequencies, bad, symbols),
        lambda: touched.replay(logits, bad, symbols),
    ):
        with pytest.raises(IndexError):
            attempt()
    assert np.array_equal(touched.replay(logits, contexts, symbols), untouched.replay(logits, contexts, symbols))


@needs_native
def test_bad_sizes_are_refused() -> None:
    logits, contexts, symbols = part(6, 2, 300)
    learner, exp2 = native.Calibration(12, native.Exp2(EXP2)), native.Exp2(EXP2)
    out = np.empty(logits.shape, np.float32)
    for chunk in (0, -1, (1 << 14) + 1):
        with pytest.raises(ValueError, match="a size"):
            learner.replay(logits, contexts, symbols, chunk, out)
    with pytest.raises(ValueError, match="logits has shape"):
        learner.frequencies(logits, contexts[1:], out)
    with pytest.raises(ValueError, match="symbols has shape"):
        learner.learn(out, contexts, symbols[1:])
    with pytest.raises(ValueError, match="a size"):
        learner.frequencies(logits, np.zeros((300, 17), np.int32), out)
    with pytest.raises(ValueError, match="a size"):
        learner.learn(np.ones((20_000, 16), np.float32), np.zeros((20_000, 1), np.int32), np.zeros(20_000, np.uint8))
    with pytest.raises(MemoryError):
        native.Calibration(0, exp2)


def test_the_kernels_are_used_where_they_are() -> None:
    assert isinstance(corrector(1), NativeCalibration if native.available() else Calibration)
