#!/usr/bin/env python3
"""The ablation of AnyPcc (arXiv 2510.20331), rerun at small scale: what spatial grouping, channel grouping and the
convolution that aggregates the decoded group bring, every variant with the same steps, seed, crops and widths.

    python scripts/ablation.py --data ../shared/data/train ../shared/data/train_extra --val ../shared/data/val \
        --out RUNS --markdown docs/experiments.md

Every variant is an ordinary run of `anypcc train` in its own folder below --out, so an interrupted ablation goes on where it
stopped, and one more seed (--seeds 0 1) costs only that seed. The table says by how much the bits per point differ from the
variant without any grouping, per category and as the mean over categories, beside the paper's figure.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.model.network import ModelConfig  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.training import log  # noqa: E402
from anypcc_ros.training.dataset import load_clouds  # noqa: E402
from anypcc_ros.training.loop import Trainer, TrainingConfig  # noqa: E402

CATEGORIES = ("lidar_spinning", "dense_human", "dense_object")


@dataclass(frozen=True)
class Variant:
    """``paper``: percent against its baseline, as published, where the paper has this row."""

    name: str
    spatial_grouping: bool
    aggregation: bool
    channel_grouping: bool
    paper: float | None = None

    def of(self, model: ModelConfig) -> ModelConfig:
        """The model with this variant's mechanisms."""
        return replace(
            model,
            spatial_grouping=self.spatial_grouping,
            aggregation=self.aggregation,
            channel_grouping=self.channel_grouping,
        )


VARIANTS = (
    Variant("baseline", False, False, False, 0.0),
    Variant("channel grouping", False, False, True, 0.1),
    Variant("spatial grouping, aggregated by convolution", True, True, False, -6.6),
    Variant("both, without the convolution", True, False, True),
    Variant("both, aggregated by convolution", True, True, True, -9.9),
)


def main() -> int:
    """Train what is not trained yet, then print or write the table."""
    options = _parser().parse_args()
    model = ModelConfig(options.channels, options.parent_convs, options.child_convs)
    common = TrainingConfig(
        steps=options.steps,
        points=options.points,
        warmup=max(options.steps // 20, 1),
        decay=0.5,
        averaging=0.98,
        validate_every=options.steps,
        checkpoint_every=max(options.steps // 10, 1),
    )
    chosen = [variant for variant in VARIANTS if variant is VARIANTS[0] or variant.name in options.variants]
    train, val = (load_clouds(folders, options.categories) for folders in (options.data, options.val))
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for variant in chosen:
            config = replace(common, model=variant.of(model), seed=seed)
            folder = options.out / f"{variant.name.replace(',', '').replace(' ', '_')}_{seed}"
            trainer = Trainer(config, folder)
            for _ in trainer.run(train, val):
                pass
            parameters = sum(p.numel() for p in trainer.network.parameters())
            results.setdefault(variant.name, []).append(
                log.by_category(log.read(folder / log.NAME)[-1]) | {"parameters": parameters}
            )
            print(variant.name, results[variant.name][-1], flush=True)
    text = markdown(results, len(options.seeds), options)
    if options.markdown:
        write_section(options.markdown, "ablation", text)
    else:
        print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training clouds")
    parser.add_argument("--val", type=Path, nargs="+", required=True, help="folders of validation clouds")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--points", type=int, default=10_000, help="points per step")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--parent-convs", type=int, default=2)
    parser.add_argument("--child-convs", type=int, default=1)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, help="besides the baseline (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--markdown", type=Path, help="document whose section `ablation` is replaced (default: print)")
    return parser


def markdown(results: dict[str, list[dict[str, float]]], seeds: int, options: argparse.Namespace) -> str:
    """A row per variant; means over the seeds, and the range of the changes where there are several."""
    baseline = results[VARIANTS[0].name]
    categories = [name for name in baseline[0] if name != "parameters"]
    rows = []
    for variant in [variant for variant in VARIANTS if variant.name in results]:
        records = results[variant.name]
        # Per seed, so that what the seeds have in common (initial weights do differ, crops do not) cancels.
        changes = [
            100 * float(np.mean([record[c] / base[c] - 1 for c in categories]))
            for record, base in zip(records, baseline, strict=True)
        ]
        spread = f" ({min(changes):+.1f} to {max(changes):+.1f})" if seeds > 1 else ""
        bpp = [f"{np.mean([record[c] for record in records]):.3f}" for c in categories]
        paper = "" if variant.paper is None else f"{variant.paper:+.1f} %"
        rows.append([variant.name, f"{records[0]['parameters']:.0f}", *bpp, f"{np.mean(changes):+.1f} %{spread}", paper])
    columns = ["variant", ">parameters", *(f">{name}" for name in categories), ">change, mean of categories", ">paper"]
    text = (
        f"{options.channels} channels, {options.parent_convs} + {options.child_convs} convolutions, {options.steps} steps of "
        f"{options.points:,} points, {'seed' if seeds == 1 else 'seeds'} {', '.join(map(str, options.seeds))}; bits per "
        "point on the validation crops.\n\n"
    )
    return text + table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
