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
        *((name, pointer) for name in ("nearest", "shares", "distance", "reach", "elevation", "order", "lengths")),
        ("points", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
    )


class ChannelKernel:
    """Codes channels as ``codec.channels`` does, bit for bit.

    ``nearest`` int32 (N, 5), ``shares`` uint8 (N, 2), ``classes``: distance, reach and elevation, uint8 (N,); ``order``
    int32 (N,): the points in coding order, ``lengths`` int64 (B,): how many are in each block, at most 64.
    """

    def __init__(
        self,
        nearest: Array,
        shares: Array,
        classes: tuple[Array, Array, Array],
        order: Array,
        lengths: Array,
    ) -> None:
        points = int(nearest.shape[0])
        self._points = points
        self._arrays = nearest, shares, classes, order, lengths
        self._around = _SurroundingsStruct(
            address_of(nearest, "nearest", "int32", (points, 5)),
            address_of(shares, "shares", "uint8", (points, 2)),
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
    """What ``codec.surroundings`` says of each point: int32 (N, 5), uint8 (N, 2), then uint8 (N,)."""

    nearest: np.ndarray
    shares: np.ndarray
    distance: np.ndarray
    reach: np.ndarray
    elevation: np.ndarray


def surroundings(grid: Array) -> FoundSurroundings:
    """Of points at ``grid`` int64 (N, 3)."""
    points = int(grid.shape[0])
    found, pointers = _room(points)
    call("surroundings", address_of(grid, "grid", "int64", (points, 3)), points, pointers)
    return found


def row_surroundings(points: int) -> FoundSurroundings:
    """The same of so many points in a row, fewer than 2^31."""
    found, pointers = _room(points)
    call("row_surroundings", points, pointers)
    return found


def _room(points: int) -> tuple[FoundSurroundings, ctypes.Array[ctypes.c_void_p]]:
    classes = np.empty((3, points), np.uint8)
    found = FoundSurroundings(np.empty((points, 5), np.int32), np.empty((points, 2), np.uint8), *classes)
    return found, (ctypes.c_void_p * len(found))(*(array.ctypes.data for array in found))
