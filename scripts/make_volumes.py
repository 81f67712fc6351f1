#!/usr/bin/env python3
"""Synthetic scans for training: the boundary voxels of tissue in made-up CT and MRI volumes, from a seed.

    python scripts/make_volumes.py data/synthetic --count 96

Published scans with a licence that allows training on them are few. What their clouds look like does not depend on the
anatomy so much as on how a volume is made: smooth organs, the noise of the scanner with its grain, slices thicker than the
pixels, values between slices interpolated or repeated, and a threshold. Here all of these are drawn at random. A cloud is
then, as usual, every voxel above the threshold that has one of its six neighbours below it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def volume(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Intensities (X, Y, Z) float32 of one made-up scan, without a unit."""
    body = _body(rng, shape)
    organs = np.zeros(shape, np.float32)
    for size in rng.choice([24.0, 16.0, 10.0, 6.0, 4.0, 2.5], rng.integers(2, 5), replace=False):
        organs += size ** rng.uniform(0.2, 0.9) * _grain(rng, shape, (size, size, size * rng.uniform(0.6, 1.6)))
    organs *= rng.uniform(0.15, 0.6) / organs.std()
    if rng.random() < 0.4:  # tissues of one value each, with sharp borders, such as bone
        organs = np.digitize(organs, np.quantile(organs, np.sort(rng.uniform(0.05, 0.95, 3)))).astype(np.float32)
        organs = _blurred(organs / 3, rng.uniform(0.4, 1.2, 3))
    inside = 1 / (1 + np.exp(-body * rng.uniform(0.5, 3)))
    scan = inside * (1 + organs)
    grain = rng.uniform(0.25, 1.1)
    noise = _grain(rng, shape, (grain, grain, grain * rng.uniform(0.3, 1.2)))
    return scan + 10 ** rng.uniform(-2.6, -0.5) * noise * (inside if rng.random() < 0.3 else 1)


def thick_slices(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """The scan as it would be with thicker slices, put on its old grid again: interpolated or repeated."""
    depth = scan.shape[2]
    thickness = rng.uniform(1.2, 4)
    place = np.arange(depth) / thickness
    slices = _blurred(scan, np.array([0, 0, thickness / 3]))[
        :, :, np.minimum((np.arange(int(place[-1]) + 2) * thickness).astype(int), depth - 1)
    ]
    if rng.random() < 0.3:
        return slices[:, :, np.rint(place).astype(int)]
    low = place.astype(int)
    share = (place - low).astype(np.float32)
    return slices[:, :, low] * (1 - share) + slices[:, :, low + 1] * share


def boundary(tissue: np.ndarray) -> np.ndarray:
    """Those voxels (N, 3) int32 of a mask (X, Y, Z) that have one of their six neighbours, or the volume's end, beside it."""
    padded = np.pad(tissue, 1)
    buried = tissue.copy()
    for axis in range(3):
        for shift in (-1, 1):
            buried &= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(tissue & ~buried).astype(np.int32)


def scan_surface(seed: int, edge: int) -> np.ndarray:
    """Boundary voxels (N, 3) int32 of scan number ``seed``, which is about ``edge`` voxels long."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(edge * s) // 2 * 2 for s in rng.uniform(0.6, 1, 3))
    scan = volume(rng, (shape[0], shape[1], shape[2]))
    if rng.random() < 0.4:
        scan = thick_slices(rng, scan)
    low, high = np.quantile(scan, [0.02, 0.98])
    return boundary(scan > low + (high - low) * rng.uniform(0.12, 0.88))


def _body(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """How deep inside an ellipsoid of uneven surface a voxel lies, about -1 to 1 times 10."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) / rng.uniform(0.65, 1.2) for n in shape]
    radius = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    return 10 * (1 - radius + rng.uniform(0, 0.25) * _grain(rng, shape, (20.0, 20.0, 20.0)))


def _grain(rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, float, float]) -> np.ndarray:
    """Noise of unit variance whose grains have the standard deviation ``sigma`` in voxels along each axis."""
    field = _blurred(rng.standard_normal(shape, dtype=np.float32), np.array(sigma))
    return field / field.std()


def _blurred(field: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Convolved with a Gaussian, cyclically, in the Fourier domain."""
    spectrum = np.fft.rfftn(field)
    for axis, n in enumerate(field.shape):
        frequency = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
        weight = np.exp(-2 * (np.pi * sigma[axis] * frequency) ** 2)
        spectrum *= weight.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.fft.irfftn(spectrum, field.shape, axes=(0, 1, 2)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for synthetic_volume/NNN.npz, which `anypcc train --data` takes")
    parser.add_argument("--count", type=int, default=96, help="how many (default: %(default)s)")
    parser.add_argument("--edge", type=int, default=160, help="largest edge of a volume in voxels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first one (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.output / "synthetic_volume"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        xyz = scan_surface(seed, arguments.edge)
        np.savez_compressed(folder / f"{seed:04d}.npz", xyz=xyz)
        print(f"{seed:04d}: {len(xyz)} voxels", flush=True)


if __name__ == "__main__":
    main()
