"""Distortion between two clouds: MPEG's point-to-point (D1) and point-to-plane (D2) errors and their PSNR.

The definitions are those of MPEG's pc_error. For every point of one cloud the nearest of the other is found, and
where several are equally near, all of them. D1 is the mean of the squared distances; D2 the mean of the squared
distances along the normals at the nearest points, averaged over equally near ones. Both directions are computed and
the larger counts. PSNR = 10 log10(3 peak^2 / error). Points that coincide count once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anypcc_ros.codec.errors import InputError
from anypcc_ros.optional import optional

TIES = (10, 30)  # equally near points that are looked for: so many, and if all are equally near, so many
SAME_DISTANCE = 1e-6  # relative difference of squared distances that counts as none
NEIGHBOURS = 12  # points that a normal is estimated from
_BATCH = 1 << 17  # points at a time; a million at once would need gigabytes

Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Rows (n,), their smallest squared distances (n,), the indices (n, K) int32 there, and which are equally near (n, K)."""


@dataclass(frozen=True)
class Distortion:
    """Mean squared errors (of the worse direction), in the cloud's unit squared, and the peak of their PSNR."""

    d1_mse: float
    d2_mse: float
    peak: float

    @property
    def d1_psnr(self) -> float:
        """Point-to-point PSNR in dB, inf for equal clouds."""
        return psnr(self.d1_mse, self.peak)

    @property
    def d2_psnr(self) -> float:
        """Point-to-plane PSNR in dB, inf where there is no error."""
        return psnr(self.d2_mse, self.peak)


def psnr(mse: float, peak: float) -> float:
    """10 log10(3 peak^2 / mse) dB, inf where there is no error."""
    return 10 * math.log10(3 * peak * peak / mse) if mse > 0 else math.inf


def distortion(
    original: np.ndarray, decoded: np.ndarray, peak: float | None = None, normals: np.ndarray | None = None
) -> Distortion:
    """D1 and D2 of ``decoded`` (M, 3) against ``original`` (N, 3).

    ``peak``: peak of the PSNR, by default the largest extent of the original. ``normals``: (N, 3) normals of the
    original; by default they are estimated. The decoded cloud gets its normals from the original, as in pc_error.
    Raises InputError for empty clouds, MissingPackageError without scipy.
    """
    if not len(original) or not len(decoded):
        raise InputError(f"distortion between {len(original)} and {len(decoded)} points is not defined")
    one, first = np.unique(np.asarray(original, np.float64), axis=0, return_index=True)
    two = np.unique(np.asarray(decoded, np.float64), axis=0)
    tree_type = optional("scipy.spatial", "eval").cKDTree
    tree_one, tree_two = tree_type(one), tree_type(two)
    to_two, to_one = list(_nearest(one, tree_two)), list(_nearest(two, tree_one))  # the search is most of the work
    oriented = normals is not None
    normals_one = estimate_normals(one, tree_one) if normals is None else np.asarray(normals, np.float64)[first]
    normals_two = _transfer_normals(normals_one, len(two), to_two, to_one, oriented=oriented)
    forward = _mean_errors(one, two, to_two, normals_two)
    backward = _mean_errors(two, one, to_one, normals_one)
    if peak is None:
        peak = float(np.ptp(one, axis=0).max())
    return Distortion(max(forward[0], backward[0]), max(forward[1], backward[1]), peak)


def estimate_normals(xyz: np.ndarray, tree: Any = None) -> np.ndarray:
    """(N, 3) unit normals of either sign: the direction in which the nearest points spread least."""
    tree = tree if tree is not None else optional("scipy.spatial", "eval").cKDTree(xyz)
    normals = np.empty((len(xyz), 3))
    for start in range(0, len(xyz), _BATCH):
        batch = slice(start, start + _BATCH)
        _, nearest = tree.query(xyz[batch], k=range(1, min(NEIGHBOURS, len(xyz)) + 1))
        around = xyz[nearest]
        around -= around.mean(axis=1, keepdims=True)
        normals[batch] = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))[1][:, :, 0]
    return normals


def _mean_errors(
    points: np.ndarray, others: np.ndarray, to_others: Sequence[Neighbours], others_normals: np.ndarray
) -> tuple[float, float]:
    """Mean squared point-to-point and point-to-plane errors of ``points`` against ``others``."""
    to_point = to_plane = 0.0
    for rows, squared, nearest, tied in to_others:
        along = np.einsum("nki,nki->nk", points[rows, None] - others[nearest], others_normals[nearest])
        to_point += float(squared.sum())
        to_plane += float(((along**2 * tied).sum(axis=1) / tied.sum(axis=1)).sum())
    return to_point / len(points), to_plane / len(points)


def _transfer_normals(
    normals: np.ndarray, targets: int, to_target: Sequence[Neighbours], to_source: Sequence[Neighbours], *, oriented: bool
) -> np.ndarray:
    """Normals of the target's points: the mean of the source's ``normals`` that are nearest to each, not of unit length.

    A target that is nearest to no source point takes the mean of its own nearest. Where the source normals are not
    ``oriented``, their signs are made to agree before they are averaged.
    """
    own = np.empty((targets, 3))
    for rows, _, nearest, tied in to_source:
        own[rows] = _mean_normals(normals[nearest], tied, oriented)
    total, count = np.zeros((targets, 3)), np.zeros(targets)
    for rows, _, nearest, tied in to_target:
        which, column = np.nonzero(tied)
        goal, arriving = nearest[which, column], normals[rows][which]
        if not oriented:
            arriving = arriving * np.where(np.einsum("ni,ni->n", arriving, own[goal]) < 0, -1, 1)[:, None]
        np.add.at(total, goal, arriving)
        np.add.at(count, goal, 1)
    return np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], own)


def _mean_normals(normals: np.ndarray, tied: np.ndarray, oriented: bool) -> np.ndarray:
    """(N, 3) means of the ``tied`` (N, K) among ``normals`` (N, K, 3)."""
    weight = tied.astype(np.float64)
    if not oriented:
        weight *= np.where(np.einsum("nki,ni->nk", normals, normals[:, 0]) < 0, -1, 1)
    return np.asarray(np.einsum("nki,nk->ni", normals, weight) / tied.sum(axis=1, keepdims=True))


def _nearest(points: np.ndarray, tree: Any) -> Iterator[Neighbours]:
    """The neighbours of ``points`` in a tree, in batches."""
    for start in range(0, len(points), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(points)))
        for ties in TIES:
            wanted = min(ties, tree.n)
            distances, nearest = tree.query(points[rows], k=range(1, wanted + 1))
            squared = distances**2
            tied = squared <= squared[:, :1] * (1 + SAME_DISTANCE)
            more = tied[:, -1] if wanted < tree.n and ties != TIES[-1] else np.zeros(len(rows), np.bool_)
            yield rows[~more], squared[~more, 0], nearest[~more].astype(np.int32), tied[~more]
            rows = rows[more]
            if not len(rows):
                break
