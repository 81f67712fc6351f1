"""Finds the beams of every cloud, and remembers those of a sensor from one cloud to the next."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np

from anypcc_ros.codec.beam_fit import TOLD_ALIKE, Sample, Sensor, fit_sensor, integer_beams, seen_again, some_rows
from anypcc_ros.codec.beams import LIMIT, Beams

_LONGEST_WAIT = 15
"""Clouds in which no beams are looked for, at most, after some in which there were none."""

_STILL_WORTH = 0.05
"""Bits per point that a known sensor must tell where none is found anew: less than to begin with, so that a cloud in which the
beams are hard to see is coded as the one before it."""


class BeamFinder:
    """Finds the beams that explain the points of a cloud best.

    ``successive``: the clouds come from one sensor, one after another. What one of them told of the sensor is then tried first
    on the next, which takes a fifth of the time; where nothing was found it is not looked for in every cloud. Several
    threads may use it.
    """

    def __init__(self, successive: bool = False) -> None:
        self._successive = successive
        self._lock = threading.Lock()
        self._known: tuple[Sensor, float] | None = None  # and the step of the grid that it was found on
        self._misses = self._waits = 0

    def find(
        self,
        grid: np.ndarray,
        step: float,
        origin: tuple[float, float, float],
        fields: Mapping[str, np.ndarray],
        least: float = 0.0,
    ) -> Beams | None:
        """The beams, None if none explain the points.

        ``grid``: (N, 3) int64 grid coordinates, N >= 1. ``step``, ``origin``: of the grid; the sensor is at position 0.
        ``fields``: the cloud's. ``least``: bits per point that they have to tell of the positions, as the fit estimates it.
        """
        axis = -4 * np.asarray(origin) / step
        if np.abs(axis).max() > LIMIT:
            return None
        sample = Sample.of(4.0 * grid[some_rows(np.arange(len(grid)))] - axis)
        sensor = self._next(grid, axis, fields, sample, step, least) if self._successive else fit_sensor(grid, axis, fields)
        if not sensor or sensor.told < least:
            return None
        beams = integer_beams(sensor, axis, float(np.quantile(sample.rho, 0.95)))
        return beams if max(np.abs(beams.slopes).max(), np.abs(beams.heights).max()) <= LIMIT else None

    def _next(
        self, grid: np.ndarray, axis: np.ndarray, fields: Mapping[str, np.ndarray], sample: Sample, step: float, least: float
    ) -> Sensor | None:
        with self._lock:
            if self._waits:
                self._waits -= 1
                return None
            known, known_step = self._known or (None, step)
        again = known and seen_again(known.scaled(known_step / step), sample)
        if again and known and again.told >= max(TOLD_ALIKE * known.told - _per_octave(step / known_step), _STILL_WORTH):
            self._rest(again, least)
            return again
        sensor = fit_sensor(grid, axis, fields)
        if again and again.told > max(_STILL_WORTH, sensor.told if sensor else 0.0):
            self._rest(again, least)
            return again
        with self._lock:
            self._known = sensor and (sensor, step)
        self._rest(sensor, least)
        return sensor

    def _rest(self, sensor: Sensor | None, least: float) -> None:
        """Where nothing is found, or too little, nothing is looked for in the next clouds: ever more of them."""
        with self._lock:
            self._misses = 0 if sensor and sensor.told >= least else self._misses + 1
            self._waits = min(2**self._misses - 1, _LONGEST_WAIT)


def _per_octave(factor: float) -> float:
    """Bits per point that lines and planes may tell more or less of on a grid whose step is so much larger: one for each
    octave and each of both."""
    return 2 * abs(math.log2(factor))
