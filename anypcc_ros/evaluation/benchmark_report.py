"""Tables and figures of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anypcc_ros.evaluation import machine
from anypcc_ros.evaluation.benchmark import OURS, Row, Sample, Spread
from anypcc_ros.evaluation.figures import panels_of, save
from anypcc_ros.evaluation.stages import STAGES
from anypcc_ros.optional import optional

FAR_ABOVE = 2.5
"""Codecs with so many times our bpp would make the others look alike in a figure."""


# ---- tables


def summary(result: Row | Exception) -> str:
    """One line for people who wait."""
    if not isinstance(result, Row):
        return f"not measured: {result}"
    times = f"encode {_time(result.encode)}, decode {_time(result.decode)}"
    state = f"{result.bpp:.3f} bpp, {times}{'' if result.exact else ', NOT exact'}"
    return f"{result.file} step {result.step:g}, {label(result)}, {result.threads} thr.: {result.points} points, {state}"


def markdown(rows: Sequence[Row], command: str) -> str:
    """The codecs beside each other, then our time by stage, in Markdown; with the machine and the command."""
    return "\n".join([*_heading(command), *_codec_table(rows), *_stage_table(rows)]) + "\n"


def growth_markdown(rows: Sequence[Row], command: str) -> str:
    """Time and memory by number of points, in Markdown."""
    columns = "cloud <points codec <threads <bpp <encode <decode <encode,_µs/point <decode,_µs/point <peak_MB"
    lines = [*_heading(command), *_table_head(columns)]
    for row in rows:
        per_point = [f"{1e6 * side.median / row.points:.2f}" for side in (row.encode, row.decode)]
        kind = [f"{Path(row.file).stem} {row.step:g}", f"{row.points:,}", label(row), str(row.threads)]
        lines.append(_line([*kind, f"{row.bpp:.3f}", _time(row.encode), _time(row.decode), *per_point, _megabytes(row)]))
    return "\n".join(lines) + "\n"


def endurance_markdown(samples: Sequence[Sample], command: str) -> str:
    """Memory of a process that codes frame after frame, in Markdown."""
    lines = [*_heading(command), *_table_head("<frames <memory,_MB <encode <decode")]
    for sample in samples:
        memory = f"{sample.memory / 1e6:.1f}"
        lines.append(_line([f"{sample.frames:,}", memory, _time(sample.encode), _time(sample.decode)]))
    return "\n".join(lines) + "\n"


def _heading(command: str) -> list[str]:
    return [machine.describe(), "", f"    {command}", ""]


def _codec_table(rows: Sequence[Row]) -> list[str]:
    lines = _table_head("cloud <step codec <threads <bytes <bpp <encode <decode <Mpoints/s_in <Mpoints/s_out <peak_MB exact")
    for row in rows:
        rates = [side.rate(row.points) for side in (row.encode, row.decode)]
        speeds = ["" if rate is None else f"{rate / 1e6:.2f}" for rate in rates]
        size = [str(row.bytes), f"**{row.bpp:.3f}**" if row.codec == OURS else f"{row.bpp:.3f}"]
        times = [_time(row.encode), _time(row.decode), *speeds, _megabytes(row), "yes" if row.exact else "**no**"]
        lines.append(_line([Path(row.file).stem, f"{row.step:g}", label(row), str(row.threads), *size, *times]))
    return lines


def _stage_table(rows: Sequence[Row]) -> list[str]:
    """Two lines per measurement of ours, encoder and decoder, and a column per stage; below it, what the stages are."""
    ours = [row for row in rows if row.encode_stages]
    if not ours:
        return []
    used = [stage for stage in STAGES if any(stage in row.encode_stages or stage in row.decode_stages for row in ours)]
    lines = ["", "Milliseconds by stage, from runs of their own with timers in the codec:", ""]
    lines += _table_head(" ".join(["cloud <step codec <threads side", *(f"<{stage}" for stage in used), "<all"]))
    for row in ours:
        kind = [Path(row.file).stem, f"{row.step:g}", label(row), str(row.threads)]
        for side, stages in (("encode", row.encode_stages), ("decode", row.decode_stages)):
            figures = [f"{1e3 * seconds:.1f}" for seconds in (*(stages.get(stage, 0) for stage in used), sum(stages.values()))]
            lines.append(_line([*kind, side, *figures]))
    return [*lines, "", *(f"* {stage}: {STAGES[stage]}" for stage in used)]


def label(row: Row) -> str:
    """The codec as tables and figures name it: ours by model, and by backend where it is not the native one."""
    if row.codec != OURS:
        return row.codec
    model = Path(row.model).stem
    return f"{OURS} {model}" if row.backend == "native" else f"{OURS} {model} ({row.backend})"


def _table_head(columns: str) -> list[str]:
    """Header and ruler; "<" before a column's name aligns it right, "_" is a space."""
    names = columns.split()
    ruler = "".join("---:|" if name.startswith("<") else "---|" for name in names)
    return [_line([name.lstrip("<").replace("_", " ") for name in names]), "|" + ruler]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(spread: Spread) -> str:
    """Median and range: "93 ms (91–97)"."""
    scale, unit = (1.0, "s") if spread.median >= 10 else (1e3, "ms")
    median, low, high = (_three_digits(seconds * scale) for seconds in (spread.median, spread.low, spread.high))
    return f"{median} {unit} ({low}–{high})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(row: Row) -> str:
    return "" if row.memory is None else f"{row.memory / 1e6:.0f}"


