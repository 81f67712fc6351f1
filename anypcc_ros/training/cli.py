"""`anypcc train` and `anypcc export`: from clouds to an installed model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from anypcc_ros.codec.config import CALIBRATIONS
from anypcc_ros.codec.model.integer import save_model
from anypcc_ros.codec.model.network import ModelConfig
from anypcc_ros.command_line import add_option_flags, config_from, new_file
from anypcc_ros.training import log
from anypcc_ros.training.dataset import load_clouds
from anypcc_ros.training.export import load_checkpoint, model_card, quantise
from anypcc_ros.training.loop import Trainer, TrainingConfig


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc train``."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training clouds")
    parser.add_argument("--val", type=Path, nargs="+", required=True, help="folders of validation clouds")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and log; an old run there goes on")
    parser.add_argument("--start", type=Path, metavar="RUN", help="begin with the layers of another run, as wide or narrower")
    parser.add_argument("--categories", nargs="+", help="train on these categories only (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_option_flags(parser, TrainingConfig, without={"model"})
    add_option_flags(parser.add_argument_group("shape of the model"), ModelConfig)


def run_train(arguments: argparse.Namespace) -> int:
    """Train, printing one line per validation. Returns the exit status."""
    config = replace(config_from(arguments, TrainingConfig, without={"model"}), model=config_from(arguments, ModelConfig))
    trainer = Trainer(config, arguments.out, arguments.device)
    if arguments.start is not None:
        taken = trainer.start_from(load_checkpoint(arguments.start / "checkpoint.pt")[0])
        print(f"{len(taken)} layers taken over from {arguments.start}", flush=True)
    train = load_clouds(arguments.data, arguments.categories)
    val = load_clouds(arguments.val, arguments.categories)
    parameters = sum(p.numel() for p in trainer.network.parameters())
    print(f"{parameters} parameters, {len(train)} training clouds, starting at step {trainer.step}", flush=True)
    for record in trainer.run(train, val):
        print(", ".join(f"{key} {value:.4g}" for key, value in record.items()), flush=True)
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``anypcc export``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder that `anypcc train --out` wrote")
    parser.add_argument("-o", "--output", type=new_file, required=True, help="model file to write, NAME.safetensors")
    parser.add_argument(
        "--calibrate", choices=[way for way in CALIBRATIONS if way != "auto"], default="always",
        help="what encoders do with it unless told (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--notes", default="", help="a sentence for the model card, such as the data it was trained on")


def run_export(arguments: argparse.Namespace) -> int:
    """Quantise the averaged weights of a run and write the model and its card. Returns the exit status."""
    network, step = load_checkpoint(arguments.folder / "checkpoint.pt")
    records = log.read(arguments.folder / log.NAME)
    model = quantise(network, arguments.output.stem, arguments.calibrate)
    save_model(model, arguments.output)
    card = arguments.output.with_suffix(".md")
    card.write_text(model_card(model, step, records, arguments.notes), encoding="utf-8")
    print(f"{arguments.output}: model {model.hash}, {model.parameters} parameters, {step} steps; card in {card}")
    return 0
