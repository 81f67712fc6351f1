"""The point cloud that goes into the encoder and comes out of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anypcc_ros.codec.errors import InputError

COORDINATE_DTYPES = ("float32", "float64", "int32", "int64")


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with their coordinates and any other per-point fields.

    ``xyz``: (N, 3) float32, float64, int32 or int64, in the cloud's own unit (metres in ROS).
    ``fields``: name to an array of N rows. The codec does not carry them yet.
    Raises InputError on other shapes and dtypes.
    """

    xyz: np.ndarray
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3:
            raise InputError(f"xyz has shape {self.xyz.shape}; (N, 3) is needed")
        if self.xyz.dtype.name not in COORDINATE_DTYPES:
            raise InputError(f"xyz has dtype {self.xyz.dtype}; one of {', '.join(COORDINATE_DTYPES)} is needed")
        for name, values in self.fields.items():
            if len(values) != len(self.xyz):
                raise InputError(f"field {name!r} has {len(values)} rows for {len(self.xyz)} points")

    def __len__(self) -> int:
        return len(self.xyz)

    def finite(self) -> tuple[PointCloud, int]:
        """This cloud without the points that hold NaN or infinity, and how many those were."""
        if self.xyz.dtype.kind != "f":
            return self, 0
        keep = np.isfinite(self.xyz).all(axis=1)
        dropped = len(keep) - int(np.count_nonzero(keep))
        if not dropped:
            return self, 0
        return PointCloud(self.xyz[keep], {name: values[keep] for name, values in self.fields.items()}), dropped
