"""The values of a field as integers that lie where neighbours can predict them, and back, bit for bit.

Integers are themselves. Floats that lie on a lattice (n / 255, hundredths, the ticks of a clock) become its numbers; others
become their bits, made ascending; of fewer values than points, or regular ones, the places in an ascending list will do.
Colours have a module of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.kernels import native

LISTED = 256
"""Numbers that span less need no list: they are tokens themselves."""

_DIVISORS = (
    *(1, 2, 4, 8, 10, 16, 32, 64, 100, 128, 255, 256, 512, 1000, 1024, 4096, 10_000, 65_535, 65_536),
    *(10**digits for digits in range(5, 10)),
)
_EXACT = 1 << 52  # numbers of a lattice stay below it
_WORTH = 4  # a lattice has at least so many times fewer places than the floats themselves
_RARE = 8  # at most one of so many values lies beside a lattice
_SAMPLE = 64
_LISTING = 400  # bits that a list costs at least
_GAPS = 1 << 14  # values among which the smallest gap is looked for


class Kind(IntEnum):
    """How channels and list make values."""

    INTEGERS = 0
    FLOAT_BITS = 1
    QUOTIENTS = 2  # number / factor
    PRODUCTS = 3  # number * factor
    LIST = 4
    MULTIPLES = 5  # number * factor, clamped to the integer dtype
    COLOURS = 6  # multiples, too, of green, red - green, blue - green and what may follow


_DTYPES_OF = {
    Kind.INTEGERS: "iub",
    Kind.FLOAT_BITS: "f",
    Kind.QUOTIENTS: "f",
    Kind.PRODUCTS: "f",
    Kind.LIST: "iubf",
    Kind.MULTIPLES: "iu",
    Kind.COLOURS: "",  # which colours.restore_colours restores
}
"""The kinds of dtype, as NumPy calls them, that each represents."""


@dataclass(frozen=True, eq=False)
class Represented:
    """``channels``: (N,) int64 each. ``listed``: (M,) int64, as ``as_integers`` gives them: of Kind.LIST all values, ascending;
    of QUOTIENTS and PRODUCTS those of the points whose number is ``marker``, in their order. ``factor``: see ``Kind``.
    """

    kind: Kind
    channels: tuple[np.ndarray, ...]
    listed: np.ndarray
    factor: float = 1.0
    marker: int = 0


NOTHING = np.zeros(0, np.int64)


def represent(values: np.ndarray, step: float = 0.0) -> Represented:
    """Integers for (N,) values of any of cloud.FIELD_DTYPES, contiguous, in native byte order.

    ``step``: of the policy; every value is off by at most half of it, and 0 means exactly.
    """
    if values.dtype.kind != "f":
        return _represent_integers(as_integers(values), values.dtype, step)
    if step:
        numbers = _numbers(values, Kind.PRODUCTS, step)
        lossy = _on_lattice(values, numbers, Kind.PRODUCTS, step, _within(values, numbers, step))
        if lossy is not None:
            return lossy
    return _represent_floats(values)


def restore(represented: Represented, dtype: np.dtype) -> np.ndarray:
    """(N,) values of ``dtype``, native. Raises CorruptStreamError for numbers that no encoder gives."""
    numbers = represented.channels[0]
    if dtype.kind not in _DTYPES_OF[represented.kind]:
        raise CorruptStreamError(f"{represented.kind.name.lower()} in a field of {dtype}")
    if represented.kind in (Kind.INTEGERS, Kind.FLOAT_BITS):
        return from_integers(numbers, dtype)
    if represented.kind == Kind.MULTIPLES:
        return from_integers(multiples(numbers, int(represented.factor), dtype), dtype)
    if represented.kind == Kind.LIST:
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(represented.listed):
            raise CorruptStreamError(f"entries {numbers.min()}..{numbers.max()} of a list of {len(represented.listed)}")
        return from_integers(represented.listed[numbers], dtype)
    values = _lattice_values(numbers, represented.kind, represented.factor, dtype)
    beside = np.flatnonzero(numbers == represented.marker) if len(represented.listed) else NOTHING
    if len(beside) != len(represented.listed):
        raise CorruptStreamError(f"{len(represented.listed)} values for {len(beside)} points beside a lattice")
    values[beside] = from_integers(represented.listed, dtype)
    return values


def as_integers(values: np.ndarray) -> np.ndarray:
    """int64 of any dtype, in any shape: uint64 wrapped, floats by their bits so that they ascend as the values do."""
    if values.dtype.kind == "f":
        bits = values.view(f"i{values.dtype.itemsize}").astype(np.int64)
        return bits ^ (bits >> 63 & (1 << 8 * values.dtype.itemsize - 1) - 1)
    return values.astype(np.int64)


def from_integers(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Inverse of ``as_integers``. Raises CorruptStreamError for numbers beyond the dtype."""
    bits = 8 * dtype.itemsize - (dtype.kind in "fi")  # besides a sign
    if dtype.kind == "b":
        bits = 1
    if bits < 63 and len(numbers):
        low, high = (-1 << bits if dtype.kind in "fi" else 0), (1 << bits) - 1
        if int(numbers.min()) < low or int(numbers.max()) > high:
            raise CorruptStreamError(f"values {numbers.min()}..{numbers.max()} in a field of {dtype}")
    if dtype.kind == "f":
        numbers = numbers ^ (numbers >> 63 & (1 << bits) - 1)
        return numbers.astype(f"i{dtype.itemsize}").view(dtype)
    return numbers.astype(dtype)


