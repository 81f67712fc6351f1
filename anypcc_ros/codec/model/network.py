"""The Universal Context Model, written once for every arithmetic.

AnyPcc (arXiv 2510.20331, section 3) codes an octree level by level, coarse to fine, with one network for all levels:

1. *prior*: the codes of the level above, known in full, pass through sparse convolutions and are handed down to the
   children, where further convolutions see the children's neighbourhood;
2. *spatial grouping*: a 3-D checkerboard splits the level; the second group sees the codes of the first through a
   convolution that aggregates its decoded neighbours;
3. *channel grouping*: the low 4 bits of a code are coded first, the high 4 bits are conditioned on them.

Beyond the paper, the features of a level are carried to the next one together with its codes, so that the context of a
node is all of its ancestors' and not its parent's alone; and the layers may have other weights for the levels that surfaces
fill than for the others, whatever the cloud: it costs no time.

This module knows no arithmetic. ``Arithmetic`` is what it needs: the float network with gradients (training), the exact
integer network in torch (reference), and the same integers in native code implement it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from anypcc_ros.codec.config import option
from anypcc_ros.codec.errors import ModelFileError
from anypcc_ros.codec.neighbors import CROSS_TAPS, Level


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Universal Context Model; both the float and the integer network are built from it.

    The three groupings are the paper's mechanisms; each can be switched off for ablation. Raises ModelFileError.
    """

    channels: int = option(32, "width of every feature, a multiple of 16")
    parent_convs: int = option(3, "residual 3x3x3 convolutions on the level whose codes are known")
    child_convs: int = option(2, "the same on the level to be coded")
    carry: bool = option(True, "hand features on from level to level")
    dense_weights: bool = option(False, "a second set of weights for dense levels")
    spatial_grouping: bool = option(True, "half of the nodes, in a checkerboard, are coded after the others")
    aggregation: bool = option(True, "they see the others' codes, through a convolution")
    channel_grouping: bool = option(True, "the high half of a code sees the low one")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default):  # it comes from JSON, and 16.0 would pass for 16 until it sizes an array
                raise ModelFileError(f"{field.name}={value!r}: {type(field.default).__name__} is needed")
        if self.channels not in range(16, 257, 16):
            raise ModelFileError(f"channels={self.channels}: a multiple of 16 from 16 to 256 is needed")
        if not (0 <= self.parent_convs <= 16 and 0 <= self.child_convs <= 16):
            raise ModelFileError(f"{self.parent_convs} and {self.child_convs} convolutions: 0 to 16 each are possible")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def group_count(self) -> int:
        return 2 if self.spatial_grouping else 1

    @property
    def parts(self) -> tuple[tuple[str, int, int], ...]:
        """Parts of an occupancy code in coding order: name, lowest bit, number of bits."""
        return (("low", 0, 4), ("high", 4, 4)) if self.channel_grouping else (("code", 0, 8),)


DENSE_PREFIX = "dense."
"""What the names of the layers for dense levels begin with."""


def plain_name(layer: str) -> str:
    """The layer of the same place in the network that serves other levels than dense ones; itself if it is that."""
    return layer.removeprefix(DENSE_PREFIX)


def is_head(layer: str) -> bool:
    """Whether the layer of this name belongs to a prediction head."""
    return plain_name(layer).startswith("head")


@dataclass(frozen=True)
class LayerSpec:
    """One learned layer: y = sum over taps x[tap] @ weight[tap] + bias[code], then the activation.

    ``taps``: kernel taps (1 for a linear layer). ``rows``: rows of the bias table (1, or one per code).
    ``logits``: the outputs are log-probabilities rather than activations. ``head``: it belongs to a prediction head.
    """

    name: str
    taps: int
    inputs: int
    outputs: int
    rows: int = 1
    logits: bool = False

    @property
    def head(self) -> bool:
        return is_head(self.name)


def layers(config: ModelConfig) -> Iterator[LayerSpec]:
    """Every layer of the network, in a fixed order."""
    yield from _layers(config)
    if config.dense_weights:
        yield from (replace(spec, name=DENSE_PREFIX + spec.name) for spec in _layers(config))


def _layers(config: ModelConfig) -> Iterator[LayerSpec]:
    width = config.channels
    yield LayerSpec("fuse", 1, width, width, rows=256)
    for i in range(config.parent_convs):
        yield LayerSpec(f"parent{i}", 27, width, width)
    yield LayerSpec("up", 8, width, width)
    for i in range(config.child_convs):
        yield LayerSpec(f"child{i}", 27, width, width)
    if config.spatial_grouping and config.aggregation:
        yield LayerSpec("seen", 1, width, width, rows=256)
        yield LayerSpec("aggregate", len(CROSS_TAPS), width, width)
    for group in range(config.group_count):
        for part, first_bit, bits in config.parts:
            yield LayerSpec(f"head{group}.{part}.hidden", 1, width, width, rows=1 << first_bit)
            yield LayerSpec(f"head{group}.{part}.out", 1, width, 1 << bits, logits=True)


