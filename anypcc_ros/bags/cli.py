"""The ``anypcc bag`` commands: compress, restore, verify and info.

Exit status: 0; 1 for an engine that failed; 2 for a command that does not fit the bag; 3 for an input that is no bag,
damaged or cut short; 4 where verify found a difference; 5 for an output that exists or cannot be written; 6 where
--keep-going went past damage that was reported; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anypcc_ros.bags.errors import DIFFERENT, REPORTED, BagError, BagUsageError, DamagedBagError
from anypcc_ros.codec.config import CodecConfig, DecoderConfig, TargetConfig
from anypcc_ros.codec.model.adaptations import load_adaptation
from anypcc_ros.command_line import add_option_flags, config_from, new_document, positive_count
from anypcc_ros.optional import optional

EXTRA = "bags"
LIBRARIES = ("rosbags", "mcap", "ruamel.yaml", "zstandard", "lz4")
FORMATS = "rosbag2 in MCAP or sqlite3 (a file, or a folder with metadata.yaml; zstd-compressed, too) or a ROS 1 .bag"

EXACT_GRID = 0.001
"""Step, in metres, of the grid below bit-identical positions."""


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``anypcc bag`` and their flags."""
    parser.description = "Compress the point clouds of recordings, and restore them. Everything else passes through as it is."
    parser.epilog = (__doc__ or "").partition("\n\n")[2]
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compress(commands)
    _add_restore(commands)
    _add_verify(commands)
    _add_info(commands)


def run_bag(options: argparse.Namespace) -> int:
    """Run the chosen command; the exit status."""
    for library in LIBRARIES:
        optional(library, EXTRA)
    try:
        status: int = options.run_bag(options)
    except BagError as error:
        print(f"anypcc: {error}", file=sys.stderr)
        return error.exit_status
    return status


def _add_compress(commands: Any) -> None:
    summary = "make every PointCloud2 topic a CompressedCloud topic"
    parser = commands.add_parser(
        "compress",
        help=summary,
        description=f"{summary}, NAME/anypcc. IN is {FORMATS}, or a folder of such bags. Nothing is lost unless asked for: "
        "positions are bit-identical without --step, fields without --fields, points stay in their order.",
    )
    _add_in_and_out(parser)
    parser.add_argument(
        "--step",
        type=float,
        metavar="METRES",
        help="positions within half of this, per axis, which makes the bag several times smaller (default: bit-identical)",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="with --step: bit-identical all the same; the step is only the grid below, and a finer one is slower and smaller "
        f"(default: {EXACT_GRID:g})",
    )
    target = parser.add_mutually_exclusive_group()
    add_option_flags(target, TargetConfig, only={"target_bpp", "target_bytes"})
    add_option_flags(parser, CodecConfig, only={"fields", "model", "adaptation", "adaptation_use", "backend"})
    parser.add_argument(
        "--adapt",
        action="store_true",
        help="tune the model to some clouds of each topic first; what changed goes into OUT, where restore, verify and the "
        "decoder node find it (needs torch)",
    )
    parser.add_argument(
        "--order",
        choices=("original", "codec"),
        default="original",
        help="of the points: original (their own, with an organised cloud's shape and invalid points) or codec, which is "
        "smaller (default: %(default)s)",
    )
    parser.add_argument("--report", type=new_document, metavar="OUT.html", help="write a report with figures and pictures")
    parser.set_defaults(run_bag=_compress)


def _add_restore(commands: Any) -> None:
    summary = "make every CompressedCloud topic a PointCloud2 topic again"
    parser = commands.add_parser("restore", help=summary, description=f"{summary}, under its old name. IN is {FORMATS}.")
    _add_in_and_out(parser)
    add_option_flags(parser, DecoderConfig, without={"threads"})
    parser.set_defaults(run_bag=_restore)


