"""Finds the cones of a spinning LiDAR's lasers in a cloud; what the encoder sends as ``beams.Beams``.

Only the encoder runs this, so that floating point is free to differ between machines. Which laser a point comes from is
taken from a ring field, else from the order of the points (drivers that write laser after laser start each at the same
azimuth), else from the peaks of the elevations; then each laser's line z = slope * rho + height is fitted robustly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from anypcc_ros.codec.beams import SLOPE_BITS, Beams

RING_FIELDS = ("ring", "channel", "laser", "laser_id", "beam", "line", "row")

_SAMPLE = 8_192  # points that the fit looks at
_FEWEST_POINTS = 8  # of one laser in the sample
_FEWEST_BEAMS, _MOST_BEAMS = 4, 256
_WORTH = 0.5  # bits per point that knowing the beams must save in the z of single points to be sent
_START_MARGIN = np.radians(3)  # lasers start about where the first point is, a little earlier or later
_SLOPE_BIN = 0.0004  # of the histogram of elevations, as rise over distance


def fit_beams(grid: np.ndarray, axis: np.ndarray, fields: Mapping[str, np.ndarray]) -> tuple[Beams, int] | None:
    """The beams that explain the points best, and how many low bits of their slopes may be left out; None if none do.

    ``grid``: (N, 3) int64 grid coordinates. ``axis``: (3,) the sensor's place in quarter cells. ``fields``: the cloud's.
    """
    if len(grid) < _FEWEST_BEAMS * _FEWEST_POINTS:
        return None
    place = 4.0 * grid - axis
    rho, z = np.hypot(place[:, 0], place[:, 1]), place[:, 2]
    every = max(len(grid) // _SAMPLE, 1)
    for label in _labels(place, rho, fields):
        rows = np.arange(0, len(grid), every) if label is None else np.flatnonzero(label >= 0)[::every]
        lines = _peaks(rho[rows], z[rows]) if label is None else _fit(rho[rows], z[rows], label[rows])
        for _ in range(4 if label is None else 2):
            if len(lines) >= _FEWEST_BEAMS:
                lines = _fit(rho[rows], z[rows], _nearest(lines, rho[rows], z[rows])[0])
        if _FEWEST_BEAMS <= len(lines) <= _MOST_BEAMS and _bits_saved(lines, rho[rows], z[rows]) > _WORTH:
            return _beams(lines, axis, float(np.quantile(rho, 0.95)))
    return None


def _labels(place: np.ndarray, rho: np.ndarray, fields: Mapping[str, np.ndarray]) -> Iterator[np.ndarray | None]:
    """Guesses which laser each point (N,) comes from, -1 for unknown; None for no guess. Best first."""
    for name in RING_FIELDS:
        values = fields.get(name)
        if values is not None and values.ndim == 1 and values.dtype.kind in "iu":
            yield np.where((values >= 0) & (values < _MOST_BEAMS), values, -1).astype(np.int64)
    azimuth = np.arctan2(place[:, 1], place[:, 0])
    step = np.diff(azimuth)
    clockwise = np.median(step[np.abs(step) < np.pi]) < 0 if len(step) else False
    turned = (azimuth[0] - azimuth if clockwise else azimuth - azimuth[0]) + _START_MARGIN
    laser = np.concatenate([[0], np.cumsum(np.diff(turned % (2 * np.pi)) < -np.pi)])
    if _FEWEST_BEAMS <= laser[-1] < _MOST_BEAMS:
        yield laser
    yield None


def _fit(rho: np.ndarray, z: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Lines (B, 2), slope and height, ascending in slope: iteratively reweighted least squares per label (n,) >= 0."""
    count = int(label.max()) + 1
    weight = np.ones(len(rho))
    for _ in range(8):
        s0, s1, s2, t0, t1 = (
            np.bincount(label, weight * v, count) for v in (np.ones(len(rho)), rho, rho * rho, z, z * rho)
        )
        spread = s0 * s2 - s1 * s1
        # A laser whose points all lie at one distance has no slope to fit: it passes through the sensor.
        flat = spread <= 1e-6 * s0 * s2
        safe = np.where(flat, 1.0, spread)
        slope = np.where(flat, t1 / np.maximum(s2, 1e-9), (s0 * t1 - s1 * t0) / safe)
        height = np.where(flat, 0.0, (s2 * t0 - s1 * t1) / safe)
        error = np.abs(z - slope[label] * rho - height[label])
        weight = 1 / (error + 2.0)  # least absolute deviations, beyond the rounding of the grid
    enough = np.bincount(label, minlength=count) >= _FEWEST_POINTS
    lines = np.stack([slope, height], axis=1)[enough]
    return lines[np.argsort(lines[:, 0], kind="stable")]


def _peaks(rho: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Lines (B, 2) through the sensor at the peaks of the elevations' histogram."""
    far = rho > np.median(rho)
    slope = z[far] / np.maximum(rho[far], 1.0)
    low, high = np.quantile(slope, [0.005, 0.995])
    bins = int((high - low) / _SLOPE_BIN) + 64
    if bins > 1 << 16:
        return np.zeros((0, 2))
    edges = low + _SLOPE_BIN * np.arange(bins)
    counts = np.histogram(slope, edges)[0].astype(float)
    smooth = np.convolve(counts, [1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9], "same")
    level = np.convolve(counts, np.ones(41) / 41, "same")
    around = np.lib.stride_tricks.sliding_window_view(np.pad(smooth, 4), 9).max(axis=1)
    peak = np.flatnonzero((smooth == around) & (smooth > 1.5 * level) & (smooth > 2))
    return np.stack([edges[peak] + _SLOPE_BIN / 2, np.zeros(len(peak))], axis=1)


def _nearest(lines: np.ndarray, rho: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line nearest to each point (n,) and how far it passes from it, in z."""
    offset = np.abs(lines[:, :1] * rho + lines[:, 1:] - z)
    nearest = offset.argmin(axis=0)
    return nearest, offset[nearest, np.arange(len(rho))]


def _bits_saved(lines: np.ndarray, rho: np.ndarray, z: np.ndarray) -> float:
    """Mean over the points of log2(distance of neighbouring beams / error), the error not below one cell."""
    nearest, error = _nearest(lines, rho, z)
    gap = np.diff(lines[:, 0])
    wide = np.minimum(np.append(gap, gap[-1]), np.insert(gap, 0, gap[0]))[nearest] * rho
    return float(np.maximum(np.log2(np.maximum(wide, 1) / (4 * error + 4)), 0).mean())


def _beams(lines: np.ndarray, axis: np.ndarray, far: float) -> tuple[Beams, int]:
    """In integers: a slope's step is what moves a far point by a quarter of a cell."""
    drop = int(np.clip(np.floor(np.log2(2.0**SLOPE_BITS / max(far, 1.0))), 0, SLOPE_BITS))
    slopes = np.rint(lines[:, 0] * 2.0 ** (SLOPE_BITS - drop)).astype(np.int64) << drop
    heights = np.rint(lines[:, 1] + axis[2]).astype(np.int64)
    return Beams(np.rint(axis[:2]).astype(np.int64), slopes, heights), drop
