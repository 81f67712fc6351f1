"""Leaving finest octree levels out of a stream that exists, without its model: what the encoder adds for that, and the cut.

A range coder's words are one number; those of the levels that stay are almost a prefix of all. What each shorter stream
ends with instead is one or two words, so that a cut stream is the very one that the encoder writes with more scales dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec import bitstream, geometry
from anypcc_ros.codec.cloud_info import CloudInfo, cells_checksum
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, CutError, TruncatedError
from anypcc_ros.codec.exact import decode_off_grid, encode_off_grid
from anypcc_ros.codec.layout import FieldInfo, Layout
from anypcc_ros.codec.occupancy import Shorter
from anypcc_ros.codec.octree import coarser_cells

_CHECKSUM = struct.Struct("<I")
_WORD = 4


@dataclass(frozen=True)
class Cut:
    """A stream with one scale less than the one before it in a list. ``words``: those of the range coder; ``voxels``: its
    cells; ``checksum``: as in CloudInfo."""

    words: bytes
    voxels: int
    checksum: int


def possible_cuts(shorter: Sequence[Shorter]) -> list[Cut]:
    """What ``encode_cuts`` takes, of the streams with 1, 2, ... scales less."""
    return [Cut(words, len(cells), cells_checksum(cells)) for words, cells in shorter]


def encode_cuts(cuts: Iterable[Cut], words: bytes) -> bytes:
    """The table of ``cuts``, each told by what differs from the stream's own ``words``."""
    parts = []
    for cut in cuts:
        kept = _equal_words(cut.words, words)
        ending = cut.words[kept * _WORD :]
        parts += [encode_varint(cut.voxels), _CHECKSUM.pack(cut.checksum), encode_varint(kept)]
        parts += [encode_varint(len(ending) // _WORD), ending]
    return b"".join(parts)


def _equal_words(one: bytes, other: bytes) -> int:
    """How many words two range coders' outputs have in common at their beginning."""
    size = min(len(one), len(other)) // _WORD
    differ = np.frombuffer(one, "<u4", size) != np.frombuffer(other, "<u4", size)
    return int(differ.argmax()) if differ.any() else size


class _Entry(NamedTuple):
    """What the table says of a cut: its words are so many of the stream's own, and then those of the ending."""

    kept: int
    ending: memoryview
    voxels: int
    checksum: int

    def cut(self, words: bytes) -> Cut:
        return Cut(words[: self.kept * _WORD] + bytes(self.ending), self.voxels, self.checksum)


def decode_cuts(data: memoryview, words: bytes, depth: int) -> list[_Entry]:
    """What ``encode_cuts`` has written for a stream of so many levels. Raises StreamError subclasses."""
    cuts: list[_Entry] = []
    at = 0
    while at < len(data):
        if len(cuts) == depth:
            raise CorruptStreamError(f"more than {depth} cuts of {depth} levels")
        voxels, at = decode_varint(data, at)
        if at + _CHECKSUM.size > len(data):
            raise TruncatedError(f"chunk {bitstream.CUTS} of {len(data)} bytes is too short")
        (checksum,) = _CHECKSUM.unpack_from(data, at)
        kept, at = decode_varint(data, at + _CHECKSUM.size)
        size, at = decode_varint(data, at)
        end = at + size * _WORD
        if end > len(data) or kept * _WORD > len(words):
            raise CorruptStreamError(f"a cut after {kept} of {len(words) // _WORD} words, {size} words behind them")
        cuts.append(_Entry(kept, data[at:end], voxels, checksum))
        at = end
    return cuts


def cut(data: bitstream.Buffer, scales: int, limits: DecoderConfig | None = None) -> bytes:
    """The stream with so many more of its finest scales dropped; the model is not needed.

    It is the one that the encoder writes with ``drop_scales`` and without fields: points that share a coarser cell become
    one, and what belongs to single points, that is fields, order, rows and exact floats, is dropped. Points off the grid
    stay, but for those that are not finite, which are counted as left out.
    Raises CutError where that is not possible, StreamError subclasses for anything wrong with the bytes.
    """
    limits = limits or DecoderConfig()
    info, layout, chunks = bitstream.read_stream(data, limits)
    if scales < 1 or (info.voxels and scales > info.coded_depth):
        raise CutError(f"{scales} scales cannot be dropped from the {info.coded_depth} of the stream")
    if bitstream.IMAGE in chunks:
        raise CutError("the pixels of an image have no scales; decode it and encode it with drop_scales")
    if bitstream.LATTICE in chunks:
        raise CutError("the cells of a stream with a lattice have no coarser ones of one size; encode again with drop_scales")
    if bitstream.LIKELIEST in chunks:
        raise CutError("the finest scales are filled in, nothing was sent that could be cut off; encode again with drop_scales")
    payloads: dict[str, bytes] = {}
    if info.voxels:
        info, payloads = _cut_points(info, chunks, scales)
    layout = replace(layout, height=1, fields=tuple(map(_dropped, layout.fields)))
    if layout.off_grid:
        if bitstream.OFF_GRID not in chunks:
            raise CorruptStreamError(f"{layout.off_grid} points off the grid and no chunk {bitstream.OFF_GRID}")
        beside = decode_off_grid(chunks[bitstream.OFF_GRID], layout.off_grid, np.dtype(info.dtype))
        layout = _without_invalid(layout, beside, payloads)
    return bitstream.write_stream(info, payloads, layout)


def _cut_points(info: CloudInfo, chunks: dict[str, memoryview], scales: int) -> tuple[CloudInfo, dict[str, bytes]]:
    described = replace(info, drop_scales=info.drop_scales + scales)
    if bitstream.RAW in chunks:
        cells = coarser_cells(geometry.decode_raw(chunks[bitstream.RAW], info.coded_depth, info.voxels), scales)
        described = replace(described, voxels=len(cells), checksum=cells_checksum(cells))
        return described, {bitstream.RAW: geometry.encode_raw(cells, described.coded_depth)}
    if bitstream.OCCUPANCY not in chunks:
        raise CorruptStreamError(f"{info.voxels} voxels and neither {bitstream.RAW} nor {bitstream.OCCUPANCY}")
    root, words = bytes(chunks[bitstream.OCCUPANCY][:1]), bytes(chunks[bitstream.OCCUPANCY][1:])
    cuts = decode_cuts(chunks.get(bitstream.CUTS, memoryview(b"")), words, info.coded_depth)
    if scales > len(cuts):
        has = f"places for {len(cuts)} at most" if cuts else "no place to cut it, as it is small"
        raise CutError(f"{scales} scales cannot be cut off: the stream has {has}; decode it and encode it with drop_scales")
    chosen, rest = cuts[scales - 1].cut(words), cuts[scales:]
    payloads = {bitstream.OCCUPANCY: root + chosen.words}
    payloads |= {tag: bytes(chunks[tag]) for tag in (bitstream.BEAMS, bitstream.ADAPTATION) if tag in chunks}
    if rest:
        payloads[bitstream.CUTS] = encode_cuts((entry.cut(words) for entry in rest), chosen.words)
    return replace(described, voxels=chosen.voxels, checksum=chosen.checksum), payloads


def _dropped(field: FieldInfo) -> FieldInfo:
    return replace(field, policy="drop", step=0.0, largest_error=0.0, size=0)


def _without_invalid(layout: Layout, beside: np.ndarray, payloads: dict[str, bytes]) -> Layout:
    """The layout without those points off the grid (M, 3) that are not finite; the others are added to ``payloads``."""
    finite = beside[np.isfinite(beside).all(axis=1)]
    if len(finite):
        payloads[bitstream.OFF_GRID] = encode_off_grid(finite)
    return replace(layout, left_out=layout.left_out + len(beside) - len(finite), off_grid=len(finite))
