"""Encoder and Decoder: the public face of the codec, as the named steps of the algorithm."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec import bitstream, geometry
from anypcc_ros.codec.attributes import decode_fields, encode_fields
from anypcc_ros.codec.bitstream import CloudInfo, Layout
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.counts import decode_counts, density_contexts, encode_counts
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.lattice import Lattice, decode_lattice, encode_lattice, find_lattice
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.octree import Voxels, dequantise, quantise, voxelise
from anypcc_ros.codec.surroundings import surroundings

NO_LATTICE = Lattice((None, None, None))
NO_VOXELS = Voxels(np.zeros(3, np.int64), np.zeros((0, 3), np.int64), np.zeros(0, np.int64), 0)


class _GridPoints(NamedTuple):
    """Points on the grid: their cells; in the codec's order their grid coordinates (M, 3) and rows (M,) in the cloud; and
    chunks by tag."""

    voxels: Voxels
    grid: np.ndarray
    rows: np.ndarray
    payloads: dict[str, bytes]


class Encoder:
    """Compresses clouds with one configuration. Raises ModelNotFoundError, ModelFileError, BackendError."""

    def __init__(self, config: CodecConfig | None = None) -> None:
        self.config = config or CodecConfig()
        self._model = store.by_name(self.config.model)
        self._network = context_model(self._model, self.config.backend, self.config.threads)

    @property
    def model_hash(self) -> str:
        """Identity of the weights: 16 hex digits."""
        return self._model.hash

    def encode(self, cloud: PointCloud) -> bytes:
        """A complete stream for the cloud: its points on the grid, and every field by its policy.

        Points with NaN or infinity are left out and counted, or stay in place with ``order`` original.
        Raises InputError for positions beyond what the grid can hold.
        """
        finite, invalid = cloud.finite()
        points = self._points_on_grid(finite)
        layout, attributes = self._fields(finite, points, invalid)
        payloads = points.payloads | ({bitstream.ATTRIBUTES: attributes} if attributes else {})
        return bitstream.write_stream(self._describe(finite, points), payloads, layout)

    def _points_on_grid(self, cloud: PointCloud) -> _GridPoints:
        config = self.config
        if not len(cloud):
            return _GridPoints(NO_VOXELS, np.zeros((0, 3), np.int64), np.zeros(0, np.int64), {})
        grid = quantise(cloud.xyz, config.step, config.origin)
        # Scales are dropped on the grid itself: on a lattice a coarser cell would have no size.
        lattice = NO_LATTICE if config.drop_scales else find_lattice(grid)
        voxels, rows = voxelise(lattice.compact(grid), config.drop_scales)
        occupancy = geometry.encode_occupancy(self._network, voxels)
        tag, payload = bitstream.OCCUPANCY, occupancy
        if len(voxels.coords) <= geometry.RAW_VOXELS and len(raw := geometry.encode_raw(voxels)) <= len(occupancy):
            tag, payload = bitstream.RAW, raw
        payloads = {tag: payload}
        if lattice:
            payloads[bitstream.LATTICE] = encode_lattice(lattice)
        if not self._keeps_duplicates:
            rows = rows[np.cumsum(voxels.counts) - voxels.counts]
        elif voxels.counts.max() > 1:
            payloads[bitstream.COUNTS] = encode_counts(voxels.counts - 1, density_contexts(voxels.coords))
        return _GridPoints(voxels, grid[rows], rows, payloads)

    def _fields(self, cloud: PointCloud, points: _GridPoints, left_out: int) -> tuple[Layout, bytes]:
        values = {name: values[points.rows] for name, values in cloud.fields.items()}
        fields, attributes = encode_fields(values, self.config, surroundings(points.grid)) if values else ((), b"")
        return Layout(1, cloud.position, left_out, 0, fields), attributes

    @property
    def _keeps_duplicates(self) -> bool:
        # Points that fall together because scales were dropped are one point of the coarser grid.
        return not self.config.merge_duplicates and not self.config.drop_scales

    def _describe(self, cloud: PointCloud, points: _GridPoints) -> CloudInfo:
        drop = self.config.drop_scales if len(cloud) else 0
        voxels, model = points.voxels, bitstream.OCCUPANCY in points.payloads
        x, y, z = map(int, voxels.shift)
        return CloudInfo(
            dtype=cloud.xyz.dtype.name,
            step=self.config.step,
            origin=self.config.origin,
            shift=(x, y, z),
            points=len(cloud),
            voxels=len(voxels.coords),
            depth=voxels.depth + drop,
            drop_scales=drop,
            checksum=_checksum(voxels.coords),
            model_name=self._model.name if model else "",
            model_hash=self._model.hash if model else "",
        )


class Decoder:
    """Reconstructs clouds from streams, with whichever installed model each stream names."""

    def __init__(self, config: DecoderConfig | None = None) -> None:
        self.config = config or DecoderConfig()
        self._networks: dict[str, ContextModel] = {}

    def decode(self, data: bitstream.Buffer) -> PointCloud:
        """The cloud in the order that the stream has, in the dtypes it had, with all fields that were not dropped.

        Dropped scales give the centres of the coarser cells. Raises StreamError subclasses for anything wrong with the
        bytes, ModelNotFoundError for a model that is not installed.
        """
        info, layout, payloads = bitstream.read_stream(data, self.config)
        xyz, grid = np.zeros((0, 3), info.dtype), np.zeros((0, 3), np.int64)
        if info.voxels:
            xyz, grid = self._decode_points(info, payloads)
        coded = payloads.get(bitstream.ATTRIBUTES, memoryview(b""))
        fields = decode_fields(layout.fields, coded, surroundings(grid)) if layout.fields else {}
        dropped_before = sum(field.policy == "drop" for field in layout.fields[: layout.position])
        return PointCloud(xyz, fields, layout.height, layout.position - dropped_before)

    def _decode_points(self, info: CloudInfo, payloads: dict[str, memoryview]) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) and grid coordinates (N, 3) int64 of the points on the grid, in coarser cells the corner's."""
        coords = self._decode_cells(info, payloads)
        if _checksum(coords) != info.checksum:
            raise CorruptStreamError(f"the {info.voxels} decoded voxels fail their checksum")
        grid = (coords << info.drop_scales) + np.array(info.shift)
        if bitstream.LATTICE in payloads:
            grid = self._restore_lattice(info, payloads[bitstream.LATTICE], grid)
        centre = ((1 << info.drop_scales) - 1) / 2
        xyz = dequantise(grid + centre, info.step, info.origin, info.dtype)
        if not np.isfinite(xyz).all():
            raise CorruptStreamError(f"steps of {info.step:g} from {info.origin} leave {info.dtype}")
        if bitstream.COUNTS in payloads:
            counts = self._decode_counts(info, payloads[bitstream.COUNTS], coords)
            xyz, grid = np.repeat(xyz, counts, axis=0), np.repeat(grid, counts, axis=0)
        return xyz, grid

    def _decode_cells(self, info: CloudInfo, payloads: dict[str, memoryview]) -> np.ndarray:
        depth = info.coded_depth
        if (bitstream.RAW in payloads) == (bitstream.OCCUPANCY in payloads):
            raise CorruptStreamError(f"{info.voxels} voxels and not exactly one of {bitstream.RAW} and {bitstream.OCCUPANCY}")
        if bitstream.RAW in payloads:
            return geometry.decode_raw(payloads[bitstream.RAW], depth, info.voxels)
        if not info.model_hash:
            raise CorruptStreamError(f"chunk {bitstream.OCCUPANCY} without the hash of a model")
        network = self._network(info.model_hash)
        return geometry.decode_occupancy(network, payloads[bitstream.OCCUPANCY], depth, info.voxels)

    def _decode_counts(self, info: CloudInfo, payload: memoryview, coords: np.ndarray) -> np.ndarray:
        counts = decode_counts(payload, density_contexts(coords)) + 1
        if int(counts.sum()) != info.points:
            raise CorruptStreamError(f"{int(counts.sum())} points decoded, {info.points} declared")
        return counts

    def _restore_lattice(self, info: CloudInfo, payload: memoryview, grid: np.ndarray) -> np.ndarray:
        if info.drop_scales:
            raise CorruptStreamError(f"a lattice in a stream with {info.drop_scales} scales dropped")
        return decode_lattice(payload, info.voxels).restore(grid)

    def _network(self, digest: str) -> ContextModel:
        if digest not in self._networks:
            model = store.by_hash(digest, self.config.model_dir)
            self._networks[digest] = context_model(model, self.config.backend, self.config.threads)
        return self._networks[digest]


def _checksum(coords: np.ndarray) -> int:
    return zlib.crc32(coords.astype("<u4").tobytes())