# -- Integers ----------------------------------------------------------------------------------------------------------


def _represent_integers(numbers: np.ndarray, dtype: np.dtype, step: float) -> Represented:
    small = len(numbers) and max(int(numbers.max()), -int(numbers.min())) <= _EXACT
    if dtype == np.uint64:
        small = small and int(numbers.min()) >= 0  # negative ones are the largest
    if step >= 2 and small and dtype.kind != "b":
        factor = factor_of(step)
        coarse = nearest_multiple(numbers, factor)
        few = _listed_if_few(multiples(coarse, factor, dtype))
        return few or Represented(Kind.MULTIPLES, (coarse,), NOTHING, float(factor))
    return _listed_if_few(numbers) or Represented(Kind.INTEGERS, (numbers,), NOTHING)


def factor_of(step: float) -> int:
    """The whole number of units that integers are quantised by, so that none is off by more than half the step."""
    return max(int(min(step, _EXACT)), 1)


def nearest_multiple(numbers: np.ndarray, factor: int) -> np.ndarray:
    """``numbers / factor``, rounded half down, int64."""
    if factor == 1:
        return numbers
    quotients, rest = np.divmod(numbers, factor)
    return quotients + (2 * rest > factor)


def multiples(numbers: np.ndarray, factor: int, dtype: np.dtype) -> np.ndarray:
    """``numbers * factor``, int64, clamped to the integer dtype and to 2^52. Raises CorruptStreamError for what overflows."""
    least, most = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    if factor > _EXACT or max(most, -least) * factor >= _EXACT << 10:
        raise CorruptStreamError(f"multiples {least}..{most} of {factor}")
    low, high = max(np.iinfo(dtype).min, -_EXACT), min(np.iinfo(dtype).max, _EXACT)
    values = numbers * factor if factor > 1 else numbers
    return values if low <= least * factor and most * factor <= high else np.clip(values, low, high)


def _listed_if_few(numbers: np.ndarray) -> Represented | None:
    """A list, where the places in it take so many bits less than the numbers that the list itself is worth it."""
    if not len(numbers) or 0 <= (extent := int(numbers.max()) - int(numbers.min())) < LISTED:
        return None
    listed, places = _distinct(numbers)
    saved = math.log2(abs(extent)) - math.log2(len(listed))
    irregular = np.abs(np.diff(listed.astype(np.float64), 2))
    cost = _LISTING + len(listed) + float(np.log2(1 + irregular).sum())
    if cost >= saved * len(numbers):
        return None
    return Represented(Kind.LIST, (places,), listed)


