#!/usr/bin/env python3
"""Where the bits of sparse clouds go, and what could be known of them: the argument of docs/adaptation.md on Gaussian splats.

    python scripts/splats.py ../shared/data/test/gs/*.npz

For the finest levels of the octree, on a grid of 14 bits: bytes as coded; what points that lie anywhere in their node would
take, if their number in every node were known for nothing; and what the places of the nearest nodes tell of a lone child's,
at most: a Gaussian of the twelve nearest, or a kernel at each, whichever is better on each level, sharpened by a factor
fitted to that level of that cloud.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig  # noqa: E402
from anypcc_ros.codec.model.backend import context_model  # noqa: E402
from anypcc_ros.codec.model.integer import FREQUENCY_BITS  # noqa: E402
from anypcc_ros.codec.model.network import CodePart  # noqa: E402
from anypcc_ros.codec.octree import quantise, voxelise  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.evaluate import step_of_bits  # noqa: E402
from anypcc_ros.files import read_cloud  # noqa: E402

GRID_BITS = 14
LEVELS = (4, 5, 6)
NEAREST, BANDWIDTH = 12, 0.7
SAMPLE = 20_000
SHARPNESS = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5])
OCTANTS = np.array([[o >> 2 & 1, o >> 1 & 1, o & 1] for o in range(8)])


class Bits:
    """A ``Witness`` that adds up the bits of each level."""

    def __init__(self) -> None:
        self.levels: list[float] = []

    def saw(self, part: CodePart, logits: np.ndarray, frequencies: np.ndarray, symbols: np.ndarray, weight: float) -> None:
        if part.group == 0 and part.first_bit == 0:
            self.levels.append(0.0)
        chosen = frequencies[np.arange(len(symbols)), symbols]
        self.levels[-1] += FREQUENCY_BITS * len(symbols) - float(np.log2(chosen).sum(dtype=np.float64))


def anywhere(cells: np.ndarray, levels: int) -> float:
    """Bits of cells (N, 3) that lie anywhere in the nodes so many levels above them, whose numbers of cells are known."""
    _, counts = np.unique(cells >> levels, axis=0, return_counts=True)
    return 3 * levels * len(cells) - sum(math.lgamma(count + 1) for count in counts.tolist()) / math.log(2)


def told_by_nearest(cells: np.ndarray, levels: int) -> float:
    """Bits that the places of the nearest nodes, so many levels above the cells, tell of the octants of lone children."""
    children = np.unique(cells >> levels - 1, axis=0)
    nodes, row, counts = np.unique(children >> 1, axis=0, return_inverse=True, return_counts=True)
    child = np.empty(len(nodes), np.int64)
    child[row.ravel()] = np.arange(len(children))
    lone = np.flatnonzero(counts == 1)
    if len(nodes) <= NEAREST or not len(lone):
        return 0.0
    some = np.random.default_rng(0).choice(lone, min(len(lone), SAMPLE), replace=False)
    octants = (children[child[some]] & 1) @ [4, 2, 1]
    distances, nearest = cKDTree(nodes).query(nodes[some], NEAREST + 1)
    around = (nodes[nearest[:, 1:]] - nodes[some, None]).astype(np.float64)
    places = (OCTANTS - 0.5) / 2
    off = ((places[None, :, None] - around[:, None]) ** 2).sum(axis=3)
    width = BANDWIDTH * np.maximum(distances[:, 4], 1)[:, None, None]
    kernels = np.log(np.exp(-off / (2 * width**2)).sum(axis=2) + 1e-12)
    middle = around.mean(axis=1)
    spread = np.einsum("nki,nkj->nij", around - middle[:, None], around - middle[:, None]) / NEAREST
    least = 0.08 + 0.002 * np.trace(spread, axis1=1, axis2=2)  # nodes have a size
    inverse = np.linalg.inv(spread + np.eye(3) * least[:, None, None])
    beside = places[None] - middle[:, None]
    gaussian = -0.5 * np.einsum("noi,nij,noj->no", beside, inverse, beside)
    return max(0.0, *(3 - _bits(scores, octants) for scores in (kernels, gaussian))) * len(lone)


def _bits(scores: np.ndarray, octants: np.ndarray) -> float:
    """Mean bits of the octants (n,) under softmax of the scores (n, 8) times the best factor."""
    costs = []
    for factor in SHARPNESS:
        logits = factor * (scores - scores.max(axis=1, keepdims=True))
        costs.append((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(octants)), octants]).mean() / math.log(2))
    return float(min(costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "adaptation.md")
    options = parser.parse_args()
    encoder, lines = Encoder(CodecConfig(step=1.0, model=options.model)), []
    for path in options.files:
        cloud = read_cloud(path).finite()[0]
        voxels, _ = voxelise(quantise(cloud.xyz, step_of_bits(cloud, GRID_BITS), (0.0, 0.0, 0.0)))
        bits = Bits()
        network = context_model(encoder.model, encoder.config.backend, encoder.config.threads)
        encoder.watched_by(network, bits).encode(PointCloud(voxels.coords))
        lines += [_line(path, voxels.coords, bits.levels, levels) for levels in LEVELS]
        print(*lines[-len(LEVELS) :], sep="\n", flush=True)
    names = ["cloud", ">finest levels", ">nodes", ">cells", ">as coded", ">anywhere", ">all levels", ">told by the nearest"]
    command = shlex.join(["python", "scripts/splats.py", *sys.argv[1:]])
    text = f"    {command}\n\nModel `{options.model}` {encoder.model_hash}, bytes:\n\n{table(names, lines)}"
    write_section(options.markdown, "splats", text)


def _line(path: Path, cells: np.ndarray, bits: list[float], levels: int) -> list[str]:
    told = sum(told_by_nearest(cells, level) for level in range(1, levels + 1))
    nodes = len(np.unique(cells >> levels, axis=0))
    sizes = [sum(bits[-levels:]), anywhere(cells, levels), sum(bits), told]
    return [
        path.stem.rpartition("__")[2],
        str(levels),
        f"{nodes:,}",
        f"{len(cells):,}",
        *(f"{size / 8:,.0f}" for size in sizes),
    ]


if __name__ == "__main__":
    main()
