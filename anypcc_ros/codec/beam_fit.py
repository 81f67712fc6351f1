"""Finds the cones and planes of a spinning LiDAR's lasers in a cloud; what the encoder sends as ``beams.Beams``.

Only the encoder runs this, so that floating point is free to differ between machines. Which laser a point comes from is
taken from a ring field, else from the order of the points (drivers that write laser after laser start each at the same
azimuth), else from the peaks of the elevations; then each laser's line z = slope * rho + height is fitted robustly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec.beams import LATERAL_LIMIT, MAX_COLUMNS, SLOPE_BITS, TURN_BITS, Beams

RING_FIELDS = ("ring", "channel", "laser", "laser_id", "beam", "line", "row")

_SAMPLE = 8_192  # points that the fit looks at
_FEWEST_POINTS = 8  # of one laser in the sample
_FEWEST_BEAMS, _MOST_BEAMS = 4, 256
_WORTH_BY_FIELD, _WORTH_BY_ORDER, _WORTH_BY_PEAKS = 0.1, 0.15, 0.4
"""Bits per point that knowing the cones must save to be sent, by where they come from: noise gives some hundredths, seldom
more, and real sensors from 0.2 bits on a coarse grid to 6 on a fine one."""

_WORTH_PLANES = 0.12  # the same for the planes
_AT_RANDOM = (np.arange(8) + 0.5) / 16  # evenly spread distances from the nearest line, in spacings
_SAME_BEAM = 20.0  # quarter cells within which a point lies on a beam
_NEAR = 100.0  # quarter cells from the axis, where azimuths are coarse
TOLD_ALIKE = 0.9
"""A sensor that is known is the one at hand if it tells of a cloud nearly as much as of the one where it was found."""

_FEWEST_COLUMNS, _CANDIDATES = 500, 4
_START_MARGIN = np.radians(3)  # lasers start about where the first point is, a little earlier or later
_SLOPE_BIN = 0.0004  # of the histogram of elevations, as rise over distance


class Planes(NamedTuple):
    """``columns`` to a turn, with the ``phases`` (B,) of each beam in turns, and their distance from the axis, ``laterals``
    (B,), in quarter cells."""

    columns: int
    phases: np.ndarray
    laterals: np.ndarray


class Sensor(NamedTuple):
    """``lines``: (B, 2), slope and height of each laser's cone in quarter cells, ascending in slope. ``told``: bits per point
    that lines and planes save."""

    lines: np.ndarray
    planes: Planes | None
    told: float

    def scaled(self, factor: float) -> Sensor:
        """The same sensor on a grid whose cells are smaller by this factor."""
        planes = self.planes and self.planes._replace(laterals=self.planes.laterals * factor)
        return self._replace(lines=self.lines * [1.0, factor], planes=planes)


class Sample(NamedTuple):
    """Some points: distance from the axis and height in quarter cells, azimuth in turns; (n,) float64 each."""

    rho: np.ndarray
    z: np.ndarray
    azimuth: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray) -> Sample:
        """``place``: (n, 3), seen from the sensor, in quarter cells."""
        x, y, z = place.T
        return cls(np.hypot(x, y), z, np.arctan2(y, x) / (2 * np.pi))


def fit_sensor(grid: np.ndarray, axis: np.ndarray, fields: Mapping[str, np.ndarray]) -> Sensor | None:
    """The sensor whose beams explain the points best, None if none does.

    ``grid``: (N, 3) int64 grid coordinates. ``axis``: (3,) the sensor's place in quarter cells. ``fields``: the cloud's.
    """
    if len(grid) < _FEWEST_BEAMS * _FEWEST_POINTS:
        return None
    place = 4.0 * grid - axis
    for label, least in _labels(place, fields):
        rows = some_rows(np.arange(len(place)) if label is None else np.flatnonzero(label >= 0))
        if not len(rows):
            continue
        sample = Sample.of(place[rows])
        rho, z = sample.rho, sample.z
        lines = _peaks(rho, z) if label is None else _fit(rho, z, label[rows])
        for _ in range(4 if label is None else 2):
            if len(lines) >= _FEWEST_BEAMS:
                lines = _fit(rho, z, _nearest(lines, rho, z)[0])
        if not _FEWEST_BEAMS <= len(lines) <= _MOST_BEAMS:
            continue
        beam, error = _nearest(lines, rho, z)
        told = _cone_bits(lines, rho, beam, error)
        if told > least:
            on_beam = _on_beam(sample, error)
            planes = _find_planes(sample.azimuth[on_beam], rho[on_beam], beam[on_beam], len(lines))
            return Sensor(lines, planes[0], told + planes[1]) if planes else Sensor(lines, None, told)
    return None


def seen_again(sensor: Sensor, sample: Sample) -> Sensor:
    """A sensor that is known, by what it tells of other points. Its planes are turned to where they are now, as not every
    sensor fires at the same azimuths in each turn."""
    beam, error = _nearest(sensor.lines, sample.rho, sample.z)
    told = _cone_bits(sensor.lines, sample.rho, beam, error)
    on_beam = _on_beam(sample, error)
    if sensor.planes is None or not on_beam.any():
        return sensor._replace(told=told)
    points = sample.azimuth[on_beam], sample.rho[on_beam], beam[on_beam]
    saved = _plane_bits(sensor.planes, *points)
    if told + saved < TOLD_ALIKE * sensor.told:
        planes = _fit_planes(sensor.planes.columns, *points, len(sensor.lines))
        saved = _plane_bits(planes, *points)
        sensor = sensor._replace(planes=planes)
    return sensor._replace(told=told + saved)


def _on_beam(sample: Sample, error: np.ndarray) -> np.ndarray:
    return (error < _SAME_BEAM) & (sample.rho > _NEAR)


def some_rows(rows: np.ndarray) -> np.ndarray:
    """At most ``_SAMPLE`` of the rows, evenly but not regularly spread: lasers take turns, too."""
    if len(rows) <= _SAMPLE:
        return rows
    spread = np.arange(_SAMPLE) * ((5**0.5 - 1) / 2) % 1
    return rows[(spread * len(rows)).astype(np.int64)]


def _labels(place: np.ndarray, fields: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray | None, float]]:
    """Guesses which laser each point (N,) comes from, -1 for unknown, None for no guess; best first, with the bits that must
    be saved to believe it."""
    for values in (fields[name] for name in RING_FIELDS if name in fields):
        if values.ndim == 1:
            # Some drivers publish it as a float.
            known = np.isfinite(values) & (values >= 0) & (values < _MOST_BEAMS)
            known[known] = values[known] % 1 == 0
            label = np.full(len(values), -1, np.int64)
            label[known] = values[known]
            yield label, _WORTH_BY_FIELD
    azimuth = np.arctan2(place[:, 1], place[:, 0])
    step = np.diff(azimuth)
    clockwise = np.median(step[np.abs(step) < np.pi]) < 0 if len(step) else False
    turned = (azimuth[0] - azimuth if clockwise else azimuth - azimuth[0]) + _START_MARGIN
    laser = np.concatenate([[0], np.cumsum(np.diff(turned % (2 * np.pi)) < -np.pi)])
    if _FEWEST_BEAMS <= laser[-1] < _MOST_BEAMS:
        yield laser, _WORTH_BY_ORDER
    yield None, _WORTH_BY_PEAKS


def _fit(rho: np.ndarray, z: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Lines (B, 2), slope and height, ascending in slope: iteratively reweighted least squares per label (n,) >= 0."""
    count = int(label.max()) + 1
    weight = np.ones(len(rho))
    for _ in range(6):
        s0, s1, s2, t0, t1 = (np.bincount(label, weight * v, count) for v in (np.ones(len(rho)), rho, rho * rho, z, z * rho))
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
    if not far.any():
        return np.zeros((0, 2))
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
    """The line nearest to each point (n,), of a few with slopes near the point's, and how far it passes from it, in z."""
    place = np.searchsorted(lines[:, 0], (z - np.median(lines[:, 1])) / np.maximum(rho, 1.0))
    tried = np.clip(place + np.arange(-8, 8)[:, None], 0, len(lines) - 1)
    offset = np.abs(lines[tried, 0] * rho + lines[tried, 1] - z)
    best, row = offset.argmin(axis=0), np.arange(len(rho))
    return tried[best, row], offset[best, row]


