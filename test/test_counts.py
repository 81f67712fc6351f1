"""The native coder of points per cell equals its NumPy form, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import counts
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.octree import sort_cells

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))


@pytest.mark.parametrize(("cells", "extent"), [(1, 2), (700, 9), (9000, 400), (2000, 1 << 30)])
def test_contexts_and_counts_are_the_same(cells, extent, plainly):
    rng = np.random.default_rng(cells)
    coords = sort_cells(rng.integers(0, extent, (cells, 3)))[0]
    contexts = counts.density_contexts(coords)
    assert np.array_equal(contexts, plainly(counts.density_contexts, coords))
    values = rng.geometric(0.4, len(coords)) - 1
    data = counts.encode_counts(values, contexts)
    assert data == plainly(counts.encode_counts, values, contexts)
    assert np.array_equal(counts.decode_counts(data, contexts), values)
    assert np.array_equal(plainly(counts.decode_counts, data, contexts), values)


@pytest.mark.parametrize("certain", [0, 3, 15])
def test_totals_that_reach_their_limit_are_halved_alike(certain, plainly):
    values, contexts = np.full(150_000, certain), np.zeros(150_000, np.uint8)
    values[::7919] = 1
    data = counts.encode_counts(values, contexts)
    assert data == plainly(counts.encode_counts, values, contexts)
    assert np.array_equal(counts.decode_counts(data, contexts), values)


def test_words_of_no_encoder_are_told():
    with pytest.raises(CorruptStreamError):
        counts.decode_counts(b"\0" + b"\xff" * 4000, np.zeros(3000, np.uint8))


def test_what_is_out_of_range_is_refused():
    order, contexts = np.arange(4, dtype=np.int32), np.zeros(4, np.uint8)
    with pytest.raises(IndexError):
        native.counts_encode(native.RangeEncoder(), np.full(4, 16, np.uint8), contexts, order)
    for wrong in (order - 1, order + 1):
        with pytest.raises(IndexError):
            native.counts_encode(native.RangeEncoder(), contexts, contexts, wrong)
        with pytest.raises(IndexError):
            native.counts_decode(native.RangeDecoder(np.zeros(3, np.uint32)), contexts, wrong)
    with pytest.raises(ValueError, match="out of range"):
        native.counts_encode(native.RangeEncoder(), contexts, contexts, order[:3])
