"""What the calibration's contexts are made of: neighbours, cells beyond the faces, beams."""

from __future__ import annotations

import ctypes

import numpy as np

from anypcc_ros.codec.kernels.level_data import LevelData
from anypcc_ros.codec.kernels.library import Array, address_of, call, optional_address, pointer


class _BeamsStruct(ctypes.Structure):
    """``Beams`` of src/api.hpp."""

    _fields_ = (
        ("slopes", pointer),
        ("heights", pointer),
        ("phases", pointer),
        ("laterals", pointer),
        ("axis", ctypes.c_int64 * 2),
        ("count", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bins", ctypes.c_int32),
    )


class Beams:
    """Laser beams for ``beam_bins``, in the units of ``codec.beams``, whose limits are not checked here.

    ``axis`` (2,); ``slopes``, ``heights``, ``phases`` and ``laterals`` (B,), B >= 1, all int64; ``columns``: 0 for none;
    ``bins``: 2 to 16 of a column of children.
    """

    def __init__(
        self, axis: np.ndarray, slopes: Array, heights: Array, columns: int, phases: Array, laterals: Array, bins: int
    ) -> None:
        self._arrays = {"slopes": slopes, "heights": heights, "phases": phases, "laterals": laterals}
        addresses = [address_of(array, name, "int64", (len(slopes),)) for name, array in self._arrays.items()]
        self.kinds = 2 if columns else 1
        self._struct = _BeamsStruct(*addresses, (ctypes.c_int64 * 2)(*axis.tolist()), len(slopes), columns, bins)
        self.address = ctypes.addressof(self._struct)


def face_cells(
    level: LevelData, rows: Array, cells: Array, codes: Array | None = None, above: Array | None = None, threads: int = 0
) -> None:
    """What touches the nodes ``rows`` int32 (count,) of a level, as ``codec.contexts.face_cells`` has it.

    ``cells`` uint64 (count,) is written. Either ``codes`` uint8 (nodes,), 0 where they are not known, or ``above``, those of
    the level above.
    """
    count = int(rows.shape[0])
    call(
        "face_cells",
        level.handle,
        address_of(rows, "rows", "int32", (count,)),
        count,
        optional_address(codes, "codes", "uint8", (level.nodes,)),
        optional_address(above, "above", "uint8", (None,)),
        0 if above is None else int(above.shape[0]),
        address_of(cells, "cells", "uint64", (count,)),
        threads,
    )


def edge_cells(level: LevelData, rows: Array, codes: Array, cells: Array, threads: int = 0) -> None:
    """Cells beyond edges of the nodes ``rows`` int32 (count,), from ``codes`` uint8 (nodes,), as ``codec.contexts.edge_cells``
    has it. ``cells`` uint8 (count,) is written."""
    count = int(rows.shape[0])
    call(
        "edge_cells",
        level.handle,
        address_of(rows, "rows", "int32", (count,)),
        count,
        address_of(codes, "codes", "uint8", (level.nodes,)),
        address_of(cells, "cells", "uint8", (count,)),
        threads,
    )


def beam_bins(
    beams: Beams,
    coords: Array,
    rows: Array,
    shift: Array,
    levels_below: int,
    turn: float,
    bins: Array,
    threads: int = 0,
) -> None:
    """Where beams cross nodes, as ``codec.beams.Beams.bins`` has it.

    ``coords`` uint32 (nodes, 3) in units of the nodes' edge, 2**levels_below cells, from the cell ``shift`` int64 (3,).
    ``rows`` int32 (count,): the nodes meant. ``turn``: an eighth of a child's edge in units of 2^-24 turn times the columns at
    a distance of eight quarter cells. ``bins`` uint8 (count, 2, beams.kinds) is written.
    """
    count = int(rows.shape[0])
    call(
        "beam_bins",
        beams.address,
        address_of(coords, "coords", "uint32", (None, 3)),
        int(coords.shape[0]),
        address_of(rows, "rows", "int32", (count,)),
        count,
        address_of(shift, "shift", "int64", (3,)),
        levels_below,
        turn,
        address_of(bins, "bins", "uint8", (count, 2, beams.kinds)),
        threads,
    )


def context_rows(
    cells: Array,
    beyond_edges: Array | None,
    codes: Array,
    rows: Array,
    high: bool,
    bins: Array | None,
    columns: Array,
    first: Array,
    contexts: Array,
    threads: int = 0,
) -> None:
    """Rows of the calibration's tables for half a code of every node, as ``codec.contexts`` has them.

    ``cells`` uint64 (count,), of ``face_cells``; ``beyond_edges`` uint8 (count,), of ``edge_cells``, in place of those across
    the face in x, or None; ``codes`` uint8 (nodes,), of which the low half is known if ``high``; ``rows`` int32 (count,);
    ``bins`` uint8 (count, any), of ``beam_bins``, or None; ``columns`` int32 (T - 4,), the bins of the tables after the fourth;
    ``first`` int32 (T,), the tables' first rows. ``contexts`` int32 (count, T) is written.
    """
    count, tables = (int(size) for size in contexts.shape)
    call(
        "context_rows",
        address_of(cells, "cells", "uint64", (count,)),
        optional_address(beyond_edges, "beyond_edges", "uint8", (count,)),
        address_of(codes, "codes", "uint8", (None,)),
        int(codes.shape[0]),
        address_of(rows, "rows", "int32", (count,)),
        count,
        high,
        optional_address(bins, "bins", "uint8", (count, None)),
        0 if bins is None else int(bins.shape[1]),
        address_of(columns, "columns", "int32", (tables - 4,)),
        address_of(first, "first", "int32", (tables,)),
        tables,
        address_of(contexts, "contexts", "int32", (None, None)),
        threads,
    )
