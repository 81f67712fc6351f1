"""The ``anypcc benchmark`` command: its flags, and which measurements they ask for."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.command_line import (
    STEP_UNIT,
    about,
    add_grid_bits,
    add_merging,
    add_option_flags,
    add_repeatable,
    check_exact,
    config_from,
    new_document,
    positive_count,
    read_finite,
)
from anypcc_ros.files import atomic_write

if TYPE_CHECKING:
    from anypcc_ros.evaluation.benchmark import BenchmarkError, Row

# What measures is imported when it runs, so that --help and usage errors are immediate.

REPEATABLE = ("step", "model", "backend", "threads")
"""Options of which a benchmark takes several values."""


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc benchmark``."""
    parser.description = (
        f"{parser.description} (G-PCC: a tmc3 on the PATH). Every combination of file, step, model, backend and number of "
        "threads runs in a process of its own: once to get warm, then repeatedly, then as often again with timers in its "
        "stages. Times are medians with their range. Points that share a grid cell are merged, as in evaluate. "
        f"{STEP_UNIT}"
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="clouds to measure")
    grid = parser.add_mutually_exclusive_group(required=True)
    add_repeatable(grid, "step")
    add_grid_bits(grid)
    for name in ("model", "backend", "threads"):
        add_repeatable(parser, name)
    parser.add_argument("--repeats", type=positive_count, default=10, metavar="R", help="timed runs of each kind (default: 10)")
    parser.add_argument(
        "--live-peers", action=argparse.BooleanOptionalAction, default=True, help="run the other codecs (default: on)"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="instead: time and memory by number of points, the cloud being cropped and tiled; no stages, no peers",
    )
    parser.add_argument(
        "--points",
        type=positive_count,
        action="append",
        metavar="N",
        help="with --growth: only this many points (repeatable; default: 1,000 to 10,000,000)",
    )
    parser.add_argument(
        "--frames",
        type=positive_count,
        metavar="N",
        help="instead: memory of one process that codes the files in turn, N times altogether, after every tenth of them",
    )
    parser.add_argument("--csv", type=new_document, metavar="OUT.csv", help="write the measurements here")
    parser.add_argument("--markdown", type=new_document, metavar="OUT.md", help="write the tables here (default: stdout)")
    parser.add_argument(
        "--plot", type=new_document, metavar="OUT.png", help="draw bpp against encode time, or the growth, here"
    )
    add_option_flags(parser, CodecConfig, only={"origin", "drop_scales"})
    add_merging(parser)
    parser.set_defaults(usage_error=parser.error)


def run_benchmark(options: argparse.Namespace) -> int:
    """Measure what the flags say. Returns the exit status; raises CommandError for clouds that did not come back."""
    from anypcc_ros.codec.model import store
    from anypcc_ros.evaluation import benchmark, benchmark_report
    from anypcc_ros.optional import optional

    if options.points and not options.growth:
        options.usage_error("--points needs --growth")
    if options.frames:
        (config, *others) = _configs(options, options.files[0])
        if others or options.growth or options.plot or options.csv:
            options.usage_error("--frames takes one configuration, and writes a table alone")
        samples = benchmark.endurance(options.files, config, options.frames)
        _write_table(options, benchmark_report.endurance_markdown(samples, options.command_line))
        return 0
    if options.plot:
        optional("matplotlib", "eval")  # known before the work rather than after it
    rows: list[Row] = []
    results: Iterator[Row | BenchmarkError]
    for path in options.files:
        configs = _configs(options, path)
        for config in configs:
            store.by_name(config.model)
        if options.growth:
            sizes = options.points or benchmark.GROWTH_POINTS
            results = (row for config in configs for row in benchmark.growth(path, config, sizes, options.repeats))
        else:
            results = benchmark.benchmark([path], configs, options.repeats, options.live_peers)
        for result in results:
            if not isinstance(result, benchmark.BenchmarkError):
                rows.append(result)
            print(benchmark_report.summary(result), file=sys.stderr, flush=True)
    _write(options, rows)
    return check_exact([row for row in rows if row.codec == benchmark.OURS], options.drop_scales)


def _configs(options: argparse.Namespace, path: Path) -> list[CodecConfig]:
    """Every combination of the repeatable flags."""
    if options.grid_bits is None:
        steps = options.step
    else:
        from anypcc_ros.evaluation.evaluate import step_of_bits

        with about(path):
            steps = [step_of_bits(read_finite(path), options.grid_bits)]
    common = config_from(options, CodecConfig, without=set(REPEATABLE))
    chosen = [getattr(options, name) or [getattr(common, name)] for name in REPEATABLE if name != "step"]
    combinations = itertools.product(steps, *chosen)
    return [dataclasses.replace(common, **dict(zip(REPEATABLE, values, strict=True))) for values in combinations]


def _write(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    from anypcc_ros.evaluation import benchmark, benchmark_report

    report = benchmark_report
    tables = (report.growth_markdown if options.growth else report.markdown)(rows, options.command_line)
    if options.csv:
        with atomic_write(options.csv) as out:
            out.write(benchmark.to_csv(rows).encode())
    if options.markdown or not options.csv:
        _write_table(options, tables)
    if options.plot:
        (report.plot_growth if options.growth else report.plot)(rows, options.plot)


def _write_table(options: argparse.Namespace, text: str) -> None:
    if not options.markdown:
        print(text, end="")
        return
    with atomic_write(options.markdown) as out:
        out.write(text.encode())
