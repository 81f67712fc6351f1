"""The ``anypcc evaluate`` command: its flags, and which measurement they ask for."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import ConfigError
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

if TYPE_CHECKING:
    from anypcc_ros.evaluation.results import Result
    from anypcc_ros.evaluation.suite import Source

# What measures is imported when it runs, so that --help and usage errors are immediate.

DATASET_NAMES = ("8ivfb", "mvub", "owlii", "thuman", "scannet", "s3dis", "kitti", "ford", "gs", "vggt", "ct")
OPTIONS = {"origin", "drop_scales", "lossy", "truth", "backend", "threads"}
"""Of the codec's options those that a figure of positions can depend on, besides step, model and merging."""


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc evaluate``."""
    parser.description = (
        f"{parser.description}: files on the steps given; with --suite a folder of category/cloud files on the grids of each "
        "category, beside other codecs; with --stress the same clouds made harder; with --dataset a published data set on its "
        "published grid. bpp is bits of the whole stream per input point, of positions alone. Unlike encode, and as in "
        f"published figures, points that share a grid cell are merged; --no-merge-duplicates counts them. {STEP_UNIT}"
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="clouds to measure")
    what = parser.add_argument_group("instead of FILE")
    what.add_argument("--suite", type=Path, metavar="DIR", help="folder of category/cloud files")
    what.add_argument("--stress", type=Path, metavar="DIR", help="the same, with noise, dropout, deformation, mixed density")
    names = ", ".join(DATASET_NAMES)
    what.add_argument("--dataset", nargs=2, metavar=("NAME", "DIR"), help=f"a published data set in its own format: {names}")
    what.add_argument(
        "--messages",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="clouds, bags and folders of both: whole PointCloud2 messages with all their fields, nothing merged, at each "
        "--step (default: 0.001 and 0.016) and bit by bit, beside Draco, zstd and lz4",
    )
    what.add_argument("--datasets", action="store_true", help="list them: where, licence, format, quantisation")
    what.add_argument("--training-log", type=Path, nargs="+", metavar="LOG", help="plot logs of `anypcc train` into --plots")

    many = parser.add_argument_group("with --suite, --stress and --dataset")
    many.add_argument("--peers", type=Path, metavar="CSV", help="with --suite: table of other codecs, and their grids")
    many.add_argument("--grid", action="append", default=[], metavar="NAME", help="only this grid, like 16mm (repeatable)")
    many.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="only clouds whose category/file matches")
    many.add_argument("--limit", type=positive_count, metavar="N", help="with --dataset: N clouds, evenly spread")
    many.add_argument("--seed", type=int, default=0, metavar="N", help="with --stress: other random numbers (default: 0)")
    many.add_argument("--curves", nargs="+", default=[], metavar="PATTERN", help="lossy points too for clouds that match")
    many.add_argument(
        "--group", action="append", default=[], metavar="NAME=PATTERN", help="means of the clouds that match (repeatable)"
    )
    many.add_argument(
        "--live-peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run Draco, zstd, lz4, and of the PATH tmc3 (G-PCC) and cloudini_rosbag_converter, where installed (default: on)",
    )
    many.add_argument(
        "--distortion", action=argparse.BooleanOptionalAction, default=True, help="D1 and D2 on every grid (default: on)"
    )
    many.add_argument(
        "--jobs", type=positive_count, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores)"
    )
    many.add_argument("--resume", action="store_true", help="keep the rows that --csv has, and measure only what it lacks")
    many.add_argument("--tables-only", action="store_true", help="measure nothing: tables and plots of what --csv has so far")
    many.add_argument(
        "--markdown",
        type=new_document,
        metavar="OUT.md",
        help="write the tables here, between marks where the document has them",
    )
    many.add_argument("--plots", type=Path, metavar="DIR", help="draw bits and lossy curves into this folder")

    parser.add_argument("--csv", type=new_document, metavar="OUT.csv", help="write the measurements here (default: stdout)")
    grid = parser.add_mutually_exclusive_group()
    add_repeatable(grid, "step")
    add_grid_bits(grid)
    model = next(item for item in dataclasses.fields(CodecConfig) if item.name == "model")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[model.default],
        metavar="NAME",
        help=f"{model.metadata['help']} (default: {model.default}); several make a column each, one alone with FILE",
    )
    add_option_flags(parser, CodecConfig, only=OPTIONS)
    add_merging(parser)
    parser.set_defaults(usage_error=parser.error)


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure what the flags say. Returns the exit status; raises CommandError for clouds that did not come back."""
    instead = [options.suite, options.stress, options.dataset, options.messages, options.datasets, options.training_log]
    if sum(map(bool, [options.files, *instead])) != 1:
        options.usage_error("give either FILE... or --suite, --stress, --dataset, --messages, --datasets or --training-log")
    many = bool(options.suite or options.stress or options.dataset)
    if not many and (options.peers or options.grid or options.only or options.curves or options.resume):
        options.usage_error("--peers, --grid, --only, --curves and --resume need --suite, --stress or --dataset")
    if many and (options.step or options.grid_bits):
        options.usage_error("--suite, --stress and --dataset have their own grids; choose among them with --grid")
    if options.datasets:
        return _list_datasets(options)
    if options.training_log:
        return _plot_training(options)
    if options.messages:
        return _evaluate_messages(options)
    return _evaluate_many(options) if many else _evaluate_files(options)


