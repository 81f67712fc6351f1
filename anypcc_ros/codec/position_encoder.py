"""The points on the grid: their octree, and what else a decoder needs to have their positions again."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import logging
import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anypcc_ros.codec import bitstream, filling, geometry
from anypcc_ros.codec.background import later
from anypcc_ros.codec.beam_finder import BeamFinder
from anypcc_ros.codec.beams import Beams, encode_beams
from anypcc_ros.codec.bitstream import Filling
from anypcc_ros.codec.cloud_info import CloudInfo, cells_checksum
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.counts import density_contexts, encode_counts
from anypcc_ros.codec.cutting import encode_cuts, possible_cuts
from anypcc_ros.codec.errors import BackendError
from anypcc_ros.codec.exact import Origin
from anypcc_ros.codec.geometry import Occupancy
from anypcc_ros.codec.lattice import Lattice, encode_lattice, find_lattice
from anypcc_ros.codec.likeliest import FillingEncoder
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.adaptations import Adaptation, load_adaptation
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.delta import adapt, encode_delta
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.nearness import CellIndex, squared_error
from anypcc_ros.codec.occupancy import Correction, Witness
from anypcc_ros.codec.octree import Voxels, on_grid_at, quantise, repeat_rows, voxelise
from anypcc_ros.codec.selective import least_told, worth_correcting
from anypcc_ros.codec.trials import Trial, Trials

_log = logging.getLogger(__name__)

TRIED_EVERY = 16
"""Of successive clouds so many are encoded as it was best for the first of them, with a shared adaptation or without it."""

NO_LATTICE = Lattice((None, None, None))


class OnGrid(NamedTuple):
    """Points on the grid. ``cells``: (V, 3) int64, those that the decoder will have, ``depth`` levels deep, with ``dropped``
    ones below them; ``grid``: (N, 3) int64, the points' grid coordinates as the decoder has them, in the codec's order;
    ``rows``: (N,) which of the points given each one is; ``points``: how many were given; ``calibrated``, ``checksum``: as in
    CloudInfo; ``chunks``: payloads by tag."""

    cells: np.ndarray
    shift: np.ndarray
    depth: int
    dropped: int
    grid: np.ndarray
    rows: np.ndarray
    points: int
    calibrated: bool
    checksum: int
    chunks: dict[str, bytes]


class _Way(NamedTuple):
    """A network, and the chunk that says how its model was adapted, empty where it was not."""

    network: ContextModel
    chunk: bytes = b""


def no_points() -> OnGrid:
    nothing = np.zeros((0, 3), np.int64)
    return OnGrid(nothing, np.zeros(3, np.int64), 0, 0, nothing, np.zeros(0, np.int64), 0, True, cells_checksum(nothing), {})


class PositionEncoder:
    """Encodes positions with one configuration; errors, ``successive`` and threads as of ``Encoder``."""

    def __init__(self, config: CodecConfig, successive: bool, adaptation: Adaptation | None = None) -> None:
        self.config = config
        self.model = store.by_name(config.model)
        self.adaptation = adaptation or (load_adaptation(Path(config.adaptation)) if config.adaptation else None)
        self._calibrate = self.model.calibrate if config.calibrate == "auto" else config.calibrate
        self._network = context_model(self.model, config.backend, config.threads)
        ways = [_Way(self._network)]
        if self.adaptation:
            adapted = context_model(self.adaptation.applied(self.model), config.backend, config.threads)
            ways.append(_Way(adapted, bitstream.write_adaptation(shared=self.adaptation.hash)))
        always = self.adaptation and config.adaptation_use == "always"
        self._trial: Callable[[], Trial[_Way]] = Trials(ways[-1:] if always else ways, TRIED_EVERY if successive else 1).next
        self._beams = BeamFinder(successive)
        self._witness: Witness | None = None
        self._turn = threading.Lock()
        if config.adapt_steps:
            _tuning()  # better known before the first cloud

    def configured(self, **changes: Any) -> PositionEncoder:
        """This encoder with other options that leave the network as it is. Raises ConfigError."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, **changes)
        return other

    def watched_by(self, network: ContextModel, witness: Witness) -> PositionEncoder:
        """This encoder with another network, and with somebody who looks on while octrees are encoded."""
        other = copy.copy(self)
        other._network, other._witness = network, witness
        other._trial = Trials([_Way(network)], 1).next
        return other

    def for_one_cloud(self) -> PositionEncoder:
        """This encoder for the next cloud, however often it is encoded."""
        other, trial = copy.copy(self), self._trial()
        other._trial = lambda: trial
        return other

    def encode(self, xyz: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray]) -> OnGrid:
        """``xyz``: (N, 3), finite. ``fields``: the cloud's, which may tell of its sensor. Raises InputError."""
        if not len(xyz):
            return no_points()
        grid = quantise(xyz, step, origin, self.config.threads)
        trial = self._trial()
        filled = self._encode_filled(grid, step, origin, fields, trial) if self.config.drop_scales else None
        return filled or self._encode_cells(grid, step, origin, fields, trial)

    def _encode_cells(
        self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray], trial: Trial[_Way]
    ) -> OnGrid:
        """All cells as they are, but for dropped scales."""
        dropped = self.config.drop_scales
        # Scales are dropped on the grid itself: on a lattice a coarser cell would have no size.
        lattice = NO_LATTICE if dropped else find_lattice(grid)
        voxels, rows = voxelise(lattice.compact(grid), dropped, self.config.threads)
        # A lattice bends the space in which beams are straight.
        beams = None if lattice else self._find_beams(grid, step, origin, fields, voxels)
        correction = self._correction(voxels, beams)
        repeated = self.keeps_duplicates and int(voxels.counts.max()) > 1
        if not self.keeps_duplicates:
            rows = rows[voxels.first_points]
        # What takes no network, beside it.
        counts = later(self.config.threads, _encode_counts, voxels) if repeated else None
        checksum = later(self.config.threads, cells_checksum, voxels.coords)
        decoded = later(self.config.threads, _decoded, grid, rows, lattice, voxels, dropped)
        with self._turn:
            occupancy, adaptation = self._encode_occupancy(voxels, correction, trial)
        tag, payload = bitstream.OCCUPANCY, occupancy.payload
        if len(voxels.coords) <= geometry.RAW_VOXELS:
            raw = geometry.encode_raw(voxels.coords, voxels.depth)
            tag, payload = (bitstream.RAW, raw) if len(raw) <= len(payload) else (tag, payload)
        chunks = {tag: payload}
        if correction.beams and tag == bitstream.OCCUPANCY:
            chunks[bitstream.BEAMS] = encode_beams(correction.beams)
        if adaptation and tag == bitstream.OCCUPANCY:
            chunks[bitstream.ADAPTATION] = adaptation
        if lattice:
            chunks[bitstream.LATTICE] = encode_lattice(lattice)
        if counts:
            chunks[bitstream.COUNTS] = counts()
        if occupancy.shorter and not lattice:
            chunks[bitstream.CUTS] = encode_cuts(possible_cuts(occupancy.shorter), payload[1:])
        place = voxels.coords, voxels.shift, voxels.depth, dropped
        return OnGrid(*place, decoded(), rows, len(grid), correction.calibrated, checksum(), chunks)

    def _encode_filled(
        self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray], trial: Trial[_Way]
    ) -> OnGrid | None:
        """Dropped scales filled in with the likeliest cells; None where they are better left out."""
        cells, _ = voxelise(grid)
        levels = filling.scales_to_fill(cells, self.config, fields)
        if not levels:
            return None
        dropped = self.config.drop_scales - levels
        voxels, rows = voxelise(grid, dropped)
        correction = self._correction(voxels, self._find_beams(grid, step, origin, fields, voxels))

        def encode(way: _Way) -> tuple[Occupancy, bytes, float]:
            told = FillingEncoder(self.config.truth)
            occupancy = geometry.encode_occupancy(way.network, voxels, dropped, correction, levels, told)
            return occupancy, told.finish(), squared_error(cells.coords, occupancy.cells, dropped)

        with self._turn:
            way, (occupancy, numbers, error) = trial.best(
                encode, lambda way, made: (_size(made[0].payload) + _size(made[1]) + _size(way.chunk), made[2])
            )
        if self.config.lossy == "auto" and error >= filling.error_of_middles(cells.coords, self.config.drop_scales):
            return None
        chunks = {bitstream.OCCUPANCY: occupancy.payload}
        if correction.beams:
            chunks[bitstream.BEAMS] = encode_beams(correction.beams)
        if way.chunk:
            chunks[bitstream.ADAPTATION] = way.chunk
        chunks[bitstream.LIKELIEST] = bitstream.encode_filling(Filling(levels, step * math.sqrt(error)), numbers)
        decoded = on_grid_at(occupancy.cells, voxels.shift, dropped)
        # As in MPEG's recolouring, every decoded point has the fields of the nearest one of the cloud.
        nearest = CellIndex(voxels.coords).nearest(occupancy.cells) if fields else np.zeros(len(decoded), np.int64)
        rows = rows[voxels.first_points[nearest]]
        place = occupancy.cells, voxels.shift, voxels.depth, dropped
        return OnGrid(*place, decoded, rows, len(grid), correction.calibrated, cells_checksum(occupancy.cells), chunks)

    def _find_beams(
        self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray], voxels: Voxels
    ) -> Beams | None:
        if self._calibrate == "never":
            return None
        least = least_told(voxels) if self._calibrate == "selective" else 0.0
        return self._beams.find(grid, step, origin, fields, least)

    def _correction(self, voxels: Voxels, beams: Beams | None) -> Correction:
        selective = self._calibrate == "selective"
        calibrated = worth_correcting(voxels, beams) if selective else self._calibrate == "always"
        return Correction(calibrated, beams, self.config.threads)

    def _encode_occupancy(self, voxels: Voxels, correction: Correction, trial: Trial[_Way]) -> tuple[Occupancy, bytes]:
        """The octree's codes, and the chunk that says how the model was adapted, empty where it was not."""
        config = self.config
        encode = partial(geometry.encode_occupancy, voxels=voxels, dropped=config.drop_scales, correction=correction)
        if not config.adapt_steps:
            way, occupancy = trial.best(
                lambda way: encode(way.network, witness=self._witness),
                lambda way, made: (_size(made.payload) + _size(way.chunk),),
            )
            return occupancy, way.chunk
        network = partial(context_model, backend=config.backend, threads=config.threads)
        tuner = _tuning().HeadTuner(self.model, network)
        watched = partial(encode, witness=tuner)
        plain = watched(tuner.watched)
        delta = tuner.tune(config.adapt_steps, watched)
        if not delta.layers:
            return plain, b""
        chunk = bitstream.write_adaptation(encode_delta(self.model, delta))
        adapted = encode(network(adapt(self.model, delta)))
        gain = len(plain.payload) - len(adapted.payload) - len(chunk) - bitstream.ENTRY_SIZE
        summary = f"{len(plain.payload)} bytes of octree, {len(adapted.payload)} and {len(chunk)} of weights if adapted"
        _log.info("%s: %s", summary, "adapted" if gain > 0 else "not adapted")
        return (adapted, chunk) if gain > 0 else (plain, b"")

    @property
    def keeps_duplicates(self) -> bool:
        """Whether every point is sent, also those that share a cell."""
        # Points that fall together because scales were dropped are one point of the coarser grid.
        return not self.config.merge_duplicates and not self.config.drop_scales

    def describe(self, dtype: str, points: OnGrid, step: float, origin: Origin) -> CloudInfo:
        """What the stream says of these points, whose coordinates have this ``dtype``."""
        model = bitstream.OCCUPANCY in points.chunks
        x, y, z = map(int, points.shift)
        return CloudInfo(
            dtype=dtype,
            step=step,
            origin=origin,
            shift=(x, y, z),
            points=points.points,
            voxels=len(points.cells),
            depth=points.depth + points.dropped,
            drop_scales=points.dropped,
            checksum=points.checksum,
            model_name=self.model.name if model else "",
            model_hash=self.model.hash if model else "",
            calibrated=points.calibrated or not model,
        )


def _size(payload: bytes) -> int:
    """Bytes of a chunk in a stream, which has none that are empty."""
    return len(payload) + bitstream.ENTRY_SIZE * bool(payload)


def _decoded(grid: np.ndarray, rows: np.ndarray, lattice: Lattice, voxels: Voxels, dropped: int) -> np.ndarray:
    """``OnGrid.grid``: of those points of the ``grid`` (M, 3) that are left, or of the cells above them."""
    if lattice:
        return np.asarray(grid.take(rows, axis=0))
    # In the order of the cells, which is that of memory.
    cells = on_grid_at(voxels.coords, voxels.shift, dropped)
    return cells if len(rows) == len(cells) else repeat_rows(cells, voxels.counts, len(rows))


def _encode_counts(voxels: Voxels) -> bytes:
    return encode_counts(voxels.counts - 1, density_contexts(voxels.coords))


def _tuning() -> Any:
    """The module that tunes models, which needs torch. Raises BackendError."""
    try:
        return importlib.import_module("anypcc_ros.adaptation.heads")
    except ModuleNotFoundError as error:
        raise BackendError(f"adapting needs torch (pip install 'anypcc_ros[torch]'): {error}") from error
