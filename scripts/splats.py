#!/usr/bin/env python3
"""Where the bits of sparse clouds go, and what could be known of them: the argument of docs/adaptation.md on Gaussian splats.

    python scripts/splats.py ../shared/data/test/gs/*.npz

For the finest levels of the octree, on a grid of 14 bits: bytes as coded; what points that lie anywhere in their node would
take, if their number in every node were known for nothing; and what the places of the 24 nearest nodes tell of a lone
child's: a network that attends to them, trained on three quarters of that level of that cloud and measured on the rest.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

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
NEAREST, WIDTH = 24, 64
STEPS, BATCH, RATE = 600, 512, 3e-3
MEASURED = 8_000


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


class Beholder(nn.Module):
    """Logits of the octants of a lone child from the places (n, NEAREST, 3) of the nodes around its own, nearest first."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.beside = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Sequential(
            nn.Linear(3 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8)
        )

    def forward(self, around: Tensor) -> Tensor:
        far = around.norm(dim=2, keepdim=True)
        spacing = far[:, 4:5]
        each = self.each(torch.cat([around / spacing, far / spacing, 1 / spacing.expand_as(far)], dim=2))
        query, key, value = (layer(each) for layer in self.beside)
        each = each + nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(torch.cat([each.mean(dim=1), each.amax(dim=1), each[:, 0]], dim=1))


def told_by_nearest(cells: np.ndarray, levels: int) -> float:
    """Bits that the places of the nearest nodes, so many levels above the cells, tell of the octants of lone children."""
    children = np.unique(cells >> levels - 1, axis=0)
    nodes, row, counts = np.unique(children >> 1, axis=0, return_inverse=True, return_counts=True)
    child = np.empty(len(nodes), np.int64)
    child[row.ravel()] = np.arange(len(children))
    lone = np.flatnonzero(counts == 1)
    if len(nodes) <= NEAREST or len(lone) < BATCH:
        return 0.0
    sides = torch.from_numpy(children[child[lone]] & 1)
    _, nearest = cKDTree(nodes).query(nodes[lone], NEAREST + 1)
    around = torch.from_numpy((nodes[nearest[:, 1:]] - nodes[lone, None]).astype(np.float32))
    torch.manual_seed(0)
    learned, unseen = torch.randperm(len(lone)).split([len(lone) * 3 // 4, len(lone) - len(lone) * 3 // 4])
    network = _trained(around[learned], sides[learned])
    some = unseen[:MEASURED]
    with torch.no_grad():
        cost = nn.functional.cross_entropy(network(around[some]), _octants(sides[some])).item() / math.log(2)
    return max(0.0, 3 - cost) * len(lone)


def _trained(around: Tensor, sides: Tensor) -> Beholder:
    """Trained on places (n, NEAREST, 3) and the sides (n, 3) where the children lie, mirrored and with axes exchanged."""
    network = Beholder()
    optimiser = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        batch, mirrored, axes = torch.randint(len(around), (BATCH,)), torch.randint(2, (3,)), torch.randperm(3)
        seen = (around[batch] * (1 - 2 * mirrored))[:, :, axes]
        octants = _octants((sides[batch] ^ mirrored)[:, axes])
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(seen), octants).backward()
        optimiser.step()
        schedule.step()
    return network


def _octants(sides: Tensor) -> Tensor:
    return sides @ torch.tensor([4, 2, 1])


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
        told = [told_by_nearest(voxels.coords, level) for level in range(1, max(LEVELS) + 1)]
        lines += [_line(path, voxels.coords, bits.levels, told, levels) for levels in LEVELS]
        print(*lines[-len(LEVELS) :], sep="\n", flush=True)
    names = ["cloud", ">finest levels", ">nodes", ">cells", ">as coded", ">anywhere", ">all levels", ">told by the nearest"]
    command = shlex.join(["python", "scripts/splats.py", *sys.argv[1:]])
    text = f"    {command}\n\nModel `{options.model}` {encoder.model_hash}, bytes:\n\n{table(names, lines)}"
    write_section(options.markdown, "splats", text)


def _line(path: Path, cells: np.ndarray, bits: list[float], told: list[float], levels: int) -> list[str]:
    nodes = len(np.unique(cells >> levels, axis=0))
    sizes = [sum(bits[-levels:]), anywhere(cells, levels), sum(bits), sum(told[:levels])]
    return [
        path.stem.rpartition("__")[2],
        str(levels),
        f"{nodes:,}",
        f"{len(cells):,}",
        *(f"{size / 8:,.0f}" for size in sizes),
    ]


if __name__ == "__main__":
    main()
