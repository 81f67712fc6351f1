"""Tuning of the prediction heads on what one pass of the exact integer network saw."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding

from anypcc_ros.codec.model.accelerated import Rows
from anypcc_ros.codec.model.delta import Delta, LayerDelta
from anypcc_ros.codec.model.integer import (
    ACTIVATION_LIMIT,
    EXACT_SUM,
    FREQUENCY_BITS,
    LOGIT_STEPS_PER_BIT,
    REQUANTISE_SHIFT,
    WEIGHT_LIMIT,
    IntegerModel,
)
from anypcc_ros.codec.model.network import Arithmetic, CodePart, ContextModel

NODES = 65_536
"""Nodes of one code part of one level that are looked at; of larger ones this many are drawn."""

BATCH = 8_192
"""Nodes for one step of each head."""

LEARNING_RATE = 0.2
"""In units of what a change is coded in."""

WEIGHT_SHIFT, BIAS_SHIFT = 3, 10
"""Weights change by multiples of 8, biases, which stand beside sums of weights times inputs, by multiples of 1024."""

FIRST_PRICE, NEXT_PRICE = 7.0, 1.5
"""Bits that changing a parameter is taken to cost, and what each unit adds."""

CHECK_EVERY, PATIENCE, WORTHWHILE = 20, 3, 2e-4
"""Tuning stops when so many checks in a row brought less than this share of all bits."""

_NATS = math.log(2) / LOGIT_STEPS_PER_BIT
_MOMENTS = 0.9, 0.999


@dataclass(frozen=True, eq=False)
class _Seen:
    """Nodes of one code part of one level, as the head met them. ``inputs``: (n, channels) integers; ``known``: (n,) the part
    before it, if there is one; ``symbols``: (n,) what was coded; ``correction``: (n, S) float32 nats that calibration added
    to the logits; ``weight``: nodes that each one stands for; ``bits``: what all nodes of the part have cost."""

    inputs: np.ndarray
    known: np.ndarray | None
    symbols: np.ndarray
    correction: np.ndarray
    weight: float
    bits: float


class HeadTuner:
    """Tunes the prediction heads of a model to a cloud.

    Encode the cloud with ``watched`` for a network and this tuner for a witness; then ``tune``. What is optimised is the cost
    that is left after calibration: its corrections are taken as they were in that pass.
    """

    def __init__(self, model: IntegerModel, network: ContextModel) -> None:
        self.model = model
        self._arithmetic = network.arithmetic
        self._rng = np.random.default_rng(0)
        self._met: list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]] = []  # head, which rows, their inputs, known
        self._seen: dict[str, list[_Seen]] = defaultdict(list)
        self._parts = 0
        # All that is not defined here is the arithmetic's own.
        self.watched = ContextModel(network.config, cast(Arithmetic, self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arithmetic, name)

    def head(self, hidden: str, out: str, x: Any, codes: Any = None) -> Any:
        """The arithmetic's, remembering what went in."""
        logits = self._arithmetic.head(hidden, out, x, codes)
        nodes = len(logits)
        rows = np.sort(self._rng.choice(nodes, NODES, replace=False)) if nodes > NODES else np.arange(nodes)
        self._met.append((hidden.removesuffix(".hidden"), rows, _inputs(x, rows), None if codes is None else codes[rows]))
        return logits

    def saw(self, part: CodePart, logits: np.ndarray, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        head, rows, inputs, known = self._met[self._parts]
        self._parts += 1
        correction = np.log(frequencies[rows]) - logits[rows].astype(np.float32) * np.float32(_NATS)
        coded = frequencies[np.arange(len(symbols)), symbols]
        bits = FREQUENCY_BITS * len(symbols) - float(np.log2(coded).sum(dtype=np.float64))
        self._seen[head].append(_Seen(inputs, known, symbols[rows], correction, len(symbols) / len(rows), bits))

    def tune(self, steps: int) -> Delta:
        """The changes, of at most so many steps; none where nothing was seen or nothing is worth its price."""
        heads = [_Head(self.model, name, seen) for name, seen in sorted(self._seen.items())]
        total = sum(head.bits for head in heads)
        best, waited = math.inf, 0
        recent: list[float] = []
        for step in range(steps):
            rate = LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            recent.append(sum(head.step(rate) for head in heads))
            if len(recent) == CHECK_EVERY:
                cost = float(np.mean(recent)) + sum(head.price() for head in heads)
                waited = waited + 1 if cost > best - WORTHWHILE * total else 0
                best = min(best, cost)
                recent.clear()
                if waited == PATIENCE:
                    break
        changes = {name: change for head in heads for name, change in head.changes().items()}
        return Delta({name: change for name, change in changes.items() if any(map(np.any, change))}, WEIGHT_SHIFT, BIAS_SHIFT)


def _inputs(x: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows of an arithmetic's features."""
    if isinstance(x, Rows):
        return x.features[x.rows[rows]]
    return (x.cpu().numpy() if isinstance(x, torch.Tensor) else x)[rows]


class _Head:
    """One head: what it changes of its two layers, and the nodes that it is tuned on."""

    def __init__(self, model: IntegerModel, name: str, seen: Sequence[_Seen]) -> None:
        self._layers = f"{name}.hidden", f"{name}.out"
        hidden, out = (model.layers[layer] for layer in self._layers)
        self._base = [_tensor(a) for a in (hidden.weight[0], hidden.bias, out.weight[0], out.bias)]
        self._unit = [1 << WEIGHT_SHIFT, 1 << BIAS_SHIFT] * 2
        self._scale = [_tensor(layer.multiplier) / (1 << REQUANTISE_SHIFT) for layer in (hidden, out)]
        limits = [WEIGHT_LIMIT, EXACT_SUM // 2] * 2
        self._range = [
            (torch.ceil((-limit - base) / unit).clamp(max=0), torch.floor((limit - base) / unit).clamp(min=0))
            for base, unit, limit in zip(self._base, self._unit, limits, strict=True)
        ]
        self._change = [torch.zeros_like(base, requires_grad=True) for base in self._base]
        self._optimiser = torch.optim.Adam(self._change, betas=_MOMENTS)
        self._generator = torch.Generator().manual_seed(0)

        self._inputs = torch.as_tensor(np.concatenate([part.inputs for part in seen]))
        self._symbols = torch.as_tensor(np.concatenate([part.symbols for part in seen]).astype(np.int64))
        self._correction = torch.as_tensor(np.concatenate([part.correction for part in seen]))
        self._weight = torch.cat([torch.full((len(part.symbols),), part.weight) for part in seen])
        known = [part.known for part in seen if part.known is not None]
        self._known = torch.as_tensor(np.concatenate(known).astype(np.int64)) if known else None
        self._nodes = float(self._weight.sum())
        self.bits = sum(part.bits for part in seen)

    def step(self, rate: float) -> float:
        """One step of Adam and of the proximal operator of the L1 penalty; returns the estimated bits of all nodes."""
        rows = torch.randint(len(self._symbols), (min(BATCH, len(self._symbols)),), generator=self._generator)
        bits = self._cost(rows) * (self._nodes / float(self._weight[rows].sum()))
        self._optimiser.param_groups[0]["lr"] = rate
        self._optimiser.zero_grad()
        bits.backward()
        self._optimiser.step()
        with torch.no_grad():
            for change, (low, high) in zip(self._change, self._range, strict=True):
                state = self._optimiser.state[change]
                slope = (state["exp_avg_sq"] / (1 - _MOMENTS[1] ** float(state["step"]))).sqrt().clamp(min=1e-9)
                size = (change.abs() - rate * (NEXT_PRICE + FIRST_PRICE / (1 + change.abs())) / slope).clamp(min=0)
                torch.clamp(change.sign() * size, low, high, out=change)
        return float(bits.detach())

    def price(self) -> float:
        """Bits that the changes are taken to cost."""
        sizes = [change.detach().round().abs() for change in self._change]
        return float(sum((NEXT_PRICE * size + FIRST_PRICE * (size > 0)).sum() for size in sizes))

    def changes(self) -> dict[str, LayerDelta]:
        numbers = [change.detach().round().to(torch.int64).numpy() for change in self._change]
        pairs = zip(self._layers, numbers[::2], numbers[1::2], strict=True)
        return {layer: LayerDelta(weight[None], bias) for layer, weight, bias in pairs}

    def _cost(self, rows: torch.Tensor) -> torch.Tensor:
        """Bits of some nodes, each times its weight, as the integer network with the rounded changes would have them."""
        parameters = [
            base + unit * _rounded(change) for base, unit, change in zip(self._base, self._unit, self._change, strict=True)
        ]
        known = torch.zeros_like(rows) if self._known is None else self._known[rows]
        sums = self._inputs[rows].float() @ parameters[0] + embedding(known, parameters[1])
        hidden = _rounded((sums * self._scale[0]).clamp(0, ACTIVATION_LIMIT))
        logits = (hidden @ parameters[2] + parameters[3]) * (self._scale[1] * _NATS) + self._correction[rows]
        return (cross_entropy(logits, self._symbols[rows], reduction="none") * self._weight[rows]).sum() / math.log(2)


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Rounded, with the gradient of what was not (straight-through)."""
    return x + (x.round() - x).detach()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array)).float()
