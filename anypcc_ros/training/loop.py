"""The training loop: bits per octree node, Adam, warm-up, plateau and decay, averaged weights, resumable anywhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from anypcc_ros.codec.config import option
from anypcc_ros.codec.config import validate as validate_options
from anypcc_ros.codec.model.floating import FloatNetwork
from anypcc_ros.codec.model.network import CodePart, ContextModel, ModelConfig, layers, plain_name
from anypcc_ros.codec.neighbors import root_level
from anypcc_ros.training import log
from anypcc_ros.training.dataset import TrainingCloud
from anypcc_ros.training.products import choose_product
from anypcc_ros.training.sampling import Batch, Sampler, crop, forest


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Raises ConfigError for options out of range."""

    model: ModelConfig = field(default_factory=ModelConfig)
    steps: int = option(
        20_000,
        "steps in all; may be another number when a run is resumed, and the plateau then ends later or sooner",
        minimum=1,
    )
    points: int = option(40_000, "points of the clouds in one step, about", minimum=100)
    crops: int = option(2, "pieces of clouds that make one step", minimum=1)
    learning_rate: float = option(2e-3, "Adam's, on the plateau", minimum=0)
    warmup: int = option(200, "steps in which the learning rate grows to the plateau", minimum=0)
    decay: float = option(0.25, "share of the steps, the last ones, in which it falls to 1 %", minimum=0, maximum=1)
    averaging: float = option(0.998, "what the averaged weights, which are exported, keep of themselves", minimum=0, maximum=1)
    dense_share: float = option(0.35, "share of the steps that are of surfaces", minimum=0, maximum=1)
    only: str = option("", "train only the layers whose names begin so, such as dense.")
    seed: int = option(0, "of all random choices", minimum=0)
    validate_every: int = option(500, "steps between two lines of the log", minimum=1)
    checkpoint_every: int = option(250, "steps between two checkpoints", minimum=1)

    def __post_init__(self) -> None:
        validate_options(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, plateau, cosine decay to 1 % over the last ``decay`` of the run."""
        start = self.steps * (1 - self.decay)
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if step < start:
            return self.learning_rate
        progress = min((step - start) / max(self.steps - start, 1), 1.0)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class LossCoder:
    """A SymbolCoder that answers with the true symbols and adds up what they cost, in bits."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.bits: Any = 0.0

    def code(self, logits: torch.Tensor, part: CodePart) -> np.ndarray:
        symbols = self.codes[part.rows] >> part.first_bit & ((1 << part.bits) - 1)
        target = torch.as_tensor(symbols.astype(np.int64), device=logits.device)
        self.bits = self.bits + cross_entropy(logits, target, reduction="sum") / math.log(2)
        return symbols.astype(np.uint8)


def batch_bits(network: FloatNetwork, batch: Batch) -> tuple[torch.Tensor, int]:
    """Estimated bits of all octrees of a batch (levels below their roots), and the number of nodes coded."""
    model = ContextModel(network.config, network)
    level = root_level(len(batch.codes[0]))
    features, total, nodes = model.root_features(len(level)), torch.zeros((), device=network.device), 0
    for above, codes in pairwise(batch.codes):
        below = network.expand(level, above)
        features = model.descend(features, above, level, below)
        coder = LossCoder(codes)
        model.code_level(features, below, coder)
        total, nodes, level = total + coder.bits, nodes + len(codes), below
    return total, nodes


def validation_batches(clouds: list[TrainingCloud], points: int = 40_000) -> list[tuple[str, Batch]]:
    """Fixed crops of the validation clouds on the grids that matter most, with their categories."""
    batches = []
    for number, cloud in enumerate(clouds):
        rng = np.random.default_rng(number)
        xyz = crop(rng, cloud, points).astype(np.float64) * cloud.unit
        extent = float(np.ptp(cloud.xyz, axis=0).max()) * cloud.unit
        step = {"lidar_spinning": 0.016, "lidar_other": 0.016, "indoor_rgbd": 0.005}.get(cloud.category)
        if step is None:
            bits = {"dense_object": 10, "photogrammetry": 12}.get(cloud.category, 14)
            step = 1.0 if cloud.voxelised else extent / 2**bits
        batches.append((cloud.category, forest([np.rint(xyz / step).astype(np.int64)], rng)))
    return batches


def validate(network: FloatNetwork, batches: list[tuple[str, Batch]]) -> dict[str, float]:
    """Mean estimated bpp per category."""
    bpp: dict[str, list[float]] = {}
    with torch.no_grad():
        for category, batch in batches:
            bits, _ = batch_bits(network, batch)
            bpp.setdefault(category, []).append(float(bits) / batch.points)
    return {category: float(np.mean(values)) for category, values in sorted(bpp.items())}


class Trainer:
    """Owns the network, its averaged copy and the optimiser, and writes checkpoints and a log to ``folder``."""

    def __init__(self, config: TrainingConfig, folder: Path, device: str = "cpu") -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder = config, folder
        self.network = FloatNetwork(config.model).to(device)
        self.average = FloatNetwork(config.model).to(device)
        self.average.load_state_dict(self.network.state_dict())
        for spec in layers(config.model):
            for parameter in self.network.parameters_of(spec.name):
                parameter.requires_grad_(spec.name.startswith(config.only))
        self.network.sparse = self.average.sparse = choose_product(device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def start_from(self, other: FloatNetwork) -> list[str]:
        """Take over the layers that a trained network has under the same name and that are no wider; returns their names. Does
        nothing once the run has begun.

        A wider layer computes the same as before in its first outputs, as nothing leads there from the inputs that are new; the
        other outputs are as they were initialised. So a wider network with the same layers begins as good as the narrow one.
        Where the other has no weights for dense levels, they begin as those of all levels.
        """
        if self.step:
            return []
        known = {spec.name for spec in layers(other.config)}
        taken = []
        for name in (spec.name for spec in layers(self.config.model)):
            source = name if name in known else plain_name(name)
            if source in known and self._take_over(name, source, other):
                taken.append(name)
        self.average.load_state_dict(self.network.state_dict())
        return taken

    def _take_over(self, layer: str, source: str, other: FloatNetwork) -> bool:
        (weight, bias), (old_weight, old_bias) = self.network.parameters_of(layer), other.parameters_of(source)
        taps, inputs, outputs = old_weight.shape
        if weight.shape[0] != taps or weight.shape[1] < inputs or weight.shape[2] < outputs or len(bias) != len(old_bias):
            return False
        with torch.no_grad():
            weight[:, inputs:, :outputs] = 0
            weight[:, :inputs, :outputs] = old_weight
            bias[:, :outputs] = old_bias
        return True

    def run(self, train: list[TrainingCloud], val: list[TrainingCloud]) -> Iterator[dict[str, float]]:
        """Train to ``config.steps``; yields one record per validation. Stop and start again at any time."""
        sampler = Sampler(train, self.config.points, self.config.crops, self.config.seed, self.config.dense_share)
        batches = validation_batches(val)
        recent: list[float] = []
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(sampler.batch, self.step)
            while self.step < self.config.steps:
                start = time.perf_counter()
                batch, coming = coming.result(), ahead.submit(sampler.batch, self.step + 1)
                recent.append(self._update(batch))
                self.step += 1
                self.seconds += time.perf_counter() - start
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self._save()
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    record = {log.STEP: self.step, log.SECONDS: round(self.seconds), log.TRAIN: float(np.mean(recent))}
                    record |= validate(self.average, batches)
                    log.append(self.folder / log.NAME, record)
                    recent.clear()
                    yield record

    def _update(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(self.step)
        bits, nodes = batch_bits(self.network, batch)
        loss = bits / max(nodes, 1)
        self.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
        keep = min(self.config.averaging, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        return float(loss.detach())

    def _save(self) -> None:
        state = {
            "config": self.config.model.to_dict(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.network.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
