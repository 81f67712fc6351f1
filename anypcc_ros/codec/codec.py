"""Encoder and Decoder: the public face of the codec, as the named steps of the algorithm."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.attributes import Measured, decode_fields, encode_fields, sources_of
from anypcc_ros.codec.cloud import PointCloud, finite_rows
from anypcc_ros.codec.cloud_info import CloudInfo
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.errors import ConfigError, CorruptStreamError, LimitExceededError
from anypcc_ros.codec.exact import (
    Origin,
    decode_off_grid,
    decode_remainders,
    encode_off_grid,
    encode_remainders,
    on_grid,
    suitable_grid,
)
from anypcc_ros.codec.firing import Found, ScanReader, ascends, find_firing
from anypcc_ros.codec.images import context_of, decode_image, encode_image, find_image, pixels_of, within
from anypcc_ros.codec.layout import Layout
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.codec.model.integer import IntegerModel
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.occupancy import Witness
from anypcc_ros.codec.order import decode_order, encode_order, encode_order_of
from anypcc_ros.codec.position_decoder import PositionDecoder
from anypcc_ros.codec.position_encoder import PositionEncoder, no_points
from anypcc_ros.codec.representation import NOTHING, as_integers, factor_of
from anypcc_ros.codec.surroundings import Context
from anypcc_ros.codec.tracks import Sources


class Encoder:
    """Compresses clouds with one configuration.

    Raises ModelNotFoundError, ModelFileError, BackendError, and StreamError or FileError for an adaptation's file.

    ``successive``: the clouds come from one sensor, one after another; what one of them told of the sensor then serves the
    next, whose bytes depend on that. Without it equal clouds give equal bytes. ``adaptation``: in place of that of the
    configuration's file.
    Several threads may encode at a time: one cloud passes through the network, which keeps every core busy, while others
    are prepared and their fields coded.
    """

    def __init__(
        self, config: CodecConfig | None = None, successive: bool = False, adaptation: Adaptation | None = None
    ) -> None:
        self.config = config or CodecConfig()
        self._positions = PositionEncoder(self.config, successive, adaptation)

    def on_grid(self, step: float, drop_scales: int, truth: float = 0.0, lossy: str = "") -> Encoder:
        """This encoder with another step, other scales dropped, ``truth`` and maybe ``lossy``, with the same network. Raises
        ConfigError."""
        lossy = lossy or self.config.lossy
        return self._with(self._positions.configured(step=step, drop_scales=drop_scales, truth=truth, lossy=lossy))

    def for_one_cloud(self) -> Encoder:
        """This encoder for the next cloud alone, which then counts as one of successive clouds, however often it is encoded."""
        return self._with(self._positions.for_one_cloud())

    def watched_by(self, network: ContextModel, witness: Witness) -> Encoder:
        """This encoder with another network, and with somebody who looks on while octrees are encoded."""
        return self._with(self._positions.watched_by(network, witness))

    def _with(self, positions: PositionEncoder) -> Encoder:
        other = copy.copy(self)
        other.config, other._positions = positions.config, positions
        return other

    @property
    def adaptation(self) -> Adaptation | None:
        """The shared adaptation that streams name, if there is one."""
        return self._positions.adaptation

    @property
    def model(self) -> IntegerModel:
        """The model as it is installed."""
        return self._positions.model

    @property
    def model_hash(self) -> str:
        """Identity of the weights: 16 hex digits."""
        return self.model.hash

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
        held = self._held(kept.xyz, step, origin)
        beside = np.flatnonzero(~held)

        gridded = kept.take(held) if len(beside) else kept
        points = self._positions.encode(gridded.xyz, step, origin, gridded.fields)
        chunks = points.chunks
        places = np.flatnonzero(held)[points.rows] if len(beside) else points.rows
        rows = np.concatenate([places, beside]) if len(beside) else places
        context = Context(points.grid, len(beside), step, origin)
        if config.exact and len(gridded):
            coordinates = kept.xyz[places]
            chunks[bitstream.REMAINDERS] = encode_remainders(coordinates, points.grid, step, origin, context.on_grid)
        if len(beside):
            chunks[bitstream.OFF_GRID] = encode_off_grid(kept.xyz[beside])
        values = {name: values[rows] for name, values in kept.fields.items()}
        measured = Measured(partial(self._firing, values, rows, context))
        fields, attributes, decoded = encode_fields(values, config, context, measured)
        if attributes:
            chunks[bitstream.ATTRIBUTES] = attributes
        if in_place and len(gridded):
            chunks[bitstream.ORDER] = _shortest_order(places, cloud.height, context, sources_of(decoded), measured)
        if measured.used:  # by a field or by the order
            chunks[bitstream.SCAN] = measured.encode(context)
        layout = Layout(cloud.height if in_place else 1, cloud.position, len(cloud) - len(kept), len(beside), fields)
        return bitstream.write_stream(self._positions.describe(cloud.xyz.dtype.name, points, step, origin), chunks, layout)

    def _held(self, xyz: np.ndarray, step: float, origin: Origin) -> np.ndarray:
        """Which points the grid holds: (N,) bool, of ``xyz`` (N, 3), where invalid ones are only if they stay in place."""
        if self.config.exact:
            return on_grid(xyz, step, origin)
        return finite_rows(xyz) if self.config.order == "original" else np.ones(len(xyz), bool)

    def _firing(self, fields: Mapping[str, np.ndarray], rows: np.ndarray, context: Context) -> Found | None:
        """How a spinning sensor measured the points, if that may serve: their order is wanted, or there are times.

        ``fields``: of points in the codec's order, which were given at these rows (N,). Rings are those of a field that comes
        back as it is: the decoder has no other.
        """
        kept = [name for name in fields if self.config.policy(name).kind != "drop"]
        columns = [(i, fields[name]) for i, name in enumerate(kept) if fields[name].ndim == 1]
        given = _sorting(rows)
        if self.config.order != "original" and not any(ascends(values[given]) for _, values in columns):
            return None
        for i, values in columns:
            whole = values.dtype.kind in "iu" and factor_of(self.config.policy(kept[i]).step) == 1
            rings = as_integers(values) if whole else NOTHING
            if found := find_firing(i, rings, context.grid_everywhere, given):
                return found
        return None

    def _encode_image(self, cloud: PointCloud) -> bytes | None:
        """A stream that holds a depth image as such, where that is known to be smaller: exact, or in the points' order."""
        config, in_place = self.config, self.config.order == "original"
        if not (config.exact or (in_place and self._positions.keeps_duplicates)):
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
        info = self._positions.describe(cloud.xyz.dtype.name, no_points(), config.step, config.origin)
        return bitstream.write_stream(info, chunks, layout)


