#!/usr/bin/env python3
"""Every figure of docs/rate.md, and those of docs/experiments.md on lossy streams, really encoded and decoded.

    python scripts/lossy.py curves --suite ../shared/data/test        # scales filled in, left out, G-PCC; tables and plot
    python scripts/lossy.py targets --sequences ../shared/sequences   # how near streams come to a size
    python scripts/lossy.py fields FRAME.npz                          # a larger step beside dropped scales, with fields
    python scripts/lossy.py centroids FRAME.npz                       # would it pay to send where in a cell its points are
    python scripts/lossy.py thinned SURFACE.npz...                    # from how many cells for each node on filling in pays

Tables go into --markdown (default: docs/rate.md, docs/experiments.md) between their marks. `curves` keeps what --csv has, so
that it goes on where it was interrupted; a tmc3 (G-PCC) on the PATH joins in.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.bitstream import inspect  # noqa: E402
from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig, TargetConfig  # noqa: E402
from anypcc_ros.codec.octree import quantise, voxelise  # noqa: E402
from anypcc_ros.codec.rate import RateControl  # noqa: E402
from anypcc_ros.evaluation import peers  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.evaluate import step_of_bits  # noqa: E402
from anypcc_ros.evaluation.figures import panels_of, save  # noqa: E402
from anypcc_ros.evaluation.metrics import distortion  # noqa: E402
from anypcc_ros.evaluation.rows import read_csv, write_csv  # noqa: E402
from anypcc_ros.files import read_cloud  # noqa: E402
from anypcc_ros.optional import optional  # noqa: E402

GRID_BITS = 10


class Lossy(TypedDict):
    """Options of ``CodecConfig``."""

    drop_scales: int
    lossy: str
    truth: float


RATES = [(scales, truth) for scales, truths in ((1, (0, 0.3, 0.6)), (2, (0, 0.3, 0.6)), (3, (0, 0.5))) for truth in truths]
OURS = {
    f"{scales} filled in" + (f", truth {truth:g}" if truth else ""): Lossy(drop_scales=scales, lossy="likeliest", truth=truth)
    for scales, truth in RATES
}
SCALES = {f"{scales} left out": Lossy(drop_scales=scales, lossy="scales", truth=0) for scales in (1, 2, 3)}
AUTO = {f"{scales} auto": Lossy(drop_scales=scales, lossy="auto", truth=0) for scales in (1, 2, 3)}
GPCC = [name for name in peers.GPCC_LOSSY if name not in ("octree, scale 0.75", "trisoup, nodes of 32")]
FAMILIES = {
    "filled in": ("#1f5fbf", "-o"),
    "left out": ("#5aa0e6", "--s"),
    "octree": ("#222222", "-^"),
    "trisoup": ("#c46a1b", "-v"),
    "auto": ("#0b2f66", "*"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, document in (
        ("curves", _curves, "docs/rate.md"),
        ("targets", _targets, "docs/rate.md"),
        ("fields", _fields, "docs/rate.md"),
        ("centroids", _centroids, "docs/experiments.md"),
        ("thinned", _thinned, "docs/experiments.md"),
    ):
        command = commands.add_parser(name)
        command.add_argument("--model", default="standard")
        command.add_argument("--markdown", type=Path, default=ROOT / document)
        command.set_defaults(run=run)
        if name == "curves":
            command.add_argument("--suite", type=Path, required=True)
            command.add_argument("--only", nargs="+", default=["dense_human", "dense_object"])
            command.add_argument("--csv", type=Path, default=ROOT / "docs" / "results" / "lossy.csv")
            command.add_argument("--plot", type=Path, default=ROOT / "docs" / "results" / "lossy.png")
            command.add_argument("--limit", type=int, default=10**9, help="measure so many clouds, then stop")
        elif name == "targets":
            command.add_argument("--sequences", type=Path, required=True)
        elif name == "thinned":
            command.add_argument("surfaces", type=Path, nargs="+")
        else:
            command.add_argument("frame", type=Path)
    options = parser.parse_args()
    options.run(options)


def _head(options: argparse.Namespace) -> str:
    command = shlex.join(["python", "scripts/lossy.py", *sys.argv[1:]])
    return f"    {command}\n\nModel `{options.model}` {Encoder(CodecConfig(model=options.model)).model_hash}:"


# ---- curves


@dataclass(frozen=True)
class Point:
    """One cloud at one rate. ``model``: hash of ours. ``bpp``: bits per occupied cell of its grid; ``points``: decoded."""

    model: str
    file: str
    cells: int
    codec: str
    bpp: float
    points: int
    d1: float
    d2: float


def _curves(options: argparse.Namespace) -> None:
    digest = Encoder(CodecConfig(model=options.model)).model_hash
    stored = read_csv(options.csv, Point, missing_ok=True)
    known = [point for point in stored if point.model in ("", digest)]
    files = [path for category in options.only for path in sorted((options.suite / category).glob("*.npz"))]
    for path in files:
        name = peers.file_key(path)
        have = {point.codec for point in known if point.file == name}
        if not {*OURS, *SCALES, *AUTO} <= have and options.limit > 0:
            options.limit -= 1
            for point in _measure(path, name, options.model, have, [point for point in stored if point.file == name]):
                known.append(point)
                print(name, point.codec, f"{point.bpp:.4f} bpp, D1 {point.d1:.2f}, D2 {point.d2:.2f}", flush=True)
                write_csv(options.csv, known, Point)
    names = [peers.file_key(path) for path in files]
    known = [point for point in known if point.file in names]
    firsts = {name.split("/")[0]: name for name in reversed(names)}.values()
    shown = [point for point in _sorted(_marked(known)) if point.file in firsts]
    rows = [[_short(p.file), p.codec, f"{p.bpp:.3f}", f"{p.points:,}", f"{p.d1:.2f}", f"{p.d2:.2f}"] for p in shown]
    more = f"All {len(names)} clouds are in `{options.csv.name}`:"
    shown_table = table(["cloud", "", ">bpp", ">points", ">D1", ">D2"], rows)
    text = f"{_head(options)} {_gains(known)}\n\n{more}\n\n{shown_table}"
    write_section(options.markdown, "curves", text)
    _plot(known, options.plot)


def _measure(path: Path, name: str, model: str, have: set[str], stored: list[Point]) -> Iterator[Point]:
    """The cloud on its own grid, or on one of ``GRID_BITS``, in every way that is not there yet. ``stored``: points of it."""
    cloud = read_cloud(path).finite()[0]
    step = 1.0 if cloud.xyz.dtype.kind == "i" else step_of_bits(cloud, GRID_BITS)
    grid = quantise(cloud.xyz, step, (0.0, 0.0, 0.0))
    voxels, _ = voxelise(grid)
    cells = voxels.coords.astype(np.float64)  # middles of coarser cells lie between the cells

    digest = Encoder(CodecConfig(model=model)).model_hash

    def point(codec: str, size: int, decoded: np.ndarray, digest: str = digest) -> Point:
        found = distortion(cells, decoded)
        return Point(digest, name, len(cells), codec, 8 * size / len(cells), len(decoded), found.d1_psnr, found.d2_psnr)

    alike: dict[bytes, Point] = {}
    for codec, lossy in {**OURS, **SCALES, **AUTO}.items():
        if codec not in have:
            data = Encoder(CodecConfig(step=1.0, model=model, **lossy)).encode(PointCloud(cells))
            # Which points are left does not depend on the model where scales are left out; auto is mostly one of the others.
            same = alike.get(data) or next((p for p in stored if codec in SCALES and p.codec == codec), None)
            if same:
                alike[data] = replace(same, model=digest, codec=codec, bpp=8 * len(data) / len(cells))
            else:
                alike[data] = point(codec, len(data), Decoder().decode(data).xyz)
            yield alike[data]
    for codec in GPCC:
        if codec not in have and (run := peers.run_gpcc_lossy(voxels.coords, codec)):
            yield point(codec, run[0].bytes, run[1], digest="")


def _family(codec: str) -> str:
    return next(family for family in FAMILIES if family in codec)


def _sorted(points: list[Point]) -> list[Point]:
    order = list(FAMILIES)
    return sorted(points, key=lambda point: (point.file, order.index(_family(point.codec)), point.bpp))


def _marked(points: list[Point]) -> list[Point]:
    """Where auto is one of the other ways, that one is marked."""

    def place(point: Point) -> tuple[str, float, float]:
        return point.file, round(point.bpp, 6), round(point.d1, 3)

    autos, others = ([p for p in points if (_family(p.codec) == "auto") is auto] for auto in (True, False))
    chosen, known = set(map(place, autos)), set(map(place, others))
    marked = [replace(p, codec=f"{p.codec} (auto)") if place(p) in chosen else p for p in others]
    return marked + [p for p in autos if place(p) not in known]


def _gains(points: list[Point]) -> str:
    """By how much the filled-in scales are better than each other way at that one's rates: means of D1 and D2 in dB; and what
    auto has chosen."""
    lines = []
    for name in dict.fromkeys(point.file for point in points):
        ours = [p for p in _sorted(points) if p.file == name and _family(p.codec) == "filled in"]
        line = [_short(name)]
        for family in ("left out", "octree", "trisoup"):
            others = [
                p for p in points if p.file == name and _family(p.codec) == family and ours[0].bpp <= p.bpp <= ours[-1].bpp
            ]
            at = [math.log(p.bpp) for p in ours]
            gains = [
                [np.interp(math.log(p.bpp), at, [getattr(q, d) for q in ours]) - getattr(p, d) for p in others]
                for d in ("d1", "d2")
            ]
            line.append(" / ".join(f"{np.mean(gain):+.1f}" for gain in gains) if others else "")
        marked = [p for p in _marked(points) if p.file == name]
        chosen = [p.codec.removesuffix(" (auto)").removesuffix("auto") for p in marked if "auto" in p.codec]
        line.append(", ".join(sorted(c if "in" in c or "out" in c else f"{c}of both" for c in chosen)))
        lines.append(line)
    names = ["cloud", ">scales left out", ">G-PCC octree", ">G-PCC trisoup", "auto takes"]
    return (
        "scales filled in, beside the others at their rates (as far as ours reach), mean differences of D1 / D2 in dB:\n\n"
        + table(names, lines)
    )


def _short(file: str) -> str:
    return file.rsplit("__", 1)[-1].removesuffix(".npz").removeprefix("data_")


def _plot(points: list[Point], path: Path) -> None:
    ticker = optional("matplotlib.ticker", "eval")
    files = list(dict.fromkeys(point.file for point in points))
    figure, panels = panels_of(2, len(files), 4.2 * len(files), 7.6)
    for column, file in enumerate(files):
        for axes, measure in zip(panels[column :: len(files)], ("d1", "d2"), strict=True):
            for family, (colour, style) in list(FAMILIES.items())[:4]:
                curve = [p for p in _sorted(points) if p.file == file and _family(p.codec) == family]
                label = {"filled in": "scales filled in", "left out": "scales left out"}.get(family, f"G-PCC {family}")
                axes.plot(
                    [p.bpp for p in curve], [getattr(p, measure) for p in curve], style, color=colour, label=label, markersize=4
                )
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
            axes.grid(alpha=0.3, which="both")
            axes.set_xlabel("bits per point")
            axes.set_ylabel(f"{measure.upper()} PSNR, dB")
            axes.set_title(_short(file), fontsize=9)
    panels[0].legend(fontsize=8)
    save(figure, path)


# ---- targets


def _targets(options: argparse.Namespace) -> None:
    """Off the target, after the first frame, the largest of all frames."""
    kitti, radiate = "kitti_odometry_00", "radiate_hdl32"
    lines = []
    for name, sequence, count, with_fields, target in (
        ("KITTI odometry 00, 10 frames, with intensity", kitti, 10, True, {"target_bpp": 9.0}),
        ("RADIATE, HDL-32 in fog, 15 frames, intensity and ring", radiate, 15, True, {"target_bitrate": 1e6}),
        *(("", radiate, 15, True, {"target_bytes": size}) for size in (8_000, 14_000, 30_000)),
        ("the same, positions alone", radiate, 15, False, {"target_bitrate": 1e6}),
        *(("", radiate, 15, False, {"target_bytes": size}) for size in (5_000, 8_000, 30_000)),
    ):
        [folder] = options.sequences.glob(f"{sequence}*")
        frames = [_frame(path, with_fields) for path in sorted(folder.glob("frame*.npz"))[:count]]
        worst = [
            f"{100 * _largest_miss(frames, TargetConfig(target_passes=passes, **target), options.model):.1f} %"
            for passes in (1, 2)
        ]
        ((what, value),) = target.items()
        lines.append(
            [
                name,
                f"{value:,.0f} " + {"target_bpp": "bits per point", "target_bitrate": "bit/s", "target_bytes": "bytes"}[what],
                *worst,
            ]
        )
        print(lines[-1], flush=True)
    text = _head(options) + "\n\n" + table(["frames", "target", ">one pass", ">two passes"], lines)
    write_section(options.markdown, "targets", text)


def _frame(path: Path, with_fields: bool) -> PointCloud:
    with np.load(path) as data:
        xyz = data["xyz"] * 0.001 if data["xyz"].dtype.kind == "i" else data["xyz"]  # integers are millimetres
        names = [name for name in ("intensity", "ring") if name in data and with_fields]
        return PointCloud(xyz.astype(np.float32), {name: data[name] for name in names})


def _largest_miss(frames: list[PointCloud], config: TargetConfig, model: str) -> float:
    encoder, rate = Encoder(CodecConfig(step=0.02, model=model), successive=True), RateControl(config)
    sizes = [len(rate.encode(encoder, frame)) for frame in frames]
    return max(abs(size / config.bytes_of(len(frame), 0.1) - 1) for size, frame in list(zip(sizes, frames, strict=True))[1:])


# ---- fields


def _fields(options: argparse.Namespace) -> None:
    cloud, lines = read_cloud(options.frame), []
    for scales in (2, 3):
        for name, config in (
            (f"step {16 << scales} mm", {"step": 0.016 * 2**scales}),
            (f"step {16 << scales} mm, duplicates merged", {"step": 0.016 * 2**scales, "merge_duplicates": True}),
            (f"step 16 mm, {scales} scales dropped", {"step": 0.016, "drop_scales": scales}),
        ):
            data = Encoder(CodecConfig(model=options.model, **config)).encode(cloud)
            sizes = {chunk.tag: 8 * chunk.size / len(cloud) for chunk in inspect(data).chunks}
            parts = [sum(sizes.get(tag, 0.0) for tag in tags) for tags in (("OCCU", "BEAM", "LATT"), ("DUPL",), ("ATTR",))]
            decoded = Decoder().decode(data).xyz
            error = distortion(cloud.xyz, decoded)
            numbers = [inspect(data).bpp, *parts]
            lines.append(
                [
                    name,
                    *(f"{v:.2f}" if v else "" for v in numbers),
                    f"{len(decoded):,}",
                    f"{error.d1_psnr:.2f}",
                    f"{error.d2_psnr:.2f}",
                ]
            )
            print(lines[-1], flush=True)
    names = [
        options.frame.stem.rsplit("__", 1)[-1],
        *(f">{n}" for n in ("bpp", "positions", "counts", "fields", "points", "D1", "D2")),
    ]
    write_section(options.markdown, "fields", _head(options) + "\n\n" + table(names, lines))


# ---- centroids


def _centroids(options: argparse.Namespace) -> None:
    xyz, lines = read_cloud(options.frame).xyz.astype(np.float64), []

    def bits(step: float) -> float:
        config = CodecConfig(step=step, merge_duplicates=True, model=options.model)
        return 8 * len(Encoder(config).encode(PointCloud(xyz.astype(np.float32)))) / len(xyz)

    def quality(points: np.ndarray) -> str:
        error = distortion(xyz, points)
        return f"{error.d1_psnr:.2f} / {error.d2_psnr:.2f}"

    for step in (0.064, 0.128):
        cells, inverse, counts = np.unique(np.rint(xyz / step), axis=0, return_inverse=True, return_counts=True)
        sums = [np.bincount(inverse.ravel(), xyz[:, axis]) for axis in range(3)]
        offsets = np.stack(sums, axis=1) / counts[:, None] / step - cells
        start = bits(step)
        line = [f"{1000 * step:.0f} mm, {counts.mean():.1f} points", f"{start:.2f}", quality(cells * step)]
        line.append(quality((cells + offsets.mean(axis=0)) * step))
        for levels in (2, 3):
            chosen = np.clip(np.floor((offsets + 0.5) * levels), 0, levels - 1)
            more = sum(map(_entropy, chosen.T)) * len(cells) / len(xyz)
            line.append(f"{quality((cells + (chosen + 0.5) / levels - 0.5) * step)} for {more:.2f} more")
            finer = _step_for(bits, start + more, step)
            line.append(quality(np.unique(np.rint(xyz / finer), axis=0) * finer))
        lines.append(line)
        print(line, flush=True)
    names = ["cells", "bpp", "middle", "mean offset of all cells", "2 levels", "a finer step", "3 levels", "a finer step"]
    write_section(options.markdown, "centroids", _head(options) + "\n\n" + table(names, lines))


def _entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _step_for(bits: Callable[[float], float], wanted: float, step: float) -> float:
    """The step that takes so many bits, within 1 %, or a third of ``step``."""
    low, high = math.log(step / 3), math.log(step)
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if bits(math.exp(middle)) > wanted else (low, middle)
    return math.exp(high)


# ---- thinned surfaces


def _thinned(options: argparse.Namespace) -> None:
    """Single cells drawn from surfaces: one scale filled in beside the same scale left out, which takes as many bits."""
    lines = []
    for path in options.surfaces:
        voxels, _ = voxelise(quantise(read_cloud(path).finite()[0].xyz, 1.0, (0.0, 0.0, 0.0)))
        drawn = np.random.default_rng(1).random(len(voxels.coords))
        for share in (0.2, 0.3, 0.4, 0.5, 0.6):
            cells = voxels.coords[drawn < share]
            cloud, found = PointCloud(cells.astype(np.float64)), []
            for lossy in ("scales", "likeliest"):
                config = CodecConfig(step=1.0, drop_scales=1, lossy=lossy, model=options.model)
                data = Encoder(config).encode(cloud)
                found.append((len(data), distortion(cloud.xyz, Decoder().decode(data).xyz)))
            (left_bytes, left), (filled_bytes, filled) = found
            gains = [f"{b - a:+.1f}" for a, b in ((left.d1_psnr, filled.d1_psnr), (left.d2_psnr, filled.d2_psnr))]
            more = f"{100 * (filled_bytes / left_bytes - 1):+.1f} %"
            lines.append([_short(path.name), f"{voxelise(cells)[0].children_per_node():.2f}", more, *gains])
            print(lines[-1], flush=True)
    text = _head(options) + "\n\n" + table(["cloud", ">cells for each node", ">bytes", ">D1, dB", ">D2, dB"], lines)
    write_section(options.markdown, "thinned", text)


if __name__ == "__main__":
    main()