def _cone_bits(lines: np.ndarray, rho: np.ndarray, beam: np.ndarray, error: np.ndarray) -> float:
    """Bits per point by which the lines tell more about z than lines at random would. ``beam``, ``error``: of ``_nearest``."""
    gap = np.diff(lines[:, 0])
    return _bits_saved(np.minimum(np.append(gap, gap[-1]), np.insert(gap, 0, gap[0]))[beam] * rho, error)


def _bits_saved(spacing: np.ndarray, error: np.ndarray) -> float:
    """Mean over the points of log2(spacing / error), both (n,) in quarter cells and the error not below one cell, less what
    it is for points at random between the lines: those too are near some line now and then."""

    def told(part: np.ndarray | float) -> float:
        return float(np.maximum(np.log2(np.maximum(spacing, 1) / (4 * part * spacing + 4)), 0).mean())

    return told(error / np.maximum(spacing, 1)) - float(np.mean([told(part) for part in _AT_RANDOM]))


def _find_planes(azimuth: np.ndarray, rho: np.ndarray, beam: np.ndarray, beams: int) -> tuple[Planes, float] | None:
    """The planes of equal azimuth of each beam and the bits per point that they save; None if there are no regular ones that
    save some.

    ``azimuth``: (n,) in turns. ``rho``: (n,) in quarter cells. ``beam``: (n,) of 0..beams - 1.
    """
    if len(azimuth) < 2 * _FEWEST_POINTS * _FEWEST_BEAMS:
        return None
    far = rho > np.quantile(rho, 0.3)  # there a lateral offset turns the azimuth least
    half = azimuth[::2], rho[::2], beam[::2]
    trials = [
        (_plane_bits(_fit_planes(columns, *half, beams), *half), columns)
        for columns in _periods(azimuth[far], beam[far], beams)
    ]
    planes = _fit_planes(max(trials)[1], azimuth, rho, beam, beams)
    saved = _plane_bits(planes, azimuth, rho, beam)
    return (planes, saved) if saved >= _WORTH_PLANES else None


