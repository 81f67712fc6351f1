"""Sparse products for training: the native float kernels, forward and backward, where they are built."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.levels import NativeLevels
from anypcc_ros.codec.model.floating import SparseProduct, TorchSparseProduct
from anypcc_ros.codec.neighbors import Level

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
    """The native float kernels; one plan per level and operator serves every layer."""

    def __init__(self) -> None:
        self._levels = NativeLevels()

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        return self._levels.expand(level, codes)

    def neighbors(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        plan = self._levels.neighbors(level)
        # The neighbour relation is symmetric: reading the table backwards is reading it with the taps reversed.
        return _apply(x, weight, plan, plan, True)

    def up(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        parents = len(x)
        return _apply(x, weight, self._levels.up(level, parents), self._levels.down(level, parents), False)

    def across(self, x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
        return _apply(x, weight, self._levels.across(level, 1), self._levels.across(level, 0), True)


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


_apply: Callable[..., torch.Tensor] = _SparseProduct.apply
