"""`anypcc adapt`: a model tuned to a sensor, a sequence or a scene, in a file that streams name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import FileError
from anypcc_ros.codec.model.adaptations import SUFFIX
from anypcc_ros.command_line import about, add_option_flags, config_from, new_file, positive_count
from anypcc_ros.files import atomic_write, read_cloud
from anypcc_ros.optional import optional

OPTIONS = {"step", "origin", "model", "drop_scales", "merge_duplicates", "calibrate", "backend", "threads"}
LAYERS = ("heads", "all")


def add_adapt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc adapt``."""
    parser.description = (
        "Tune the model to clouds like these. Streams encoded with --adaptation SCENE.apad are smaller, and a decoder needs "
        "that file. It is good for the grid that it was made on; clouds that it would make larger are encoded without it."
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="clouds to tune on")
    parser.add_argument("-o", "--output", type=_new_adaptation, metavar=f"SCENE{SUFFIX}", required=True, help="file to write")
    parser.add_argument("--steps", type=positive_count, default=200, metavar="N", help="steps of tuning (default: %(default)s)")
    parser.add_argument(
        "--layers", choices=LAYERS, default="heads", help="the prediction heads, or everything before them, too, which takes "
        "minutes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--streams", type=positive_count, default=100, metavar="N", help="how many streams will share it: the more, the more "
        "changes are worth their bytes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--test", type=Path, nargs="+", default=[], metavar="FILE", help="other clouds to measure it on")
    add_option_flags(parser, CodecConfig, only=OPTIONS)


def _new_adaptation(text: str) -> Path:
    path = new_file(text)
    if path.suffix != SUFFIX:
        raise FileError(f"{path}: the file of an adaptation is called *{SUFFIX}")
    return path


def run_adapt(arguments: argparse.Namespace) -> int:
    """Tune, write the file and print what it saves. Returns the exit status."""
    optional("torch", "torch")
    from anypcc_ros.adaptation.shared import tune_shared

    config = config_from(arguments, CodecConfig)
    encoder = Encoder(config)
    clouds = [_cloud(path) for path in arguments.files]
    with about(arguments.files[0]):
        adaptation = tune_shared(encoder, clouds, arguments.steps, arguments.layers == "all", arguments.streams)
    with atomic_write(arguments.output) as out:
        out.write(adaptation.to_bytes())
    print(f"{arguments.output}: adaptation {adaptation.hash} of model {encoder.model.name}, {len(adaptation.delta)} bytes")
    adapted = Encoder(replace(config, adaptation=str(arguments.output)))
    _compare("tuned on", arguments.files, clouds, encoder, adapted, len(adaptation.delta))
    if arguments.test:
        others = [_cloud(path) for path in arguments.test]
        _compare("others", arguments.test, others, encoder, adapted, len(adaptation.delta))
    return 0


def _cloud(path: Path) -> PointCloud:
    """As ``anypcc encode`` reads it, positions alone. Raises FileError where there are none."""
    cloud = read_cloud(path, metres=True)
    finite = cloud.finite()[0].xyz
    if not len(finite):
        raise FileError(f"{path}: {len(cloud)} points, none of them with finite coordinates to adapt to")
    return PointCloud(finite)


def _compare(
    label: str, files: Sequence[Path], clouds: Sequence[PointCloud], plain: Encoder, adapted: Encoder, cost: int
) -> None:
    """Print the positions' bytes without and with the adaptation."""
    before = after = 0
    for path, cloud in zip(files, clouds, strict=True):
        with about(path):
            before += len(plain.encode(cloud))
            after += len(adapted.encode(cloud))
    saved = (before - after) / len(files)
    pays = f"pays after {cost / saved:.1f} of them" if saved > 0 else "never pays"
    print(f"  {label}: {before} bytes without, {after} with it ({100 * (after / before - 1):+.2f} %); {pays}")
