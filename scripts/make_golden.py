#!/usr/bin/env python3
"""Write the golden streams of test/golden. Only for a new stream version or a new shipped model: existing streams
must go on decoding, so a change of their bytes is a breaking change.

    python scripts/make_golden.py                            # all cases, with the tiny test model and every shipped model
    python scripts/make_golden.py --model tiny --case lattice
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig, DecoderConfig  # noqa: E402

GOLDEN = ROOT / "test" / "golden"

CASES = {
    "scan": ("scan", {"step": 0.02}),
    "dropped": ("scan", {"step": 0.01, "drop_scales": 3}),
    "utm": ("utm", {"step": 0.01, "origin": (448_000.0, 5_412_000.0, 0.0)}),
    "duplicates": ("grid", {"step": 1.0}),
    "merged": ("grid", {"step": 1.0, "merge_duplicates": True}),
    "raw": ("few", {"step": 0.5}),
    "empty": ("none", {}),
    "lattice": ("scaled", {"step": 1.0}),
    "corners": ("corners", {"step": 1.0}),
}
"""Case to its input (``<input>.npy``) and the encoder's options."""


def write_inputs() -> None:
    """A synthetic scan, points at UTM coordinates, an integer grid with duplicates, few points, none, a surface scaled to a
    finer grid, and two clusters in opposite corners, so that some octree levels have nodes of odd parity only."""
    rng = np.random.default_rng(2510)
    azimuth = np.tile(np.linspace(-np.pi, np.pi, 180, endpoint=False), 12)
    elevation = np.repeat(np.radians(np.linspace(-20, 6, 12)), 180)
    distance = np.where(elevation < -0.05, 1.7 / np.tan(np.maximum(-elevation, 0.05)), 8 + np.sign(np.sin(5 * azimuth)))
    direction = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    scan = (direction * (distance + rng.normal(0, 0.01, len(azimuth)))[:, None]).astype(np.float32)
    inputs = {
        "scan": scan,
        "utm": np.array([448_262.08, 5_412_345.6, 311.2]) + rng.uniform(0, 9, (400, 3)),
        "grid": rng.integers(-12, 12, (900, 3)).astype(np.int32) ** 2 // 7,
        "few": scan[:5],
        "none": scan[:0],
    }
    surface = rng.integers(-30, 30, (1500, 3))
    surface[:, 2] = (surface[:, 0] + surface[:, 1]) // 3
    inputs["scaled"] = np.rint(surface * [7.3, 1, 4]).astype(np.int32)
    clusters = rng.integers(0, 6, (120, 3)) + np.repeat([[0, 0, 120], [120, 0, 0]], 60, axis=0)
    inputs["corners"] = clusters.astype(np.int32)
    for name, xyz in inputs.items():
        np.save(GOLDEN / f"{name}.npy", xyz)


def main() -> None:
    models = {"tiny": str(GOLDEN / "tiny.safetensors")}
    models |= {path.stem: path.stem for path in sorted((ROOT / "anypcc_ros" / "models").glob("*.safetensors"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=models, help="only this model; may be repeated")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case; may be repeated")
    arguments = parser.parse_args()
    GOLDEN.mkdir(exist_ok=True)
    write_inputs()
    for label in arguments.model or models:
        for case in arguments.case or CASES:
            source, options = CASES[case]
            encoder = Encoder(CodecConfig(model=models[label], **options))
            data = encoder.encode(PointCloud(np.load(GOLDEN / f"{source}.npy")))
            decoded = Decoder(DecoderConfig(model_dir=str(GOLDEN))).decode(data).xyz
            (GOLDEN / f"{case}.{label}.apcc").write_bytes(data)
            np.save(GOLDEN / f"{case}.decoded.npy", decoded)
            print(f"{case}.{label}: {len(decoded)} points, {len(data)} bytes")


if __name__ == "__main__":
    main()