# ---- single files


def _evaluate_files(options: argparse.Namespace) -> int:
    from anypcc_ros.evaluation.evaluate import Evaluator, Measurement, step_of_bits
    from anypcc_ros.evaluation.rows import to_csv, write_csv

    if not options.step and options.grid_bits is None:
        options.usage_error("--step or --grid-bits is needed")
    if len(options.model) > 1:
        options.usage_error(f"FILE... take one model, not {len(options.model)}")
    [config] = _configs(options)
    evaluator = Evaluator(config)
    rows: list[Measurement] = []
    for path in options.files:
        cloud = read_finite(path)
        with about(path):
            for step in options.step or [step_of_bits(cloud, options.grid_bits)]:
                rows.append(evaluator.measure(str(path), cloud, step)[0])
                _say(rows[-1], f"step {rows[-1].step:g}")
    if options.csv is None:
        print(to_csv(rows, Measurement), end="")
    else:
        write_csv(options.csv, rows, Measurement)
    return check_exact(rows, options.drop_scales)


# ---- messages


def _evaluate_messages(options: argparse.Namespace) -> int:
    from anypcc_ros.evaluation import document
    from anypcc_ros.evaluation.rows import to_csv, write_csv
    from anypcc_ros.optional import optional

    for package in ("rosbags", "zstandard"):
        optional(package, "bags")
    from anypcc_ros.evaluation import message_report, messages
    from anypcc_ros.evaluation.message_samples import samples

    if len(options.model) > 1 or options.grid_bits or options.drop_scales:
        options.usage_error("--messages takes one model, and no --grid-bits or --drop-scales")
    [common] = _configs(options)
    configs = messages.configurations(dataclasses.replace(common, merge_duplicates=False), options.step or messages.STEPS)
    rows: list[messages.MessageRow] = []
    for sample in samples(options.messages):
        for row in messages.measure(sample, configs, options.live_peers):
            rows.append(row)
            print(message_report.summary(row), file=sys.stderr, flush=True)
    if options.csv:
        write_csv(options.csv, rows, messages.MessageRow)
    if options.markdown:
        document.write_section(options.markdown, "messages", message_report.markdown(rows, _command_line(options)))
    if not options.csv and not options.markdown:
        print(to_csv(rows, messages.MessageRow), end="")
    message_report.check(rows)
    return 0


# ---- folders and data sets


def _evaluate_many(options: argparse.Namespace) -> int:
    from anypcc_ros.evaluation import suite
    from anypcc_ros.evaluation.results import Journal, Result, earlier_results
    from anypcc_ros.evaluation.rows import to_csv

    if options.drop_scales:
        options.usage_error("--drop-scales is for FILE...; lossy points of many clouds are asked for with --curves")
    if options.resume and not options.csv:
        options.usage_error("--resume needs --csv, where the earlier rows are")
    if options.tables_only and not options.csv:
        options.usage_error("--tables-only needs --csv, where the rows are")
    if options.plots:
        _have_matplotlib()
    groups = _groups(options)
    sources, name, remark = _sources(options)
    plan = suite.Plan(
        configs=_configs(options),
        grids=tuple(options.grid),
        live_peers=options.live_peers,
        distortion=options.distortion,
        curves=tuple(options.curves),
    )
    if options.tables_only:
        _write(options, suite.in_order(earlier_results(options.csv), plan), groups, name, remark)
        return 0
    journal = Journal(options.csv, options.resume)
    results = suite.evaluate(sources, plan, journal, options.jobs, progress=lambda row: _say(row, _how(row)))
    _write(options, results, groups, name, remark)
    if options.csv is None and options.markdown is None:
        print(to_csv(results, Result), end="")
    _compare_voxels(results)
    return check_exact([row for row in results if row.on_grid and not row.is_peer], 0)