def _add_in_and_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="IN", help="bag, or folder of bags")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="bag to make: NAME.mcap, NAME.db3, or the name of a folder with metadata.yaml"
    )
    parser.add_argument(
        "--topics",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="only topics whose names match, like /lidar/*; others pass through (default: all of the type)",
    )
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="", help="of OUT (default: that of IN; ROS 1: mcap)")
    _add_work(parser)


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help=f"pass damaged messages through and read on past damaged parts, reporting them (exit status {REPORTED})",
    )
    parser.add_argument("--jobs", type=positive_count, metavar="N", help="processes at work (default: one per core)")
    parser.add_argument("--engine", default="", metavar="URL", help="dask://HOST:PORT: let that cluster work, not this machine")
    parser.add_argument("--quiet", action="store_true", help="no progress, only results")


def _add_verify(commands: Any) -> None:
    summary = "compare every message of a bag with what it became"
    parser = commands.add_parser(
        "verify",
        help=summary,
        description=f"{summary}. Says of each topic: identical (equal bytes), exact (all values equal, bit for bit), within "
        f"(off by no more than the policy allows), or different, with the numbers; exit status {DIFFERENT} if any is so.",
    )
    parser.add_argument("original", type=Path, metavar="ORIGINAL", help="the bag before")
    parser.add_argument("other", type=Path, metavar="OTHER", help="the compressed bag, or the restored one")
    parser.add_argument(
        "--step", type=_length, default=0.0, metavar="METRES", help="for a restored bag: the step that its positions were given"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_option_flags(parser, DecoderConfig, without={"threads"})
    _add_work(parser)
    parser.set_defaults(run_bag=_verify)


def _add_info(commands: Any) -> None:
    summary = "read a bag through and say what is in it"
    parser = commands.add_parser("info", help=summary, description=f"{summary}. IN is {FORMATS}.")
    parser.add_argument("input", type=Path, metavar="IN", help="bag")
    parser.add_argument("--keep-going", action="store_true", help="read on past damaged parts, reporting them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run_bag=_info)


def _length(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of 0 and more")
    return value


# ---- running


def _compress(options: argparse.Namespace) -> int:
    from anypcc_ros.bags.convert import Plan
    from anypcc_ros.bags.engines import threads_for
    from anypcc_ros.bags.transform import CompressTask

    chosen = config_from(options, CodecConfig, without={"step", "exact"})
    target = config_from(options, TargetConfig)
    if target.wanted and (options.exact or options.order != "original"):  # otherwise points could be merged
        raise BagUsageError("--target-bpp and --target-bytes are for --order original, and not with --exact")
    grid = EXACT_GRID if options.step is None else options.step
    step, exact = grid, options.exact or (options.step is None and not target.wanted)
    if options.adapt and (chosen.adaptation or target.wanted):
        raise BagUsageError("--adapt is not together with --adaptation, --target-bpp and --target-bytes")
    threads = threads_for(_jobs(options))
    # Workers, which may be elsewhere, get adaptations with their work.
    config = dataclasses.replace(chosen, step=step, exact=exact, threads=threads, adaptation="")
    if options.report:
        optional("matplotlib", "eval")  # known before the work rather than after it
    task = CompressTask(config, target, compare=options.report is not None)
    plan = Plan(task, tuple(options.topics), options.storage, compare=options.report is not None)
    if chosen.adaptation:
        plan = dataclasses.replace(plan, adaptations={"": load_adaptation(Path(chosen.adaptation))})
    elif options.adapt:
        from anypcc_ros.bags.adapting import adaptations_to

        found = adaptations_to([source for source, _ in _pairs(options.input, options.output)], plan, config)
        for tuned in found:
            print(tuned)
        plan = dataclasses.replace(plan, adaptations={tuned.topic: tuned.adaptation for tuned in found if tuned.pays})
    return _convert(options, plan)


def _restore(options: argparse.Namespace) -> int:
    from anypcc_ros.bags.convert import Plan
    from anypcc_ros.bags.engines import threads_for
    from anypcc_ros.bags.transform import Reading, RestoreTask

    limits = dataclasses.replace(config_from(options, DecoderConfig), threads=threads_for(_jobs(options)))
    options.report = None
    return _convert(options, Plan(RestoreTask(Reading.of(limits)), tuple(options.topics), options.storage))


def _convert(options: argparse.Namespace, plan: Any) -> int:
    from anypcc_ros.bags.convert import convert
    from anypcc_ros.bags.engines import engine
    from anypcc_ros.bags.results import DamageLog

    pairs = _pairs(options.input, options.output)
    damage, results = DamageLog(options.keep_going), []
    with engine(options.engine, _jobs(options)) as workers:
        for source, target in pairs:
            if len(pairs) > 1 and target.exists():
                print(f"{target}: exists already, left as it is")
                continue
            try:
                with _Meter(source, options.quiet) as meter:
                    result = convert(source, target, plan, workers, damage, meter)
            except DamagedBagError as error:
                if len(pairs) == 1:
                    raise
                damage(error)  # with --keep-going the other bags get their chance
                continue
            results.append(result)
            _tell(result)
    if options.report:
        from anypcc_ros.bags.report import write_report

        write_report(options.report, results, options.command_line)
        print(f"{options.report}: report")
    return REPORTED if damage.noted else 0


def _pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each bag and what is to be made of it; a folder of bags becomes a folder of bags of the same names."""
    from anypcc_ros.bags.reading import find_bags

    if not source.exists():
        raise BagUsageError(f"{source}: is not there")
    bags = find_bags(source)
    if bags == [source]:
        return [(source, target)]
    pairs = [(bag, target / _named(bag.relative_to(source))) for bag in bags]
    made: dict[Path, Path] = {}
    for bag, new in pairs:
        if made.setdefault(new, bag) != bag:
            raise BagUsageError(f"{made[new]} and {bag} would both become {new}: convert one of them by itself")
    return pairs


def _named(bag: Path) -> Path:
    """Of a single file the ending is kept where a file of that kind can be written; otherwise a folder is made."""
    return bag.with_suffix("") if bag.suffix in (".bag", ".zstd") else bag


def _tell(result: Any) -> None:
    from anypcc_ros.bags.results import counted

    print(
        f"{result.target}: {result.storage}, {result.size_before:,} -> {result.size_after:,} bytes "
        f"({_compared(result.ratio)}), {counted(result.messages, 'message')}, {result.seconds:.1f} s"
    )
    for topic in result.topics.values():
        if topic.converted:
            times = topic.bytes_before / topic.bytes_after
            print(
                f"  {topic.name} -> {topic.new_name}: {counted(topic.converted, 'cloud')}, {counted(topic.points, 'point')}, "
                f"{topic.bpp:.2f} bits per point, {_compared(times)}"
            )
            lost = [f"{name} {f'within {item.largest_error:g}' if item.policy == 'step' else 'dropped'}"
                    for name, item in topic.fields.items() if item.policy != "exact"]  # fmt: skip
            if topic.points and not topic.exact:
                lost.insert(0, f"x, y, z within {topic.step / 2:g}")
            if topic.left_out:
                lost.append(f"{topic.left_out:,} points with NaN or infinity left out")
            if lost:
                print(f"    not exact: {'; '.join(lost)}")
            if topic.missed:
                print(f"    {topic.missed} of them missed their size, by {100 * topic.farthest:+.1f} % at most")
            twins = [each for each in result.topics.values() if each.new_name == topic.new_name and each is not topic]
            for other in twins:
                print(f"    beside {counted(other.messages, 'message')} that {other.name} has")
        for reason, count in topic.passed_through.items():
            print(f"  {topic.name}: {counted(count, 'message')} passed through as they are: {reason}")
    for what, count in result.not_kept.items():
        print(f"  not kept, for which {result.storage} has no place: {count} {what}")
    if not any(topic.converted or topic.passed_through for topic in result.topics.values()):
        print("  nothing to convert in it: copied")


def _compared(times: float) -> str:
    return f"{times:.2f} times smaller" if times >= 1 else f"{1 / times:.2f} times larger" if times else "nothing was there"


def _verify(options: argparse.Namespace) -> int:
    from anypcc_ros.bags.compare import CompareTask
    from anypcc_ros.bags.engines import engine, threads_for
    from anypcc_ros.bags.results import DamageLog
    from anypcc_ros.bags.transform import Reading
    from anypcc_ros.bags.verify import verify

    limits = dataclasses.replace(config_from(options, DecoderConfig), threads=threads_for(_jobs(options)))
    reading = Reading.of(limits)
    damage = DamageLog(options.keep_going)
    with engine(options.engine, _jobs(options)) as workers, _Meter(options.original, options.quiet) as meter:
        topics = verify(options.original, options.other, CompareTask(reading, options.step), workers, damage, meter)
    different = any(topic.verdict == "different" for topic in topics)
    if options.json:
        told = [dataclasses.asdict(topic) for topic in topics]
        for error in (error for topic in told for error in topic["errors"].values()):
            error["largest"] = error["largest"] if math.isfinite(error["largest"]) else None  # which JSON has no number for
        print(json.dumps({"topics": told, "damage": damage.noted}, indent=2))
    else:
        for topic in topics:
            _tell_verdict(topic)
    return DIFFERENT if different else REPORTED if damage.noted else 0


def _tell_verdict(topic: Any) -> None:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in topic.counts.items())
    renamed = f" -> {topic.other_name}" if topic.other_name not in ("", topic.name) else ""
    print(f"{topic.name}{renamed}: {topic.verdict} ({counts})")
    for name, error in topic.errors.items():
        if error.largest or error.allowed:
            print(f"  {name}: off by {error.largest:g} at most, {error.allowed:g} allowed")
    if topic.left_out:
        print(f"  {topic.left_out:,} points with NaN or infinity left out")
    if topic.dropped:
        print(f"  dropped: {', '.join(topic.dropped)}")
    for reason in topic.reasons:
        print(f"  {reason}")


def _info(options: argparse.Namespace) -> int:
    from anypcc_ros.bags.info import describe, inspect_bag
    from anypcc_ros.bags.results import DamageLog

    damage = DamageLog(options.keep_going)
    info = inspect_bag(options.input, damage)
    print(json.dumps(info.to_dict(), indent=2) if options.json else "\n".join(describe(info)))
    return REPORTED if damage.noted else 0


def _jobs(options: argparse.Namespace) -> int:
    from anypcc_ros.bags.engines import default_jobs

    jobs: int = options.jobs or default_jobs()
    return jobs


class _Meter:
    """A line about the progress on stderr: once in a while, and rewritten in place on a terminal."""

    def __init__(self, source: Path, quiet: bool) -> None:
        self._source, self._quiet = source, quiet
        self._in_place = sys.stderr.isatty()
        self._period = 0.5 if self._in_place else 10.0
        self._start = self._told = time.monotonic()

    def __enter__(self) -> Callable[[int, int, int], None]:
        return self._update

    def __exit__(self, *error: object) -> None:
        if self._in_place and not self._quiet:
            print(end="\r\033[K", file=sys.stderr, flush=True)

    def _update(self, read: int, size: int, written: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._told < self._period or not read:
            return
        self._told = now
        rate = read / (now - self._start)
        left = (size - read) / rate
        ratio = f", {read / written:.2f} times smaller so far" if written > 1 << 16 else ""
        line = f"{self._source.name}: {100 * read / size:.0f} %, {rate / 1e6:.1f} MB/s, {left:.0f} s left{ratio}"
        print(f"\r\033[K{line}" if self._in_place else line, end="" if self._in_place else "\n", file=sys.stderr, flush=True)
