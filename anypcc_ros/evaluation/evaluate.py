"""Measure the codec on clouds, by really encoding and decoding them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.errors import InputError


@dataclass(frozen=True)
class Measurement:
    """One cloud on one grid. The names are the columns of the CSV file.

    ``step``: in the cloud's unit. ``points``: of the input. ``voxels``: occupied cells of the grid. ``bytes``: of the
    whole stream. ``bpp``: 8 * bytes / points. ``exact``: the decoded points are the grid's points, each as often
    as it has to be.
    """

    file: str
    step: float
    points: int
    voxels: int
    bytes: int
    bpp: float
    encode_s: float
    decode_s: float
    exact: bool


class Evaluator:
    """Encodes and decodes clouds with one configuration but for the step, keeping models and threads warm."""

    def __init__(self, config: CodecConfig | None = None, decoder_config: DecoderConfig | None = None) -> None:
        """Raises ModelNotFoundError, ModelFileError, BackendError."""
        self.config = config or CodecConfig(merge_duplicates=True)
        self._decoder = Decoder(decoder_config or matching_decoder(self.config))
        self._warm = False
        self.model_hash = Encoder(self.config).model_hash  # a missing model is better known before the first cloud is read

    def measure(self, name: str, cloud: PointCloud, step: float) -> tuple[Measurement, PointCloud]:
        """Encode and decode one cloud; the measurement, and the decoded cloud. Raises InputError, ConfigError."""
        config, cloud = replace(self.config, step=step), PointCloud(cloud.xyz)  # figures here are of positions alone
        encoder = Encoder(config)
        if not self._warm:  # the first call of a process pays for loading
            self._decoder.decode(encoder.encode(PointCloud(cloud.xyz[:1000])))
            self._warm = True
        start = time.perf_counter()
        data = encoder.encode(cloud)
        encoded = time.perf_counter()
        decoded = self._decoder.decode(data)
        end = time.perf_counter()
        expected, voxels = grid_points(cloud, config)
        row = Measurement(
            file=name,
            step=step,
            points=len(cloud),
            voxels=voxels,
            bytes=len(data),
            bpp=8 * len(data) / max(len(cloud), 1),
            encode_s=encoded - start,
            decode_s=end - encoded,
            exact=same_points(expected, decoded.xyz),
        )
        return row, decoded


def matching_decoder(config: CodecConfig) -> DecoderConfig:
    """A decoder on the encoder's resources, which also finds a model that was named by its file."""
    model = Path(config.model)
    folder = str(model.parent) if model.suffix else ""
    return DecoderConfig(backend=config.backend, threads=config.threads, model_dir=folder)


def grid_points(cloud: PointCloud, config: CodecConfig) -> tuple[np.ndarray, int]:
    """What a lossless decoder has to return, in any order, (M, 3) in the cloud's dtype; and the occupied cells.

    Written apart from the codec, so that a mistake there is not repeated here.
    """
    origin = np.array(config.origin)
    cells = np.rint((cloud.xyz.astype(np.float64) - origin) / config.step).astype(np.int64)
    unique = unique_cells(cells)
    positions = (unique if config.merge_duplicates else cells) * config.step + origin
    if cloud.xyz.dtype.kind == "i":
        positions = np.rint(positions)
    return positions.astype(cloud.xyz.dtype), len(unique)


def unique_cells(cells: np.ndarray) -> np.ndarray:
    """(V, 3) int64: the different rows of ``cells`` (N, 3) int64, in lexicographic order."""
    if not len(cells):
        return cells
    low = cells.min(axis=0)
    bits = [int(extent).bit_length() for extent in cells.max(axis=0) - low]
    if sum(bits) > 63:
        return np.unique(cells, axis=0)
    # One number per row sorts twenty times faster than a row does.
    x, y, z = (cells - low).T
    keys = np.unique((x << bits[1] | y) << bits[2] | z)
    rows = np.stack([keys >> bits[1] + bits[2], keys >> bits[2] & (1 << bits[1]) - 1, keys & (1 << bits[2]) - 1], axis=1)
    return rows + low


def same_points(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether (N, 3) and (M, 3) hold the same points equally often."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(np.array_equal(one[np.lexsort(one.T)], other[np.lexsort(other.T)]))


def step_of_bits(cloud: PointCloud, bits: int) -> float:
    """The step that puts the cloud's largest extent on 2^bits steps. Raises InputError where it has no extent."""
    finite = cloud.finite()[0].xyz.astype(np.float64)
    extent = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    if not extent > 0:
        raise InputError(f"{len(cloud)} points without extent: give a step instead of grid bits")
    return extent / 2.0**bits
