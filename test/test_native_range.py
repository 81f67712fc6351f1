"""The native range coder against constriction's: what either writes, the other reads, and what nobody wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import constriction
import numpy as np
import pytest

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.integer import EXP2

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))

QUEUE = constriction.stream.queue
FAMILY = constriction.stream.model.Categorical(perfect=False)


@pytest.fixture(params=native.usable_isas() if native.available() else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def random_frequencies(rng: np.random.Generator, count: int, size: int, total: int) -> np.ndarray:
    """Whole numbers from 1 with that sum in every row, from nearly equal to nearly certain."""
    weights = rng.random((count, size)) ** rng.choice([0.1, 1, 30], (count, 1)) + 1e-30
    frequencies = 1 + np.floor(weights / weights.sum(1, keepdims=True) * (total - size))
    frequencies[np.arange(count), rng.integers(0, size, count)] += total - frequencies.sum(1)
    return frequencies.astype(np.float32)


@pytest.mark.parametrize("total", [256, 65536, 99_991, 1 << 24])
@pytest.mark.parametrize("size", [2, 16, 256])
def test_it_reads_what_was_written(size: int, total: int) -> None:
    rng = np.random.default_rng(size + total)
    frequencies = random_frequencies(rng, 5000, size, total)
    likely = frequencies.argmax(1)
    symbols = np.where(rng.random(5000) < 0.7, likely, rng.integers(0, size, 5000)).astype(np.int32)
    encoder = QUEUE.RangeEncoder()
    encoder.encode(symbols, FAMILY, frequencies)
    words = encoder.get_compressed()
    decoder = native.RangeDecoder(words)
    assert decoder.maybe_exhausted() == (len(words) == 0)
    parts = [decoder.decode(part) for part in np.split(frequencies, [1, 7, 7, 3000])]
    assert np.array_equal(np.concatenate(parts), symbols)
    assert decoder.maybe_exhausted()


@pytest.mark.parametrize("total", [256, 65536, 99_991, 1 << 24])
@pytest.mark.parametrize("size", [2, 16, 256])
def test_it_writes_what_constriction_does(size: int, total: int) -> None:
    rng = np.random.default_rng(size * total)
    frequencies = random_frequencies(rng, 5000, size, total)
    symbols = np.where(rng.random(5000) < 0.7, frequencies.argmax(1), rng.integers(0, size, 5000)).astype(np.int32)
    one, other = native.RangeEncoder(), QUEUE.RangeEncoder()
    assert len(one.words()) == 0
    for part in np.split(np.arange(5000), [1, 7, 7, 8, 9, 3000]):
        one.encode(symbols[part], frequencies[part])
        other.encode(symbols[part], FAMILY, frequencies[part])
        assert np.array_equal(one.words(), other.get_compressed())


@pytest.mark.parametrize("first", [0, 1, 0x12345678, 0xFFFFFFFE])
@pytest.mark.parametrize("others", [0, 0xFFFFFFFF])
def test_carries_wait_as_long_as_they_must(first: int, others: int) -> None:
    """Symbols whose words are all zeros or all ones: nearly all of them wait for a carry."""
    frequencies = random_frequencies(np.random.default_rng(7), 3000, 16, 65536)
    decoder = native.RangeDecoder(np.array([first, *[others] * 3000], np.uint32))
    symbols = np.zeros(0, np.int32)
    with suppress(IndexError):  # nobody wrote these words: some may be no symbol
        for row in frequencies:
            symbols = np.append(symbols, decoder.decode(row[None]))
    assert len(symbols) > 100
    one, other = native.RangeEncoder(), QUEUE.RangeEncoder()
    for part in np.array_split(np.arange(len(symbols)), 60):
        one.encode(symbols[part], frequencies[part])
        other.encode(symbols[part], FAMILY, frequencies[part])
        assert np.array_equal(one.words(), other.get_compressed())


@pytest.mark.parametrize("size", [16, 256])
@pytest.mark.parametrize("threads", [1, 2])
def test_under_logits_as_under_their_frequencies(isa: str, size: int, threads: int) -> None:
    rng, exp2 = np.random.default_rng(size), native.Exp2(EXP2)
    one, other = native.RangeEncoder(), native.RangeEncoder()
    parts = []
    for count in (0, 1, 63, 64, 65, 70_000 // size):
        logits = rng.integers(-300, 300, (count, size)).astype(np.int32)
        symbols = np.where(rng.random(count) < 0.7, logits.argmax(1), rng.integers(0, size, count)).astype(np.uint8)
        frequencies = np.empty(logits.shape, np.float32)
        native.softmax(logits, exp2, frequencies)
        native.predicted_encode(one, logits, exp2, symbols)
        other.encode(symbols.astype(np.int32), frequencies)
        parts.append((logits, symbols))
    words = one.words()
    assert np.array_equal(words, other.words())
    decoder = native.RangeDecoder(words)
    for logits, symbols in parts if size == 16 else []:
        found = np.empty_like(symbols)
        native.predicted_decode(decoder, logits, exp2, found, threads)
        assert np.array_equal(found, symbols)
    assert decoder.maybe_exhausted() == (size == 16)


def test_a_second_thread_only_looks_ahead() -> None:
    """The same symbols, and the same place of an error, however far the other thread is."""
    rng, exp2 = np.random.default_rng(3), native.Exp2(EXP2)
    logits = rng.integers(-300, 300, (30_000, 16)).astype(np.int32)
    for _ in range(20):
        words = rng.integers(0, 1 << 32, 3000, dtype=np.uint32)
        one, other = (np.empty(30_000, np.uint8) for _ in range(2))
        for threads, found in ((1, one), (2, other)):
            try:
                native.predicted_decode(native.RangeDecoder(words), logits, exp2, found, threads)
            except IndexError:
                found[:] = 255
        assert np.array_equal(one, other)


def test_symbols_out_of_range_are_refused_and_nothing_is_written() -> None:
    encoder, exp2 = native.RangeEncoder(), native.Exp2(EXP2)
    frequencies = np.full((2, 16), 4096, np.float32)
    for bad in (-1, 16):
        with pytest.raises(IndexError):
            encoder.encode(np.array([3, bad], np.int32), frequencies)
    with pytest.raises(IndexError):
        native.predicted_encode(encoder, np.zeros((2, 16), np.int32), exp2, np.array([3, 16], np.uint8))
    with pytest.raises(ValueError, match="a size"):
        encoder.encode(np.array([3, 1], np.int32), frequencies * 4096)
    assert len(encoder.words()) == 0


def test_both_read_the_same_from_words_that_nobody_wrote() -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for length in [0, 1, 2, 3, *[40] * 300]:
        words = rng.integers(0, 1 << 32, length, dtype=np.uint32)
        words[:1] |= np.uint32(0xFFFFFF00) if rng.random() < 0.5 else np.uint32(0)
        one, other = native.RangeDecoder(words), QUEUE.RangeDecoder(words)
        frequencies = random_frequencies(rng, 400, 16, 65536)
        assert one.maybe_exhausted() == other.maybe_exhausted()
        for row in np.split(frequencies, 40):
            try:
                expected = other.decode(FAMILY, row)
            except AssertionError:
                refused += 1
                with pytest.raises(IndexError):
                    one.decode(row)
                break
            assert np.array_equal(one.decode(row), expected)
            assert one.maybe_exhausted() == other.maybe_exhausted()
    assert refused > 10


def test_bad_frequencies_are_refused() -> None:
    decoder = native.RangeDecoder(np.zeros(4, np.uint32))
    for bad in (np.nan, 0.0, np.inf, 2.0**24):
        with pytest.raises(ValueError, match="a size"):
            decoder.decode(np.full((1, 4), bad, np.float32))
    with pytest.raises(TypeError):
        decoder.decode(np.ones((1, 4)))
