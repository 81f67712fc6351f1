"""Calibration, contexts and beams, computed by docs/bitstream.md alone; node by node, plain and slow on purpose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from specified_basics import Reader

EXPONENTIALS = np.array([round(2 ** (16 - i / 32)) for i in range(512)])
FACES = {"-x": (-1, 0, 0), "+x": (1, 0, 0), "-y": (0, -1, 0), "+y": (0, 1, 0), "-z": (0, 0, -1), "+z": (0, 0, 1)}
ANGLE = (-2771213, 14943577, -38218057, 65909394, -95073905, 136347594, -227831322, 683564820)


def frequencies_of(logits: np.ndarray) -> np.ndarray:
    """(N, S) frequencies that sum to 2^16 from logits in units of 1/32 bit."""
    symbols = logits.shape[1]
    exponentials = EXPONENTIALS[np.minimum(logits.max(1, keepdims=True) - logits, 511)]
    frequencies = 1 + exponentials * ((1 << 16) - symbols) // exponentials.sum(1, keepdims=True)
    frequencies[np.arange(len(logits)), logits.argmax(1)] += (1 << 16) - frequencies.sum(1)
    return frequencies


# -- Calibration -------------------------------------------------------------------------------------------------------

Names = list[list[Hashable]]
"""Of every node, the names of its rows."""


class Calibration:
    """Rows by name: biases and curvatures of the 16 symbols."""

    def __init__(self) -> None:
        self.rows: dict[Hashable, np.ndarray] = defaultdict(lambda: np.zeros((2, 16), np.int64))

    def decode(self, logits: np.ndarray, names: Names, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The symbols (n,) of one half of one group; ``decode`` gives those that have the frequencies (m, 16)."""
        size = min(max(len(logits) // 64, 128), 1024)
        symbols = [np.zeros(0, np.int64)]
        for start in range(0, len(logits), size):
            chunk = slice(start, start + size)
            frequencies = self.frequencies(logits[chunk], names[chunk])
            symbols.append(decode(frequencies))
            self.learn(frequencies, names[chunk], symbols[-1])
        return np.concatenate(symbols)

    def frequencies(self, logits: np.ndarray, names: Names) -> np.ndarray:
        biases = np.array([sum(self.rows[name][0] for name in node) for node in names])
        return frequencies_of(np.clip(logits, -(1 << 20), 1 << 20) + ((biases + 128) >> 8))

    def learn(self, frequencies: np.ndarray, names: Names, symbols: np.ndarray) -> None:
        sums: dict[Hashable, np.ndarray] = defaultdict(lambda: np.zeros((2, 16), np.int64))
        for f, node, symbol in zip(frequencies, names, symbols, strict=True):
            for name in node:
                sums[name] += np.array([(1 << 16) * (np.arange(16) == symbol) - f, f * ((1 << 16) - f) >> 20])
        for name, (g, curvature) in sums.items():
            b, k = self.rows[name]
            k[:] = np.minimum(k + curvature, 1 << 30)
            b[:] = np.clip(b + np.rint((369 * g).astype(float) / (k + (1 << 15))).astype(np.int64), -(1 << 18), 1 << 18)


# -- Contexts ----------------------------------------------------------------------------------------------------------


@dataclass
class Surroundings:
    """What the contexts of a level are made of.

    ``finer``: levels of the full grid below the nodes' children. ``positions``: (N, 3) in the level. ``parents``: (N,) codes
    of each node's parent. ``shift``: the octree's corner in the full grid.
    """

    finer: int
    positions: np.ndarray
    parents: np.ndarray
    shift: tuple[int, ...]
    beams: Beams | None

    def __post_init__(self) -> None:
        self.index = {tuple(position): i for i, position in enumerate(self.positions.tolist())}

    def names(self, members: np.ndarray, group: int, high: bool, codes: np.ndarray, logits: np.ndarray) -> Names:
        """Names of the rows for one half of the codes of these nodes; ``codes`` (N,) as far as they are known."""
        kind = (min(self.finer, 3), high, group)
        return [
            [(number, *kind, name) for number, name in enumerate(self.near(node, group, high, codes, row))]
            + list(self.crossings(node, high))
            for node, row in zip(members.tolist(), logits.tolist(), strict=True)
        ]

    def near(self, node: int, group: int, high: bool, codes: np.ndarray, logits: list[int]) -> Iterator[Hashable]:
        x, y, z = self.positions[node].tolist()
        neighbors = {face: self.index.get((x + dx, y + dy, z + dz)) for face, (dx, dy, dz) in FACES.items()}
        h = 4 * high

        def cells(*octants: tuple[str, int]) -> tuple[bool, ...]:
            known = [None if group == 0 else neighbors[face] for face, _ in octants]
            return tuple(
                there is not None and bool(codes[there] >> octant & 1)
                for there, (_, octant) in zip(known, octants, strict=True)
            )

        yield tuple(neighbor is not None for neighbor in neighbors.values())
        across_x = [("+x", octant) for octant in range(4)] if high else [("-x", octant) for octant in range(4, 8)]
        yield cells(*across_x), int(codes[node]) & 15 if high else 0
        if group:
            yield cells(
                *(("-y", h + 2), ("-y", h + 3), ("+y", h), ("+y", h + 1)),
                *(("-z", h + 1), ("-z", h + 3), ("+z", h), ("+z", h + 2)),
            )
        else:
            yield int(self.parents[node])
        largest, following = sorted(logits)[:-3:-1]
        yield logits.index(largest), min((largest - following) // 32, 7)

    def crossings(self, node: int, high: bool) -> Iterator[Hashable]:
        if self.beams is None:
            return
        lowest = [p * 2 ** (self.finer + 1) + s for p, s in zip(self.positions[node].tolist(), self.shift, strict=True)]
        level = (0, 1, 2, 2, 2, 2, 3, 3)[self.finer] if self.finer < 8 else 4
        for kind, half in [("high", 1)] if high else [("low", 0), ("beside", 1)]:
            bins = [self.beams.bins(lowest, 2 ** (self.finer + 2), half, column) for column in (0, 1)]
            yield "cone", level, kind, *(cone for cone, _ in bins)
            if self.beams.columns:
                yield "plane", level, kind, *(plane for _, plane in bins)


# -- BEAM --------------------------------------------------------------------------------------------------------------


class Beams:
    """What ``BEAM`` says."""

    def __init__(self, payload: bytes) -> None:
        reader = Reader(payload)
        self.axis = reader.signed(), reader.signed()
        self.count = reader.varint()
        assert 1 <= self.count <= 512
        self.slopes, self.heights = self.scaled(reader, 24), self.differences(reader)
        self.columns = reader.varint()
        assert self.columns <= 1 << 13
        if self.columns:
            self.phases, self.laterals = self.scaled(reader, 32), self.differences(reader)
        assert not reader.rest()

    def differences(self, reader: Reader) -> list[int]:
        values = [reader.signed()]
        while len(values) < self.count:
            values.append(values[-1] + reader.signed())
        return values

    def scaled(self, reader: Reader, most: int) -> list[int]:
        zeros = reader.varint()
        assert zeros <= most
        return [value * 2**zeros for value in self.differences(reader)]

    def bins(self, lowest: list[int], e: int, half: int, column: int) -> tuple[int, int | None]:
        """The bins of the nearest cone and of its nearest plane in one column of a node's children."""
        limit = 1 << 24
        x = 4 * lowest[0] - 2 + half * e + e // 2 - self.axis[0]
        y = 4 * lowest[1] - 2 + column * e + e // 2 - self.axis[1]
        x, y = min(max(x, -limit), limit), min(max(y, -limit), limit)
        rho, middle = math.isqrt(x * x + y * y), 4 * lowest[2] - 2 + e

        def above(beam: int) -> int:
            return self.slopes[beam] * rho // 2**24 + self.heights[beam] - middle

        u, v = 0, self.count
        while u < v:
            i = (u + v) // 2
            u, v = (i + 1, v) if above(i) < 0 else (u, i)
        first, second = max(u - 1, 0), min(u, self.count - 1)
        beam = first if abs(above(first)) < abs(above(second)) else second
        if 2 * abs(above(beam)) > 3 * e:
            return 0, 7
        cone = 1 + min(7 * (2 * above(beam) + 3 * e) // (6 * e), 6)
        if not self.columns:
            return cone, None
        lateral = math.floor(float(683565276 * self.laterals[beam]) / float(max(rho, 1)))
        r = (angle(x, y) - lateral - self.phases[beam]) * self.columns % 2**32
        a = min(r, 2**32 - r) // 2**8
        return cone, min(math.floor(float(8 * rho * a) / float(683565276 * self.columns * e // 2**8)), 7)


def angle(x: int, y: int) -> int:
    """Of the direction (x, y), in 2^-32 turn."""
    small, large = sorted((abs(x), abs(y)))
    t = math.floor(float(2**30 * small) / float(max(large, 1)))
    w, v = t * t // 2**30, 0
    for c in ANGLE:
        v = c + v * w // 2**30
    alpha = v * t // 2**30
    alpha = 2**30 - alpha if abs(y) > abs(x) else alpha
    alpha = 2**31 - alpha if x < 0 else alpha
    return (-alpha if y < 0 else alpha) % 2**32
