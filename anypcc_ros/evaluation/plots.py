"""Plots of results and of training: bits beside G-PCC, rate against distortion, validation against steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anypcc_ros.evaluation.figures import panels_of, save
from anypcc_ros.evaluation.results import GPCC_OCTREE, PEER_COLUMNS, Line, Result, by_category, by_cloud, models_of
from anypcc_ros.training import log

OURS = ("#1f5fbf", "#5aa0e6", "#0b2f66", "#8fb8de")  # by model, in order
PEERS = {"RENO": "#c46a1b", "Draco": "#9a9a9a", GPCC_OCTREE: "#222222"}
_WORST = 60.0  # percent; a longer bar is cut and labelled, or it would flatten all others


def plot_bits(results: Sequence[Result], path: str | os.PathLike[str], groups: Mapping[str, str] | None = None) -> None:
    """A PNG with the means of every category and grid in percent of G-PCC's, octree. Raises FileError."""
    lines = [line for line in by_category(by_cloud(results), groups) if GPCC_OCTREE in line.peers]
    models = models_of(results)
    series = [(model, OURS[i % len(OURS)], [line.versus(model) for line in lines]) for i, model in enumerate(models)]
    series += [(name, PEERS[name], [_peer_versus(line, name) for line in lines]) for name in ("RENO", "Draco")]
    height = 1.2 + len(lines) * (0.16 * len(series) + 0.14)
    figure, (axes,) = panels_of(1, 1, 9.0, height)
    bar = 0.8 / max(len(series), 1)
    for i, (name, colour, values) in enumerate(series):
        at = [row - 0.4 + bar * (i + 0.5) for row, value in enumerate(values) if value is not None]
        known = [value for value in values if value is not None]
        if not known:
            continue
        axes.barh(at, [min(value, _WORST) for value in known], bar, color=colour, label=name)
        for y, value in zip(at, known, strict=True):
            text = f"{value:+.1f}" + (" →" if value > _WORST else "")
            axes.text(min(value, _WORST) + (0.6 if value >= 0 else -0.6), y, text, va="center",
                      ha="left" if value >= 0 else "right", fontsize=7, color="#333333")  # fmt: skip
    axes.axvline(0, color=PEERS[GPCC_OCTREE], linewidth=1)
    axes.set_yticks(range(len(lines)), [f"{line.name}, {line.grid} ({line.clouds})" for line in lines], fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(min(-15.0, axes.get_xlim()[0] - 4), _WORST + 8)
    axes.set_xlabel("bits per point, percent above (right) or below (left) G-PCC, octree; number of clouds in brackets")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=6, fontsize=9)
    save(figure, path)


def plot_curves(results: Sequence[Result], path: str | os.PathLike[str]) -> None:
    """A PNG with D1 PSNR against bits per point for every cloud that has lossy points. Raises FileError."""
    files = list(dict.fromkeys(row.file for row in results if not row.on_grid))
    figure, panels = panels_of(math.ceil(len(files) / 3), min(len(files), 3), 15.0, 4.2 * math.ceil(len(files) / 3) + 0.4)
    for axes, file in zip(panels, files, strict=False):
        grid = next(row.grid for row in results if row.file == file and not row.on_grid)
        rows = [r for r in results if (r.file, r.grid) == (file, grid) and r.d1_psnr is not None and math.isfinite(r.d1_psnr)]
        for i, model in enumerate(models_of(results)):
            colour = OURS[i % len(OURS)]
            _curve(axes, [r for r in rows if r.codec == model and not r.drop_scales], f"{model}, larger steps", colour, "-o")
            dropped = [r for r in rows if r.codec == model and r.drop_scales]
            _curve(axes, dropped, f"{model}, scales dropped", colour, "--s")
        gpcc = _smallest([r for r in rows if r.codec in PEER_COLUMNS[GPCC_OCTREE]])
        _curve(axes, gpcc, f"{GPCC_OCTREE}, larger steps", PEERS[GPCC_OCTREE], "-^")
        _curve(axes, [r for r in rows if r.codec == "draco"], "Draco, larger steps", PEERS["Draco"], "-v")
        axes.set_title(f"{file[:58]}\nfinest grid: {grid}", fontsize=9)
        rates = [row.bpp for row in rows]
        if rates and max(rates) > 20 * min(rates):
            axes.set_xscale("log")
        axes.set_xlabel("bits per input point")
        axes.set_ylabel("D1 PSNR, dB")
        axes.grid(alpha=0.3)
    for axes in panels[len(files) :]:
        axes.set_axis_off()
    if files:
        panels[0].legend(fontsize=8, loc="lower right")
    save(figure, path)


def plot_training(logs: Sequence[Path], path: str | os.PathLike[str]) -> None:
    """A PNG with the bits of training and of every validation category against steps; one line per log of ``anypcc train``.

    Raises FileError.
    """
    runs = {path: log.read(path) for path in logs}
    names = list(dict.fromkeys([log.TRAIN, *(name for records in runs.values() for name in log.by_category(records[-1]))]))
    figure, panels = panels_of(math.ceil(len(names) / 3), 3, 14.0, 3.2 * math.ceil(len(names) / 3) + 0.4)
    for axes, name in zip(panels, names, strict=False):
        for i, (run, records) in enumerate(runs.items()):
            if name in records[-1]:
                steps, values = ([record[column] for record in records] for column in (log.STEP, name))
                axes.plot(steps, values, "-", color=f"C{i}", label=_run_name(run))
                axes.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), fontsize=8,
                              xytext=(2, 4), textcoords="offset points", ha="right")  # fmt: skip
        training = name == log.TRAIN
        axes.set_title("training crops" if training else f"validation: {name}", fontsize=10)
        axes.set_ylabel("bits per node" if training else "bits per point")
        axes.set_xlabel("steps")
        axes.grid(alpha=0.3)
        axes.margins(x=0.02, y=0.12)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=9)
    save(figure, path)


def _run_name(path: Path) -> str:
    return path.parent.name if path.name == log.NAME else path.stem


def _peer_versus(line: Line, name: str) -> float | None:
    return 100 * (line.peers[name] / line.peers[GPCC_OCTREE] - 1) if name in line.peers else None


def _smallest(rows: Sequence[Result]) -> list[Result]:
    """Of the rows at each step the one with the fewest bits."""
    best: dict[float, Result] = {}
    for row in rows:
        if row.stretch not in best or row.bpp < best[row.stretch].bpp:
            best[row.stretch] = row
    return list(best.values())


def _curve(axes: Any, rows: Sequence[Result], label: str, colour: str, style: str) -> None:
    points = sorted((row.bpp, row.d1_psnr or 0.0) for row in rows)
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.2)
