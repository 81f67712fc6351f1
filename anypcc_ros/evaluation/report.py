"""Results as Markdown tables: means per category, every cloud, lossy points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from anypcc_ros.evaluation.document import table
from anypcc_ros.evaluation.results import GPCC_OCTREE, LIVE, PEER_COLUMNS, Line, Result, by_category, by_cloud, models_of


def markdown(results: Sequence[Result], groups: Mapping[str, str] | None = None, command: str = "", remark: str = "") -> str:
    """All tables of ``results``. ``groups``: further means, name to pattern of files. ``command``: what measured them.

    ``remark``: a paragraph before the tables.
    """
    lossy = lossy_table(results)
    parts = [f"    {command}" if command else "", remark, _standing(results), "### Means", means_table(results, groups)]
    parts += ["### Lossy points", lossy] if lossy else []
    parts += ["### Every cloud", clouds_table(results)]
    return "\n\n".join(part for part in parts if part)


def means_table(results: Sequence[Result], groups: Mapping[str, str] | None = None) -> str:
    """A row per category and grid: bits per point of every model, beside those of the others."""
    lines, models = by_category(by_cloud(results), groups), models_of(results)
    columns = _peer_columns(lines)
    rows = []
    for line in lines:
        ours = [cell for model in models for cell in _ours(line, model)]
        figures = [_figure(line.peers.get(name)) for name in columns]
        back = f"{line.exact} of {line.measured}"
        rows.append([line.name, line.grid, str(line.clouds), *ours, *figures, _psnr(line.d1_psnr), _psnr(line.d2_psnr), back])
    heads = [head for model in models for head in (f">{model}", f">vs. {GPCC_OCTREE}")]
    names = ["category", "grid", ">clouds", *heads, *(f">{n}" for n in columns), ">D1, dB", ">D2, dB", ">exact"]
    return table(names, rows)


def clouds_table(results: Sequence[Result]) -> str:
    """A row per cloud and grid."""
    lines, models = by_cloud(results), models_of(results)
    columns = _peer_columns(lines)
    rows = []
    for line in lines:
        ours = [f"**{_figure(line.ours.get(model))}**" for model in models]
        figures = [_figure(line.peers.get(name)) for name in columns]
        counts = [f"{line.points:,}", f"{line.voxels:,}"]
        exact = "yes" if line.exact == line.measured else "**no**"
        psnr = [_psnr(line.d1_psnr), _psnr(line.d2_psnr)]
        rows.append([line.name, line.grid, *counts, *ours, *figures, *psnr, exact])
    names = ["cloud", "grid", ">points", ">voxels", *(f">{n}" for n in (*models, *columns)), ">D1, dB", ">D2, dB", "exact"]
    return table(names, rows)


def lossy_table(results: Sequence[Result]) -> str:
    """A row per rate of the clouds that have lossy points, beginning with the grid itself; empty if there are none."""
    lossy = {(row.file, row.grid) for row in results if not row.on_grid}
    points: dict[tuple[str, str, int, float], list[Result]] = {}
    for row in results:
        if (row.file, row.grid) in lossy:
            points.setdefault((row.file, row.grid, row.drop_scales, row.stretch), []).append(row)
    body = []
    for (file, grid, drop, stretch), rows in sorted(points.items()):
        how = "the grid itself" if (drop, stretch) == (0, 1) else f"step × {stretch:g}"
        how = f"{drop} scale{'s' * (drop > 1)} dropped" if drop else how
        [line] = by_cloud([replace(row, stretch=1.0, drop_scales=0) for row in rows])
        figures = [_figure(line.ours.get(model)) for model in models_of(results)]
        figures += [_figure(line.peers.get(name)) for name in (GPCC_OCTREE, "Draco")]
        body.append([file, grid, how, *figures, _psnr(line.d1_psnr), _psnr(line.d2_psnr)])
    codecs = [*models_of(results), GPCC_OCTREE, "Draco"]
    columns = ["cloud", "grid", "how", *(f">{codec}" for codec in codecs), ">D1, dB", ">D2, dB"]
    return table(columns, body) if body else ""


def _standing(results: Sequence[Result]) -> str:
    """One sentence per model: on how many pairs of cloud and grid, and on how many means, it is below the others."""
    lines, sentences = by_cloud(results), []
    means = by_category(lines)
    for model in models_of(results):
        parts = []
        for peer in PEER_COLUMNS:
            pairs = [line.versus(model, peer) for line in lines]
            known = [value for value in pairs if value is not None]
            averages = [value for value in (line.versus(model, peer) for line in means) if value is not None]
            if known:
                below = f"{sum(v < 0 for v in known)} of {len(known)} clouds and grids"
                parts.append(f"{peer} on {below} and {sum(v < 0 for v in averages)} of {len(averages)} means")
        if parts:
            sentences.append(f"* `{model}` needs fewer bits than {'; than '.join(parts)}.")
    live = sorted({row.codec for row in results if row.version == LIVE})
    ran = f"Run in the same measurement: {', '.join(live)}." if live else ""
    return "\n".join([*sentences, *(["", ran] if ran else [])])


def _peer_columns(lines: Sequence[Line]) -> list[str]:
    return [name for name in PEER_COLUMNS if any(name in line.peers for line in lines)]


def _ours(line: Line, model: str) -> tuple[str, str]:
    versus = line.versus(model)
    return f"**{_figure(line.ours.get(model))}**", "" if versus is None else f"{versus:+.1f} %"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _psnr(value: float | None) -> str:
    return "" if value is None else "lossless" if math.isinf(value) else f"{value:.1f}"
