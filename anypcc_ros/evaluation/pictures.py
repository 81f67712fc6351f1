"""Pictures of point clouds: a perspective view and a close view from above, two clouds side by side."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.evaluation.figures import new_figure, save
from anypcc_ros.optional import optional

BACKGROUND = (0.043, 0.055, 0.078)  # near black, a little blue
TEXT, QUIET = "#e8ecf1", "#8b95a5"
AZIMUTH, ELEVATION = np.radians(-62.0), np.radians(34.0)  # where the camera of the perspective view stands
FIELD_OF_VIEW = np.radians(38.0)
OVERSAMPLING = 2

Image = np.ndarray  # (height, width, 3) float32, 0..1


def before_after(
    before: PointCloud,
    after: PointCloud,
    path: str | os.PathLike[str],
    title: str = "",
    captions: tuple[str, str] = ("before", "after"),
) -> None:
    """Write a PNG with two clouds side by side: from an angle, and a detail from above, coloured by height.

    Both share camera, colours and detail, so what differs in the picture differs in the clouds. Points that
    are not finite are left out. Raises FileError, MissingPackageError.
    """
    clouds = [cloud.finite()[0].xyz.astype(np.float64) for cloud in (before, after)]
    reference = next((xyz for xyz in clouds if len(xyz)), np.zeros((1, 3)))
    camera = Camera.around(reference)
    corner, side = _detail_window(reference)

    figure = new_figure(16, 12.6, dpi=100, facecolor=BACKGROUND)
    grid = figure.add_gridspec(
        2,
        2,
        height_ratios=(1.25, 1),
        left=0.012,
        right=0.988,
        top=0.925 if title else 0.955,
        bottom=0.02,
        hspace=0.03,
        wspace=0.02,
    )
    for column, (xyz, caption) in enumerate(zip(clouds, captions, strict=True)):
        colours = _height_colours(xyz[:, 2], reference[:, 2])
        whole = figure.add_subplot(grid[0, column])
        _show(whole, _perspective(xyz, colours, camera, 780, 640))
        whole.set_title(f"{caption}: {len(xyz):,} points", color=TEXT, fontsize=17, loc="left", pad=9)
        detail = figure.add_subplot(grid[1, column])
        _show(detail, _from_above(xyz, colours, corner, side, 780, 512))
        detail.text(
            0.012,
            0.03,
            f"detail from above, {side[0]:.3g} across",
            color=QUIET,
            fontsize=12,
            transform=detail.transAxes,
        )
    figure.text(0.014, 0.974, title, color=TEXT, fontsize=20, weight="bold", va="center")
    save(figure, path)


class Camera:
    """A pinhole camera. ``position`` (3,), ``axes`` (3, 3): rows right, up, forward."""

    def __init__(self, position: np.ndarray, axes: np.ndarray) -> None:
        self.position, self.axes = position, axes

    @classmethod
    def around(cls, xyz: np.ndarray) -> Camera:
        """Looks at the middle of the cloud from an angle, far enough to see nine tenths of it."""
        middle = np.median(xyz, axis=0)
        radius = max(float(np.quantile(np.linalg.norm(xyz - middle, axis=1), 0.9)), 1e-9)
        forward = -np.array([np.cos(ELEVATION) * np.cos(AZIMUTH), np.cos(ELEVATION) * np.sin(AZIMUTH), np.sin(ELEVATION)])
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, forward), forward])
        return cls(middle - forward * radius / np.tan(FIELD_OF_VIEW / 2) * 0.95, axes)

    def project(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the picture, (N, 2) with -1..1 over its height, and depths (N,), negative behind."""
        seen = (xyz - self.position) @ self.axes.T
        depth = seen[:, 2]
        return seen[:, :2] / np.maximum(depth, 1e-9)[:, None] / np.tan(FIELD_OF_VIEW / 2), depth