def _distinct(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones of (N,) int64, ascending, and which of them each is, (N,) int64."""
    if not native.available():
        listed, places = np.unique(numbers, return_inverse=True)
        return listed, places.reshape(-1).astype(np.int64)
    least = numbers.min()
    keys, order = (numbers - least).view(np.uint64), np.empty(len(numbers), np.uint32)
    native.sort_keys(keys, order)
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    places = np.empty(len(numbers), np.int64)
    places[order] = np.cumsum(new) - 1
    return keys[new].view(np.int64) + least, places


# -- Floats ------------------------------------------------------------------------------------------------------------


def _represent_floats(values: np.ndarray) -> Represented:
    bits = as_integers(values)
    lattice = find_lattice(values)
    if lattice is not None and np.ptp(lattice.channels[0]) < LISTED:
        return lattice
    return _listed_if_few(bits) or lattice or Represented(Kind.FLOAT_BITS, (bits,), NOTHING)


def find_lattice(values: np.ndarray) -> Represented | None:
    """The coarsest lattice on which (nearly) all floats (N,) lie, bit for bit, if it is much coarser than floats are."""
    finite = as_integers(values)[np.isfinite(values)]
    if not len(finite):
        return None
    places = int(finite.max()) - int(finite.min())
    sample = np.unique(finite[:: max(len(finite) // _SAMPLE, 1)])
    probe = from_integers(sample, values.dtype)
    for kind, factor in _lattices(finite, values.dtype):
        numbers = _numbers(probe, kind, factor)
        on = _same_bits(_lattice_values(numbers, kind, factor, values.dtype), probe)
        if (len(on) - np.count_nonzero(on)) * _RARE > len(on) or not on.any():
            continue
        extent = int(numbers[on].max()) - int(numbers[on].min())
        if extent * _WORTH > places:
            continue
        numbers = _numbers(values, kind, factor)
        on = _same_bits(_lattice_values(numbers, kind, factor, values.dtype), values)
        found = _on_lattice(values, numbers, kind, factor, on)
        if found is not None:
            return found
    return None


def _lattices(finite: np.ndarray, dtype: np.dtype) -> Iterator[tuple[Kind, float]]:
    """Lattices to try, the coarsest first, then that of the smallest gap between values that have these integers."""
    for divisor in _DIVISORS:
        yield Kind.QUOTIENTS, float(divisor)
        if divisor & divisor - 1:  # dividing by powers of two is multiplying
            yield Kind.PRODUCTS, 1 / divisor
            yield Kind.PRODUCTS, float(np.float32(1 / divisor))
    exact = from_integers(np.unique(finite[:_GAPS]), dtype).astype(np.float64)
    gaps = np.diff(np.clip(exact, -_EXACT, _EXACT))
    gap = float(gaps[gaps > 1 / _EXACT].min(initial=math.inf))
    if gap < math.inf:
        for value in sorted(exact[:: len(exact) // _SAMPLE + 1].tolist(), key=abs):  # refined by ever larger values
            number = round(value / gap) if abs(value / gap) < _EXACT else 0
            gap = value / number if number else gap
        for factor in (float(f"{gap:.9g}"), gap, float(np.float32(gap))):
            yield Kind.PRODUCTS, factor
        yield Kind.QUOTIENTS, 1 / gap


def _numbers(values: np.ndarray, kind: Kind, factor: float) -> np.ndarray:
    """The nearest numbers (N,) int64 of a lattice; 0 for what has none."""
    with np.errstate(over="ignore", invalid="ignore"):
        exact = values.astype(np.float64)
        numbers = np.rint(exact * factor if kind == Kind.QUOTIENTS else exact / factor)
    return np.where(np.abs(numbers) < _EXACT, numbers, 0.0).astype(np.int64)


def _lattice_values(numbers: np.ndarray, kind: Kind, factor: float, dtype: np.dtype) -> np.ndarray:
    exact = numbers.astype(np.float64)
    with np.errstate(over="ignore"):
        return (exact / factor if kind == Kind.QUOTIENTS else exact * factor).astype(dtype)


def _same_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    integers = f"i{one.dtype.itemsize}"
    return one.view(integers) == other.view(integers)


def _within(values: np.ndarray, numbers: np.ndarray, step: float) -> np.ndarray:
    """Where the product lattice of ``step`` comes within half of it with these numbers."""
    restored = _lattice_values(numbers, Kind.PRODUCTS, step, values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(restored.astype(np.float64) - values.astype(np.float64)) <= step / 2


def _on_lattice(values: np.ndarray, numbers: np.ndarray, kind: Kind, factor: float, on: np.ndarray) -> Represented | None:
    """The values with their numbers on a lattice, but for those which are not ``on`` it; None where a good part is not."""
    beside = np.flatnonzero(~on)
    if not len(beside):
        return Represented(kind, (numbers,), NOTHING, factor)
    invalid = len(values) - np.count_nonzero(np.isfinite(values))
    if (len(beside) - invalid) * _RARE > len(values):
        return None
    marker = int(numbers[on].min(initial=1)) - 1
    numbers[beside] = marker
    return Represented(kind, (numbers,), as_integers(values[beside]), factor, marker)
