"""Encoder and Decoder: the public face of the codec, as the named steps of the algorithm."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anypcc_ros.codec import bitstream, filling, geometry
from anypcc_ros.codec.attributes import Measured, decode_fields, encode_fields, sources_of
from anypcc_ros.codec.beam_finder import BeamFinder, Found
from anypcc_ros.codec.beams import decode_beams, encode_beams
from anypcc_ros.codec.bitstream import CloudInfo, Filling, Layout
from anypcc_ros.codec.cloud import PointCloud, finite_rows
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.counts import decode_counts, density_contexts, encode_counts
from anypcc_ros.codec.cutting import encode_cuts, possible_cuts
from anypcc_ros.codec.errors import AdaptationNotFoundError, BackendError, CorruptStreamError, LimitExceededError
from anypcc_ros.codec.exact import (
    Origin,
    decode_off_grid,
    decode_remainders,
    encode_off_grid,
    encode_remainders,
    on_grid,
    suitable_grid,
)
from anypcc_ros.codec.firing import ScanReader, ascends, find_firing
from anypcc_ros.codec.geometry import Occupancy
from anypcc_ros.codec.images import context_of, decode_image, encode_image, find_image, pixels_of, within
from anypcc_ros.codec.lattice import Lattice, decode_lattice, encode_lattice, find_lattice
from anypcc_ros.codec.likeliest import FillingDecoder, FillingEncoder
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.adaptations import Adaptation, adaptations_in, load_adaptation
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.delta import adapt, decode_delta, encode_delta
from anypcc_ros.codec.model.integer import IntegerModel
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.nearness import CellIndex, squared_error
from anypcc_ros.codec.occupancy import Correction, Witness
from anypcc_ros.codec.octree import Voxels, children_per_node, dequantise, quantise, voxelise
from anypcc_ros.codec.order import decode_order, encode_order, encode_order_of
from anypcc_ros.codec.representation import NOTHING, as_integers
from anypcc_ros.codec.surroundings import Context

_log = logging.getLogger(__name__)

CROWDED = 2.2
"""Occupied cells per node of the level above from which on the calibration brings several percent."""

TELLING = 1.2
"""Bits per point that a sensor's beams must tell for it to bring ten percent and more."""

ADDED = 16
"""Adaptations that a decoder keeps of those that it is given while it runs."""

NO_LATTICE = Lattice((None, None, None))


class _OnGrid(NamedTuple):
    """Points on the grid. ``cells``: (V, 3) int64, those that the decoder will have, ``depth`` levels deep, with ``dropped``
    ones below them; ``grid``: (N, 3) int64, the points' grid coordinates as the decoder has them, in the codec's order;
    ``rows``: (N,) which of the points given each one is; ``points``: how many were given; ``calibrated``: as in CloudInfo;
    ``chunks``: payloads by tag."""

    cells: np.ndarray
    shift: np.ndarray
    depth: int
    dropped: int
    grid: np.ndarray
    rows: np.ndarray
    points: int
    calibrated: bool
    chunks: dict[str, bytes]


def _no_points() -> _OnGrid:
    nothing = np.zeros((0, 3), np.int64)
    return _OnGrid(nothing, np.zeros(3, np.int64), 0, 0, nothing, np.zeros(0, np.int64), 0, True, {})


