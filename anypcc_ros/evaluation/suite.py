"""Many clouds, each on the grids of its category, by our models and by other codecs, in several processes at once."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np

from anypcc_ros import codec
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import FileError
from anypcc_ros.codec.model import store
from anypcc_ros.evaluation import metrics, peers
from anypcc_ros.evaluation.evaluate import Evaluator, Measurement, step_of_bits, unique_cells
from anypcc_ros.evaluation.peers import PeerError, PeerGrid, PeerRun
from anypcc_ros.evaluation.results import LIVE, TABLE, Journal, Known, Result
from anypcc_ros.files import READABLE, read_cloud, unit_of

_log = logging.getLogger(__name__)

CATEGORY_GRIDS = {
    "lidar_spinning": ("1mm", "16mm", "50mm"),
    "lidar_other": ("1mm", "16mm", "50mm"),
    "indoor_rgbd": ("5mm", "20mm"),
    "gs": ("14bit",),
    "aerial": ("14bit",),
    "photogrammetry": ("12bit",),
}
"""Grids of the categories where the table of peers has none; other categories: native for integers, else 10bit."""

LOSSY_STEPS = (1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
LOSSY_DROPS = (1, 2, 3, 4)
"""Points of a rate-distortion curve: multiples of the finest grid's step, and scales dropped on the finest grid."""


class Source(Protocol):
    """Where a cloud comes from. Sources travel to other processes, so they hold no points."""

    @property
    def file(self) -> str:
        """category/name, what the cloud is known by."""

    @property
    def category(self) -> str: ...

    @property
    def size(self) -> int:
        """Rough measure of the work, for beginning with the largest."""

    @property
    def peak(self) -> float | None:
        """Peak of the PSNR in the unit of the coordinates; None for the largest extent."""

    def load(self) -> tuple[PointCloud, float]:
        """The finite points, positions alone; and the length of one unit of its coordinates. Raises FileError."""

    def grids(self, cloud: PointCloud, unit: float) -> Sequence[PeerGrid]:
        """The grids to measure on, with what a table knows of other codecs there."""


@dataclass(frozen=True)
class FileSource:
    """A file ``category``/name. ``known``: its grids in the table of peers, where there are any."""

    path: Path
    known: tuple[PeerGrid, ...] = ()

    @property
    def file(self) -> str:
        return peers.file_key(self.path)

    @property
    def category(self) -> str:
        return self.path.parent.name

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def peak(self) -> float | None:
        return None

    def load(self) -> tuple[PointCloud, float]:
        return PointCloud(read_cloud(self.path).finite()[0].xyz), unit_of(self.path)

    def grids(self, cloud: PointCloud, unit: float) -> Sequence[PeerGrid]:
        return self.known or category_grids(self.category, cloud, unit)


@dataclass(frozen=True)
class Plan:
    """What is measured of every cloud.

    ``configs``: one per model; their ``step`` and ``drop_scales`` are not used. ``grids``: only these (by name), all if empty.
    ``live_peers``: run Draco, zstd and G-PCC where they are installed. ``distortion``: D1 and D2 on every grid.
    ``curves``: patterns of the files (category/name) that get a rate-distortion curve besides.
    """

    configs: tuple[CodecConfig, ...]
    grids: tuple[str, ...] = ()
    live_peers: bool = True
    distortion: bool = True
    curves: tuple[str, ...] = ()


def folder_sources(
    folder: str | os.PathLike[str], table: Mapping[str, Sequence[PeerGrid]] | None = None, only: Sequence[str] = ()
) -> list[FileSource]:
    """Every cloud in ``folder``/category/. ``only``: patterns of category/name, all if empty. Raises FileError."""
    paths = sorted(p for p in Path(folder).glob("*/*") if p.suffix.lower() in READABLE)
    sources = [FileSource(path, tuple((table or {}).get(peers.file_key(path), ()))) for path in paths]
    chosen = [s for s in sources if not only or any(fnmatch.fnmatch(s.file, pattern) for pattern in only)]
    if not chosen:
        which = f" like {' or '.join(only)}" if only else ""
        raise FileError(f"{folder}: no clouds{which} in folders of categories ({' '.join(READABLE)})")
    return chosen


