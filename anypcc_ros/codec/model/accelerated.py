"""The integer network on the native kernels: the same integers as ``reference``, about ten times faster on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.buffers import Buffers
from anypcc_ros.codec.kernels.levels import NativeLevels, native_level
from anypcc_ros.codec.model.integer import REQUANTISE_SHIFT, IntegerModel
from anypcc_ros.codec.neighbors import Level


class Rows(NamedTuple):
    """Some rows of ``features``, which are only read where a kernel uses them."""

    features: np.ndarray
    rows: np.ndarray


class NativeArithmetic:
    """The operations of ``network.Arithmetic`` on (N, channels) uint8 arrays. Logits are int32."""

    def __init__(self, model: IntegerModel, threads: int = 0) -> None:
        self.channels, self.threads = model.config.channels, threads
        self._levels = NativeLevels(threads)
        self._layers = {
            name: native.Layer(layer.weight, layer.bias, layer.multiplier, REQUANTISE_SHIFT)
            for name, layer in model.layers.items()
        }
        self._buffers = Buffers()

    def zeros(self, nodes: int) -> np.ndarray:
        return np.zeros((nodes, self.channels), np.uint8)

    def linear(self, layer: str, x: np.ndarray | Rows, codes: Any = None) -> np.ndarray:
        features, rows = _features(x)
        y = self._empty(len(features) if rows is None else len(rows))
        native.linear_int8(self._layers[layer], features, y, rows, _contiguous(codes), threads=self.threads)
        return y

    def conv(self, layer: str, x: np.ndarray, level: Level) -> np.ndarray:
        y = self._empty(len(x))
        native.conv_int8(self._levels.neighbors(level), self._layers[layer], x, y, x, threads=self.threads)
        return y

    def up(self, layer: str, x: np.ndarray, level: Level) -> np.ndarray:
        y = self._empty(len(level))
        native.up_int8(native_level(level).data, self._layers[layer], x, y, self.threads)
        return y

    def aggregate(self, layer: str, seen: np.ndarray, x: np.ndarray | Rows, level: Level) -> np.ndarray:
        plan = self._levels.across(level, reader=1)
        features, rows = _features(x)
        y = self._empty(plan.n_out)
        native.conv_int8(plan, self._layers[layer], seen, y, features, rows, self.threads)
        return y

    def gather(self, x: np.ndarray, rows: np.ndarray) -> Rows:
        return Rows(x, rows)

    def head(self, hidden: str, out: str, x: np.ndarray | Rows, codes: Any = None) -> np.ndarray:
        last = self._layers[out]
        features, rows = _features(x)
        logits = self._buffers.empty((len(features) if rows is None else len(rows), last.outputs), np.int32)
        native.head_int8(self._layers[hidden], last, features, logits, rows, _contiguous(codes), self.threads)
        return logits

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return self._levels.expand(level, codes)

    def _empty(self, nodes: int) -> np.ndarray:
        return self._buffers.empty((nodes, self.channels), np.uint8)


def _features(x: np.ndarray | Rows) -> tuple[np.ndarray, np.ndarray | None]:
    return x if isinstance(x, Rows) else (x, None)


def _contiguous(codes: np.ndarray | None) -> np.ndarray | None:
    return None if codes is None else np.ascontiguousarray(codes)
