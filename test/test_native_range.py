"""The native range decoder against constriction's, on what that one's encoder writes and on what nobody wrote."""

from __future__ import annotations

import constriction
import numpy as np
import pytest

from anypcc_ros.codec.kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))

QUEUE = constriction.stream.queue
FAMILY = constriction.stream.model.Categorical(perfect=False)


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
