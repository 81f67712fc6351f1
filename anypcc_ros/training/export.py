"""Quantise a trained float network to the exact integer network, and write it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from anypcc_ros.codec.errors import ModelFileError
from anypcc_ros.codec.model.floating import ACTIVATION_SCALE, FloatNetwork
from anypcc_ros.codec.model.integer import (
    LOGIT_STEPS_PER_BIT,
    REQUANTISE_SHIFT,
    WEIGHT_LIMIT,
    IntegerLayer,
    IntegerModel,
)
from anypcc_ros.codec.model.network import LayerSpec, ModelConfig, layers
from anypcc_ros.training import log

_BIAS_LIMIT = 1 << 21  # of the 2**24 that a sum may reach


def quantise(network: FloatNetwork, name: str, calibrate: str = "always") -> IntegerModel:
    """The integer network of a float network: one scale per output channel of every layer, biases in sum units.

    ``calibrate``: what encoders do with it unless told, as in CodecConfig. Raises ModelFileError when a sum could leave the
    exact range.
    """
    parameters = {}
    for spec in layers(network.config):
        weight, bias = (p.detach().cpu().double().numpy() for p in network.parameters_of(spec.name))
        parameters[spec.name] = _quantise_layer(spec, weight, bias)
    return IntegerModel(name, network.config, parameters, calibrate)


def _quantise_layer(spec: LayerSpec, weight: np.ndarray, bias: np.ndarray) -> IntegerLayer:
    scale = np.abs(weight).max(axis=(0, 1)) / WEIGHT_LIMIT
    scale = np.maximum(scale, np.abs(bias).max(axis=0) / (_BIAS_LIMIT * ACTIVATION_SCALE))
    scale = np.maximum(scale, 1e-6)
    sum_unit = scale * ACTIVATION_SCALE
    output_unit = math.log(2) / LOGIT_STEPS_PER_BIT if spec.logits else ACTIVATION_SCALE
    return IntegerLayer(
        weight=np.rint(weight / scale).astype(np.int8),
        bias=np.rint(bias / sum_unit).astype(np.int32),
        multiplier=np.rint(sum_unit / output_unit * (1 << REQUANTISE_SHIFT)).astype(np.int32),
    )


def load_checkpoint(path: Path) -> tuple[FloatNetwork, int]:
    """The averaged float network of a training checkpoint, and the steps it was trained. Raises ModelFileError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = FloatNetwork(ModelConfig(**state["config"]))
        network.load_state_dict(state["average"])
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path}: not a training checkpoint ({error})") from error
    return network, int(state["step"])


def model_card(model: IntegerModel, step: int, records: Sequence[Mapping[str, float]], notes: str) -> str:
    """Markdown that says what a model is, how it was trained and, by the log's ``records``, what it reached on the validation
    crops."""
    last = records[-1]
    shape = ", ".join(f"{name} {value}" for name, value in model.config.to_dict().items())
    rows = "\n".join(f"| {category} | {bpp:.3f} |" for category, bpp in log.by_category(last).items())
    return f"""# Model `{model.name}`

| | |
|---|---|
| identity | `{model.hash}` |
| shape | {shape} |
| parameters | {model.parameters} |
| calibrate | {model.calibrate}, unless told |
| trained | {step} steps, {last[log.SECONDS] / 3600:.2f} hours |

{notes}

Bits per point on crops of the validation clouds at step {last[log.STEP]:.0f}, before quantisation
(LiDAR at 16 mm, rooms at 5 mm, the others on the grids of `training/loop.py`):

| category | bpp |
|---|---|
{rows}
"""