def _perspective(xyz: np.ndarray, colours: np.ndarray, camera: Camera, width: int, height: int) -> Image:
    flat, depth = camera.project(xyz)
    front = depth > 0
    flat, depth, colours = flat[front], depth[front], colours[front]
    order = np.argsort(-depth, kind="stable")  # the nearest is drawn last
    half = height * OVERSAMPLING / 2
    across = np.stack([flat[:, 0] * half + width * OVERSAMPLING / 2, half - flat[:, 1] * half], axis=1)[order]
    shade = np.clip(1.25 - 0.45 * depth / np.median(depth), 0.45, 1.0) if len(depth) else depth
    return _splat(across, (colours * shade[:, None])[order], width, height, _dot_size(len(xyz)))


def _from_above(xyz: np.ndarray, colours: np.ndarray, corner: np.ndarray, side: np.ndarray, width: int, height: int) -> Image:
    inside = ((xyz[:, :2] >= corner) & (xyz[:, :2] < corner + side)).all(axis=1)
    xyz, colours = xyz[inside], colours[inside]
    order = np.argsort(xyz[:, 2], kind="stable")  # the highest is drawn last
    scale = width * OVERSAMPLING / side[0]
    across = (xyz[:, :2] - corner) * scale
    across[:, 1] = height * OVERSAMPLING - across[:, 1]
    return _splat(across[order], colours[order], width, height, 6)


def _splat(across: np.ndarray, colours: np.ndarray, width: int, height: int, size: int) -> Image:
    """Dots of ``size`` pixels at ``across`` (N, 2: x right, y down), later over earlier ones, smoothed."""
    shape = (height * OVERSAMPLING, width * OVERSAMPLING)
    image = np.empty((*shape, 3), np.float32)
    image[:] = BACKGROUND
    base = np.floor(across).astype(np.int64) - size // 2
    # All pixels of one dot before the next, or a far point's last pixels would cover a near one.
    offsets = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2)
    pixels = (base[:, None, :] + offsets).reshape(-1, 2)
    inside = ((pixels >= 0) & (pixels < (shape[1], shape[0]))).all(axis=1)
    owner = np.repeat(np.arange(len(base)), len(offsets))[inside]
    top = np.full(shape[0] * shape[1], -1)
    top[pixels[inside, 1] * shape[1] + pixels[inside, 0]] = owner  # of repeated pixels the last dot stays
    covered = top >= 0
    image.reshape(-1, 3)[covered] = colours[top[covered]]
    blocks = image.reshape(height, OVERSAMPLING, width, OVERSAMPLING, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _dot_size(points: int) -> int:
    """Pixels of the oversampled picture per dot: few points are drawn larger."""
    return int(np.clip(round(5.0 - np.log10(max(points, 1)) * 0.55), 2, 5))


def _height_colours(z: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, 3) float32 colours from blue (low) over green to red (high).

    Half by height and half by rank among the ``reference`` heights (M,), so that neither a high mast nor a
    large flat floor takes the whole scale.
    """
    colour_map: Any = optional("matplotlib", "eval").colormaps["turbo"]
    steps = np.quantile(reference, np.linspace(0.005, 0.995, 100))
    rank = np.interp(z, steps, np.linspace(0, 1, 100))
    height = np.clip((z - steps[0]) / max(steps[-1] - steps[0], 1e-9), 0, 1)
    # The ends of turbo are too dark on this background.
    return np.asarray(colour_map(0.12 + 0.74 * (rank + height) / 2)[:, :3], np.float32)


def _detail_window(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corner (2,) and sides (2,) of the most populated window of a tenth of the cloud's width, 780 : 512."""
    low, high = np.quantile(xyz[:, :2], [0.05, 0.95], axis=0)
    width = max(float((high - low).max()) / 8, 1e-9)
    side = np.array([width, width * 512 / 780])
    cells = np.floor((xyz[:, :2] - low) / (side / 2)).astype(np.int64)
    unique, counts = np.unique(cells, axis=0, return_counts=True)
    best = unique[counts.argmax()]
    return low + best * (side / 2) - side / 4, side


def _show(axes: Any, image: Image) -> None:
    axes.imshow(image, interpolation="antialiased", aspect="equal")
    axes.set_axis_off()
