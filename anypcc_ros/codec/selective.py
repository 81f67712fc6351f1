"""Where predictions are worth correcting for an encoder that has to be quick: what ``calibrate: selective`` decides.

The calibration takes about as long as the rest of a small network. It brings several percent where cells crowd, ten and more
where a sensor's beams tell a lot, and else one or two.
"""

from __future__ import annotations

from anypcc_ros.codec.beams import Beams
from anypcc_ros.codec.octree import Voxels

CROWDED = 2.2
"""Occupied cells per node from which on surfaces fill a level. Scan lines do so on coarse levels alone."""

LOOKED_AT = (0, 2)
"""The levels that are looked at: so many above the nodes of the finest cells."""

TELLING = 0.1
"""Bits per point and octree level that beams must tell."""

SMALL = 1 << 16
"""Occupied cells up to which the time does not matter."""


def least_told(voxels: Voxels) -> float:
    """Bits per point that beams must tell for these voxels to be corrected on their account."""
    return 0.0 if len(voxels.coords) <= SMALL else TELLING * voxels.depth


def worth_correcting(voxels: Voxels, beams: Beams | None) -> bool:
    """``beams``: those that tell as much as ``least_told``, if there are any."""
    if beams is not None or len(voxels.coords) <= SMALL:
        return True
    return any(voxels.children_per_node(above) >= CROWDED for above in LOOKED_AT)
