"""Sparse products for training: the native float kernels, forward and backward, where they are built."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.floating import SparseProduct, TorchSparseProduct, up_table
from anypcc_ros.codec.neighbors import Level, cross_table, first_children, split_groups

_log = logging.getLogger(__name__)


def choose_product(device: str) -> SparseProduct:
    """The fastest sparse product for a device."""
    if device != "cpu":
        return TorchSparseProduct()
    if native.available():
        return NativeSparseProduct()
    _log.warning("training without native kernels, several times slower: %s", native.unavailable_reason())
    return TorchSparseProduct()


class NativeSparseProduct:
    """The native float kernels. Plans are built once per level and serve every layer and both directions."""

    def __init__(self) -> None:
        self._plans: WeakKeyDictionary[Level, dict[str, native.Plan]] = WeakKeyDictionary()

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        first = first_children(codes)
        children = int(first[-1])
        neighbors = np.empty((children, 27), np.int32)
        parent_row, octant = np.empty(children, np.int32), np.empty(children, np.uint8)
        native.expand_neighbors(level.neighbors, codes, first[:-1], neighbors, parent_row, octant)
        return Level(neighbors, parent_row, octant, split_groups(octant))

    def neighbors(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        plan = self._plan(level, "neighbors", lambda: (level.neighbors, len(level)))
        # The neighbour relation is symmetric: reading the table backwards is reading it with the taps reversed.
        return _SparseProduct.apply(x, weight, plan, plan, True)

    def up(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        forward = self._plan(level, "up", lambda: (up_table(level), len(x)))
        backward = self._plan(level, "down", lambda: (_down_table(level, len(x)), len(level)))
        return _SparseProduct.apply(x, weight, forward, backward, False)

    def across(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        forward = self._plan(level, "across", lambda: (cross_table(level, reader=1), len(level.groups[0])))
        backward = self._plan(level, "back", lambda: (cross_table(level, reader=0), len(level.groups[1])))
        return _SparseProduct.apply(x, weight, forward, backward, True)

    def _plan(self, level: Level, name: str, table: Any) -> native.Plan:
        plans = self._plans.setdefault(level, {})
        if name not in plans:
            plans[name] = native.Plan(*table())
        return plans[name]


def _down_table(level: Level, parents: int) -> np.ndarray:
    """(parents, 8) int32: the row of each parent's child in every octant, or -1."""
    table = np.full((parents, 8), -1, np.int32)
    table[level.parent_row, level.octant] = np.arange(len(level))
    return table


class _SparseProduct(torch.autograd.Function):
    """y = sum over taps of x[table] @ weight, with the plan of the table and of its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, plan: native.Plan, transposed: native.Plan, flip: bool) -> Any:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.plans, ctx.flip = (plan, transposed), flip
        y = x.new_empty(plan.n_out, weight.shape[2])
        native.conv_f32(plan, x, weight.detach(), None, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        plan, transposed = ctx.plans
        dy = gradients[0].contiguous()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.detach().flip(0) if ctx.flip else weight.detach()
            dx = torch.empty_like(x)
            native.conv_f32(transposed, dy, mirrored.transpose(1, 2).contiguous(), None, dx)
        if ctx.needs_input_grad[1]:
            dw = torch.empty_like(weight)
            native.conv_f32_dw(plan, x, dy, dw)
        return dx, dw, None, None, None
