"""Speed and memory of the codec and its peers on this machine, every measurement in a fresh process.

A process of its own makes the peak memory that of one measurement, and lets none profit from what another left warm.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import AnypccError, InputError
from anypcc_ros.evaluation import peers
from anypcc_ros.evaluation.evaluate import grid_points, matching_decoder, same_points, unique_cells
from anypcc_ros.evaluation.machine import current_memory, peak_memory, resolved_backend, resolved_threads
from anypcc_ros.evaluation.peers import PeerRun
from anypcc_ros.evaluation.rows import csv_text
from anypcc_ros.evaluation.stages import STAGES, recording
from anypcc_ros.files import read_cloud, write_cloud

OURS = "anypcc"
"""What this codec is called among its peers."""

GROWTH_POINTS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)

Result = TypeVar("Result")


class BenchmarkError(AnypccError):
    """A measurement could not be made; the message says of what and why."""


@dataclass(frozen=True)
class Spread:
    """Repeated timings of one thing, in seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def rate(self, count: int) -> float | None:
        """``count`` per second; None for times below the clock's resolution."""
        return count / self.median if self.median else None


@dataclass(frozen=True)
class Row:
    """One codec on one cloud and grid.

    ``codec``: ``OURS`` or the name of a peer; ``model``, ``backend`` ("native", "torch", "cuda") and ``memory`` are ours alone.
    ``threads``: those the codec may use. ``points``: of the input; ``voxels``: occupied cells. ``memory``: peak of the whole
    process that loaded the cloud, encoded and decoded it, in bytes. ``exact``: every point came back as it has to be.
    ``encode_stages`` and ``decode_stages``: seconds by stage, see ``stages.STAGES``; empty if they were not asked for.
    """

    file: str
    step: float
    codec: str
    threads: int
    points: int
    voxels: int
    bytes: int
    encode: Spread
    decode: Spread
    exact: bool
    model: str = ""
    backend: str = ""
    memory: int | None = None
    encode_stages: Mapping[str, float] = field(default_factory=dict)
    decode_stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def bpp(self) -> float:
        """Bits per input point."""
        return 8 * self.bytes / max(self.points, 1)

    def record(self) -> dict[str, object]:
        """The row as columns of the CSV file: times in milliseconds, memory in megabytes (10^6 bytes)."""
        plain = ("file", "step", "codec", "model", "backend", "threads", "points", "voxels", "bytes", "bpp", "exact")
        record: dict[str, object] = {name: getattr(self, name) for name in plain}
        record["memory_mb"] = None if self.memory is None else self.memory / 1e6
        sides = (("encode", self.encode, self.encode_stages), ("decode", self.decode, self.decode_stages))
        for side, spread, stages in sides:
            record[f"{side}_ms"] = 1e3 * spread.median
            record[f"{side}_min_ms"], record[f"{side}_max_ms"] = 1e3 * spread.low, 1e3 * spread.high
            record[f"{side}_points_per_s"] = spread.rate(self.points)
            record |= {f"{side}_{stage}_ms": 1e3 * seconds for stage, seconds in stages.items()}
        return record


def to_csv(rows: Sequence[Row]) -> str:
    """All rows as CSV; the columns are those of ``Row.record``, the stages' last."""
    columns = [*dict.fromkeys(name for row in rows for name in row.record())]
    per_stage = [f"{side}_{stage}_ms" for side in ("encode", "decode") for stage in STAGES]
    columns.sort(key=lambda name: name in per_stage)
    return csv_text(columns, [row.record() for row in rows])


# ---- many measurements


def benchmark(
    paths: Sequence[Path], configs: Sequence[CodecConfig], repeats: int, live_peers: bool = True
) -> Iterator[Row | BenchmarkError]:
    """Every cloud with every configuration, and every peer on every grid; rows as they are measured.

    A peer that fails yields the error in place of its row. Raises BenchmarkError, FileError, InputError.
    """
    for path in paths:
        for step in dict.fromkeys(config.step for config in configs):
            on_grid = [config for config in configs if config.step == step]
            for config in on_grid:
                yield in_fresh_process(measure_file, path, config, repeats, True)
            for peer in PEERS if live_peers else ():
                try:
                    row = in_fresh_process(measure_peer, path, on_grid[0], peer, repeats)
                except BenchmarkError as error:
                    yield error
                    continue
                if row is not None:
                    yield row


