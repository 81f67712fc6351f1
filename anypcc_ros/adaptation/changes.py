"""Sparse integer changes of a model's parameters, tuned by gradient descent against what they will cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from anypcc_ros.codec.model.integer import EXACT_SUM, WEIGHT_LIMIT, IntegerLayer

WEIGHT_SHIFT, BIAS_SHIFT = 3, 10
"""Weights change by multiples of 8, biases, which stand beside sums of weights times inputs, by multiples of 1024."""

FIRST_PRICE, NEXT_PRICE = 7.0, 1.5
"""Bits that changing a parameter is taken to cost, and what each unit of change adds."""

LEARNING_RATE = 0.2
"""In units of change, at the start."""

_MOMENTS = 0.9, 0.999
_AVERAGING = 0.95


class Changes:
    """Changes of some layers' weights and biases, in the units that they are coded in.

    ``share``: of the price of a change, what counts beside the bits of the samples: less than one where many streams share it.
    """

    def __init__(self, layers: Sequence[IntegerLayer], share: float = 1.0) -> None:
        self.base = [tensor(array) for layer in layers for array in (layer.weight, layer.bias)]
        self.unit = [1 << WEIGHT_SHIFT, 1 << BIAS_SHIFT] * len(layers)
        limits = [WEIGHT_LIMIT, EXACT_SUM // 2] * len(layers)
        self._range = [
            (torch.ceil((-limit - base) / unit).clamp(max=0), torch.floor((limit - base) / unit).clamp(min=0))
            for base, unit, limit in zip(self.base, self.unit, limits, strict=True)
        ]
        self._share = share
        self.change = [torch.zeros_like(base, requires_grad=True) for base in self.base]
        self._average = [torch.zeros_like(base) for base in self.base]
        self._optimiser = torch.optim.Adam(self.change, betas=_MOMENTS)

    def values(self) -> list[torch.Tensor]:
        """Weight, bias, weight, ... as they are with the rounded changes."""
        return [base + unit * rounded(change) for base, unit, change in zip(self.base, self.unit, self.change, strict=True)]

    def forget_gradients(self) -> None:
        self._optimiser.zero_grad()

    def step(self, rate: float) -> None:
        """One step of Adam against the gradient, of the bits of all samples, and of the proximal operator of the price.

        The price is that of an iteratively reweighted L1 norm: high for the first unit, low for more (Candes et al. 2008).
        """
        self._optimiser.param_groups[0]["lr"] = rate
        self._optimiser.step()
        with torch.no_grad():
            for change, (low, high) in zip(self.change, self._range, strict=True):
                state = self._optimiser.state[change]
                slope = (state["exp_avg_sq"] / (1 - _MOMENTS[1] ** float(state["step"]))).sqrt().clamp(min=1e-9)
                price = self._share * (NEXT_PRICE + FIRST_PRICE / (1 + change.abs()))
                size = (change.abs() - rate * price / slope).clamp(min=0)
                torch.clamp(change.sign() * size, low, high, out=change)
            for average, change in zip(self._average, self.change, strict=True):
                average.lerp_(change, 1 - _AVERAGING)

    def price(self) -> float:
        """Bits that the changes are taken to cost, as far as they count."""
        sizes = [change.detach().round().abs() for change in self.change]
        return self._share * float(sum((NEXT_PRICE * size + FIRST_PRICE * (size > 0)).sum() for size in sizes))

    def rounded(self) -> list[np.ndarray]:
        """The changes, int64: the mean over the last steps, in which the noise of single ones goes down."""
        return [average.round().to(torch.int64).numpy() for average in self._average]


def rate_at(step: int, steps: int) -> float:
    """The learning rate of a step: half a cosine down to a fiftieth."""
    return LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Rounded, with the gradient of what was not (straight-through)."""
    return x + (x.round() - x).detach()


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array)).float()
