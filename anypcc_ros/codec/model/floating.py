"""The float network, with gradients: what training optimises and ``quantise`` turns into integers.

It mirrors the integer network: every activation is clamped to the range that 7 bits hold at the common scale.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from anypcc_ros.codec.model.network import LayerSpec, ModelConfig, layers
from anypcc_ros.codec.neighbors import CENTRE_TAP, Level, cross_table, expand_level, up_table

ACTIVATION_SCALE = 1 / 16
"""Real value of one integer activation step. One scale for all layers, so that residuals add without conversion."""

ACTIVATION_LIMIT = 127
MAX_ACTIVATION = ACTIVATION_LIMIT * ACTIVATION_SCALE


class FloatNetwork(nn.Module):
    """Parameters of a Universal Context Model and its float arithmetic (an ``Arithmetic``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()
        for spec in layers(config):
            weight, bias = _initial(spec)
            self.weight[_key(spec.name)] = nn.Parameter(weight)
            self.bias[_key(spec.name)] = nn.Parameter(bias)
        self.sparse: SparseProduct = TorchSparseProduct()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameters_of(self, layer: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Weight (taps, inputs, outputs) and bias table (rows, outputs) of a layer."""
        return self.weight[_key(layer)], self.bias[_key(layer)]

    def zeros(self, nodes: int) -> torch.Tensor:
        return torch.zeros(nodes, self.config.channels, device=self.device)

    def _affine(self, layer: str, x: torch.Tensor, codes: Any) -> torch.Tensor:
        weight, bias = self.parameters_of(layer)
        if codes is None:
            return torch.addmm(bias[0], x, weight[0])
        index = torch.as_tensor(codes, device=x.device).long()
        return nn.functional.embedding(index, bias) + x @ weight[0]

    def linear(self, layer: str, x: torch.Tensor, codes: Any = None) -> torch.Tensor:
        return activation(self._affine(layer, x, codes))

    def conv(self, layer: str, x: torch.Tensor, level: Level) -> torch.Tensor:
        weight, bias = self.parameters_of(layer)
        return activation(self.sparse.neighbors(x, weight, level) + bias + x)

    def up(self, layer: str, x: torch.Tensor, level: Level) -> torch.Tensor:
        weight, bias = self.parameters_of(layer)
        return activation(self.sparse.up(x, weight, level) + bias)

    def aggregate(self, layer: str, seen: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        weight, bias = self.parameters_of(layer)
        return activation(self.sparse.across(seen, weight, level) + bias + x)

    def gather(self, x: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return x.index_select(0, torch.as_tensor(rows, device=x.device))

    def head(self, hidden: str, out: str, x: torch.Tensor, codes: Any = None) -> torch.Tensor:
        return self._affine(out, self.linear(hidden, x, codes), None)

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return self.sparse.expand(level, codes)


def activation(x: torch.Tensor) -> torch.Tensor:
    """ReLU, limited to what the integer network can hold. (clamp would do; its gradient takes three passes, not one.)"""
    return nn.functional.hardtanh(x, 0.0, MAX_ACTIVATION)


class SparseProduct(Protocol):
    """The sparse products of the network and the tables they need; implementations differ in speed only."""

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        """The level below ``level``, given its occupancy codes."""

    def neighbors(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        """3x3x3 convolution over the nodes of ``level``."""

    def up(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        """From the level above to ``level``, one weight per octant."""

    def across(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        """From checkerboard group 0 to group 1 of ``level``."""


class TorchSparseProduct:
    """Gather, matrix product, scatter-add per tap, in plain torch on any device."""

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return expand_level(level, codes)

    def neighbors(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        return sparse_product(x, weight, level.neighbors)

    def up(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        return sparse_product(x, weight, up_table(level))

    def across(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        return sparse_product(x, weight, cross_table(level, reader=1))


def sparse_product(x: torch.Tensor, weight: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    """y[i] = sum over taps k with table[i, k] >= 0 of x[table[i, k]] @ weight[k].

    ``x``: (n_in, inputs). ``weight``: (taps, inputs, outputs). ``table``: (n_out, taps) int32. Result (n_out, outputs).
    """
    y = x.new_zeros(len(table), weight.shape[2])
    whole = len(table) == len(x) and table.shape[1] == 27
    for tap in range(table.shape[1]):
        if whole and tap == CENTRE_TAP:
            y = y + x @ weight[tap]
            continue
        out = np.flatnonzero(table[:, tap] >= 0)
        if len(out):
            source = torch.as_tensor(table[out, tap], device=x.device)
            y = y.index_add(0, torch.as_tensor(out, device=x.device), x.index_select(0, source) @ weight[tap])
    return y


def _key(layer: str) -> str:
    return layer.replace(".", "_")


def _initial(spec: LayerSpec) -> tuple[torch.Tensor, torch.Tensor]:
    # He initialisation for the number of taps that are occupied on average (facts: about 6 of 27, half of 14), halved
    # where the layer adds to a residual, so that activations stay well below the clamp through twenty levels.
    occupied = {27: 6.0, 14: 3.0, 8: 1.0, 1: 1.0}[spec.taps]
    gain = {27: 0.5, 14: 0.5}.get(spec.taps, 1.0) if not spec.logits else 0.1
    weight = torch.randn(spec.taps, spec.inputs, spec.outputs) * gain * math.sqrt(2 / (spec.inputs * occupied))
    bias = torch.zeros(spec.rows, spec.outputs)
    if spec.rows > 1:
        bias.normal_(0.0, 0.5)
    return weight, bias