class Encoder:
    """Compresses clouds with one configuration.

    Raises ModelNotFoundError, ModelFileError, BackendError, and StreamError or FileError for an adaptation's file.

    ``successive``: the clouds come from one sensor, one after another; what one of them told of the sensor then serves the
    next, whose bytes depend on that. Without it equal clouds give equal bytes.
    Several threads may encode at a time: one cloud passes through the network, which keeps every core busy, while others
    are prepared and their fields coded.
    """

    def __init__(self, config: CodecConfig | None = None, successive: bool = False) -> None:
        self.config = config or CodecConfig()
        self._model = store.by_name(self.config.model)
        self._adaptation = load_adaptation(Path(self.config.adaptation)) if self.config.adaptation else None
        used = self._adaptation.applied(self._model) if self._adaptation else self._model
        self._calibrate = self._model.calibrate if self.config.calibrate == "auto" else self.config.calibrate
        self._network = context_model(used, self.config.backend, self._network_threads())
        self._beams = BeamFinder(successive)
        self._witness: Witness | None = None
        self._turn = threading.Lock()
        if self.config.adapt_steps:
            _tuning()  # better known before the first cloud

    def on_grid(self, step: float, drop_scales: int, truth: float = 0.0) -> Encoder:
        """This encoder with another step, other scales dropped and ``truth``, with the same network. Raises ConfigError."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, step=step, drop_scales=drop_scales, truth=truth)
        return other

    def watched_by(self, network: ContextModel, witness: Witness) -> Encoder:
        """This encoder with another network, and with somebody who looks on while octrees are encoded."""
        other = copy.copy(self)
        other._network, other._witness = network, witness
        return other

    @property
    def adaptation(self) -> Adaptation | None:
        """The shared adaptation that streams name, if there is one."""
        return self._adaptation

    @property
    def model(self) -> IntegerModel:
        """The model as it is installed."""
        return self._model

    @property
    def model_hash(self) -> str:
        """Identity of the weights: 16 hex digits."""
        return self._model.hash

    def encode(self, cloud: PointCloud) -> bytes:
        """A complete stream for the cloud: its points on the grid, and every field by its policy.

        Points with NaN or infinity are left out and counted, or stay in place with ``order`` original.
        Raises InputError for positions beyond what the grid can hold; with ``exact`` it holds them all.
        """
        config, in_place = self.config, self.config.order == "original"
        if (stream := self._encode_image(cloud)) is not None:
            return stream
        kept = cloud if in_place else cloud.finite()[0]
        step, origin = suitable_grid(kept.xyz, config.step, config.origin) if config.exact else (config.step, config.origin)
        held = on_grid(kept.xyz, step, origin) if config.exact else finite_rows(kept.xyz)
        here, beside = np.flatnonzero(held), np.flatnonzero(~held)

        points = self._encode_points(PointCloud(kept.xyz[here], {k: v[here] for k, v in kept.fields.items()}), step, origin)
        chunks, rows = points.chunks, np.concatenate([here[points.rows], beside])
        context = Context(points.grid, len(beside), step, origin)
        if config.exact and len(here):
            coordinates = kept.xyz[here[points.rows]]
            chunks[bitstream.REMAINDERS] = encode_remainders(coordinates, points.grid, step, origin, context.on_grid)
        if len(beside):
            chunks[bitstream.OFF_GRID] = encode_off_grid(kept.xyz[beside])
        values = {name: values[rows] for name, values in kept.fields.items()}
        measured = self._measured(values, rows, context)
        fields, attributes, decoded = encode_fields(values, config, context, measured)
        if attributes:
            chunks[bitstream.ATTRIBUTES] = attributes
        scan = measured.encode(context) if measured and (in_place or measured.used) else b""
        if in_place and len(here):
            places, sources = here[points.rows], sources_of(decoded)
            order = encode_order(places, len(rows), cloud.height, context, sources)
            by_scan = encode_order_of(measured.scan, places) if measured and measured.scan else order
            needed = 0 if measured and measured.used else len(scan)
            chunks[bitstream.ORDER] = by_scan if len(by_scan) + needed < len(order) else order
            scan = scan if needed == 0 or len(by_scan) + needed < len(order) else b""
        if scan:
            chunks[bitstream.SCAN] = scan
        layout = Layout(cloud.height if in_place else 1, cloud.position, len(cloud) - len(kept), len(beside), fields)
        return bitstream.write_stream(self._describe(cloud.xyz.dtype.name, points, step, origin), chunks, layout)

    def _measured(self, fields: Mapping[str, np.ndarray], rows: np.ndarray, context: Context) -> Measured | None:
        """Where a spinning sensor measured the points, if that may serve: their order is wanted, or there are times.

        ``fields``: of points in the codec's order, which were given at these rows (N,).
        """
        kept = [name for name in fields if self.config.policy(name).kind == "exact" or self.config.policy(name).step]
        columns = [(i, fields[name]) for i, name in enumerate(kept) if fields[name].ndim == 1]
        given = np.argsort(rows, kind="stable")
        if self.config.order != "original" and not any(ascends(values[given]) for _, values in columns):
            return None
        for i, values in columns:
            rings = as_integers(values)[given] if values.dtype.kind in "iu" else NOTHING
            if found := find_firing(i, rings, context.grid_everywhere[given]):
                column = np.empty_like(found[1])
                column[given] = found[1]
                return Measured(found[0], column, self.config.order == "original")
        return None

    def _encode_image(self, cloud: PointCloud) -> bytes | None:
        """A stream that holds a depth image as such, where that is known to be smaller: exact, or in the points' order."""
        config, in_place = self.config, self.config.order == "original"
        if not (config.exact or (in_place and self._keeps_duplicates)):
            return None
        image, xyz = find_image(cloud.xyz, cloud.height), cloud.xyz
        if image and not config.exact:
            image, xyz = within(image, xyz, config.step)
        if not image:
            return None
        pixels, order = pixels_of(len(cloud), image.width)
        context, xyz = context_of(pixels), xyz[order]
        chunks = {bitstream.IMAGE: encode_image(image, xyz, context)}
        if not in_place:
            keep = finite_rows(xyz)
            order, context = order[keep], context_of(pixels[keep])
        fields, attributes, _ = encode_fields({name: values[order] for name, values in cloud.fields.items()}, config, context)
        if attributes:
            chunks[bitstream.ATTRIBUTES] = attributes
        left_out = len(cloud) - len(order)
        layout = Layout(cloud.height if in_place else 1, cloud.position, left_out, len(order), fields)
        info = self._describe(cloud.xyz.dtype.name, _no_points(), config.step, config.origin)
        return bitstream.write_stream(info, chunks, layout)

    def _encode_points(self, cloud: PointCloud, step: float, origin: Origin) -> _OnGrid:
        if not len(cloud):
            return _no_points()
        grid = quantise(cloud.xyz, step, origin)
        filled = self._encode_filled(grid, step, origin, cloud.fields) if self.config.drop_scales else None
        return filled or self._encode_cells(grid, step, origin, cloud.fields)

    def _encode_cells(self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray]) -> _OnGrid:
        """All cells as they are, but for dropped scales."""
        dropped = self.config.drop_scales
        # Scales are dropped on the grid itself: on a lattice a coarser cell would have no size.
        lattice = NO_LATTICE if dropped else find_lattice(grid)
        voxels, rows = voxelise(lattice.compact(grid), dropped)
        # A lattice bends the space in which beams are straight.
        seen = None if lattice else self._find_beams(grid, step, origin, fields)
        correction = self._correction(voxels, seen)
        with self._turn:
            occupancy, adaptation = self._encode_occupancy(voxels, correction)
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
        if not self._keeps_duplicates:
            rows = rows[voxels.first_points]
        elif voxels.counts.max() > 1:
            chunks[bitstream.COUNTS] = encode_counts(voxels.counts - 1, density_contexts(voxels.coords))
        if occupancy.shorter and not lattice:
            chunks[bitstream.CUTS] = encode_cuts(possible_cuts(occupancy.shorter), payload[1:])
        decoded = (voxels.coords << dropped) + voxels.shift if dropped else grid[rows]
        place = voxels.coords, voxels.shift, voxels.depth, dropped
        return _OnGrid(*place, decoded, rows, len(grid), correction.calibrated, chunks)

    def _encode_filled(self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray]) -> _OnGrid | None:
        """Dropped scales filled in with the likeliest cells; None where they are better left out."""
        cells, _ = voxelise(grid)
        levels = filling.scales_to_fill(cells, self.config, fields)
        if not levels:
            return None
        dropped = self.config.drop_scales - levels
        voxels, rows = voxelise(grid, dropped)
        told = FillingEncoder(self.config.truth)
        correction = self._correction(voxels, self._find_beams(grid, step, origin, fields))
        with self._turn:
            occupancy = geometry.encode_occupancy(self._network, voxels, dropped, correction, levels, told)
        error = squared_error(cells.coords, occupancy.cells, dropped)
        if self.config.lossy == "auto" and error >= filling.error_of_middles(cells.coords, self.config.drop_scales):
            return None
        chunks = {bitstream.OCCUPANCY: occupancy.payload}
        if correction.beams:
            chunks[bitstream.BEAMS] = encode_beams(correction.beams)
        if self._adaptation:
            chunks[bitstream.ADAPTATION] = bitstream.write_adaptation(shared=self._adaptation.hash)
        chunks[bitstream.LIKELIEST] = bitstream.encode_filling(Filling(levels, step * math.sqrt(error)), told.finish())
        decoded = (occupancy.cells << dropped) + voxels.shift
        # As in MPEG's recolouring, every decoded point has the fields of the nearest one of the cloud.
        nearest = CellIndex(voxels.coords).nearest(occupancy.cells) if fields else np.zeros(len(decoded), np.int64)
        rows = rows[voxels.first_points[nearest]]
        place = occupancy.cells, voxels.shift, voxels.depth, dropped
        return _OnGrid(*place, decoded, rows, len(grid), correction.calibrated, chunks)

    def _network_threads(self) -> int:
        # One core is left to the calibration, which takes as long as the network does.
        threads = self.config.threads or os.cpu_count() or 1
        return max(threads - (self._calibrate == "always"), 1)

    def _find_beams(self, grid: np.ndarray, step: float, origin: Origin, fields: Mapping[str, np.ndarray]) -> Found | None:
        return None if self._calibrate == "never" else self._beams.find(grid, step, origin, fields)

    def _correction(self, voxels: Voxels, seen: Found | None) -> Correction:
        calibrated = self._calibrate == "always"
        if self._calibrate == "selective":
            calibrated = bool(seen and seen.told >= TELLING) or children_per_node(voxels.coords) >= CROWDED
        return Correction(calibrated, seen.beams if seen and calibrated else None, self.config.threads)

    def _encode_occupancy(self, voxels: Voxels, correction: Correction) -> tuple[Occupancy, bytes]:
        """The octree's codes, and the chunk that says how the model was adapted, empty where it was not."""
        config = self.config
        encode = partial(geometry.encode_occupancy, voxels=voxels, dropped=config.drop_scales, correction=correction)
        if self._adaptation:
            return encode(self._network), bitstream.write_adaptation(shared=self._adaptation.hash)
        if not config.adapt_steps:
            return encode(self._network, witness=self._witness), b""
        tuner = _tuning().HeadTuner(self._model, self._network)
        plain = encode(tuner.watched, witness=tuner)
        delta = tuner.tune(config.adapt_steps)
        if not delta.layers:
            return plain, b""
        chunk = bitstream.write_adaptation(encode_delta(self._model, delta))
        adapted = encode(context_model(adapt(self._model, delta), config.backend, self._network_threads()))
        gain = len(plain.payload) - len(adapted.payload) - len(chunk) - bitstream.ENTRY_SIZE
        summary = f"{len(plain.payload)} bytes of octree, {len(adapted.payload)} and {len(chunk)} of weights if adapted"
        _log.info("%s: %s", summary, "adapted" if gain > 0 else "not adapted")
        return (adapted, chunk) if gain > 0 else (plain, b"")

    @property
    def _keeps_duplicates(self) -> bool:
        # Points that fall together because scales were dropped are one point of the coarser grid.
        return not self.config.merge_duplicates and not self.config.drop_scales

    def _describe(self, dtype: str, points: _OnGrid, step: float, origin: Origin) -> CloudInfo:
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
            checksum=bitstream.cells_checksum(points.cells),
            model_name=self._model.name if model else "",
            model_hash=self._model.hash if model else "",
            calibrated=points.calibrated or not model,
        )


