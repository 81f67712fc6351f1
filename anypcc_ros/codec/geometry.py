"""Octree levels, coarse to fine, through the context model and the range coder; and the raw form of small clouds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anypcc_ros.codec.background import caller
from anypcc_ros.codec.contexts import Ancestry
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.likeliest import FillingDecoder, FillingEncoder
from anypcc_ros.codec.model.accelerated import NativeArithmetic
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.nearness import CellIndex
from anypcc_ros.codec.neighbors import Level, root_level
from anypcc_ros.codec.occupancy import CALIBRATED, Correction, OccupancyDecoder, OccupancyEncoder, Shorter, Witness
from anypcc_ros.codec.octree import CHILD_COUNT, Place, Voxels, coarser_cells, sort_cells

LEVELS_BEHIND = 1
"""Levels whose prior is known and whose predictions nobody has begun yet, at most: each holds as much memory as all above."""

RAW_VOXELS = 64
"""The raw form is for clouds of at most this many voxels."""


class Occupancy(NamedTuple):
    """``payload``: the coded octree. ``shorter``: octrees of 1, 2, ... levels less, as long as they take words enough.
    ``cells``: (N, 3) int64, those that the decoder will have, in Morton order."""

    payload: bytes
    shorter: list[Shorter]
    cells: np.ndarray


def encode_occupancy(
    model: ContextModel,
    voxels: Voxels,
    dropped: int = 0,
    correction: Correction = CALIBRATED,
    filled: int = 0,
    filling: FillingEncoder | None = None,
    witness: Witness | None = None,
) -> Occupancy:
    """The octree's codes: the root's raw, one byte, then those of every level below it range-coded.

    ``dropped``: levels that the grid, in which the beams of ``correction`` are, has below the voxels. An octree of depth 0, a
    single voxel, has no codes and no bytes. ``filled``: so many of the finest levels, less than all, are filled in as
    ``filling`` says. ``witness``: who looks on, if anybody, where nothing is filled in.
    """
    if not voxels.depth:
        return Occupancy(b"", [], voxels.coords)
    pyramid = voxels.pyramid
    # All codes are known: the prior of the next level need not wait for the predictions of this one. (torch has threads of its
    # own, which do not like company.)
    ahead = correction.threads if isinstance(model.arithmetic, NativeArithmetic) else 1
    level, features = root_level(), model.root_features()
    place = Place.of_root(voxels.shift, voxels.depth + dropped)
    above = pyramid[0]
    with OccupancyEncoder(correction, witness) as coder, caller(ahead, LEVELS_BEHIND) as predictions:
        for finer, codes in zip(_finer_levels(voxels.depth, dropped), pyramid[1:], strict=True):
            below = model.arithmetic.expand(level, above)
            place = place.of_children(above)
            ancestry = Ancestry(finer, above, place)
            scales = finer - dropped + 1  # that the voxels are below this level's nodes
            known = not filling or scales > filled
            if known:
                coder.foresee(ancestry, below, codes)
            features = model.descend(features, above, level, below)
            if filling and not known:
                predictions.wait()
                coder.enter(ancestry)
                true = codes_at(place.coords, coarser_cells(voxels.coords, scales), codes)
                coder.fill(filling, int(CHILD_COUNT[codes].sum(dtype=np.int64)), true)
                above = model.code_level(features, below, coder)
            else:
                predictions.call(_code_known, model, coder, ancestry, codes, features, below)
                above = codes
            level = below
        predictions.wait()
        payload = pyramid[0].tobytes() + coder.finish()
    cells = place.of_children(above).coords.astype(np.int64) if filling else voxels.coords
    return Occupancy(payload, coder.shorter(), cells)


def _code_known(
    model: ContextModel, coder: OccupancyEncoder, ancestry: Ancestry, codes: np.ndarray, features: Any, level: Level
) -> None:
    """Encode the ``codes`` of a level that is sent as it is."""
    coder.enter(ancestry)
    coder.know(codes)
    model.code_level(features, level, coder)


def codes_at(places: np.ndarray, cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The codes (n,) uint8 of the nodes at ``places`` (n, 3): of the ``cells`` (M, 3) with ``codes`` (M,), or 0."""
    rows = CellIndex(cells).find(places.astype(np.int64))
    return np.where(rows >= 0, codes[rows], 0).astype(np.uint8)


