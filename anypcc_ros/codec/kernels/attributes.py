"""Channels of attributes, and the search for the points around each."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call, optional_address, pointer
from anypcc_ros.codec.kernels.probabilities import RangeDecoder


class _SurroundingsStruct(ctypes.Structure):
    """``Surroundings`` of src/api.hpp."""

    _fields_ = (
        *((name, pointer) for name in ("nearest", "weights", "distance", "reach", "elevation", "order", "lengths")),
        ("points", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
    )


class ChannelKernel:
    """Codes channels as ``codec.channels`` does, bit for bit.

    ``nearest`` and ``weights`` int32 (N, 5), ``classes``: distance, reach and elevation, uint8 (N,); ``order`` int32 (N,): the
    points in coding order, ``lengths`` int64 (B,): how many are in each block, at most 64.
    """

    def __init__(
        self,
        nearest: Array,
        weights: Array,
        classes: tuple[Array, Array, Array],
        order: Array,
        lengths: Array,
    ) -> None:
        points = int(nearest.shape[0])
        self._points = points
        self._arrays = nearest, weights, classes, order, lengths
        self._around = _SurroundingsStruct(
            address_of(nearest, "nearest", "int32", (points, 5)),
            address_of(weights, "weights", "int32", (points, 5)),
            *(address_of(values, "classes", "uint8", (points,)) for values in classes),
            address_of(order, "order", "int32", (points,)),
            address_of(lengths, "lengths", "int64", (None,)),
            points,
            len(lengths),
        )

    def encode(self, kind: int, low: int, reference: Array | None, values: Array) -> tuple[np.ndarray, bytes, bytes]:
        """Tokens uint8 (N,) of ``values`` int64 (N,), the rests and the words of the range coder.

        ``kind`` and ``low``: of the channel's header; ``reference`` uint8 (N,).
        """
        arguments = self._arguments(kind, low, reference)
        tokens, sizes = np.zeros(self._points, np.uint8), np.zeros(2, np.int64)
        rests, words = np.empty(8 * self._points, np.uint8), np.empty(2 * self._points + 4, np.uint32)
        call(
            "channel_encode",
            *arguments,
            address_of(values, "values", "int64", (self._points,)),
            tokens.ctypes.data,
            rests.ctypes.data,
            words.ctypes.data,
            sizes.ctypes.data,
        )
        return tokens, rests[: sizes[0]].tobytes(), words[: sizes[1]].astype("<u4").tobytes()

    def decode(
        self, kind: int, low: int, reference: Array | None, words: RangeDecoder, rests: Array
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Values int64 (N,), tokens uint8 (N,), and how many bits of ``rests`` uint8 (any,) they took, more than there are if
        these are not all. Raises IndexError for words that no encoder wrote."""
        arguments = self._arguments(kind, low, reference)
        values, tokens = np.zeros(self._points, np.int64), np.zeros(self._points, np.uint8)
        used = ctypes.c_int64(0)
        rest = address_of(rests, "rests", "uint8", (None,))
        results = values.ctypes.data, tokens.ctypes.data, ctypes.addressof(used)
        call("channel_decode", *arguments, words.address, rest, len(rests), *results)
        return values, tokens, used.value

    def _arguments(self, kind: int, low: int, reference: Array | None) -> tuple[int | None, ...]:
        around = ctypes.addressof(self._around)
        return around, kind, low, optional_address(reference, "reference", "uint8", (self._points,))


class FoundSurroundings(NamedTuple):
    """What ``codec.surroundings`` says of each point: int32 (N, 5) twice, then uint8 (N,)."""

    nearest: np.ndarray
    weights: np.ndarray
    distance: np.ndarray
    reach: np.ndarray
    elevation: np.ndarray


def surroundings(grid: Array, order: Array, passes: Array) -> FoundSurroundings:
    """Of points at ``grid`` int64 (N, 3). ``order`` int32 (N,): the points of pass after pass, ``passes`` int64: how many each
    has, fewer than 255 passes."""
    points = int(grid.shape[0])
    found, pointers = _room(points)
    address = address_of(grid, "grid", "int64", (points, 3))
    call("surroundings", address, points, *_passes(order, passes, points), pointers)
    return found


def row_surroundings(points: int, order: Array, passes: Array) -> FoundSurroundings:
    """The same of so many points in a row, at most 2^20."""
    found, pointers = _room(points)
    call("row_surroundings", points, *_passes(order, passes, points), pointers)
    return found


def _room(points: int) -> tuple[FoundSurroundings, ctypes.Array[ctypes.c_void_p]]:
    found = FoundSurroundings(*np.empty((2, points, 5), np.int32), *np.empty((3, points), np.uint8))
    return found, (ctypes.c_void_p * len(found))(*(array.ctypes.data for array in found))


def _passes(order: Array, passes: Array, points: int) -> tuple[int | None, int | None, int]:
    return address_of(order, "order", "int32", (points,)), address_of(passes, "passes", "int64", (None,)), len(passes)