class Decoder:
    """Reconstructs clouds from streams, with whichever installed model each stream names. For several threads as Encoder."""

    def __init__(self, config: DecoderConfig | None = None) -> None:
        self.config = config or DecoderConfig()
        self._networks: dict[tuple[str, str], ContextModel] = {}
        self._adaptations = {found.hash: found for found in adaptations_in(self.config.adaptation)}
        self._added: deque[str] = deque()
        self._turn = threading.Lock()

    def add_adaptation(self, adaptation: Adaptation) -> None:
        """From now on streams may name this one, besides those of the configuration and the ``ADDED`` last ones."""
        with self._turn:
            if adaptation.hash in self._adaptations:
                return
            self._adaptations[adaptation.hash] = adaptation
            self._added.append(adaptation.hash)
            if len(self._added) > ADDED:
                forgotten = self._added.popleft()
                del self._adaptations[forgotten]
                self._networks = {key: network for key, network in self._networks.items() if key[1] != forgotten}

    def decode(self, data: bitstream.Buffer) -> PointCloud:
        """The cloud in the order that the stream has, in the dtypes it had, with all fields that were not dropped.

        Scales that were left out give the centres of the coarser cells. Raises StreamError subclasses for anything wrong with
        the bytes, ModelNotFoundError for a model that is not installed, AdaptationNotFoundError.
        """
        info, layout, chunks = bitstream.read_stream(data, self.config)
        xyz, grid = np.zeros((0, 3), info.dtype), np.zeros((0, 3), np.int64)
        if info.voxels:
            xyz, grid = self._decode_points(info, chunks)
        if bitstream.IMAGE in chunks:
            return self._decode_image(info, layout, chunks)
        context = Context(grid, layout.off_grid, info.step, info.origin)
        if (bitstream.OFF_GRID in chunks) != bool(layout.off_grid) or (bitstream.REMAINDERS in chunks and info.drop_scales):
            raise CorruptStreamError(f"{layout.off_grid} points off the grid, {info.drop_scales} scales dropped: {[*chunks]}")
        if bitstream.REMAINDERS in chunks:
            remainders = chunks[bitstream.REMAINDERS]
            xyz = decode_remainders(remainders, grid, info.step, info.origin, xyz.dtype, context.on_grid)
        if layout.off_grid:
            beside = decode_off_grid(chunks[bitstream.OFF_GRID], layout.off_grid, xyz.dtype)
            xyz = np.concatenate([xyz, beside])
        reader = ScanReader(chunks[bitstream.SCAN], len(xyz)) if bitstream.SCAN in chunks else None
        fields, scan = decode_fields(layout.fields, chunks.get(bitstream.ATTRIBUTES, memoryview(b"")), context, reader)
        if bitstream.ORDER in chunks:
            places = decode_order(chunks[bitstream.ORDER], len(xyz), context, sources_of(fields), scan)
            rows = _rows_of(places, len(xyz))
            xyz, fields = xyz[rows], {name: values[rows] for name, values in fields.items()}
        return _as_laid_out(xyz, fields, layout)

    def _decode_image(self, info: CloudInfo, layout: Layout, chunks: dict[str, memoryview]) -> PointCloud:
        others = {*bitstream.GRID_CHUNKS, bitstream.OFF_GRID, bitstream.REMAINDERS, bitstream.SCAN, bitstream.ORDER} & {*chunks}
        pixels = layout.off_grid + layout.left_out
        if info.voxels or others or not layout.off_grid or (layout.height > 1 and layout.left_out):
            told = f"{info.voxels} voxels, {layout.off_grid} pixels, {layout.left_out} points left out and {sorted(others)}"
            raise CorruptStreamError(f"an image with {told}")
        if pixels > self.config.max_points:
            raise LimitExceededError(f"{pixels} pixels declared, the limit is {self.config.max_points}")
        xyz, context, order = decode_image(chunks[bitstream.IMAGE], pixels, np.dtype(info.dtype))
        if layout.height == 1:
            keep = finite_rows(xyz)
            if np.count_nonzero(keep) != layout.off_grid:
                raise CorruptStreamError(f"{np.count_nonzero(keep)} valid pixels, {layout.off_grid} are declared")
            xyz, context = xyz[keep], context_of(context.grid[keep])
        fields, _ = decode_fields(layout.fields, chunks.get(bitstream.ATTRIBUTES, memoryview(b"")), context)
        if layout.height > 1:
            rows = _rows_of(order, len(order))
            xyz, fields = xyz[rows], {name: values[rows] for name, values in fields.items()}
        return _as_laid_out(xyz, fields, layout)

    def _decode_points(self, info: CloudInfo, chunks: dict[str, memoryview]) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) and grid coordinates (N, 3) int64 of the points on the grid, in coarser cells the corner's."""
        coords = self._decode_cells(info, chunks)
        if bitstream.cells_checksum(coords) != info.checksum:
            raise CorruptStreamError(f"the {info.voxels} decoded voxels fail their checksum")
        grid = (coords << info.drop_scales) + np.array(info.shift)
        if bitstream.LATTICE in chunks:
            grid = self._restore_lattice(info, chunks[bitstream.LATTICE], grid)
        centre = ((1 << info.drop_scales) - 1) / 2
        xyz = dequantise(grid + centre, info.step, info.origin, info.dtype)
        if not np.isfinite(xyz).all():
            raise CorruptStreamError(f"steps of {info.step:g} from {info.origin} leave {info.dtype}")
        if bitstream.COUNTS in chunks:
            counts = self._decode_counts(info, chunks[bitstream.COUNTS], coords)
            xyz, grid = np.repeat(xyz, counts, axis=0), np.repeat(grid, counts, axis=0)
        return xyz, grid

    def _decode_cells(self, info: CloudInfo, payloads: dict[str, memoryview]) -> np.ndarray:
        depth = info.coded_depth
        if (bitstream.RAW in payloads) == (bitstream.OCCUPANCY in payloads):
            raise CorruptStreamError(f"{info.voxels} voxels and not exactly one of {bitstream.RAW} and {bitstream.OCCUPANCY}")
        if bitstream.RAW in payloads:
            if bitstream.LIKELIEST in payloads:
                raise CorruptStreamError(f"chunk {bitstream.LIKELIEST} beside {bitstream.RAW}")
            return geometry.decode_raw(payloads[bitstream.RAW], depth, info.voxels)
        if not info.model_hash:
            raise CorruptStreamError(f"chunk {bitstream.OCCUPANCY} without the hash of a model")
        if bitstream.BEAMS in payloads and not info.calibrated:
            raise CorruptStreamError(f"chunk {bitstream.BEAMS} in a stream whose predictions are not corrected")
        beams = decode_beams(payloads[bitstream.BEAMS]) if bitstream.BEAMS in payloads else None
        filled, told = self._filling(info, payloads)
        shift, dropped, codes = np.array(info.shift), info.drop_scales, payloads[bitstream.OCCUPANCY]
        with self._turn:
            network = self._network(info.model_hash, payloads.get(bitstream.ADAPTATION))
            correction = Correction(info.calibrated, beams, self.config.threads)
            return geometry.decode_occupancy(network, codes, depth, info.voxels, shift, dropped, correction, filled, told)

    def _filling(self, info: CloudInfo, payloads: dict[str, memoryview]) -> tuple[int, FillingDecoder | None]:
        if bitstream.LIKELIEST not in payloads:
            return 0, None
        described, words = bitstream.decode_filling(payloads[bitstream.LIKELIEST])
        others = {bitstream.COUNTS, bitstream.LATTICE, bitstream.REMAINDERS} & set(payloads)
        if described.levels >= info.coded_depth or others:
            raise CorruptStreamError(f"{described.levels} of {info.coded_depth} levels filled in, beside {[*others]}")
        return described.levels, FillingDecoder(words)

    def _decode_counts(self, info: CloudInfo, payload: memoryview, coords: np.ndarray) -> np.ndarray:
        counts = decode_counts(payload, density_contexts(coords)) + 1
        if int(counts.sum()) != info.points:
            raise CorruptStreamError(f"{int(counts.sum())} points decoded, {info.points} declared")
        return counts

    def _restore_lattice(self, info: CloudInfo, payload: memoryview, grid: np.ndarray) -> np.ndarray:
        if info.drop_scales:
            raise CorruptStreamError(f"a lattice in a stream with {info.drop_scales} scales dropped")
        return decode_lattice(payload, info.voxels).restore(grid)

    def _network(self, digest: str, adaptation: memoryview | None) -> ContextModel:
        """The network that a stream needs. Those that several streams may need are kept; one of its own never outlives it."""
        delta, shared = bitstream.read_adaptation(adaptation) if adaptation is not None else (None, "")
        key = digest, shared
        if key in self._networks and (shared or delta is None):
            return self._networks[key]
        model = store.by_hash(digest, self.config.model_dir)
        if shared:
            if shared not in self._adaptations:
                raise AdaptationNotFoundError(shared, self._adaptations)
            model = self._adaptations[shared].applied(model)
        elif delta is not None:
            own = adapt(model, decode_delta(model, delta))
            return context_model(own, self.config.backend, self.config.threads)
        self._networks[key] = context_model(model, self.config.backend, self.config.threads)
        return self._networks[key]


def _tuning() -> Any:
    """The module that tunes models, which needs torch. Raises BackendError."""
    try:
        return importlib.import_module("anypcc_ros.adaptation.heads")
    except ModuleNotFoundError as error:
        raise BackendError(f"adapting needs torch (pip install 'anypcc_ros[torch]'): {error}") from error


def _as_laid_out(xyz: np.ndarray, fields: dict[str, np.ndarray], layout: Layout) -> PointCloud:
    if len(xyz) % layout.height:
        raise CorruptStreamError(f"{len(xyz)} points do not make {layout.height} rows of one length")
    dropped_before = sum(field.policy == "drop" for field in layout.fields[: layout.position])
    return PointCloud(xyz, fields, layout.height, layout.position - dropped_before)


def _rows_of(places: np.ndarray, points: int) -> np.ndarray:
    """(points,) int64: which point comes where, when the first ones have these places and the others fill the gaps."""
    rows = np.full(points, -1)
    rows[places] = np.arange(len(places))
    rows[rows < 0] = np.arange(len(places), points)
    return rows
