"""Tuning of all that comes before the prediction heads, for adaptations that many streams share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from anypcc_ros.adaptation.changes import BIAS_SHIFT, WEIGHT_SHIFT, Changes, rate_at
from anypcc_ros.codec import octree
from anypcc_ros.codec.model.delta import Delta, LayerDelta
from anypcc_ros.codec.model.floating import ACTIVATION_SCALE, FloatNetwork
from anypcc_ros.codec.model.integer import LOGIT_STEPS_PER_BIT, REQUANTISE_SHIFT, IntegerModel
from anypcc_ros.codec.model.network import layers
from anypcc_ros.training.loop import batch_bits
from anypcc_ros.training.products import choose_product
from anypcc_ros.training.sampling import Batch

POINTS = 20_000
"""Cells of the crop that a step is made on."""

RATE = 1 / 4
"""Of the heads' learning rate: many more weights change together."""


def tune_trunk(model: IntegerModel, clouds: Sequence[np.ndarray], steps: int, share: float) -> Delta:
    """Changes of all layers but the heads, tuned with the float network to clouds of grid coordinates (N, 3) int64.

    ``share``: as in ``Changes``. The heads, and the calibration, do not matter here: they are tuned to the result afterwards.
    """
    network, scales = _float_network(model)
    names = [spec.name for spec in layers(model.config) if not spec.head]
    changes = Changes([model.layers[name] for name in names], share)
    parameters = [parameter for name in names for parameter in network.parameters_of(name)]
    factors = [scale * unit for scale, unit in zip([s for name in names for s in scales[name]], changes.unit, strict=True)]
    for parameter in set(network.parameters()) - set(parameters):
        parameter.requires_grad_(False)
    cells = [cloud - cloud.min(axis=0) for cloud in clouds if len(cloud)]
    total = sum(map(len, cells))
    rng = np.random.default_rng(0)
    for step in range(steps if cells else 0):
        with torch.no_grad():
            for parameter, base, factor, change, unit in zip(
                parameters, changes.base, factors, changes.change, changes.unit, strict=True
            ):
                parameter.copy_((base / unit + change.round()) * factor)
        batch = _crop(rng, cells[rng.choice(len(cells), p=np.array([len(c) for c in cells]) / total)])
        network.zero_grad()
        bits, _ = batch_bits(network, batch)
        if not bits.requires_grad:
            continue
        (bits * (total / batch.points)).backward()
        for parameter, factor, change in zip(parameters, factors, changes.change, strict=True):
            change.grad = torch.zeros_like(change) if parameter.grad is None else parameter.grad * factor
        changes.step(RATE * rate_at(step, steps))
    pairs = zip(names, changes.rounded()[::2], changes.rounded()[1::2], strict=True)
    found = {name: LayerDelta(weight, bias) for name, weight, bias in pairs if weight.any() or bias.any()}
    return Delta(found, WEIGHT_SHIFT, BIAS_SHIFT)


def _float_network(model: IntegerModel) -> tuple[FloatNetwork, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The network that was quantised, as the integers tell it, and what units of a layer's weights and biases are there."""
    network, scales = FloatNetwork(model.config), {}
    with torch.no_grad():
        for spec in layers(model.config):
            layer = model.layers[spec.name]
            output = math.log(2) / LOGIT_STEPS_PER_BIT if spec.logits else ACTIVATION_SCALE
            of_sums = torch.as_tensor(layer.multiplier * (output / (1 << REQUANTISE_SHIFT))).float()
            scales[spec.name] = of_sums / ACTIVATION_SCALE, of_sums
            for parameter, array, scale in zip(
                network.parameters_of(spec.name), (layer.weight, layer.bias), scales[spec.name], strict=True
            ):
                parameter.copy_(torch.as_tensor(array) * scale)
    network.sparse = choose_product("cpu")
    return network, scales


def _crop(rng: np.random.Generator, cells: np.ndarray) -> Batch:
    """Cells around a random one, in an octree aligned as that of the whole cloud."""
    if len(cells) > POINTS:
        distance = np.abs(cells - cells[rng.integers(len(cells))]).max(axis=1)
        cells = cells[np.argpartition(distance, POINTS)[:POINTS]]
    coords, counts, _ = octree.sort_cells(cells)
    depth = max(int(coords.max()).bit_length(), 1)
    voxels = octree.Voxels(np.zeros(3, np.int64), coords, counts, depth)
    return Batch(octree.occupancy_pyramid(voxels), len(coords))