# ---- figures


def plot(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """bpp against encode time, a panel per cloud and grid, as PNG; numbers beside our points are threads.

    A codec far above ours is put at the upper edge, with its bpp. Raises FileError, MissingPackageError.
    """
    panels: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.file, row.step), []).append(row)
    colours = {name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(label(row) for row in rows))}
    columns = min(len(panels), 2)
    figure, axes = _grid_of(columns, -(-len(panels) // columns))
    for ax, ((file, step), members) in zip(axes, panels.items(), strict=False):
        _panel(ax, members, colours)
        ax.set_title(f"{Path(file).stem}, step {step:g}", fontsize=9)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    save(figure, path)


def _panel(ax: Any, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    limit = FAR_ABOVE * min((row.bpp for row in rows if row.codec == OURS), default=float("inf"))
    shown = [row.bpp for row in rows if row.bpp <= limit]
    margin = 0.12 * (max(shown) - min(shown)) or 0.1 * max(shown)
    low, high = min(shown) - margin, max(shown) + 2 * margin
    for name, colour in colours.items():
        runs = sorted((row for row in rows if label(row) == name), key=lambda row: row.threads)
        if not runs:
            continue
        style, size = ("o-", 6) if runs[0].codec == OURS else ("s", 5)
        far = runs[0].bpp > limit
        x, y = [1e3 * row.encode.median for row in runs], [high if far else row.bpp for row in runs]
        ax.plot(x, y, "^" if far else style, markersize=size, linewidth=1, color=colour, label=name, clip_on=False)
        for row, *place in zip(runs, x, y, strict=True):
            note = f"{row.bpp:.1f} bpp" if far else str(row.threads) if row.codec == OURS else ""
            below = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center"}
            ax.annotate(note, place, fontsize=7, color=colour, **below)
    ax.set(xscale="log", ylim=(low, high), xlabel="encode time, ms", ylabel="bits per input point")
    ax.margins(x=0.15)
    _plain_numbers(ax.xaxis)


def plot_growth(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Time and peak memory against the number of points, as PNG. Raises FileError, MissingPackageError."""
    figure, (times, memory) = _grid_of(2, 1)
    for i, ((file, step, name, threads), runs) in enumerate(_series(rows).items()):
        title = f"{Path(file).stem}, step {step:g}, {name}, {threads} thr."
        points = [row.points for row in runs]
        lines = {"color": f"C{i % 10}", "marker": "o", "markersize": 4}
        times.plot(points, [row.encode.median for row in runs], "-", label=title, **lines)
        times.plot(points, [row.decode.median for row in runs], "--", **lines)
        memory.plot(points, [float("nan") if row.memory is None else row.memory / 1e6 for row in runs], **lines)
    largest = max(rows, key=lambda row: row.points)
    ends = np.array([min(row.points for row in rows), largest.points])
    slope = largest.encode.median / largest.points
    for side, style in (("encode", "-"), ("decode", "--")):
        times.plot([], [], style, color="black", linewidth=1, label=side)
    times.plot(ends, ends * slope, ":", color="grey", linewidth=1, label="proportional to points")
    times.set(xscale="log", yscale="log", xlabel="points", ylabel="seconds")
    memory.set(xscale="log", yscale="log", xlabel="points", ylabel="peak memory of the process, MB")
    _plain_numbers(memory.yaxis)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save(figure, path)


def _series(rows: Sequence[Row]) -> dict[tuple[str, float, str, int], list[Row]]:
    series: dict[tuple[str, float, str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.points):
        series.setdefault((row.file, row.step, label(row), row.threads), []).append(row)
    return series


def _grid_of(columns: int, lines: int) -> tuple[Any, list[Any]]:
    """A figure of so many panels, each with lines behind its curves."""
    figure, panels = panels_of(lines, columns, 4.8 * columns, 3.4 * lines)
    for axes in panels:
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.tick_params(labelsize=8)
    return figure, panels


def _plain_numbers(axis: Any) -> None:
    """1, 2, 5, 10 along a logarithmic axis rather than powers of ten."""
    ticker = optional("matplotlib.ticker", "eval")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