def growth(path: Path, config: CodecConfig, sizes: Sequence[int], repeats: int) -> Iterator[Row]:
    """One cloud cropped and tiled to each number of points, see ``resized``. Raises BenchmarkError, FileError, InputError."""
    cloud, _ = read_cloud(path).finite()
    with tempfile.TemporaryDirectory(prefix="anypcc-") as folder:
        for points in sizes:
            part = Path(folder) / f"{points}.npz"
            write_cloud(part, resized(cloud, points, config.step))
            row = in_fresh_process(measure_file, part, config, repeats, False)
            part.unlink()
            yield dataclasses.replace(row, file=str(path))


def resized(cloud: PointCloud, points: int, step: float) -> PointCloud:
    """A cloud of that many points with the density of the given one: copies of it side by side on the ground plane, of
    which those points are kept that are nearest to the middle. Copies are whole steps apart. Raises InputError."""
    if not len(cloud):
        raise InputError("a cloud without points cannot be tiled")
    low, high = cloud.xyz.min(axis=0), cloud.xyz.max(axis=0)
    tile = (np.floor((high - low).astype(np.float64) / step) + 1) * step
    side = 1
    while side * side * len(cloud) < points:
        side += 2  # odd: the middle stays the middle of a copy
    shifts = np.arange(side) - side // 2
    offsets = np.stack(np.meshgrid(shifts, shifts, [0], indexing="ij"), axis=-1).reshape(-1, 1, 3) * tile
    xyz = (cloud.xyz + offsets.astype(cloud.xyz.dtype)).reshape(-1, 3)
    middle = (low.astype(np.float64) + high) / 2
    nearest = np.argpartition(np.square(xyz - middle).sum(axis=1), points - 1)[:points]
    return PointCloud(xyz[np.sort(nearest)])


@dataclass(frozen=True)
class Sample:
    """Where a long run stands after so many frames: memory in bytes at that moment, and codec times since the last sample."""

    frames: int
    memory: int
    encode: Spread
    decode: Spread


def endurance(paths: Sequence[Path], config: CodecConfig, frames: int) -> list[Sample]:
    """The clouds in turn through one encoder and one decoder of one process, ``frames`` times altogether: ten samples.

    Raises BenchmarkError, FileError, InputError.
    """
    return in_fresh_process(measure_endurance, paths[0], paths, config, frames)


