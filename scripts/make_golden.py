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
from anypcc_ros.codec.model import store  # noqa: E402
from anypcc_ros.codec.model.adaptations import Adaptation  # noqa: E402
from anypcc_ros.codec.model.delta import Delta, LayerDelta, encode_delta  # noqa: E402
from anypcc_ros.codec.model.integer import WEIGHT_LIMIT  # noqa: E402
from anypcc_ros.codec.model.network import layers  # noqa: E402

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
    "adapted": ("scan", {"step": 0.02, "adaptation": "adapted", "adaptation_use": "always"}),
    "fields": ("fields", {"step": 0.02, "fields": ("spare=drop", "range=step:0.25")}),
    "plain": ("scan", {"step": 0.02, "calibrate": "never"}),
    "likeliest": ("fields", {"step": 0.05, "drop_scales": 2, "lossy": "likeliest", "truth": 0.3}),
    "image": ("depth", {"exact": True}),
    "image_in_order": ("depth", {"order": "original"}),
    "firing": ("firing", {"step": 0.02}),
    "firing_in_order": ("firing", {"step": 0.02, "order": "original"}),
    "original": ("organised", {"step": 0.01, "order": "original", "exact": True}),
}
"""Case to its input (``<input>.npz``, or .npy where it has no fields) and the encoder's options; of an adaptation the name."""


def cases_of(label: str) -> list[str]:
    """The cases of one of the models: two where only the weights are others than those of `standard`."""
    return list(CASES) if label in ("tiny", "standard") else ["scan", "plain"]


def config_of(case: str, label: str, **more: str) -> CodecConfig:
    """The encoder's configuration of a case with one of the models."""
    options = {"model": str(GOLDEN / "tiny.safetensors") if label == "tiny" else label, **CASES[case][1], **more}
    if "adaptation" in options:
        options["adaptation"] = str(GOLDEN / f"{options['adaptation']}.{label}.apad")
    return CodecConfig(**options)


def write_adaptation(label: str) -> None:
    """Random changes of a convolution and of the heads of one of the models."""
    model = store.by_name(config_of("scan", label).model)
    rng, changes = np.random.default_rng(2511), {}
    for spec in layers(model.config):
        if spec.name == "child0" or spec.name.startswith("head"):
            weight = np.rint(rng.laplace(0, 0.4, (spec.taps, spec.inputs, spec.outputs))).astype(np.int64)
            weight[abs(model.layers[spec.name].weight + (weight << 1)) > WEIGHT_LIMIT] = 0
            bias = np.rint(rng.laplace(0, 4, (spec.rows, spec.outputs))).astype(np.int64)
            changes[spec.name] = LayerDelta(weight, bias)
    (GOLDEN / f"adapted.{label}.apad").write_bytes(Adaptation(model.hash, encode_delta(model, Delta(changes, 1, 9))).to_bytes())


def decoded_path(case: str, label: str) -> Path:
    """Where the decoded cloud is, without its ending: the same for all models, unless they fill in what is likeliest."""
    return GOLDEN / (f"{case}.{label}.decoded" if CASES[case][1].get("lossy") == "likeliest" else f"{case}.decoded")


def save_cloud(path: Path, cloud: PointCloud) -> None:
    """The cloud as ``path`` with the ending .npy, or .npz where it has fields."""
    if not cloud.fields:
        np.save(path.with_name(path.name + ".npy"), cloud.xyz)
        return
    fields = {f"field {name}": values for name, values in cloud.fields.items()}
    np.savez_compressed(path.with_name(path.name + ".npz"), xyz=cloud.xyz, height=cloud.height, **fields)


def load_cloud(path: Path) -> PointCloud:
    """What ``save_cloud`` has saved."""
    if (plain := path.with_name(path.name + ".npy")).exists():
        return PointCloud(np.load(plain))
    with np.load(path.with_name(path.name + ".npz")) as data:
        fields = {name.removeprefix("field "): data[name] for name in data.files if name.startswith("field ")}
        return PointCloud(data["xyz"], fields, int(data["height"]))


