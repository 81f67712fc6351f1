"""Reference arithmetic of the integer network, in torch on the CPU or on CUDA.

Activations are float32 tensors of integer values: float32 products and sums of integers below 2**24 are exact, so that
any BLAS, thread count, CPU or GPU gives the same integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypcc_ros.codec.model.floating import sparse_product
from anypcc_ros.codec.model.integer import ACTIVATION_LIMIT, REQUANTISE_SHIFT, IntegerModel
from anypcc_ros.codec.neighbors import Level, cross_table, expand_level, up_table


class TorchArithmetic:
    """The operations of ``network.Arithmetic`` on integers, in torch. Logits are NumPy arrays."""

    def __init__(self, model: IntegerModel, device: str = "cpu", threads: int = 0) -> None:
        self.channels = model.config.channels
        self.device = torch.device(device)
        if self.device.type == "cpu":
            # One thread unless told otherwise: the layers are small, and OpenMP's spinning barriers make two threads on
            # a busy machine ten times slower than one.
            torch.set_num_threads(threads or 1)
        self._weight = {k: self._tensor(v.weight, torch.float32) for k, v in model.layers.items()}
        self._bias = {k: self._tensor(v.bias, torch.float32) for k, v in model.layers.items()}
        self._multiplier = {k: self._tensor(v.multiplier, torch.float64) for k, v in model.layers.items()}

    def _tensor(self, array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device).to(dtype)

    def zeros(self, nodes: int) -> torch.Tensor:
        return torch.zeros(nodes, self.channels, device=self.device)

    def linear(self, layer: str, x: torch.Tensor, codes: Any = None) -> torch.Tensor:
        return self._activation(layer, self._affine(layer, x, codes))

    def conv(self, layer: str, x: torch.Tensor, level: Level) -> torch.Tensor:
        return self._activation(layer, self._sparse(layer, x, level.neighbors), residual=x)

    def up(self, layer: str, x: torch.Tensor, level: Level) -> torch.Tensor:
        return self._activation(layer, self._sparse(layer, x, up_table(level)))

    def aggregate(self, layer: str, seen: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        return self._activation(layer, self._sparse(layer, seen, cross_table(level, reader=1)), residual=x)

    def gather(self, x: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return x.index_select(0, torch.as_tensor(rows, device=self.device))

    def head(self, hidden: str, out: str, x: torch.Tensor, codes: Any = None) -> np.ndarray:
        logits = self._requantise(out, self._affine(out, self.linear(hidden, x, codes), None))
        return logits.to(torch.int32).cpu().numpy()

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return expand_level(level, codes)

    def _affine(self, layer: str, x: torch.Tensor, codes: Any) -> torch.Tensor:
        bias = self._bias[layer]
        rows = bias[0] if codes is None else bias[self._tensor(np.array(codes), torch.int64)]
        return x @ self._weight[layer][0] + rows

    def _sparse(self, layer: str, x: torch.Tensor, table: np.ndarray) -> torch.Tensor:
        return sparse_product(x, self._weight[layer], table) + self._bias[layer]

    def _requantise(self, layer: str, sums: torch.Tensor) -> torch.Tensor:
        """(sums * multiplier + 2**23) >> 24 in float64, exact because the products stay below 2**52."""
        half = float(1 << (REQUANTISE_SHIFT - 1))
        scaled = sums.double().mul_(self._multiplier[layer]).add_(half)
        return scaled.mul_(2.0**-REQUANTISE_SHIFT).floor_()

    def _activation(self, layer: str, sums: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y = self._requantise(layer, sums).float()
        if residual is not None:
            y += residual
        return y.clamp_(0, ACTIVATION_LIMIT)