def _plane_bits(planes: Planes, azimuth: np.ndarray, rho: np.ndarray, beam: np.ndarray) -> float:
    """Bits per point by which the planes tell more than planes at random would."""
    spacing = 2 * np.pi * rho / planes.columns
    apart = (azimuth - planes.laterals[beam] / (2 * np.pi * rho) - planes.phases[beam]) * planes.columns
    return _bits_saved(spacing, np.abs(apart - np.rint(apart)) * spacing)


def _periods(azimuth: np.ndarray, beam: np.ndarray, beams: int) -> list[int]:
    """The numbers of columns per turn at which the azimuths of single beams, some of all, are most periodic."""
    bins, every = 2 * MAX_COLUMNS, -(-beams // 16)
    chosen = beam % every == 0
    row, bin_ = beam[chosen] // every, (azimuth[chosen] * bins).astype(np.int64) % bins
    rows = -(-beams // every)
    histogram = np.bincount(row * bins + bin_, minlength=rows * bins).reshape(rows, bins)
    power = (np.abs(np.fft.rfft(histogram, axis=1)) ** 2 / np.maximum(histogram.sum(axis=1), 1)[:, None]).sum(axis=0)
    power[:_FEWEST_COLUMNS] = 0
    return [int(columns) for columns in np.argsort(power)[::-1][:_CANDIDATES]]


def _fit_planes(columns: int, azimuth: np.ndarray, rho: np.ndarray, beam: np.ndarray, beams: int) -> Planes:
    """Planes of a known number: robust regression of the azimuth on 1 / rho per beam, modulo their spacing."""
    inverse = 1 / (2 * np.pi * rho)
    phases, laterals, weight = np.zeros(beams), np.zeros(beams), (rho > np.quantile(rho, 0.3)).astype(float)
    for iteration in range(7):
        apart = (azimuth - laterals[beam] * inverse - phases[beam]) * columns
        if iteration < 2:
            circle = weight * np.exp(2j * np.pi * apart)
            mean = np.bincount(beam, circle.real, beams) + 1j * np.bincount(beam, circle.imag, beams)
            phases = phases + np.angle(mean) / (2 * np.pi * columns)
            continue
        apart -= np.rint(apart)
        weight = 1 / (np.abs(apart) + 0.02)
        s0, s1, s2, t0, t1 = (
            np.bincount(beam, weight * v, beams)
            for v in (np.ones(len(rho)), inverse, inverse * inverse, apart / columns, apart / columns * inverse)
        )
        spread = s0 * s2 - s1 * s1
        sound = spread > 1e-6 * s0 * s2
        safe = np.where(sound, spread, 1.0)
        laterals = laterals + np.where(sound, (s0 * t1 - s1 * t0) / safe, 0.0)
        phases = phases + np.where(sound, (s2 * t0 - s1 * t1) / safe, t0 / np.maximum(s0, 1e-9))
    return Planes(columns, phases, laterals)


def integer_beams(sensor: Sensor, axis: np.ndarray, far: float) -> Beams:
    """What is sent of a sensor at ``axis`` (3,): the step of a slope and of a phase is what moves a point at the distance
    ``far`` by a quarter of a cell. All in quarter cells."""
    lines, planes = sensor.lines, sensor.planes
    slopes = _rounded(lines[:, 0] * 2.0**SLOPE_BITS, 2.0**SLOPE_BITS / far, SLOPE_BITS)
    heights = np.rint(lines[:, 1] + axis[2]).astype(np.int64)
    columns, phases, laterals = 0, np.zeros_like(heights), np.zeros_like(heights)
    if planes is not None:
        columns, turn = planes.columns, 2.0**TURN_BITS
        phases = _rounded(planes.phases % (1 / columns) * turn, turn / (2 * np.pi * far), TURN_BITS)
        laterals = np.rint(np.clip(planes.laterals, -LATERAL_LIMIT, LATERAL_LIMIT)).astype(np.int64)
    return Beams(np.rint(axis[:2]).astype(np.int64), slopes, heights, columns, phases, laterals)


def _rounded(values: np.ndarray, step: float, most: int) -> np.ndarray:
    """Multiples (B,) int64 of the largest power of two that is at most ``step``."""
    zeros = int(np.clip(np.floor(np.log2(max(step, 1.0))), 0, most))
    return np.rint(values / 2.0**zeros).astype(np.int64) << zeros
