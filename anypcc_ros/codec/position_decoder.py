"""Positions out of a stream, with whichever model and adaptation it names."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from anypcc_ros.codec import bitstream, geometry
from anypcc_ros.codec.background import later
from anypcc_ros.codec.beams import decode_beams
from anypcc_ros.codec.cloud_info import CloudInfo, cells_checksum
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.counts import decode_counts, density_contexts
from anypcc_ros.codec.errors import AdaptationNotFoundError, CorruptStreamError
from anypcc_ros.codec.lattice import decode_lattice
from anypcc_ros.codec.likeliest import FillingDecoder
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.adaptations import Adaptation, adaptations_in
from anypcc_ros.codec.model.backend import context_model, usable
from anypcc_ros.codec.model.delta import adapt, decode_delta
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.occupancy import Correction
from anypcc_ros.codec.octree import dequantise, on_grid_at, repeat_rows

ADDED = 16
"""Adaptations that a decoder keeps of those that it is given while it runs."""


class PositionDecoder:
    """Inverse of ``PositionEncoder``, for several threads like it. Raises what ``Decoder`` does."""

    def __init__(self, config: DecoderConfig, adaptations: Iterable[Adaptation] = ()) -> None:
        usable(config.backend)  # which is needed only later, when a stream names its model
        self.config = config
        self._networks: dict[tuple[str, str], ContextModel] = {}
        self._adaptations = {found.hash: found for found in (*adaptations_in(config.adaptation), *adaptations)}
        self._added: deque[str] = deque()
        self._turn = threading.Lock()

    def add_adaptation(self, adaptation: Adaptation) -> None:
        """From now on streams may name this one, besides those from the start and the ``ADDED`` last ones."""
        with self._turn:
            if adaptation.hash in self._adaptations:
                return
            self._adaptations[adaptation.hash] = adaptation
            self._added.append(adaptation.hash)
            if len(self._added) > ADDED:
                forgotten = self._added.popleft()
                del self._adaptations[forgotten]
                self._networks = {key: network for key, network in self._networks.items() if key[1] != forgotten}

    def decode(self, info: CloudInfo, chunks: dict[str, memoryview]) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) and grid coordinates (N, 3) int64 of the points on the grid, in coarser cells the corner's."""
        coords = self._decode_cells(info, chunks)
        if cells_checksum(coords) != info.checksum:
            raise CorruptStreamError(f"the {info.voxels} decoded voxels fail their checksum")
        repeated = bitstream.COUNTS in chunks
        counts = later(self.config.threads, self._decode_counts, info, chunks[bitstream.COUNTS], coords) if repeated else None
        grid = on_grid_at(coords, np.array(info.shift), info.drop_scales)
        if bitstream.LATTICE in chunks:
            grid = self._restore_lattice(info, chunks[bitstream.LATTICE], grid)
        centre = ((1 << info.drop_scales) - 1) / 2
        xyz = dequantise(grid + centre if centre else grid, info.step, info.origin, info.dtype)
        if not np.isfinite(xyz).all():
            raise CorruptStreamError(f"steps of {info.step:g} from {info.origin} leave {info.dtype}")
        if counts:
            repeats = counts()
            xyz, grid = (repeat_rows(rows, repeats, info.points) for rows in (xyz, grid))
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
