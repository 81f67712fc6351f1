"""Colours as integers: green, and by how much red and blue differ from it, which is less to say than three colours.

A field is colours when it is called rgb or rgba and holds either one 32-bit value 0xAARRGGBB for each point, as PCL packs them
even into a float32, or three to eight integers of up to 32 bits.
"""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.representation import NOTHING, Kind, Represented, factor_of, multiples, nearest_multiple

NAMES = ("rgb", "rgba")
MOST_CHANNELS = 8
"""All channels of a colour are in memory together, as int64: a field of more values for each point is none."""

_BYTES = (2, 1, 0, 3)  # of red, green, blue and alpha, the lowest first


def is_colour(name: str, values: np.ndarray) -> bool:
    """Whether a field with these values, (N,) or (N, count), is colours."""
    if name not in NAMES:
        return False
    if _packed(values):
        return values.dtype.itemsize == 4
    return values.dtype.kind in "iu" and values.dtype.itemsize <= 4 and 3 <= values.shape[1] <= MOST_CHANNELS


def represent_colours(values: np.ndarray, step: float = 0.0) -> Represented:
    """Integers for colours. ``step``: of the policy, for each of red, green, blue and alpha; 0 means exactly."""
    factor = factor_of(step)
    red, green, blue, *others = np.ascontiguousarray(nearest_multiple(parts_of(values), factor).T)
    return Represented(Kind.COLOURS, (green, red - green, blue - green, *others), NOTHING, float(factor))


def restore_colours(represented: Represented, dtype: np.dtype, packed: bool) -> np.ndarray:
    """(N,) packed colours, or (N, channels). Raises CorruptStreamError."""
    small_integers = dtype.kind in "iu" and dtype.itemsize <= 4
    if not (dtype.itemsize == 4 if packed else small_integers):
        raise CorruptStreamError(f"colours in a field of {dtype}")
    green, red, blue, *others = represented.channels
    part, factor = np.dtype(np.uint8) if packed else dtype, int(represented.factor)
    parts = [multiples(numbers, factor, part) for numbers in (red + green, green, blue + green, *others)]
    values = np.empty((len(green), len(parts)), part)
    for place, numbers in zip(_BYTES if packed else range(len(parts)), parts, strict=True):
        values[:, place] = numbers
    return values.view("<u4")[:, 0].astype(np.uint32).view(dtype) if packed else values


def channels(count: int) -> int:
    """Channels of a colour field with ``count`` values for each point. Raises CorruptStreamError for what is none."""
    if count == 2 or not 0 < count <= MOST_CHANNELS:
        raise CorruptStreamError(f"colours of {count} values")
    return len(_BYTES) if count == 1 else count


def parts_of(values: np.ndarray) -> np.ndarray:
    """(N, channels) int64: red, green, blue and what may follow."""
    if _packed(values):
        packed = np.ascontiguousarray(values.reshape(-1, 1).view(np.uint32), "<u4")
        return packed.view(np.uint8)[:, _BYTES].astype(np.int64)
    return values.astype(np.int64)


def _packed(values: np.ndarray) -> bool:
    return values.ndim == 1 or values.shape[1] == 1
