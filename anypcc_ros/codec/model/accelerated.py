"""The integer network on the native kernels: the same integers as ``reference``, about ten times faster on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.levels import NativeLevels
from anypcc_ros.codec.model.integer import REQUANTISE_SHIFT, IntegerModel
from anypcc_ros.codec.neighbors import Level


class NativeArithmetic:
    """The operations of ``network.Arithmetic`` on (N, channels) uint8 arrays. Logits are int32."""

    def __init__(self, model: IntegerModel, threads: int = 0) -> None:
        self.channels, self.threads = model.config.channels, threads
        self._levels = NativeLevels(threads)
        self._layers = {
            name: native.Layer(layer.weight, layer.bias, layer.multiplier, REQUANTISE_SHIFT)
            for name, layer in model.layers.items()
        }

    def zeros(self, nodes: int) -> np.ndarray:
        return np.zeros((nodes, self.channels), np.uint8)

    def linear(self, layer: str, x: np.ndarray, codes: Any = None) -> np.ndarray:
        y = np.empty((len(x), self.channels), np.uint8)
        native.linear_int8(self._layers[layer], x, y, codes=_contiguous(codes), threads=self.threads)
        return y

    def conv(self, layer: str, x: np.ndarray, level: Level) -> np.ndarray:
        return self._sparse(layer, x, self._levels.neighbors(level), residual=x)

    def up(self, layer: str, x: np.ndarray, level: Level) -> np.ndarray:
        return self._sparse(layer, x, self._levels.up(level, len(x)))

    def aggregate(self, layer: str, seen: np.ndarray, x: np.ndarray, level: Level) -> np.ndarray:
        return self._sparse(layer, seen, self._levels.across(level, reader=1), residual=x)

    def gather(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return x.take(rows, axis=0)

    def head(self, hidden: str, out: str, x: np.ndarray, codes: Any = None) -> np.ndarray:
        last = self._layers[out]
        logits = np.empty((len(x), last.outputs), np.int32)
        native.head_int8(self._layers[hidden], last, x, logits, codes=_contiguous(codes), threads=self.threads)
        return logits

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return self._levels.expand(level, codes)

    def _sparse(
        self, layer: str, x: np.ndarray, plan: native.Plan, residual: np.ndarray | None = None
    ) -> np.ndarray:
        y = np.empty((plan.n_out, self.channels), np.uint8)
        native.conv_int8(plan, self._layers[layer], x, y, residual, self.threads)
        return y


def _contiguous(codes: np.ndarray | None) -> np.ndarray | None:
    return None if codes is None else np.ascontiguousarray(codes)
