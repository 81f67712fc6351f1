"""The nodes of an octree level in native memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from anypcc_ros.codec.kernels.library import Array, address_of, call, functions, pointer, raise_status


class _LevelArraysStruct(ctypes.Structure):
    """``LevelArrays`` of src/api.hpp."""

    _fields_ = (
        ("nodes", ctypes.c_int64),
        ("first_group", ctypes.c_int64),
        ("masks", pointer),
        ("parent_row", pointer),
        ("octant", pointer),
        ("groups", pointer),
    )


class LevelData:
    """The nodes of an octree level in Morton order and their neighbours, in native memory.

    Offset ``k = 9 (dx + 1) + 3 (dy + 1) + (dz + 1)``. Nodes are ordered by parent, then by octant ``o = 4 bx + 2 by + bz``;
    octants with an even number of ones are checkerboard group 0. The arrays are not to be written and keep the level alive:
    ``masks`` uint32 (nodes,), bit k set where a node lies at offset k, itself left out; ``parent_row`` int32 (nodes,);
    ``octant`` uint8 (nodes,); ``groups``, two int32 arrays with the rows of either group.
    """

    def __init__(self, function: str, *arguments: Any) -> None:
        status = ctypes.c_int64(0)
        handle = call(function, *arguments, ctypes.addressof(status))
        if not handle:
            raise_status(function, status.value)
        self._native = _NativeLevel(handle)
        found = _LevelArraysStruct()
        call("level_arrays", self.handle, ctypes.addressof(found))
        self.nodes: int = found.nodes
        self.masks = self._array(found.masks, "<u4", self.nodes)
        self.parent_row = self._array(found.parent_row, "<i4", self.nodes)
        self.octant = self._array(found.octant, "|u1", self.nodes)
        rows = self._array(found.groups, "<i4", self.nodes)
        self.groups = rows[: found.first_group], rows[found.first_group :]

    @classmethod
    def from_table(cls, table: Array, parent_row: Array, octant: Array) -> LevelData:
        """``table`` int32 (nodes, 27): the row of the node at each offset, or -1; the middle one is the node's own."""
        nodes = int(table.shape[0])
        addresses = (
            address_of(table, "table", "int32", (nodes, 27)),
            address_of(parent_row, "parent_row", "int32", (nodes,)),
            address_of(octant, "octant", "uint8", (nodes,)),
        )
        return cls("level_from_table", *addresses, nodes)

    def expand(self, codes: Array, threads: int = 0) -> LevelData:
        """The level below, without a search: child o of a node exists when bit o of its code, uint8 (nodes,), is set."""
        return LevelData("level_expand", self.handle, address_of(codes, "codes", "uint8", (self.nodes,)), threads)

    def table(self, threads: int = 0) -> np.ndarray:
        """(nodes, 27) int32: the row of the node at each offset, or -1."""
        table = np.empty((self.nodes, 27), np.int32)
        call("level_table", self.handle, table.ctypes.data, threads)
        return table

    def _array(self, address: int | None, kind: str, count: int) -> np.ndarray:
        return np.asarray(_Memory(address, kind, count, self._native)) if count else np.empty(0, kind)

    @property
    def handle(self) -> int:
        """The level as the kernels know it."""
        return self._native.handle


class _NativeLevel:
    """What a level and its arrays keep alive; freed with the last of them.

    Not the LevelData itself: it refers to the arrays, and a circle through a NumPy array is never collected.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __del__(self) -> None:
        if functions:
            functions["level_free"](self.handle)


class _Memory:
    """Lets NumPy see an array that belongs to ``owner``."""

    def __init__(self, address: int | None, kind: str, count: int, owner: object) -> None:
        self.__array_interface__ = {"data": (address, False), "typestr": kind, "shape": (count,), "version": 3}
        self.owner = owner
