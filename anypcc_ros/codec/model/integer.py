"""The exact integer network: its parameters, what they must satisfy, and their file.

Every machine computes the same integers (docs/bitstream.md, "Arithmetic"):

* activations are integers 0..127, weights -127..127, biases and multipliers int32;
* a layer accumulates a = bias + sum(x * w) exactly and requantises y = (a * multiplier + 2**23) >> 24;
* activation layers add the residual, if any, and clamp to 0..127; logit layers leave y, in 1/32 bit.

Sums stay below 2**24, so that float32 arithmetic on integer values is exact in any order of summation; this is checked
when a model is made and again when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anypcc_ros.codec.errors import ModelFileError
from anypcc_ros.codec.model.network import LayerSpec, ModelConfig, layers

ACTIVATION_LIMIT = 127
WEIGHT_LIMIT = 127
REQUANTISE_SHIFT = 24
LOGIT_STEPS_PER_BIT = 32
FREQUENCY_BITS = 16
EXACT_SUM = 1 << 24
MULTIPLIER_LIMIT = 1 << 28

FORMAT = "anypcc-ucm/1"


def exp2_table() -> np.ndarray:
    """(512,) uint32: round(2**16 * 2**(-d / 32)), computed in integers so that no math library has a say."""
    one = 1 << 128
    ratio = one >> 1
    for _ in range(5):
        ratio = math.isqrt(ratio << 128)  # 2**(-1/2), ..., 2**(-1/32)
    power, table = one, []
    for _ in range(16 * LOGIT_STEPS_PER_BIT):
        table.append((power + (1 << 111)) >> 112)
        power = power * ratio >> 128
    return np.array(table, np.uint32)


EXP2 = exp2_table()


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """``weight`` (taps, inputs, outputs) int8, ``bias`` (rows, outputs) int32, ``multiplier`` (outputs,) int32."""

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """A Universal Context Model ready to code with: a name, a shape, and integer layers by name.

    ``calibrate``: as in CodecConfig, what an encoder does unless told; not part of the identity.
    Raises ModelFileError when a layer is missing, misshapen, or could leave the exact range.
    """

    name: str
    config: ModelConfig
    layers: Mapping[str, IntegerLayer]
    calibrate: str = "always"

    def __post_init__(self) -> None:
        for spec in layers(self.config):
            if spec.name not in self.layers:
                raise ModelFileError(f"model {self.name}: layer {spec.name} is missing")
            _check_layer(self.name, spec, self.layers[spec.name])

    @cached_property
    def hash(self) -> str:
        """Identity of the model: 16 hex digits of SHA-256 over its configuration and integers (not over its name)."""
        digest = hashlib.sha256(FORMAT.encode())
        digest.update(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for spec in layers(self.config):
            layer = self.layers[spec.name]
            for array, kind in ((layer.weight, "i1"), (layer.bias, "<i4"), (layer.multiplier, "<i4")):
                digest.update(np.ascontiguousarray(array, kind).tobytes())
        return digest.hexdigest()[:16]

    @property
    def parameters(self) -> int:
        return sum(layer.weight.size + layer.bias.size for layer in self.layers.values())


def largest_sum(layer: IntegerLayer) -> int:
    """Bound of the absolute value of any partial sum of the layer."""
    products = np.abs(layer.weight.astype(np.int64)).sum(axis=(0, 1)) * ACTIVATION_LIMIT
    return int((products + np.abs(layer.bias.astype(np.int64)).max(axis=0)).max())


def _check_layer(model: str, spec: LayerSpec, layer: IntegerLayer) -> None:
    expected = {
        "weight": ((spec.taps, spec.inputs, spec.outputs), np.int8),
        "bias": ((spec.rows, spec.outputs), np.int32),
        "multiplier": ((spec.outputs,), np.int32),
    }
    for name, (shape, dtype) in expected.items():
        array = getattr(layer, name)
        if array.shape != shape or array.dtype != dtype:
            raise ModelFileError(
                f"model {model}: {spec.name}.{name} is {array.dtype}{array.shape}, not {np.dtype(dtype)}{shape}"
            )
    if int(layer.weight.min()) < -WEIGHT_LIMIT:
        raise ModelFileError(f"model {model}: {spec.name} has a weight below -{WEIGHT_LIMIT}")
    if not 0 <= int(layer.multiplier.min()) <= int(layer.multiplier.max()) < MULTIPLIER_LIMIT:
        raise ModelFileError(f"model {model}: {spec.name} has a multiplier outside 0..{MULTIPLIER_LIMIT - 1}")
    bound = largest_sum(layer)
    if bound >= EXACT_SUM:
        raise ModelFileError(f"model {model}: sums of {spec.name} reach {bound}, exact only below {EXACT_SUM}")


def save_model(model: IntegerModel, path: Path) -> None:
    """Write a model as safetensors; the file appears only when complete."""
    tensors = {}
    for name, layer in model.layers.items():
        tensors[f"{name}.weight"] = layer.weight
        tensors[f"{name}.bias"] = layer.bias
        tensors[f"{name}.multiplier"] = layer.multiplier
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict()), "hash": model.hash}
    metadata["calibrate"] = model.calibrate
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(save(tensors, metadata))
    os.replace(unfinished, path)


def load_model(path: Path) -> IntegerModel:
    """Read a model; its name is the file's. Raises ModelFileError, also when the stored hash does not agree."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path}: format {metadata.get('format')!r}, not {FORMAT!r}")
    try:
        config = ModelConfig(**json.loads(metadata["config"]))
        names = [spec.name for spec in layers(config)]
        parts = ("weight", "bias", "multiplier")
        parameters = {name: IntegerLayer(*(tensors[f"{name}.{part}"] for part in parts)) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: incomplete model ({error!r})") from error
    model = IntegerModel(path.stem, config, parameters, metadata.get("calibrate", "always"))
    if model.hash != metadata.get("hash"):
        raise ModelFileError(f"{path}: the weights hash to {model.hash}, the file says {metadata.get('hash')}")
    return model
