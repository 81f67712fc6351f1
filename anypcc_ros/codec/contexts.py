"""What is already decoded around a node, as the rows of the calibration's tables.

The contexts of a code part, each exact about a few cells where the network is approximate about many:

0. which of the six face neighbours exist;
1. the four finest cells beyond the face in x, and the low half of the code when the high half is coded;
2. the cells beyond the faces in y and z; for the first checkerboard group, which knows none of these, the parent's code;
3. the network's own favourite and its lead over the next, so that over- and underconfidence are corrected;
4. and on: where the laser beams of the sensor cross the node (``beams.py``), if the stream describes them: the cones that
   they sweep, and the planes of equal azimuth in which they fire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anypcc_ros.codec.beams import BEAM_CONTEXTS, Beams
from anypcc_ros.codec.model.network import CodePart

FACE_TAPS = np.array([4, 10, 12, 14, 16, 22])
"""Taps of the neighbours at -x, -y, -z, +z, +y, +x."""

_LEVELS = 4  # finest levels that have statistics of their own; all coarser ones share the last
_CLASSES = _LEVELS * 2 * 2  # by level, part and group
_SIZES = (_CLASSES * 64, _CLASSES * 256, _CLASSES * 256, _CLASSES * 128, BEAM_CONTEXTS)
_FIRST = np.concatenate([[0], np.cumsum(_SIZES)])
CONTEXT_ROWS = int(_FIRST[-1])


@dataclass(frozen=True, eq=False)
class Ancestry:
    """What the contexts of one level are made of, besides the network's level itself.

    ``finer``: octree levels below this one's children, 0 for the finest. ``above``: codes (N_parent,) uint8 of the level
    above. ``corner``: (N, 3) int64 grid coordinates of each node's lowest cell; None where no beams are known.
    """

    finer: int
    above: np.ndarray
    corner: np.ndarray | None = None


def context_rows(part: CodePart, around: Ancestry, logits: np.ndarray, beams: Beams | None) -> np.ndarray:
    """Rows (n, T) int32 of the tables for every node of ``part``; T is 4 to 8.

    ``logits``: (n, 16) int32, the network's.
    """
    rows, high = part.rows, part.first_bit > 0
    faces = part.level.neighbors[rows[:, None], FACE_TAPS]
    exists = faces >= 0
    # Face neighbours belong to the other group: all of their code is known to the second group, none of it to the first.
    codes = np.where(exists, part.codes[faces], 0).astype(np.int32)
    class_ = (min(around.finer, _LEVELS - 1) * 2 + high) * 2 + part.group
    columns = [
        class_ * 64 + (exists << np.arange(6)).sum(axis=1),
        class_ * 256 + _across_x(codes, high) * 16 + (part.codes[rows] & 15) * high,
        class_ * 256 + (_across_yz(codes, high) if part.group else around.above[part.level.parent_row[rows]].astype(np.int32)),
        class_ * 128 + _favourite(logits),
    ]
    if beams is not None and around.corner is not None:
        columns += beams.contexts(around.corner[rows], around.finer, high)
    first = _FIRST[np.minimum(np.arange(len(columns)), len(_SIZES) - 1)]
    return (np.stack(columns, axis=1) + first).astype(np.int32)


def _across_x(codes: np.ndarray, high: bool) -> np.ndarray:
    """The four cells that touch this half of the code beyond its face in x: 0..15."""
    return codes[:, 5] & 15 if high else codes[:, 0] >> 4


def _across_yz(codes: np.ndarray, high: bool) -> np.ndarray:
    """The cells that touch this half of the code beyond its faces in y and z: 0..255. Octant o = 4x + 2y + z."""
    first = 4 * high
    cells = ((1, 2), (1, 3), (4, 0), (4, 1), (2, 1), (2, 3), (3, 0), (3, 2))
    bits = [(codes[:, face] >> first + octant & 1) for face, octant in cells]
    y = bits[0] | bits[1] << 1 | bits[2] << 2 | bits[3] << 3
    z = bits[4] | bits[5] << 1 | bits[6] << 2 | bits[7] << 3
    return y * 16 + z


def _favourite(logits: np.ndarray) -> np.ndarray:
    """The symbol with the largest logit, the first of equals, and its lead in whole bits, at most 7: 0..127."""
    best = logits.argmax(axis=1)
    ordered = np.partition(logits, -2, axis=1)
    lead = ordered[:, -1].astype(np.int64) - ordered[:, -2]
    return best * 8 + np.minimum(lead >> 5, 7)
