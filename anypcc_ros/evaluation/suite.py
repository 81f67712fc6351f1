"""A folder of test clouds, each on the grids of its category, beside other codecs: tables per cloud and category."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.evaluation import peers
from anypcc_ros.evaluation.evaluate import Evaluator, step_of_bits, unique_cells
from anypcc_ros.evaluation.peers import PeerGrid
from anypcc_ros.files import READABLE, read_cloud, unit_of

CATEGORY_GRIDS = {
    "lidar_spinning": ("1mm", "16mm", "50mm"),
    "lidar_other": ("1mm", "16mm", "50mm"),
    "indoor_rgbd": ("5mm", "20mm"),
    "gs": ("14bit",),
    "aerial": ("14bit",),
    "photogrammetry": ("12bit",),
}
"""Grids of the categories where the table of peers has none; other categories: native for integers, else 10bit."""


@dataclass(frozen=True)
class SuiteRow:
    """One cloud on one grid; the names are the columns of the CSV file. All bpp are per input point.

    ``step``: in the length unit of the file. ``peer_voxels``: occupied cells in the table of peers, which have to be
    ``voxels`` if the grids are the same. ``gpcc_bpp`` and ``reno_bpp`` come from that table; ``draco_bpp`` and
    ``zstd_bpp`` (of the unquantised coordinates) were measured in the same run, or Draco's is the table's where it was not
    run. Empty where there is no figure.
    """

    file: str
    category: str
    grid: str
    step: float
    points: int
    voxels: int
    bytes: int
    bpp: float
    encode_s: float
    decode_s: float
    exact: bool
    peer_voxels: int | None
    gpcc_bpp: float | None
    reno_bpp: float | None
    draco_bpp: float | None
    zstd_bpp: float | None


@dataclass(frozen=True)
class CategoryRow:
    """Means over the clouds of one category on one grid. ``versus_gpcc``: percent, negative is smaller.

    A peer's mean is given only where it has a figure for every cloud.
    """

    category: str
    grid: str
    clouds: int
    bpp: float
    gpcc_bpp: float | None
    versus_gpcc: float | None
    reno_bpp: float | None
    draco_bpp: float | None
    zstd_bpp: float | None
    encode_s: float
    decode_s: float
    exact: int


def evaluate_suite(
    folder: str | os.PathLike[str],
    evaluator: Evaluator,
    table: dict[str, list[PeerGrid]] | None = None,
    grids: Sequence[str] = (),
    live_peers: bool = True,
    progress: Callable[[SuiteRow], None] = lambda row: None,
) -> list[SuiteRow]:
    """Encode and decode every cloud in ``folder``/category/ on its grids, those of ``table`` where it has them.

    ``grids``: only these (by name), all if empty. ``live_peers``: run Draco and zstd too (Draco takes seconds for a
    million points). ``progress`` is called with every row. Raises FileError.
    """
    paths = sorted(p for p in Path(folder).glob("*/*") if p.suffix.lower() in READABLE)
    if not paths:
        raise FileError(f"{folder}: no clouds in folders of categories ({' '.join(READABLE)})")
    rows = []
    for path in paths:
        known = (table or {}).get(peers.file_key(path))
        cloud, _ = read_cloud(path).finite()
        unit = unit_of(path)
        for grid in known or _category_grids(path.parent.name, cloud, unit):
            if not grids or grid.grid in grids:
                rows.append(_measure(path, cloud, unit, grid, evaluator, compared=known is not None, live_peers=live_peers))
                progress(rows[-1])
    return rows


def _measure(
    path: Path, cloud: PointCloud, unit: float, grid: PeerGrid, evaluator: Evaluator, compared: bool, live_peers: bool
) -> SuiteRow:
    step = grid.step / unit
    row, _ = evaluator.measure(peers.file_key(path), cloud, step)
    draco = zstd = None
    if live_peers:
        cells = unique_cells(np.rint(cloud.xyz.astype(np.float64) / step).astype(np.int64))
        draco, zstd = peers.run_draco(cells), peers.run_zstd(cloud)
    return SuiteRow(
        file=row.file,
        category=path.parent.name,
        grid=grid.grid,
        step=grid.step,
        points=row.points,
        voxels=row.voxels,
        bytes=row.bytes,
        bpp=row.bpp,
        encode_s=row.encode_s,
        decode_s=row.decode_s,
        exact=row.exact,
        peer_voxels=grid.voxels if compared else None,
        gpcc_bpp=grid.gpcc,
        reno_bpp=grid.bpp.get(peers.RENO),
        draco_bpp=grid.bpp.get(peers.DRACO) if draco is None else 8 * draco.bytes / row.points,
        zstd_bpp=None if zstd is None else 8 * zstd.bytes / row.points,
    )


def _category_grids(category: str, cloud: PointCloud, unit: float) -> list[PeerGrid]:
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


def by_category(rows: Iterable[SuiteRow]) -> list[CategoryRow]:
    """Arithmetic means over the clouds of each category and grid, in the order of their first rows."""
    groups: dict[tuple[str, str], list[SuiteRow]] = {}
    for row in rows:
        groups.setdefault((row.category, row.grid), []).append(row)
    return [_category_row(category, grid, group) for (category, grid), group in groups.items()]


def _category_row(category: str, grid: str, rows: list[SuiteRow]) -> CategoryRow:
    bpp, gpcc = _mean([row.bpp for row in rows]) or 0.0, _mean([row.gpcc_bpp for row in rows])
    return CategoryRow(
        category=category,
        grid=grid,
        clouds=len(rows),
        bpp=bpp,
        gpcc_bpp=gpcc,
        versus_gpcc=100 * (bpp / gpcc - 1) if gpcc else None,
        reno_bpp=_mean([row.reno_bpp for row in rows]),
        draco_bpp=_mean([row.draco_bpp for row in rows]),
        zstd_bpp=_mean([row.zstd_bpp for row in rows]),
        encode_s=_mean([row.encode_s for row in rows]) or 0.0,
        decode_s=_mean([row.decode_s for row in rows]) or 0.0,
        exact=sum(row.exact for row in rows),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def markdown(rows: Sequence[SuiteRow]) -> str:
    """The tables of ``rows`` per category and per cloud, in Markdown."""
    lines = [
        "| category | grid | clouds | bpp | G-PCC | vs. G-PCC | RENO | Draco | zstd | encode | decode | exact |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for mean in by_category(rows):
        versus = "" if mean.versus_gpcc is None else f"{mean.versus_gpcc:+.1f} %"
        figures = [_text(v) for v in (mean.gpcc_bpp, versus, mean.reno_bpp, mean.draco_bpp, mean.zstd_bpp)]
        times = [f"{mean.encode_s:.3f} s", f"{mean.decode_s:.3f} s", f"{mean.exact} of {mean.clouds}"]
        cells = [mean.category, mean.grid, str(mean.clouds), f"**{mean.bpp:.3f}**", *figures, *times]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| cloud | grid | points | voxels | bytes | bpp | G-PCC | RENO | Draco | zstd | encode | decode | exact |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        figures = [_text(v) for v in (row.gpcc_bpp, row.reno_bpp, row.draco_bpp, row.zstd_bpp)]
        counts = [str(row.points), str(row.voxels), str(row.bytes)]
        times = [f"{row.encode_s:.3f} s", f"{row.decode_s:.3f} s", "yes" if row.exact else "**no**"]
        lines.append(f"| {' | '.join([row.file, row.grid, *counts, f'**{row.bpp:.3f}**', *figures, *times])} |")
    return "\n".join(lines) + "\n"


def _text(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3f}"