class Arithmetic(Protocol):
    """The operations that the network is made of. ``Any`` stands for the arithmetic's own feature arrays, (N, channels)."""

    def zeros(self, nodes: int) -> Any:
        """Features of nodes about which nothing is known."""

    def linear(self, layer: str, x: Any, codes: Any = None) -> Any:
        """Activation of x @ weight + bias[codes]."""

    def conv(self, layer: str, x: Any, level: Level) -> Any:
        """Activation of the 3x3x3 convolution over ``level``, plus x."""

    def up(self, layer: str, x: Any, level: Level) -> Any:
        """Features of the children: a linear layer per octant, applied to the parent's features."""

    def aggregate(self, layer: str, seen: Any, x: Any, level: Level) -> Any:
        """Convolution from the group 0 features ``seen`` to the nodes of group 1, plus their features x."""

    def gather(self, x: Any, rows: np.ndarray) -> Any:
        """The given rows of x."""

    def head(self, hidden: str, out: str, x: Any, codes: Any = None) -> Any:
        """Logits of the next code part, (N, 2**bits): int32 NumPy in 1/32 bit (integer) or float32 in nats (float)."""

    def expand(self, level: Level, codes: np.ndarray) -> Level:
        """The level below ``level``."""


@dataclass(frozen=True, eq=False)
class CodePart:
    """Bits [first_bit, first_bit + bits) of the occupancy codes of some nodes of a level: what is coded at a time.

    ``rows``: (n,) int32, those nodes, the checkerboard group ``group``. ``codes``: (N,) uint8, the codes of the whole level
    as far as they are known before this part.
    """

    level: Level
    rows: np.ndarray
    group: int
    first_bit: int
    bits: int
    codes: np.ndarray


class SymbolCoder(Protocol):
    """Where the predictions go: a range encoder, a range decoder, or a loss."""

    def code(self, logits: Any, part: CodePart) -> np.ndarray:
        """Code the symbols of ``part``, (n,) uint8, predicted by ``logits`` (n, 2**bits); returns them."""


class ContextModel:
    """The Universal Context Model over some arithmetic."""

    def __init__(self, config: ModelConfig, arithmetic: Arithmetic) -> None:
        self.config = config
        self.arithmetic = arithmetic

    def root_features(self, nodes: int = 1) -> Any:
        return self.arithmetic.zeros(nodes)

    def descend(self, features: Any, codes: np.ndarray, level: Level, below: Level) -> Any:
        """Prior of the level ``below``, from the features and the codes (N,) uint8 of ``level``."""
        ops, config, which = self.arithmetic, self.config, self._set(below)
        x = features if config.carry else ops.zeros(len(level))
        x = ops.linear(f"{which}fuse", x, codes)
        for i in range(config.parent_convs):
            x = ops.conv(f"{which}parent{i}", x, level)
        x = ops.up(f"{which}up", x, below)
        for i in range(config.child_convs):
            x = ops.conv(f"{which}child{i}", x, below)
        return x

    def code_level(self, features: Any, level: Level, coder: SymbolCoder) -> np.ndarray:
        """Pass the predictions of one level's codes to ``coder``, group by group and part by part.

        Returns the codes (N,) uint8 that the coder answered.
        """
        codes = np.zeros(len(level), np.uint8)
        for group, rows in enumerate(self._groups(level)):
            if not len(rows):
                continue
            x = self._context(features, codes, level, group, rows)
            known: np.ndarray | None = None
            code = np.zeros(len(rows), np.uint8)
            places = rows.astype(np.intp)  # NumPy writes to these in a third of the time
            for part, first_bit, bits in self.config.parts:
                name = f"{self._set(level)}head{group}.{part}"
                logits = self.arithmetic.head(f"{name}.hidden", f"{name}.out", x, known)
                known = coder.code(logits, CodePart(level, rows, group, first_bit, bits, codes))
                code |= known << first_bit
                codes[places] = code
        return codes

    def _set(self, level: Level) -> str:
        """What the names of the layers begin with that predict the codes of ``level``."""
        return DENSE_PREFIX if self.config.dense_weights and level.dense else ""

    def _groups(self, level: Level) -> tuple[np.ndarray, ...]:
        if self.config.spatial_grouping:
            return level.groups
        return (np.arange(len(level), dtype=np.int32),)

    def _context(self, features: Any, codes: np.ndarray, level: Level, group: int, rows: np.ndarray) -> Any:
        """Features of one group's nodes; for the second group with what its decoded neighbours tell."""
        ops, which = self.arithmetic, self._set(level)
        x = ops.gather(features, rows)
        decoded = level.groups[0]
        if group == 0 or not self.config.aggregation or not len(decoded):
            return x
        seen = ops.linear(f"{which}seen", ops.gather(features, decoded), codes.take(decoded))
        return ops.aggregate(f"{which}aggregate", seen, x, level)
