"""What other compressors would need for a message: zstd as rosbag2 uses it, and Draco."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zstandard

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.octree import quantise
from anypcc_ros.evaluation.evaluate import unique_cells
from anypcc_ros.evaluation.peers import run_draco

ZSTD_LEVEL = 1
"""rosbag2's default, for messages and for files."""

FIELD_LEVEL = 3
"""zstd's own default level, for the fields that Draco's kd-tree coder is not given."""


@dataclass(frozen=True)
class PeerSizes:
    """Bytes. ``zstd``: the whole message, level 1, as rosbag2's message mode does. ``draco``: positions on the grid of the
    run's step by its kd-tree coder, each cell once, and the other fields by zstd; None where it is not installed or cannot."""

    zstd: int
    draco: int | None


def message_size(data: bytes) -> int:
    """What zstd makes of a serialised message."""
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data))


class FileMode:
    """What zstd would make of a recording as one file, as rosbag2's file mode does; a window of it is held, not the file."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(self._packer.compress(data))

    def finish(self) -> int:
        """Bytes, once everything has been added."""
        return self._size + len(self._packer.flush())


def peer_sizes(data: bytes, cloud: PointCloud, config: CodecConfig) -> PeerSizes:
    """``data``: the serialised message; ``cloud``: what is in it."""
    return PeerSizes(message_size(data), _draco(cloud, config))


def _draco(cloud: PointCloud, config: CodecConfig) -> int | None:
    finite, _ = cloud.finite()
    if not len(finite):
        return None
    run = run_draco(unique_cells(quantise(finite.xyz, config.step, config.origin)))
    if run is None:
        return None
    packer = zstandard.ZstdCompressor(level=FIELD_LEVEL)
    return run.bytes + sum(len(packer.compress(np.ascontiguousarray(values).tobytes())) for values in finite.fields.values())
