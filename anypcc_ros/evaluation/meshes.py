"""Triangle meshes as far as a point cloud needs them: Wavefront OBJ in, points sampled by area out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from anypcc_ros.codec.errors import FileError


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and triangles (T, 3) int64 of an OBJ file; polygons are cut into fans. Raises FileError."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                kind, _, rest = line.partition(" ")
                if kind == "v":
                    vertices.append([float(word) for word in rest.split()[:3]])
                elif kind == "f":
                    # A corner is "vertex/texture/normal", counted from 1, or backwards from the last vertex so far.
                    corners = [int(word.partition("/")[0]) for word in rest.split()]
                    corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
                    faces += [[corners[0], *pair] for pair in pairwise(corners[1:])]
        points, triangles = np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
    except (OSError, ValueError, IndexError) as error:
        raise FileError(f"{path}: cannot read as OBJ: {error}") from error
    if not len(triangles) or triangles.min() < 0 or triangles.max() >= len(points):
        raise FileError(f"{path}: {len(triangles)} triangles on {len(points)} vertices are not a mesh")
    return points, triangles


def sample_surface(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) float64 points, uniform over the surface. Raises FileError for a mesh without area."""
    corners = vertices[triangles]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    total = np.cumsum(area)
    if not total[-1] > 0:
        raise FileError(f"{len(triangles)} triangles without area")
    chosen = np.minimum(np.searchsorted(total, rng.random(count) * total[-1], side="right"), len(area) - 1)
    along = rng.random((count, 2))
    along = np.where(along.sum(axis=1, keepdims=True) > 1, 1 - along, along)  # the other half of the parallelogram
    return np.asarray(corners[chosen, 0] + (along[:, :, None] * edges[chosen]).sum(axis=1))
