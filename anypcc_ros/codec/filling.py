"""Which of the scales that are not sent are filled in, and what leaving them out would cost.

Of a scale whose nodes have nearly one child each, as the fine ones of LiDAR, one cannot know where that is: a guess is farther
off than the middle of the node. On a surface the nodes have three or four children, and the model knows most of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.octree import Voxels, coarser_cells

WORTH_FILLING = 1.6
"""Children per node, on average, from which on a scale may be worth filling in."""


def scales_to_fill(voxels: Voxels, config: CodecConfig, fields: Iterable[str]) -> int:
    """How many of the dropped scales are filled in, the coarsest ones; the others are left out. ``voxels``: those of the grid.
    ``fields``: names of the cloud's.

    The root's children are always sent. With ``lossy`` auto the finest scales with fewer children per node than
    ``WORTH_FILLING`` are left out; and all are if there are fields: every cell needs its own, and these cost more than the
    cell's place brings.
    """
    dropped = min(config.drop_scales, voxels.depth - 1)
    if config.lossy == "scales" or dropped < 1 or config.drop_scales >= voxels.depth:
        return 0
    if config.lossy == "likeliest":
        return dropped
    if any(config.policy(name).kind != "drop" for name in fields):
        return 0
    cells = voxels.coords
    for left_out in range(dropped):
        above = coarser_cells(cells, 1)
        if len(cells) >= WORTH_FILLING * len(above):
            return dropped - left_out
        cells = above
    return 0


def error_of_middles(cells: np.ndarray, scales: int) -> float:
    """Mean squared distance of ``cells`` (N, 3) int64 from the middles of those so many scales above them."""
    size = (1 << scales) - 1
    return float((((cells & size) - size / 2) ** 2).sum(axis=1).mean())
