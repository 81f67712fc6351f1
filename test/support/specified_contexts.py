"""Calibration, contexts and beams, computed by docs/bitstream.md alone; node by node, plain and slow on purpose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from specified_basics import Reader

EXPONENTIALS = np.array([round(2 ** (16 - i / 32)) for i in range(512)])
FACES = {"-x": (-1, 0, 0), "+x": (1, 0, 0), "-y": (0, -1, 0), "+y": (0, 1, 0), "-z": (0, 0, -1), "+z": (0, 0, 1)}
EDGES = [offset for offset in product((-1, 0, 1), repeat=3) if sum(map(abs, offset)) == 2]
BEYOND_HIGH_EDGES = {(-1, 0): (2, 3), (0, -1): (1, 3), (0, 1): (0, 2), (1, 0): (0, 1)}
"""Octants that touch an edge at +x, by the neighbour's place in y and z."""
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
    """Rows by name: biases and curvatures of the 16 symbols; and weights by the number of rows that nodes have."""

    def __init__(self) -> None:
        self.rows: dict[Hashable, np.ndarray] = defaultdict(lambda: np.zeros((2, 16), np.int64))
        self.weights: dict[int, list[int]] = {}

    def decode(self, logits: np.ndarray, names: Names, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The symbols (n,) of one half of one group; ``decode`` gives those that have the frequencies (m, 16)."""
        symbols = [np.zeros(0, np.int64)]
        for start in range(0, len(logits), 16):
            chunk = slice(start, start + 16)
            frequencies = self.frequencies(logits[chunk], names[chunk])
            symbols.append(decode(frequencies))
            self.learn(logits[chunk], frequencies, names[chunk], symbols[-1])
        return np.concatenate(symbols)

    def frequencies(self, logits: np.ndarray, names: Names) -> np.ndarray:
        corrected = []
        for y, node in zip(np.clip(logits.astype(np.int64), -(1 << 20), 1 << 20), names, strict=True):
            *weights, own = [w // 256 for w in self.weights.setdefault(len(node), [1 << 16] * (len(node) + 1))]
            biases = sum(weight * self.rows[name][0] for weight, name in zip(weights, node, strict=True))
            corrected.append((own * y + biases // 256 + 128) // 256)
        return frequencies_of(np.array(corrected).reshape(-1, 16))

    def learn(self, logits: np.ndarray, frequencies: np.ndarray, names: Names, symbols: np.ndarray) -> None:
        errors = (1 << 16) * (np.arange(16) == symbols[:, None]) - frequencies
        for name in {name for node in names for name in node}:
            b, k = self.rows[name]
            b[:] = np.clip(b, -(1 << 17), 1 << 17)
            used = [i for i, node in enumerate(names) if name in node]
            k[:] = np.minimum(k + sum(f * ((1 << 16) - f) >> 20 for f in frequencies[used]), 1 << 20)
        weights = self.weights[len(names[0])]
        slopes = [0] * len(weights)
        for e, y, node in zip(errors, logits.astype(np.int64), names, strict=True):
            for t, name in enumerate(node):
                slopes[t] += int((((e + 32) >> 6) * (self.rows[name][0] >> 4)).sum())
            slopes[-1] += int((((e + 4) >> 3) * np.clip(y, -(1 << 11), 1 << 11)).sum())
        for t, slope in enumerate(slopes):
            moved = slope >> (12 if t + 1 == len(weights) else 11)
            weights[t] = min(max(weights[t] + min(max(moved, -(1 << 12)), 1 << 12), -(1 << 16)), 1 << 18)
        for e, node in zip(errors.astype(np.float32), names, strict=True):
            for name in node:
                b, k = self.rows[name]
                b += np.rint(np.float32(1035) * e / (k + (1 << 15)).astype(np.float32)).astype(np.int64)


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

    def names(self, members: np.ndarray, group: int, high: bool, codes: np.ndarray) -> Names:
        """Names of the rows for one half of the codes of these nodes; ``codes`` (N,) as far as they are known."""
        return [list(self.near(node, group, high, codes)) + list(self.crossings(node, high)) for node in members.tolist()]

    def near(self, node: int, group: int, high: bool, codes: np.ndarray) -> Iterator[Hashable]:
        x, y, z = self.positions[node].tolist()
        kind, low = (min(self.finer, 2), high, group), int(codes[node]) & 15 if high else 0
        neighbors = {face: self.index.get((x + dx, y + dy, z + dz)) for face, (dx, dy, dz) in FACES.items()}
        h = 4 * high

        def cells(*octants: tuple[str, int]) -> tuple[bool, ...]:
            known = [None if group == 0 else neighbors[face] for face, _ in octants]
            return tuple(
                there is not None and bool(codes[there] >> octant & 1)
                for there, (_, octant) in zip(known, octants, strict=True)
            )

        yield 1, kind, low, *(neighbor is not None for neighbor in neighbors.values())
        if high and not group:
            there = {(dy, dz): self.index.get((x + 1, y + dy, z + dz)) for dy, dz in BEYOND_HIGH_EDGES}
            beyond = [(there[edge], octant) for edge, octants in BEYOND_HIGH_EDGES.items() for octant in octants]
            yield 2, low, *(node is not None and bool(codes[node] >> octant & 1) for node, octant in beyond)
        else:
            across_x = [("+x", octant) for octant in range(4)] if high else [("-x", octant) for octant in range(4, 8)]
            yield 2, kind, low, cells(*across_x)
        if group:
            across_y, across_z = [("-y", h + 2), ("-y", h + 3), ("+y", h), ("+y", h + 1)], [("-z", h + 1), ("-z", h + 3)]
            yield 3, kind, cells(*across_y, *across_z, ("+z", h), ("+z", h + 2))
        else:
            yield 3, kind, int(self.parents[node])
        yield 4, high, group, *((x + dx, y + dy, z + dz) in self.index for dx, dy, dz in EDGES)

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
