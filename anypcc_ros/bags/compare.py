"""Hold two versions of a cloud against each other: bit for bit, or within what the stream's policies allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags.transform import Reading, decode_message, read_message
from anypcc_ros.bags.types import POINT_CLOUD
from anypcc_ros.codec.bitstream import COUNTS, StreamInfo
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import AnypccError, InputError
from anypcc_ros.codec.layout import FieldInfo
from anypcc_ros.pointcloud2 import cloud_from_message

Verdict: TypeAlias = Literal["identical", "exact", "within", "different"]
ORDER: tuple[Verdict, ...] = ("identical", "exact", "within", "different")
"""From the best to the worst: equal bytes; all values equal bit for bit; off by what was asked for; anything else."""

POSITION = "x, y, z"


@dataclass(frozen=True)
class Error:
    """The largest difference of a field, and what its policy allows, both in its own unit."""

    largest: float
    allowed: float


@dataclass(frozen=True)
class Comparison:
    """``errors``: by field, positions under POSITION. ``left_out``: invalid points that the policy drops; ``dropped``: fields.
    ``reason``: of "different"."""

    verdict: Verdict
    errors: dict[str, Error] = field(default_factory=dict)
    left_out: int = 0
    reason: str = ""
    dropped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CompareTask:
    """``step``: what positions may be off by, twice, where no stream says so: 0 for nothing."""

    reading: Reading
    step: float = 0.0


def run_comparisons(task: CompareTask, pairs: list[tuple[bytes, bytes, bool]]) -> list[Comparison]:
    """Original and other message of each pair; the third says whether the other one is a CompressedCloud. A pure function."""
    return [_compare_messages(task, *pair) for pair in pairs]


def _compare_messages(task: CompareTask, original_data: bytes, other_data: bytes, compressed: bool) -> Comparison:
    try:
        original = read_message(original_data, POINT_CLOUD)
        cloud = cloud_from_message(original)
        if compressed:
            other, other_cloud, info = decode_message(other_data, task.reading)
            policy = Policy.of_stream(info)
        else:
            other = read_message(other_data, POINT_CLOUD)
            other_cloud = cloud_from_message(other)
            policy = Policy.of_clouds(cloud, other_cloud, task.step)
    except (SerdeError, AnypccError) as error:
        return Comparison("different", reason=f"{type(error).__name__}: {error}")
    if _header(original) != _header(other):
        return Comparison("different", reason=f"header {_header(other)}, not {_header(original)}")
    return compare_clouds(cloud, other_cloud, policy)


def _header(message: Any) -> tuple[int, int, str]:
    return message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id


@dataclass(frozen=True)
class Policy:
    """What may have become of a cloud. ``steps``: of the fields that were kept, 0 for bit for bit; ``dropped``: the others."""

    step: float
    in_order: bool
    steps: Mapping[str, float]
    dropped: frozenset[str] = frozenset()

    @classmethod
    def of_stream(cls, info: StreamInfo) -> Policy:
        def step(described: FieldInfo) -> float:
            return described.step if described.policy == "step" else 0.0

        # Points beside the grid, which only streams in order or exact hold, have no cells; in those nothing is ever merged.
        told = info.order == "original" or info.exact or any(chunk.tag == COUNTS for chunk in info.chunks)
        if info.drop_scales or info.filled_scales or (info.points != info.voxels and not told):
            raise InputError(f"{info.points} points were merged into {info.voxels} cells, which is not verified")
        steps = {described.name: step(described) for described in info.fields if described.policy != "drop"}
        dropped = frozenset(described.name for described in info.fields if described.policy == "drop")
        return cls(0.0 if info.exact else info.step, info.order == "original", steps, dropped)

    @classmethod
    def of_clouds(cls, original: PointCloud, other: PointCloud, step: float) -> Policy:
        """No stream says what was allowed: the same points in the same order, all fields bit for bit."""
        return cls(step, True, dict.fromkeys(original.fields, 0.0))


def compare_clouds(original: PointCloud, other: PointCloud, policy: Policy) -> Comparison:
    """Whether ``other`` is what ``policy`` makes of ``original``."""
    left_out = 0
    if not policy.in_order:
        original, left_out = original.finite()
    if len(original) != len(other) or (policy.in_order and len(original) and original.height != other.height):
        shapes = [f"{cloud.height} x {len(cloud) // cloud.height} points" for cloud in (other, original)]
        return Comparison("different", left_out=left_out, reason=f"{shapes[0]}, not {shapes[1]}")
    kept = [name for name in original.fields if name not in policy.dropped]
    if not set(other.fields) == set(policy.steps) == set(kept) or not policy.dropped <= set(original.fields):
        reason = f"fields {', '.join(other.fields) or 'none'}, not {', '.join(kept) or 'none'}"
        return Comparison("different", left_out=left_out, reason=reason)
    if not policy.in_order:
        original, other = (cloud.take(_row_order(cloud, policy)) for cloud in (original, other))
    errors = {POSITION: _error(original.xyz, other.xyz, policy.step)}
    errors |= {name: _error(original.fields[name], other.fields[name], step) for name, step in policy.steps.items()}
    return _judge(errors, policy.dropped, left_out)


def _judge(errors: dict[str, Error], dropped: frozenset[str], left_out: int) -> Comparison:
    worst = [f"{name} off by {e.largest:g}, {e.allowed:g} allowed" for name, e in errors.items() if not e.largest <= e.allowed]
    if worst:
        return Comparison("different", errors, left_out, "; ".join(worst))
    exact = not dropped and not left_out and all(error.largest == 0 for error in errors.values())
    return Comparison("exact" if exact else "within", errors, left_out, dropped=dropped)


def _error(original: np.ndarray, other: np.ndarray, step: float) -> Error:
    """The largest difference; infinity for another type, or for a NaN or infinity that is not the same.

    With a ``step`` of 0 values are compared by their bits, with any other a NaN may be another NaN.
    """
    allowed = step / 2 + _rounding(other) if step else 0.0
    if original.dtype != other.dtype or original.shape != other.shape:
        return Error(np.inf, allowed)
    bits = np.dtype(f"u{original.dtype.itemsize}")
    same = np.ascontiguousarray(original).view(bits) == np.ascontiguousarray(other).view(bits)
    if same.all():
        return Error(0.0, allowed)
    a, b = (values[~same].astype(np.float64) for values in (original, other))
    finite = np.isfinite(a) & np.isfinite(b)
    alike = finite | (np.isnan(a) & np.isnan(b) if step else False) | (a == b if step else False)
    if not np.all(alike):
        return Error(np.inf, allowed)
    largest = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return Error(largest or (0.0 if step else np.finfo(np.float64).tiny), allowed)  # +0 and -0 are not the same bits


def _rounding(values: np.ndarray) -> float:
    """What the values' own type, and the float64 arithmetic before it, may add to half a step."""
    if values.dtype.kind != "f":
        return 0.5 if values.size else 0.0
    finite = np.abs(values[np.isfinite(values)])
    largest = finite.max(initial=0)
    return float(np.spacing(largest)) + 4 * float(np.spacing(np.float64(largest)))


def _row_order(cloud: PointCloud, policy: Policy) -> np.ndarray:
    """What brings two clouds of the same points into one order: by grid cell, then by the fields, the exact ones first."""
    xyz = np.rint(cloud.xyz.astype(np.float64) / policy.step) if policy.step else cloud.xyz
    names = sorted(policy.steps, key=lambda name: (policy.steps[name] > 0, name))
    columns = [column for name in names for column in np.atleast_2d(cloud.fields[name].T)]
    return np.lexsort([*reversed(columns), xyz[:, 2], xyz[:, 1], xyz[:, 0]])
