"""The point cloud that goes into the encoder and comes out of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from anypcc_ros.codec.errors import InputError

COORDINATE_DTYPES = ("float32", "float64", "int32", "int64")
FIELD_DTYPES = (
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64", "int64", "uint64", "float16", "bool",
)  # fmt: skip
"""What a field may hold. Their order is that of the dtype codes in a stream; the first eight are PointField's 1 to 8."""


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with their coordinates and any other per-point fields.

    ``xyz``: (N, 3) float32, float64, int32 or int64, in the cloud's own unit (metres in ROS). A row may hold NaN or
    infinity: an invalid point. ``fields``: the other fields in their order, name to (N,) or (N, count) of ``FIELD_DTYPES``.
    ``height``: rows of an organised cloud, N = height * width, row by row; 1 for any other. ``position``: how many of the
    fields stand before x, y and z.
    Raises InputError on other shapes and dtypes, and on names that UTF-8 has no bytes for (lone surrogates).
    """

    xyz: np.ndarray
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    height: int = 1
    position: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.xyz, np.ndarray):
            raise InputError(f"xyz is a {type(self.xyz).__name__}; a NumPy array is needed")
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3:
            raise InputError(f"xyz has shape {self.xyz.shape}; (N, 3) is needed")
        if self.xyz.dtype.name not in COORDINATE_DTYPES:
            raise InputError(f"xyz has dtype {self.xyz.dtype}; one of {', '.join(COORDINATE_DTYPES)} is needed")
        for name, values in self.fields.items():
            if values.ndim not in (1, 2) or len(values) != len(self.xyz):
                raise InputError(f"field {name!r} has shape {values.shape}; {len(self.xyz)} rows of values are needed")
            if values.dtype.name not in FIELD_DTYPES:
                raise InputError(f"field {name!r} has dtype {values.dtype}; one of {', '.join(FIELD_DTYPES)} is needed")
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise InputError(f"field {name!r} has a name that is not Unicode text")
        if self.height < 1 or len(self.xyz) % self.height:
            raise InputError(f"{len(self.xyz)} points do not make {self.height} rows of one length")
        if not 0 <= self.position <= len(self.fields):
            raise InputError(f"x, y and z cannot stand after {self.position} of {len(self.fields)} fields")

    def __len__(self) -> int:
        return len(self.xyz)

    def finite(self) -> tuple[PointCloud, int]:
        """This cloud without the points that hold NaN or infinity, and how many those were."""
        if self.xyz.dtype.kind != "f":
            return self, 0
        keep = finite_rows(self.xyz)
        dropped = len(keep) - int(np.count_nonzero(keep))
        return (self.take(keep), dropped) if dropped else (self, 0)

    def take(self, rows: np.ndarray) -> PointCloud:
        """The points with these indices, or where a mask is set, in one row."""
        return replace(self, xyz=self.xyz[rows], fields={name: values[rows] for name, values in self.fields.items()}, height=1)


def finite_rows(xyz: np.ndarray) -> np.ndarray:
    """Which rows of (N, 3) hold neither NaN nor infinity: (N,) bool."""
    # Axis by axis: a reduction over three numbers takes ten times as long.
    x, y, z = np.isfinite(xyz).T
    return x & y & z