def _sources(options: argparse.Namespace) -> tuple[Sequence[Source], str, str]:
    """What is measured, what its section of a document and its plots are called, and a remark for the tables."""
    from anypcc_ros.evaluation import published, stress, suite
    from anypcc_ros.evaluation.peers import load_peers

    if options.dataset:
        name, folder = options.dataset
        if name not in published.DATASETS:
            options.usage_error(f"no data set {name}; known are {', '.join(published.DATASETS)}")
        return published.dataset_sources(name, Path(folder), options.limit or 0), f"dataset {name}", published.remark(name)
    table = load_peers(options.peers) if options.peers else None
    if options.suite:
        return suite.folder_sources(options.suite, table, options.only), "suite", ""
    sources = suite.folder_sources(options.stress, None, options.only)
    return stress.stress_sources(sources, options.seed), "stress", ""


def _write(options: argparse.Namespace, results: Sequence[Result], groups: dict[str, str], name: str, remark: str) -> None:
    from anypcc_ros.evaluation import document, plots, report

    if options.markdown:
        command = _command_line(options)
        document.write_section(options.markdown, name, report.markdown(results, groups, command, remark))
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        file = name.replace(" ", "_")
        plots.plot_bits(results, options.plots / f"{file}_bits.png", groups)
        if any(not row.on_grid for row in results):
            plots.plot_curves(results, options.plots / f"{file}_curves.png")


def _command_line(options: argparse.Namespace) -> str:
    """The command as it was given, without what only says how to run it."""
    words = shlex.split(getattr(options, "command_line", ""))
    for flag, values in (("--jobs", 1), ("--resume", 0)):
        while flag in words:
            at = words.index(flag)
            del words[at : at + 1 + values]
    return shlex.join(words)


def _configs(options: argparse.Namespace) -> tuple[CodecConfig, ...]:
    common = config_from(options, CodecConfig, without={"step", "model", "fields", "order", "exact"})
    return tuple(dataclasses.replace(common, model=name) for name in dict.fromkeys(options.model))


def _groups(options: argparse.Namespace) -> dict[str, str]:
    groups = {}
    for text in options.group:
        name, found, pattern = text.partition("=")
        if not found or not pattern:
            raise ConfigError("group", text, "must be NAME=PATTERN")
        groups[name] = pattern
    return groups


def _compare_voxels(results: Sequence[Result]) -> None:
    """Say where a table's grid has other cells than ours: its figures are then of something else."""
    from anypcc_ros.evaluation.results import TABLE

    counts: dict[tuple[str, str], dict[bool, int]] = {}
    for row in results:
        if row.on_grid:
            counts.setdefault((row.file, row.grid), {})[row.version == TABLE] = row.voxels
    for (file, grid), voxels in counts.items():
        if voxels.get(True, voxels.get(False)) != voxels.get(False, voxels.get(True)):
            print(f"{file} {grid}: {voxels[False]} voxels, the peers had {voxels[True]}", file=sys.stderr)


def _how(row: Result) -> str:
    lossy = f", step x {row.stretch:g}" if row.stretch != 1 else f", {row.drop_scales} dropped" if row.drop_scales else ""
    return f"{row.grid}{lossy}, {row.codec}"


def _say(row: Any, grid: str) -> None:
    state = "" if row.exact is None else ", exact" if row.exact else ", NOT exact"
    print(
        f"{row.file} {grid}: {row.points} points, {row.voxels} voxels, {row.bytes} bytes, {row.bpp:.3f} bpp, "
        f"encode {row.encode_s:.3f} s, decode {row.decode_s:.3f} s{state}",
        file=sys.stderr,
        flush=True,
    )


# ---- what measures nothing


def _list_datasets(options: argparse.Namespace) -> int:
    from anypcc_ros.evaluation import document, published

    if options.markdown:
        document.write_section(options.markdown, "datasets", published.datasets_markdown())
    else:
        print(published.datasets_markdown())
    return 0


def _plot_training(options: argparse.Namespace) -> int:
    from anypcc_ros.evaluation import plots

    if not options.plots:
        options.usage_error("--training-log needs --plots DIR, where training.png goes")
    _have_matplotlib()
    options.plots.mkdir(parents=True, exist_ok=True)
    plots.plot_training(options.training_log, options.plots / "training.png")
    print(f"{options.plots / 'training.png'}: {len(options.training_log)} runs")
    return 0


def _have_matplotlib() -> None:
    from anypcc_ros.optional import optional

    optional("matplotlib", "eval")  # known before the work rather than after it