def decode_occupancy(
    model: ContextModel,
    data: memoryview,
    depth: int,
    voxels: int,
    shift: np.ndarray,
    dropped: int = 0,
    correction: Correction = CALIBRATED,
    filled: int = 0,
    filling: FillingDecoder | None = None,
) -> np.ndarray:
    """Voxel coordinates (voxels, 3) int64 in Morton order, of an octree of ``depth`` levels whose cube's corner is ``shift``
    (3,) int64 in the grid, which has ``dropped`` levels more. Raises CorruptStreamError, TruncatedError. ``filled`` and
    ``filling`` as in ``encode_occupancy``.

    A level never has more nodes than the cloud has voxels; this bounds memory before anything is allocated.
    """
    if not depth:
        if len(data) or voxels != 1:
            raise CorruptStreamError(f"{len(data)} bytes for {voxels} voxels in an octree without levels")
        return np.zeros((1, 3), np.int64)
    if not len(data):
        raise CorruptStreamError("the root's occupancy code is missing")
    coder = OccupancyDecoder(data[1:], correction)
    codes = np.frombuffer(data[:1], np.uint8)
    level, features = root_level(), model.root_features()
    place = Place.of_root(shift, depth + dropped)
    for finer in _finer_levels(depth, dropped):
        _check_growth(codes, voxels)
        below = model.arithmetic.expand(level, codes)
        place = place.of_children(codes)
        features = model.descend(features, codes, level, below)
        coder.enter(Ancestry(finer, codes, place))
        if filling and finer - dropped < filled:
            coder.fill(filling)
        codes = model.code_level(features, below, coder)
        level = below
    _check_growth(codes, voxels)
    coords = place.of_children(codes).coords.astype(np.int64)
    if len(coords) != voxels or not coder.exhausted() or (filling and not filling.exhausted()):
        raise CorruptStreamError(f"{len(coords)} voxels decoded, {voxels} declared")
    return coords


def _finer_levels(depth: int, dropped: int) -> range:
    """For every level whose codes follow the root's: how many levels the grid has below its children."""
    return range(depth + dropped - 2, dropped - 1, -1)


def _check_growth(codes: np.ndarray, voxels: int) -> None:
    if not codes.all():
        raise CorruptStreamError("an occupied node without children")
    children = int(CHILD_COUNT[codes].sum(dtype=np.int64))
    if children > voxels:
        raise CorruptStreamError(f"an octree level of {children} nodes, more than the {voxels} voxels declared")


def encode_raw(coords: np.ndarray, depth: int) -> bytes:
    """Coordinates (N, 3) of few voxels as they are: ``depth`` bits per axis, most significant first, padded to bytes."""
    bits = coords[:, :, None] >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def decode_raw(data: memoryview, depth: int, voxels: int) -> np.ndarray:
    """Inverse of ``encode_raw``: (voxels, 3) int64. Raises CorruptStreamError."""
    count = voxels * 3 * depth
    if voxels > RAW_VOXELS or len(data) != (count + 7) // 8:
        raise CorruptStreamError(f"{len(data)} bytes for {voxels} voxels of 3 x {depth} bits")
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(np.int64)
    coords = (bits[:count].reshape(voxels, 3, depth) << np.arange(depth - 1, -1, -1)).sum(axis=2)
    if bits[count:].any() or not np.array_equal(sort_cells(coords)[0], coords):
        raise CorruptStreamError(f"{voxels} raw voxels are not different ones in Morton order with zeros after them")
    return coords
