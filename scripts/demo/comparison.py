"""Demo: compares a decoded cloud with the one that was published, point by point and field by field, without the codec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec.cloud import PointCloud


@dataclass(frozen=True)
class Verdict:
    """``error``: largest distance along an axis between a point and its decoded one, in units of half a step."""

    exact: bool
    error: float
    reason: str = ""


def compare(original: PointCloud, decoded: PointCloud, step: float) -> Verdict:
    """Whether ``decoded`` is ``original`` on its grid: the same cells as often, of each the centre to the last bit, and with
    every point all its other fields, bit for bit.

    No order is expected. Rounded here in float64, as the codec's documentation defines the grid.
    """
    kinds = [describe(cloud) for cloud in (original, decoded)]
    if kinds[0] != kinds[1]:
        return Verdict(False, np.inf, f"{kinds[0]} in, {kinds[1]} out")
    centres = (cells_of(original, step) * step).astype(original.xyz.dtype)
    if np.array_equal(digests(replace(original, xyz=centres)), digests(decoded)):
        return Verdict(True, float(np.abs(original.xyz.astype(np.float64) - centres).max(initial=0.0) / (step / 2)))
    return difference(original, decoded, step)


def digests(cloud: PointCloud) -> np.ndarray:
    """(2,) uint64: sums of two hashes of every point's coordinates and fields. The same points have the same, in any order, and
    others by chance once in 2^64 times. The processes that are measured share the machine with this one: comparing point by
    point takes ten times as long, and is left for clouds that differ."""
    columns = [column for values in (cloud.xyz, *cloud.fields.values()) for column in bits(values).T]
    digest = np.full(len(cloud), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        digest ^= column
        digest *= np.uint64(0xBF58476D1CE4E5B9)  # the constants of SplitMix64
        digest ^= digest >> np.uint64(31)
    other = digest * np.uint64(0x94D049BB133111EB)
    other ^= other >> np.uint64(29)
    return np.array([digest.sum(), (other * other).sum()])


def difference(original: PointCloud, decoded: PointCloud, step: float) -> Verdict:
    """Point by point: what is wrong with ``decoded``, if anything is."""
    one, other = by_cell(original, step), by_cell(decoded, step)
    error = float(np.abs(one.xyz.astype(np.float64) - other.xyz).max(initial=0.0) / (step / 2))
    expected = (one.cells * step).astype(decoded.xyz.dtype)
    findings = {"in other cells": one.cells != other.cells, "beside the centre of their cell": expected != other.xyz}
    findings |= {f"with another {name}": one.fields[name] != other.fields[name] for name in original.fields}
    for finding, differing in findings.items():
        points = int(np.count_nonzero(differing.any(axis=1)))
        if points:
            return Verdict(False, error, f"{points} points {finding}")
    return Verdict(True, error)


class Sorted(NamedTuple):
    """Points in the order of their cells, and within a cell of their fields, which are (N, count) integers of the same bits."""

    cells: np.ndarray
    xyz: np.ndarray
    fields: dict[str, np.ndarray]


def cells_of(cloud: PointCloud, step: float) -> np.ndarray:
    """(N, 3) int64."""
    return np.rint(cloud.xyz.astype(np.float64) / step).astype(np.int64)


def by_cell(cloud: PointCloud, step: float) -> Sorted:
    cells = cells_of(cloud, step)
    fields = {name: bits(values) for name, values in cloud.fields.items()}
    order = row_order(cells, list(fields.values()))
    return Sorted(cells[order], cloud.xyz[order], {name: values[order] for name, values in fields.items()})


def describe(cloud: PointCloud) -> str:
    fields = [f"{name} {values.dtype}{list(values.shape[1:]) or ''}" for name, values in cloud.fields.items()]
    fields.insert(cloud.position, f"xyz {cloud.xyz.dtype}")
    return f"{len(cloud)} points of {', '.join(fields)}"


def bits(values: np.ndarray) -> np.ndarray:
    """(N, count) integers with the bits of a field's values."""
    return values.view(f"u{values.dtype.itemsize}").reshape(len(values), int(np.prod(values.shape[1:])))


def row_order(cells: np.ndarray, fields: list[np.ndarray]) -> np.ndarray:
    """What sorts points by cell, (N, 3) int64, and those of one cell by their fields, each (N, count) integers."""
    if not len(cells):
        return np.zeros(0, np.int64)
    low, high = cells.min(axis=0), cells.max(axis=0)
    spans = [int(span) for span in high - low + 1]
    keys = list((cells - low).T)
    if spans[0] * spans[1] * spans[2] < 2**63:  # one key sorts faster than three
        keys = [(keys[0] * spans[1] + keys[1]) * spans[2] + keys[2]]
    return np.lexsort([column for field in fields for column in field.T] + keys[::-1])
