"""The ``anypcc evaluate`` command: its flags, and which measurement they ask for."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.command_line import (
    STEP_UNIT,
    CommandError,
    about,
    add_grid_bits,
    add_merging,
    add_option_flags,
    add_repeatable,
    config_from,
    read_finite,
)
from anypcc_ros.files import atomic_write


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc evaluate``."""
    parser.description = (
        f"{parser.description}: files on the steps given, or with --suite a folder of category/cloud files on the "
        "grids of each category, beside other codecs. bpp is bits of the whole stream per input point. Unlike "
        "encode, and as in published figures, points that share a grid cell are merged; --no-merge-duplicates "
        f"counts them. {STEP_UNIT}"
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="clouds to measure")
    parser.add_argument("--suite", type=Path, metavar="DIR", help="folder of category/cloud files, instead of FILE")
    parser.add_argument("--peers", type=Path, metavar="CSV", help="with --suite: table of other codecs")
    parser.add_argument("--grid", action="append", default=[], help="with --suite: only this grid, like 16mm (repeatable)")
    parser.add_argument(
        "--live-peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --suite: run Draco and zstd where installed",
    )
    parser.add_argument("--markdown", type=Path, metavar="OUT.md", help="with --suite: write its tables here")
    parser.add_argument("--csv", type=Path, metavar="OUT.csv", help="write the measurements here (default: stdout)")
    grid = parser.add_mutually_exclusive_group()
    add_repeatable(grid, "step")
    add_grid_bits(grid)
    add_option_flags(parser, CodecConfig, without={"step", "merge_duplicates"})
    add_merging(parser)
    parser.set_defaults(usage_error=parser.error)


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure what the flags say. Returns the exit status; raises CommandError for clouds that did not come back."""
    from anypcc_ros.evaluation.evaluate import Evaluator

    steps = options.step or []
    if options.suite is None and (options.peers or options.markdown or options.grid):
        options.usage_error("--peers, --grid and --markdown need --suite")
    if bool(options.suite) == bool(options.files):
        options.usage_error("give either FILE... or --suite DIR")
    if options.suite and (steps or options.grid_bits):
        options.usage_error("--suite has its own grids; choose among them with --grid")
    if options.files and not steps and options.grid_bits is None:
        options.usage_error("--step or --grid-bits is needed")
    evaluator = Evaluator(config_from(options, CodecConfig, without={"step"}))
    return _evaluate_suite(options, evaluator) if options.suite else _evaluate_files(options, evaluator)


def _evaluate_files(options: argparse.Namespace, evaluator: Any) -> int:
    from anypcc_ros.evaluation.evaluate import Measurement, step_of_bits, to_csv, write_csv

    rows: list[Measurement] = []
    for path in options.files:
        cloud = read_finite(path)
        with about(path):
            for step in options.step or [step_of_bits(cloud, options.grid_bits)]:
                rows.append(evaluator.measure(str(path), cloud, step)[0])
                _progress(rows[-1], f"step {rows[-1].step:g}")
    if options.csv is None:
        print(to_csv(rows, [item.name for item in dataclasses.fields(Measurement)]), end="")
    else:
        write_csv(options.csv, rows, Measurement)
    return check_exact(rows, options.drop_scales)


def _evaluate_suite(options: argparse.Namespace, evaluator: Any) -> int:
    from anypcc_ros.evaluation.evaluate import to_csv, write_csv
    from anypcc_ros.evaluation.peers import load_peers
    from anypcc_ros.evaluation.suite import SuiteRow, evaluate_suite, markdown

    table = load_peers(options.peers) if options.peers else None
    rows = evaluate_suite(
        options.suite, evaluator, table, options.grid, options.live_peers, progress=lambda row: _progress(row, row.grid)
    )
    if options.markdown:
        with atomic_write(options.markdown) as out:
            out.write(markdown(rows).encode())
    if options.csv:
        write_csv(options.csv, rows, SuiteRow)
    elif options.markdown is None:
        print(to_csv(rows, [item.name for item in dataclasses.fields(SuiteRow)]), end="")
    for row in rows:
        if row.peer_voxels not in (None, row.voxels):
            print(f"{row.file} {row.grid}: {row.voxels} voxels, the peers had {row.peer_voxels}", file=sys.stderr)
    return check_exact(rows, options.drop_scales)


def _progress(row: Any, grid: str) -> None:
    state = "exact" if row.exact else "NOT exact"
    print(
        f"{row.file} {grid}: {row.points} points, {row.voxels} voxels, {row.bytes} bytes, {row.bpp:.3f} bpp, "
        f"encode {row.encode_s:.3f} s, decode {row.decode_s:.3f} s, {state}",
        file=sys.stderr,
        flush=True,
    )


def check_exact(rows: Sequence[Any], drop_scales: int) -> int:
    """Whatever is not exact though nothing was dropped is a failure of the codec, and of the command."""
    failed = 0 if drop_scales else sum(not row.exact for row in rows)
    if failed:
        raise CommandError(f"{failed} of {len(rows)} measurements did not come back exactly")
    return 0