class Decoder:
    """Reconstructs clouds from streams, with whichever installed model each stream names. For several threads as Encoder."""

    def __init__(self, config: DecoderConfig | None = None, adaptations: Iterable[Adaptation] = ()) -> None:
        """``adaptations``: those that streams may name, besides those of the configuration.

        Raises ConfigError for a folder of models that is not there, FileError and StreamError subclasses for bad adaptations,
        BackendError where the backend cannot run.
        """
        self.config = config or DecoderConfig()
        if self.config.model_dir and not os.path.isdir(self.config.model_dir):
            raise ConfigError("model_dir", self.config.model_dir, "there is no such folder")
        self._positions = PositionDecoder(self.config, adaptations)

    def add_adaptation(self, adaptation: Adaptation) -> None:
        """From now on streams may name this one, besides those from the start and the ``ADDED`` last ones."""
        self._positions.add_adaptation(adaptation)

    def decode(self, data: bitstream.Buffer) -> PointCloud:
        """The cloud in the order that the stream has, in the dtypes it had, with all fields that were not dropped.

        Scales that were left out give the centres of the coarser cells. Raises StreamError subclasses for anything wrong with
        the bytes, ModelNotFoundError for a model that is not installed, AdaptationNotFoundError.
        """
        info, layout, chunks = bitstream.read_stream(data, self.config)
        xyz, grid = np.zeros((0, 3), info.dtype), np.zeros((0, 3), np.int64)
        if info.voxels:
            xyz, grid = self._positions.decode(info, chunks)
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


def _shortest_order(places: np.ndarray, height: int, context: Context, sources: Sources, measured: Measured) -> bytes:
    """The places (N,) of the points on the grid, by a track or by the scan, which then is used."""
    by_track = encode_order(places, len(context), height, context, sources)
    if scan := measured.scan(sources):
        by_scan = encode_order_of(scan, places)
        if len(by_scan) + measured.price(context) < len(by_track):
            measured.used = True
            return by_scan
    return by_track


def _as_laid_out(xyz: np.ndarray, fields: dict[str, np.ndarray], layout: Layout) -> PointCloud:
    if len(xyz) % layout.height:
        raise CorruptStreamError(f"{len(xyz)} points do not make {layout.height} rows of one length")
    dropped_before = sum(field.policy == "drop" for field in layout.fields[: layout.position])
    return PointCloud(xyz, fields, layout.height, layout.position - dropped_before)


def _sorting(rows: np.ndarray) -> np.ndarray:
    """(N,) int64: what sorts (N,) row numbers stably."""
    places = np.full(int(rows.max(initial=-1)) + 1, -1)
    places[rows] = np.arange(len(rows))
    order = places[places >= 0]
    # Sorting takes longer, and is only needed where points were made of the same one.
    return order if len(order) == len(rows) else np.argsort(rows, kind="stable")


def _rows_of(places: np.ndarray, points: int) -> np.ndarray:
    """(points,) int64: which point comes where, when the first ones have these places and the others fill the gaps."""
    rows = np.full(points, -1)
    rows[places] = np.arange(len(places))
    rows[rows < 0] = np.arange(len(places), points)
    return rows
