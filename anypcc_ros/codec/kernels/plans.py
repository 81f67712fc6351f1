"""The pairs of the sparse operators, sorted for the kernels."""

from __future__ import annotations

from anypcc_ros.codec.kernels.level_data import LevelData
from anypcc_ros.codec.kernels.library import Array, address_of, call, functions, optional_address


class Plan:
    """The pairs of a sparse operator, sorted for the kernels: built once per level for all its layers.

    Every ``build`` method replaces the plan, reusing its memory, and returns it. At most 32 taps and 2^31 -
    1 pairs; an IndexError leaves the plan empty.
    """

    def __init__(self, table: Array | None = None, n_in: int = 0, threads: int = 0) -> None:
        self.handle: int | None = call("plan_new")
        if not self.handle:
            raise MemoryError("plan: out of memory")
        self.n_in = self.n_out = self.n_pairs = 0
        self.taps = 1
        if table is not None:
            self.build(table, n_in, threads)

    def build(self, table: Array, n_in: int, threads: int = 0, masks: Array | None = None) -> Plan:
        """``table`` int32 (n_out, taps): the input row, below n_in, feeding an output row by a tap, or -1.

        ``masks`` uint32 (n_out,), bit k set where column k is not -1, saves a pass over the table.
        """
        n_out, taps = (int(size) for size in table.shape)
        addresses = (
            address_of(table, "table", "int32", (None, None)),
            optional_address(masks, "masks", "uint32", (n_out,)),
        )
        return self._built("plan_build", n_in, n_out, taps, *addresses, n_in, n_out, taps, threads)

    def build_neighbors(self, level: LevelData, threads: int = 0) -> Plan:
        """The 27 taps of a convolution over a level: tap k reads the node at offset k."""
        return self._built("plan_build_neighbors", level.nodes, level.nodes, 27, level.handle, threads)

    def build_across(self, level: LevelData, reader: int, threads: int = 0) -> Plan:
        """From the other checkerboard group of a level to group ``reader``, by the 14 offsets between groups in order.

        Rows are positions within the groups.
        """
        n_in, n_out = len(level.groups[1 - reader]), len(level.groups[reader])
        return self._built("plan_build_across", n_in, n_out, 14, level.handle, reader, threads)

    def build_one_tap(self, rows: Array, tap: Array, n_in: int, taps: int, threads: int = 0) -> Plan:
        """Output row i is fed by input row ``rows[i]`` (int32) through tap ``tap[i]`` (uint8) alone."""
        n_out = int(tap.shape[0])
        addresses = address_of(rows, "rows", "int32", (n_out,)), address_of(tap, "tap", "uint8", (None,))
        return self._built("plan_build_one_tap", n_in, n_out, taps, *addresses, n_in, n_out, taps, threads)

    def _built(self, function: str, n_in: int, n_out: int, taps: int, *arguments: int | None) -> Plan:
        self.n_in = self.n_out = self.n_pairs = 0
        self.n_pairs = call(function, self.handle, *arguments)
        self.n_in, self.n_out, self.taps = n_in, n_out, taps
        return self

    def __del__(self) -> None:
        handle, self.handle = getattr(self, "handle", None), None
        if handle and functions:
            functions["plan_free"](handle)