def evaluate(
    sources: Sequence[Source],
    plan: Plan,
    journal: Journal | None = None,
    jobs: int = 1,
    progress: Callable[[Result], None] = lambda row: None,
) -> list[Result]:
    """Measure every cloud with every model and peer; all rows of the journal, those that were in it before included.

    Rows are sorted by file and rate, those of our models in the order of the plan. Rows that the journal has are not measured
    again; those of other weights, or of other code of ours, under the name of one of the models are left out. ``jobs``:
    processes; each codec then has its share of the cores. ``progress`` is called with every row of ours.
    Raises FileError, ModelNotFoundError, BackendError.
    """
    journal = journal or Journal()
    # A missing model is better known before the first cloud is read.
    versions = {_name(config): _version(config) for config in plan.configs}
    journal.forget(lambda row: not row.is_peer and versions.get(row.codec, row.version) != row.version)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs > 1:
        plan = replace(plan, configs=tuple(replace(c, threads=c.threads or max(cores // jobs, 1)) for c in plan.configs))
    known = journal.known
    tasks: list[tuple[Source, bool]] = [(source, False) for source in sources]
    tasks += [(s, True) for s in sources if any(fnmatch.fnmatch(s.file, pattern) for pattern in plan.curves)]
    tasks.sort(key=lambda task: (-task[0].size, task[0].file, task[1]))
    for rows in _in_processes(tasks, plan, known, jobs):
        journal.add(rows)
        for row in rows:
            if not row.is_peer:
                progress(row)
    journal.finish()
    return in_order(journal.rows, plan)


def in_order(rows: Iterable[Result], plan: Plan) -> list[Result]:
    """Rows sorted by file and rate, those of our models in the order of the plan."""
    order = {_name(config): i for i, config in enumerate(plan.configs)}
    last = len(order)
    return sorted(rows, key=lambda row: (row.file, row.drop_scales, row.stretch, row.step, order.get(row.codec, last)))


def _in_processes(tasks: Sequence[tuple[Source, bool]], plan: Plan, known: Known, jobs: int) -> Iterator[list[Result]]:
    if jobs == 1:
        for source, curve in tasks:
            yield measure(source, plan, known, curve)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:  # a fork would copy what threads hold locked
        running = {pool.submit(measure, source, plan, known, curve) for source, curve in tasks}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def measure(source: Source, plan: Plan, known: Known, curve: bool = False) -> list[Result]:
    """The rows of one cloud that are not ``known``: on its grids or, with ``curve``, at lossy rates of the finest."""
    cloud, unit = source.load()
    grids = [grid for grid in source.grids(cloud, unit) if not plan.grids or grid.grid in plan.grids]
    if not grids or not len(cloud):
        return []
    one = _Cloud(source, cloud, unit, plan, known)
    if not curve:
        return [row for grid in grids for row in (*one.on_grid(grid), *one.in_table(grid))]
    finest = min(grids, key=lambda grid: grid.step)
    rows = [row for stretch in LOSSY_STEPS for row in one.on_grid(finest, stretch)]
    return rows + [row for scales in LOSSY_DROPS for row in one.dropped(finest, scales)]


class _Cloud:
    """One cloud, and what was measured of it before."""

    def __init__(self, source: Source, cloud: PointCloud, unit: float, plan: Plan, known: Known) -> None:
        self._source, self._cloud, self._unit, self._plan, self._known = source, cloud, unit, plan, known

    def on_grid(self, grid: PeerGrid, stretch: float = 1.0) -> list[Result]:
        """Every model and live peer on a grid, its step times ``stretch``; all are lossless there, so one distortion serves."""
        step = grid.step * stretch / self._unit
        cells = unique_cells(np.rint(self._cloud.xyz.astype(np.float64) / step).astype(np.int64))
        blank = self._blank(grid, stretch, 0, len(cells))
        rows: list[Result] = []
        decoded: np.ndarray | None = None
        for config in self._plan.configs:
            row = replace(blank, codec=_name(config), version=_version(config))
            if row.key not in self._known.keys:
                found, cloud = _evaluator(config).measure(row.file, self._cloud, step)
                rows.append(replace(_filled(row, found), exact=found.exact))
                decoded = cloud.xyz if decoded is None else decoded
        if stretch == 1 and self._plan.live_peers:
            rows += self._peer(replace(blank, codec=peers.ZSTD), lambda: peers.run_zstd(self._cloud))
        if self._plan.live_peers:
            rows += self._peer(replace(blank, codec=peers.DRACO), lambda: peers.run_draco(cells))
            for setting in peers.GPCC:
                rows += self._peer(replace(blank, codec=setting), functools.partial(peers.run_gpcc, cells, setting))
        if decoded is not None and (self._plan.distortion or stretch > 1):
            d1, d2 = self._distortion(blank, decoded)
            rows = [row if row.codec == peers.ZSTD else replace(row, d1_psnr=d1, d2_psnr=d2) for row in rows]
        return rows

    def dropped(self, grid: PeerGrid, scales: int) -> list[Result]:
        """Every model with scales dropped. The decoded points, and so the distortion, are the same for all."""
        rows: list[Result] = []
        psnr: tuple[float, float] | None = None
        for config in self._plan.configs:
            lossy = replace(config, drop_scales=scales, lossy="scales")  # filled in they would be other points for each model
            row = replace(self._blank(grid, 1.0, scales, 0), codec=_name(config), version=_version(config))
            if row.key not in self._known.keys:
                found, cloud = _evaluator(lossy).measure(row.file, self._cloud, grid.step / self._unit)
                psnr = psnr or self._distortion(row, cloud.xyz)
                rows.append(replace(_filled(row, found), voxels=len(cloud), d1_psnr=psnr[0], d2_psnr=psnr[1]))
        return rows

    def in_table(self, grid: PeerGrid) -> list[Result]:
        """What a table says of other codecs on this grid."""
        blank = replace(self._blank(grid, 1.0, 0, grid.voxels), version=TABLE)
        rows = [replace(blank, codec=codec, bytes=round(bpp * grid.points / 8), bpp=bpp) for codec, bpp in grid.bpp.items()]
        return [row for row in rows if row.key not in self._known.keys]

    def _blank(self, grid: PeerGrid, stretch: float, scales: int, voxels: int) -> Result:
        return Result(
            file=self._source.file,
            category=self._source.category,
            grid=grid.grid,
            step=grid.step * stretch,
            stretch=stretch,
            drop_scales=scales,
            points=len(self._cloud),
            voxels=voxels,
            codec="",
            version=LIVE,
            bytes=0,
            bpp=math.nan,
        )

    def _peer(self, row: Result, run: Callable[[], PeerRun | None]) -> list[Result]:
        """The row of another codec; none where it is known, not installed, or fails on this cloud, which is said."""
        if row.key in self._known.keys:
            return []
        try:
            done = run()
        except PeerError as error:
            _log.warning("%s %s: %s", row.file, row.grid, error)
            return []
        if done is None:
            return []
        bpp = 8 * done.bytes / row.points
        return [replace(row, bytes=done.bytes, bpp=bpp, encode_s=done.encode_s, decode_s=done.decode_s, exact=True)]

    def _distortion(self, row: Result, decoded: np.ndarray) -> tuple[float, float]:
        if row.rate in self._known.psnr:
            return self._known.psnr[row.rate]
        if np.array_equal(unique_rows(self._cloud.xyz), unique_rows(decoded)):
            return math.inf, math.inf  # searching neighbours would only find this out slowly
        found = metrics.distortion(self._cloud.xyz, decoded, self._source.peak)
        return found.d1_psnr, found.d2_psnr


def _filled(row: Result, found: Measurement) -> Result:
    return replace(row, bytes=found.bytes, bpp=found.bpp, encode_s=found.encode_s, decode_s=found.decode_s)


def unique_rows(xyz: np.ndarray) -> np.ndarray:
    """(M, 3): the different points of (N, 3), in some order that depends on them alone."""
    if xyz.dtype.kind == "i":
        return unique_cells(xyz.astype(np.int64))
    order = xyz[np.lexsort(xyz.T)]
    keep = np.ones(len(order), np.bool_)
    keep[1:] = (order[1:] != order[:-1]).any(axis=1)
    return order[keep]


def _evaluator(config: CodecConfig) -> Evaluator:
    return _warm_evaluator(config, store.by_name(config.model).hash)


@functools.lru_cache(maxsize=32)
def _warm_evaluator(config: CodecConfig, digest: str) -> Evaluator:
    """An evaluator stays warm for all clouds that this process measures; other weights under an old name are another one."""
    return Evaluator(config)


def _name(config: CodecConfig) -> str:
    return store.by_name(config.model).name


def _version(config: CodecConfig) -> str:
    return f"{_evaluator(config).model_hash}-{_code_digest()}"


@functools.cache
def _code_digest() -> str:
    """Eight hex digits that change with the codec's code, for the same weights may then give other bytes."""
    digest = hashlib.sha256()
    for path in sorted(Path(codec.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def category_grids(category: str, cloud: PointCloud, unit: float) -> list[PeerGrid]:
    """The grids of a category by CATEGORY_GRIDS, of which no table knows anything."""
    native = "native" if cloud.xyz.dtype.kind == "i" else "10bit"
    names = CATEGORY_GRIDS.get(category, (native,))
    return [PeerGrid(name, step_of_grid(name, cloud, unit), len(cloud), 0, {}) for name in names]


def step_of_grid(name: str, cloud: PointCloud, unit: float = 1.0) -> float:
    """The step that a grid's name means: "16mm", "14bit" (largest extent / 2^14) or "native" (the integers' own)."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)mm|(\d+)bit|native)", name)
    if match is None:
        raise ValueError(f"grid {name!r} is neither like 16mm nor 14bit nor native")
    if match[1]:
        return float(match[1]) / 1000
    return step_of_bits(cloud, int(match[2])) * unit if match[2] else unit
