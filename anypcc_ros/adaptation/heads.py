"""Tuning of the prediction heads on what one pass of the exact integer network saw."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding, hardtanh

from anypcc_ros.adaptation.changes import BIAS_SHIFT, WEIGHT_SHIFT, Changes, rate_at, rounded, tensor
from anypcc_ros.codec.model.accelerated import Rows
from anypcc_ros.codec.model.delta import Delta, LayerDelta, adapt
from anypcc_ros.codec.model.integer import (
    ACTIVATION_LIMIT,
    FREQUENCY_BITS,
    LOGIT_STEPS_PER_BIT,
    REQUANTISE_SHIFT,
    IntegerModel,
)
from anypcc_ros.codec.model.network import Arithmetic, CodePart, ContextModel

NODES = 65_536
"""As many as are worth looking at in one cloud."""

BATCH = 8_192
"""Nodes for one step of each head."""

CHECK_EVERY, PATIENCE, WORTHWHILE = 20, 3, 2e-4
"""Tuning stops when so many checks in a row brought less than this share of all bits."""

_NATS = math.log(2) / LOGIT_STEPS_PER_BIT


@dataclass(frozen=True, eq=False)
class _Seen:
    """Nodes of one code part of one level, as the head met them. ``inputs``: (n, channels) integers; ``known``: (n,) the part
    before it, if there is one; ``symbols``: (n,) what was coded; ``trust``: what calibration multiplied the logits by;
    ``correction``: (n, S) float32 nats that it then added; ``weight``: nodes that each one stands for; ``bits``: what all nodes
    of the part have cost."""

    inputs: np.ndarray
    known: np.ndarray | None
    symbols: np.ndarray
    trust: float
    correction: np.ndarray
    weight: float
    bits: float


class HeadTuner:
    """Tunes the prediction heads of a model to a cloud, or to several.

    Encode each with ``watched`` for a network and this tuner for a witness; then ``tune``. What is optimised is the cost
    that is left after calibration: what it makes of the logits is taken as it was in the last pass, of which there is
    another one halfway, as calibration learns something else from a network that is already tuned to the cloud.
    ``network``: what a model runs on. ``share``: as in ``Changes``. ``nodes``: of one code part of one level that are looked
    at; of larger ones they are drawn.
    """

    def __init__(
        self, model: IntegerModel, network: Callable[[IntegerModel], ContextModel], share: float = 1.0, nodes: int = NODES
    ) -> None:
        self.model, self._network, self._share, self._limit = model, network, share, nodes
        self.watched = self._watch(model)

    def _watch(self, model: IntegerModel) -> ContextModel:
        """The network of a model, watched. What was seen before is forgotten."""
        network = self._network(model)
        self._arithmetic = network.arithmetic
        self._rng = np.random.default_rng(0)
        self._met: list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]] = []  # head, which rows, their inputs, known
        self._seen: dict[str, list[_Seen]] = defaultdict(list)
        self._parts = 0
        # All that is not defined here is the arithmetic's own.
        return ContextModel(network.config, cast(Arithmetic, self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arithmetic, name)

    def head(self, hidden: str, out: str, x: Any, codes: Any = None) -> Any:
        """The arithmetic's, remembering what went in."""
        logits = self._arithmetic.head(hidden, out, x, codes)
        nodes = len(logits)
        few = nodes <= self._limit
        rows = np.arange(nodes) if few else np.sort(self._rng.choice(nodes, self._limit, replace=False))
        self._met.append((hidden.removesuffix(".hidden"), rows, _inputs(x, rows), None if codes is None else codes[rows]))
        return logits

    def saw(self, part: CodePart, logits: np.ndarray, frequencies: np.ndarray, symbols: np.ndarray, weight: float) -> None:
        head, rows, inputs, known = self._met[self._parts]
        self._parts += 1
        correction = np.log(frequencies[rows]) - logits[rows].astype(np.float32) * np.float32(weight * _NATS)
        coded = frequencies[np.arange(len(symbols)), symbols]
        bits = FREQUENCY_BITS * len(symbols) - float(np.log2(coded).sum(dtype=np.float64))
        self._seen[head].append(_Seen(inputs, known, symbols[rows], weight, correction, len(symbols) / len(rows), bits))

    @property
    def bits(self) -> float:
        """What all that was seen has cost."""
        return sum(part.bits for seen in self._seen.values() for part in seen)

    def tune(self, steps: int, encode: Callable[[ContextModel], object]) -> Delta:
        """The changes, of at most so many steps; none where nothing was seen or nothing is worth its price. ``encode``: another
        pass of the same clouds, with this network and this tuner for a witness."""
        heads = [_Head(self.model, name, seen, self._share) for name, seen in sorted(self._seen.items())]
        gains = _Gains(self.bits)
        for half in range(2):
            if half and (delta := _changes(heads)).layers:
                encode(self._watch(adapt(self.model, delta)))
                for head in heads:
                    head.look_at(self._seen[head.name])
            with _one_thread():
                for step in range(half * steps // 2, (half + 1) * steps // 2):
                    bits = sum(head.step(rate_at(step, steps)) for head in heads)
                    if gains.stopped(bits, lambda: sum(head.changes.price() for head in heads)):
                        return _changes(heads)
        return _changes(heads)


def _changes(heads: Sequence[_Head]) -> Delta:
    """What all of them change."""
    changes = {name: change for head in heads for name, change in head.rounded().items()}
    return Delta({name: change for name, change in changes.items() if any(map(np.any, change))}, WEIGHT_SHIFT, BIAS_SHIFT)


class _Gains:
    """Whether more steps bring anything. ``bits``: what everything costs without any."""

    def __init__(self, bits: float) -> None:
        self._least, self._best, self._waited = WORTHWHILE * bits, math.inf, 0
        self._recent: list[float] = []

    def stopped(self, bits: float, price: Callable[[], float]) -> bool:
        """After every step, which took so many bits: whether it was the last one."""
        self._recent.append(bits)
        if len(self._recent) == CHECK_EVERY:
            cost = float(np.mean(self._recent)) + price()
            self._waited = self._waited + 1 if cost > self._best - self._least else 0
            self._best = min(self._best, cost)
            self._recent.clear()
        return self._waited == PATIENCE


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step's products are too small to be shared: two threads take three times as long as one, and ten beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _at(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some rows, several times faster than by indexing."""
    return values.index_select(0, rows)


def _inputs(x: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows of an arithmetic's features."""
    if isinstance(x, Rows):
        return x.features[x.rows[rows]]
    return (x.cpu().numpy() if isinstance(x, torch.Tensor) else x)[rows]


class _Head:
    """One head: what it changes of its two layers, and the nodes that it is tuned on."""

    def __init__(self, model: IntegerModel, name: str, seen: Sequence[_Seen], share: float) -> None:
        self.name, self._layers = name, (f"{name}.hidden", f"{name}.out")
        layers = [model.layers[layer] for layer in self._layers]
        self.changes = Changes(layers, share)
        self._scale = [tensor(layer.multiplier) / (1 << REQUANTISE_SHIFT) for layer in layers]
        self._generator = torch.Generator().manual_seed(0)
        self.look_at(seen)

    def look_at(self, seen: Sequence[_Seen]) -> None:
        """From now on, the nodes of a pass."""
        self._inputs = torch.as_tensor(np.concatenate([part.inputs for part in seen]))
        self._symbols = torch.as_tensor(np.concatenate([part.symbols for part in seen]).astype(np.int64))
        self._correction = torch.as_tensor(np.concatenate([part.correction for part in seen]))
        self._trust = torch.cat([torch.full((len(part.symbols), 1), part.trust) for part in seen])
        self._weight = torch.cat([torch.full((len(part.symbols),), part.weight) for part in seen])
        known = [part.known for part in seen if part.known is not None]
        self._known = torch.as_tensor(np.concatenate(known).astype(np.int64)) if known else None
        self._nodes = float(self._weight.sum())

    def step(self, rate: float) -> float:
        """One step on some of the nodes; returns the bits that all would take."""
        rows = torch.randint(len(self._symbols), (min(BATCH, len(self._symbols)),), generator=self._generator)
        self.changes.forget_gradients()
        bits = self._cost(rows) * (self._nodes / float(_at(self._weight, rows).sum()))
        bits.backward()
        self.changes.step(rate)
        return float(bits.detach())

    def rounded(self) -> dict[str, LayerDelta]:
        """The changes by layer."""
        numbers = self.changes.rounded()
        return {name: LayerDelta(*numbers[2 * i : 2 * i + 2]) for i, name in enumerate(self._layers)}

    def _cost(self, rows: torch.Tensor) -> torch.Tensor:
        """Bits of some nodes, each times its weight, as the integer network with the rounded changes would have them."""
        hidden_weight, hidden_bias, out_weight, out_bias = self.changes.values()
        bias = hidden_bias if self._known is None else embedding(_at(self._known, rows), hidden_bias)
        sums = _at(self._inputs, rows).float() @ hidden_weight[0] + bias
        hidden = rounded(hardtanh(sums * self._scale[0], 0.0, ACTIVATION_LIMIT))
        logits = (hidden @ out_weight[0] + out_bias) * (self._scale[1] * _NATS)
        corrected = logits * _at(self._trust, rows) + _at(self._correction, rows)
        costs = cross_entropy(corrected, _at(self._symbols, rows), reduction="none")
        return (costs * _at(self._weight, rows)).sum() / math.log(2)