def measure_endurance(_: Path, paths: Sequence[Path], config: CodecConfig, frames: int) -> list[Sample]:
    """As ``endurance``, in this process."""
    clouds = [PointCloud(read_cloud(path).finite()[0].xyz) for path in paths]
    encoder, decoder = Encoder(config, successive=True), Decoder(matching_decoder(config))
    samples: list[Sample] = []
    encode: list[float] = []
    decode: list[float] = []
    for frame in range(1, frames + 1):
        start = time.perf_counter()
        data = encoder.encode(clouds[frame % len(clouds)])
        encode.append(time.perf_counter() - start)
        decode.append(_seconds(functools.partial(decoder.decode, data)))
        if frame * 10 // frames > (frame - 1) * 10 // frames:
            samples.append(Sample(frame, current_memory(), Spread.of(encode), Spread.of(decode)))
            encode, decode = [], []
    return samples


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What the function returns in a new Python process. Raises BenchmarkError for what goes wrong there."""
    try:
        # "spawn" rather than "fork": a copy of this process would bring its memory and its warm kernels along.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result, reason = pool.submit(_guarded, function, arguments).result()
    except BrokenProcessPool as error:
        raise BenchmarkError(f"{arguments[0]}: the measuring process was killed, by lack of memory most likely") from error
    if reason:
        raise BenchmarkError(reason)
    return result


def _guarded(function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[Any, str]:
    # Errors travel between processes as text: not every exception class survives pickling.
    try:
        return function(*arguments), ""
    except AnypccError as error:
        reason = str(error)
        return None, reason if reason.startswith(str(arguments[0])) else f"{arguments[0]}: {reason}"


# ---- one measurement


def measure_file(path: Path, config: CodecConfig, repeats: int, stages: bool) -> Row:
    """One cloud with one configuration: medians of ``repeats`` runs after a first that does not count.

    With ``stages`` as many further runs are timed by stage. Raises FileError, InputError, ModelNotFoundError, BackendError.
    """
    cloud = PointCloud(read_cloud(path).finite()[0].xyz)  # figures here are of positions alone
    encoder, decoder = Encoder(config, successive=True), Decoder(matching_decoder(config))
    data = encoder.encode(cloud)
    decoded = decoder.decode(data)
    encode, decode = [], []
    for _ in range(repeats):
        encode.append(_seconds(lambda: encoder.encode(cloud)))
        decode.append(_seconds(lambda: decoder.decode(data)))
    memory = peak_memory()  # before the checks below, which take more than the codec
    backend = resolved_backend(config)
    encode_stages = _stages(backend, repeats, lambda: encoder.encode(cloud)) if stages else {}
    decode_stages = _stages(backend, repeats, lambda: decoder.decode(data)) if stages else {}
    expected, voxels = grid_points(cloud, config)
    return Row(
        file=str(path),
        step=config.step,
        codec=OURS,
        model=config.model,
        backend=backend,
        threads=resolved_threads(config),
        points=len(cloud),
        voxels=voxels,
        bytes=len(data),
        encode=Spread.of(encode),
        decode=Spread.of(decode),
        exact=same_points(expected, decoded.xyz),
        memory=memory,
        encode_stages=encode_stages,
        decode_stages=decode_stages,
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _stages(backend: str, repeats: int, work: Callable[[], object]) -> dict[str, float]:
    """Median seconds by stage; stages that took no time at all are left out."""
    runs = []
    for _ in range(repeats):
        with recording(backend) as watch:
            work()
        runs.append(watch.seconds)
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    return {stage: seconds for stage, seconds in medians.items() if seconds}


def _gpcc(setting: str) -> Callable[[PointCloud, np.ndarray], PeerRun | None]:
    return lambda cloud, cells: peers.run_gpcc(cells, setting)


PEERS: dict[str, Callable[[PointCloud, np.ndarray], PeerRun | None]] = {
    **{f"G-PCC {setting}": _gpcc(setting) for setting in peers.GPCC},
    "Draco": lambda cloud, cells: peers.run_draco(cells),
    "zstd, not rounded": lambda cloud, cells: peers.run_zstd(cloud),
}
"""Other codecs: what runs one once on a cloud or on its unique grid cells (V, 3) int64, or None where it is not installed."""


def measure_peer(path: Path, config: CodecConfig, peer: str, repeats: int) -> Row | None:
    """One of ``PEERS`` on the cloud's grid, timed as ours; None where it is not installed or there are no points.

    Raises FileError, PeerError.
    """
    cloud, _ = read_cloud(path).finite()
    if not len(cloud):
        return None
    cells = unique_cells(np.rint((cloud.xyz.astype(np.float64) - config.origin) / config.step).astype(np.int64))
    runs = []
    for _ in range(repeats + 1):
        run = PEERS[peer](cloud, cells)
        if run is None:
            return None
        runs.append(run)
    return Row(
        file=str(path),
        step=config.step,
        codec=peer,
        threads=1,
        points=len(cloud),
        voxels=len(cells),
        bytes=runs[0].bytes,
        encode=Spread.of([run.encode_s for run in runs[1:]]),
        decode=Spread.of([run.decode_s for run in runs[1:]]),
        exact=True,  # the peers check what they decode and raise
    )
