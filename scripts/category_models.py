#!/usr/bin/env python3
"""What one model for everything costs: a universal run goes on, on each category alone, and both are measured on the suite.

    python scripts/category_models.py --run runs/standard --universal standard --steps 2000 --out RUNS \
        --data ../shared/data/train ../shared/data/train_extra --val ../shared/data/val \
        --suite ../shared/data/test --peers ../shared/facts/peers.csv --markdown docs/experiments.md

Every category model starts from the universal run's weights and takes --steps further steps, the learning rate decaying all the
way. With --from-scratch it starts anew with the universal run's shape instead, as in the paper. Real streams are encoded and
decoded; a category model is worth shipping where it is more than 3 % smaller. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros import cli  # noqa: E402
from anypcc_ros.codec.config import CodecConfig  # noqa: E402
from anypcc_ros.codec.errors import AnypccError  # noqa: E402
from anypcc_ros.codec.model import store  # noqa: E402
from anypcc_ros.evaluation import suite  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.peers import load_peers  # noqa: E402
from anypcc_ros.evaluation.results import GPCC_OCTREE, Journal, Line, by_category, by_cloud  # noqa: E402
from anypcc_ros.training.export import load_checkpoint  # noqa: E402

WORTH_SHIPPING = -3.0
"""Percent against the universal model."""


def main() -> int:
    """Train and measure every category, then print or write the table."""
    options = _parser().parse_args()
    universal = store.by_name(options.universal)
    lines: list[tuple[str, Line]] = []
    for category in options.categories or sorted(path.name for path in options.suite.iterdir() if path.is_dir()):
        model = train(options, category)
        configs = tuple(CodecConfig(model=name, merge_duplicates=True) for name in (options.universal, str(model)))
        sources = suite.folder_sources(options.suite, load_peers(options.peers), [f"{category}/*"])
        plan = suite.Plan(configs, live_peers=False, distortion=False)
        results = suite.evaluate(sources, plan, Journal(options.out / f"{category}.csv"), options.jobs)
        lines += [(model.stem, line) for line in by_category(by_cloud(results))]
        print(markdown(options, universal.name, lines), flush=True)
    if options.markdown:
        write_section(options.markdown, "category models", markdown(options, universal.name, lines))
    return 0


def train(options: argparse.Namespace, category: str) -> Path:
    """The exported model of one category."""
    folder = options.out / category
    network, _ = load_checkpoint(options.run / "checkpoint.pt")
    shape = [f"--{'' if value else 'no-'}{_flag(name)}" if isinstance(value, bool) else f"--{_flag(name)}={value}"
             for name, value in network.config.to_dict().items()]  # fmt: skip
    start = [] if options.from_scratch else ["--start", str(options.run)]
    data = ["--data", *map(str, options.data), "--val", *map(str, options.val)]
    schedule = [f"--steps={options.steps}", "--decay=1"]
    _run(["train", *data, "--out", str(folder), "--categories", category, *start, *schedule, *shape, *options.train_options])
    model: Path = options.out / f"{Path(options.universal).stem}-{category}.safetensors"
    _run(["export", str(folder), "-o", str(model)])
    return model


def _run(arguments: list[str]) -> None:
    if cli.main(arguments):
        raise SystemExit(f"failed: {shlex.join(['anypcc', *arguments])}")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def markdown(options: argparse.Namespace, universal: str, lines: list[tuple[str, Line]]) -> str:
    """A row per category and grid."""
    rows = []
    for name, line in lines:
        versus = 100 * (line.ours[name] / line.ours[universal] - 1)
        figures = [f"{line.ours[model]:.3f}" for model in (universal, name)]
        gpcc = f"{line.peers[GPCC_OCTREE]:.3f}" if GPCC_OCTREE in line.peers else ""
        verdict = "yes" if versus < WORTH_SHIPPING else "no"
        rows.append([line.name, line.grid, str(line.clouds), *figures, f"{versus:+.1f} %", gpcc, verdict])
    how = "from scratch" if options.from_scratch else f"from `{universal}`"
    figures = [f">{universal}", ">category model", ">difference", f">{GPCC_OCTREE}"]
    columns = ["category", "grid", ">clouds", *figures, "worth shipping"]
    return f"Each category model: {options.steps} steps {how}. Bits per input point.\n\n{table(columns, rows)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the universal training run")
    parser.add_argument("--universal", default="standard", help="the model exported from it, installed or a file")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each category model")
    parser.add_argument("--from-scratch", action="store_true", help="do not begin with the universal weights")
    parser.add_argument("--categories", nargs="+", help="default: all of the suite")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training clouds")
    parser.add_argument("--val", type=Path, nargs="+", required=True, help="folders of validation clouds")
    parser.add_argument("--suite", type=Path, required=True, help="folder of category/cloud files to measure on")
    parser.add_argument("--peers", type=Path, required=True, help="table of other codecs, and the grids")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, models and measurements")
    parser.add_argument("--jobs", type=int, default=2, help="processes that measure")
    parser.add_argument("--markdown", type=Path, help="document whose section `category models` is replaced")
    parser.add_argument("--train-options", nargs=argparse.REMAINDER, default=[], help="what follows goes to `anypcc train`")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AnypccError as error:
        sys.exit(f"category_models: {error}")
