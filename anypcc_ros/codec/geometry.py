"""Octree levels, coarse to fine, through the context model and the range coder; and the raw form of small clouds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from anypcc_ros.codec.entropy import OccupancyDecoder, OccupancyEncoder
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.neighbors import root_level
from anypcc_ros.codec.octree import CHILD_COUNT, Voxels, child_coords, children, occupancy_pyramid, sort_cells

RAW_VOXELS = 64
"""The raw form is for clouds of at most this many voxels."""


def encode_occupancy(model: ContextModel, voxels: Voxels) -> bytes:
    """The octree's codes: the root's raw, one byte, then those of every level below it range-coded.

    An octree of depth 0, a single voxel, has no codes and no bytes.
    """
    if not voxels.depth:
        return b""
    pyramid = occupancy_pyramid(voxels)
    coder = OccupancyEncoder()
    level, features = root_level(), model.root_features()
    for above, codes in pairwise(pyramid):
        below = model.arithmetic.expand(level, above)
        features = model.descend(features, above, level, below)
        model.code_level(features, below, coder.level(codes))
        level = below
    return pyramid[0].tobytes() + coder.finish()


def decode_occupancy(model: ContextModel, data: memoryview, depth: int, voxels: int) -> np.ndarray:
    """Voxel coordinates (voxels, 3) int64 in Morton order. Raises CorruptStreamError.

    A level never has more nodes than the cloud has voxels; this bounds memory before anything is allocated.
    """
    coords = np.zeros((1, 3), np.int64)
    if not depth:
        if len(data) or voxels != 1:
            raise CorruptStreamError(f"{len(data)} bytes for {voxels} voxels in an octree without levels")
        return coords
    if not len(data):
        raise CorruptStreamError("the root's occupancy code is missing")
    coder = OccupancyDecoder(data[1:])
    codes = np.frombuffer(data[:1], np.uint8)
    level, features = root_level(), model.root_features()
    for remaining in range(depth - 1, -1, -1):
        _check_growth(codes, voxels)
        if not remaining:
            coords = child_coords(coords, *children(codes))
            break
        below = model.arithmetic.expand(level, codes)
        coords = child_coords(coords, below.parent_row, below.octant)
        features = model.descend(features, codes, level, below)
        codes = model.code_level(features, below, coder)
        level = below
    if len(coords) != voxels or not coder.exhausted():
        raise CorruptStreamError(f"{len(coords)} voxels decoded, {voxels} declared")
    return coords


def _check_growth(codes: np.ndarray, voxels: int) -> None:
    if not codes.all():
        raise CorruptStreamError("an occupied node without children")
    children = int(CHILD_COUNT[codes].sum(dtype=np.int64))
    if children > voxels:
        raise CorruptStreamError(f"an octree level of {children} nodes, more than the {voxels} voxels declared")


def encode_raw(voxels: Voxels) -> bytes:
    """Coordinates of few voxels as they are: ``depth`` bits per axis, most significant first, padded to bytes."""
    shifts = np.arange(voxels.depth - 1, -1, -1)
    bits = voxels.coords[:, :, None] >> shifts & 1
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