def write_inputs() -> None:
    """A synthetic scan, points at UTM coordinates, an integer grid with duplicates, few points, none, a surface scaled to a
    finer grid, two clusters in opposite corners, so that some octree levels have nodes of odd parity only; a part of the scan
    with the fields of a LiDAR; an organised part with invalid points and coordinates in millimetres; a depth image;
    and a scan in the order of its measurement."""
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
    clouds = {name: PointCloud(xyz) for name, xyz in inputs.items()}
    reach = np.linalg.norm(scan, axis=1)
    fields = {
        "intensity": np.clip(900 / reach**2 + rng.normal(0, 3, len(scan)), 0, 255).astype(np.uint8),
        "ring": np.repeat(np.arange(12), 180).astype(np.uint16),
        "t": np.tile(np.arange(180) * 555_555, 12).astype(np.uint32),
        "rgb": ((reach * 9).astype(np.uint32) * 0x010101 ^ rng.integers(0, 0x030301, len(scan), np.uint32)).view(np.float32),
        "range": reach,
        "spare": rng.normal(size=len(scan)),
    }
    clouds["fields"] = PointCloud(scan, fields).take(np.arange(0, len(scan), 5))
    xyz = (np.rint(scan[: 8 * 60].astype(np.float64) * 1000) / 1000).astype(np.float32)
    xyz[7::11] = np.nan
    reflectivity = (rng.integers(0, 30, len(xyz)) / 100).astype(np.float32)
    reflectivity[7::11] = np.nan
    clouds["organised"] = PointCloud(xyz, {"reflectivity": reflectivity}, height=8)
    clouds["depth"] = _depth_image(rng)
    clouds["firing"] = _firing_sequence(rng)
    for name, cloud in clouds.items():
        save_cloud(GOLDEN / name, cloud)


def _depth_image(rng: np.random.Generator) -> PointCloud:
    """What a driver makes of millimetres, with x and y in float32, some of them a bit off, and some pixels invalid."""
    row, column = np.divmod(np.arange(18 * 25), 25)
    z = ((1500 + 9 * column + (column > 13) * 700 + rng.integers(0, 3, len(row))) * 0.001).astype(np.float32)
    x, y = ((place - centre).astype(np.float32) * z * np.float32(1 / 52.5) for place, centre in ((column, 12.0), (row, 8.5)))
    x[::7] = np.nextafter(x[::7], np.float32(9))
    xyz = np.stack([x, y, z], axis=1)
    xyz[rng.random(len(row)) < 0.1] = np.nan
    shade = (100 + 2 * column + rng.integers(0, 4, len(row))).astype(np.uint8)
    return PointCloud(xyz, {"shade": shade}, height=18)


def _firing_sequence(rng: np.random.Generator) -> PointCloud:
    """Lasers that fire one after the other into directions of their own, column by column; some of them find nothing."""
    column, turn = (values.ravel() for values in np.mgrid[:90, :8])
    ring = rng.permutation(8)[turn]
    azimuth = -column * 0.05 - rng.uniform(-0.2, 0.2, 8)[ring]
    reach = 9 + 4 * np.sin(3 * azimuth)
    xyz = np.stack([reach * np.cos(azimuth), reach * np.sin(azimuth), reach * (ring - 5) / 20], axis=1)
    times = column * 55_296 + turn * 2_304 + rng.integers(0, 2, len(ring))
    fields = {"ring": ring.astype(np.uint16), "t": times.astype(np.uint32)}
    return PointCloud(xyz.astype(np.float32), fields).take(rng.random(len(ring)) < 0.85)


def main() -> None:
    models = ["tiny"]
    models += [path.stem for path in sorted((ROOT / "anypcc_ros" / "models").glob("*.safetensors"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=models, help="only this model; may be repeated")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case; may be repeated")
    arguments = parser.parse_args()
    GOLDEN.mkdir(exist_ok=True)
    write_inputs()
    for label in arguments.model or models:
        cases = cases_of(label)
        if "adapted" in cases:
            write_adaptation(label)
        for case in (case for case in arguments.case or cases if case in cases):
            data = Encoder(config_of(case, label)).encode(load_cloud(GOLDEN / CASES[case][0]))
            decoded = Decoder(DecoderConfig(model_dir=str(GOLDEN), adaptation=str(GOLDEN))).decode(data)
            (GOLDEN / f"{case}.{label}.apcc").write_bytes(data)
            save_cloud(decoded_path(case, label), decoded)
            print(f"{case}.{label}: {len(decoded)} points, {len(data)} bytes")


if __name__ == "__main__":
    main()
