#!/usr/bin/env python3
"""Measure `anypcc bag` on recordings: the tables of docs/bags.md.

    python scripts/measure_bags.py sizes --shared ../shared --markdown sizes.md
    python scripts/measure_bags.py speed BAG --jobs 1 2 [--repeat 2e9] [-- --step 0.01 ...]

`sizes` takes every bag of SHARED/bags and the sample, and bags made of the frames in SHARED/data/test with all their
fields, as their drivers lay them out. Each is compressed exactly and at several steps, and verified; the exact one is restored
and verified again. zstd is rosbag2's, level 1, on the same messages. `speed` runs the command in a process of its own and
watches its memory; --repeat first makes a bag of that many bytes by repetition.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from make_sample import POINT_CLOUD, TYPES, cloud_message
from mcap.writer import CompressionType, Writer

from anypcc_ros.bags.cli import EXACT_GRID
from anypcc_ros.bags.compare import CompareTask
from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.convert import Plan, convert
from anypcc_ros.bags.engines import engine
from anypcc_ros.bags.peers import FileMode, message_size
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import CompressTask, Reading, RestoreTask
from anypcc_ros.bags.verify import verify
from anypcc_ros.codec.config import CodecConfig, DecoderConfig

STRICT = DamageLog(keep_going=False)
STEPS = (0.0, 0.001, 0.01)
"""0 stands for exact."""

GROUPS = {  # name of the bag: pattern below SHARED/data/test
    "KITTI, 3 frames": "lidar_spinning/zb12138*",
    "KITTI object, 2 frames": "lidar_spinning/isl-org*",
    "nuScenes HDL-32": "lidar_spinning/open-mmlab*",
    "Argoverse 2": "lidar_spinning/argoverse*",
    "OS2-128": "lidar_spinning/ouster*",
    "Ruby Plus, 3 frames": "lidar_spinning/tier4+nebula__rubyplus*",
    "VLP-32": "lidar_spinning/tier4+nebula__vlp32*",
    "Robosense E1, 2 frames": "lidar_other/tier4*",
    "depth camera with colour": "indoor_rgbd/PointCloudLibrary+data__test_test1*",
    "photogrammetry with colour, 2 clouds": "photogrammetry/*points3D.npz",
}


def driver_message(path: Path, number: int) -> bytes:
    """A serialised PointCloud2 with all fields of an .npz; colour packed into a float32, as PCL has it."""
    with np.load(path) as data:
        xyz = data["xyz"]
        if xyz.dtype != np.float32:
            xyz = (xyz * data.get("scale", 1.0)).astype(np.float32)
        columns = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2]}
        if "rgb" in data:
            r, g, b = data["rgb"].astype(np.uint32).T
            columns["rgb"] = (r << 16 | g << 8 | b).view(np.float32)
        columns |= {name: data[name] for name in ("intensity", "ring", "t") if name in data}
    dtype = np.dtype([(name, values.dtype) for name, values in columns.items()])
    points = np.empty(len(xyz), dtype)
    for name, values in columns.items():
        points[name] = values
    return cloud_message(points, "lidar", 1_700_000_000 * 10**9 + number * 10**8)


def write_bag(path: Path, messages: Iterator[bytes] | Sequence[bytes]) -> Path:
    """An MCAP file without compression, as `ros2 bag record` makes it by default."""
    definition, _ = TYPES.generate_msgdef(POINT_CLOUD, ros_version=2)
    with open(path, "wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start("ros2")
        schema = writer.register_schema(POINT_CLOUD, "ros2msg", definition.encode())
        channel = writer.register_channel("/points", "cdr", schema, {"offered_qos_profiles": ""})
        for number, data in enumerate(messages):
            stamp = 1_700_000_000 * 10**9 + number * 10**8
            writer.add_message(channel, stamp, data, stamp, number)
        writer.finish()
    return path


def bags(shared: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and places; what has to be made or unpacked is put into ``folder``."""
    for path in sorted((shared / "bags").iterdir()):
        if path.name.endswith(".tar.xz"):
            with tarfile.open(path) as packed:
                packed.extractall(folder, filter="data")
            yield path.name, next(folder.glob("*/metadata.yaml")).parent
        elif path.suffix in (".mcap", ".bag", ".db3"):
            yield path.name, path
    yield "sample/lidar", Path(__file__).resolve().parents[1] / "sample" / "lidar"
    for name, pattern in GROUPS.items():
        frames = sorted((shared / "data" / "test").glob(pattern))
        messages = (driver_message(path, number) for number, path in enumerate(frames))
        yield name, write_bag(folder / f"{len(name)}{name[:3]}.mcap", [data for data in messages if data])


def sizes(options: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="anypcc-") as name, engine("", options.jobs) as workers:
        for title, path in bags(options.shared, Path(name)):
            if options.only and options.only not in title:
                continue
            raw, message_mode, file_mode = zstd(path)
            row = [title, f"{raw / 1e6:.2f}", f"{raw / message_mode:.2f}", f"{raw / file_mode:.2f}"]
            for step in options.steps:
                row.append(measured(path, step, raw, Path(name), workers))
            rows.append(row)
            print(" | ".join(row), flush=True)
    kinds = ["exact" if not step else f"{1e3 * step:g} mm" for step in options.steps]
    head = ["bag", "messages, MB", "zstd by message", "zstd by file", *kinds]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows]]
    options.markdown.write_text("\n".join(lines) + "\n")


def zstd(path: Path) -> tuple[int, int, int]:
    """Bytes of all messages as they are, each by zstd, and all as one file by zstd."""
    raw = by_message = 0
    whole = FileMode()
    with Bag(path) as bag:
        for item in bag.contents(STRICT):
            if isinstance(item, Message):
                raw += len(item.data)
                by_message += message_size(item.data)
                whole.add(item.data)
    return raw, by_message, whole.finish()


def measured(path: Path, step: float, raw: int, folder: Path, workers) -> str:  # type: ignore[no-untyped-def]
    """How many times smaller the whole new bag is than the messages of the old one; "!" where verify disagrees."""
    config = CodecConfig(step=step or EXACT_GRID, exact=not step, order="original", threads=1)
    small, back = folder / "small.mcap", folder / "back.mcap"
    result = convert(path, small, Plan(CompressTask(config)), workers, STRICT)
    task = CompareTask(Reading(DecoderConfig(threads=1)))
    found = verify(path, small, task, workers, STRICT)
    if not step:
        convert(small, back, Plan(RestoreTask(Reading(DecoderConfig(threads=1)))), workers, STRICT)
        found += verify(path, back, task, workers, STRICT)
        back.unlink()
    small.unlink()
    wanted = ("identical", "exact", "within") if step else ("identical", "exact")
    good = all(topic.verdict in wanted for topic in found)
    return f"{raw / result.size_after:.2f}{'' if good else ' !'}"


def speed(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="anypcc-", dir=options.folder) as name:
        source = options.bag
        if options.repeat:
            source = write_bag(Path(name, "repeated.mcap"), repeated(options.bag, int(options.repeat)))
        print("| jobs | MB | seconds | MB/s | memory of all processes, MB: after 1/4 | 1/2 | end | highest |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for jobs in options.jobs:
            run_watched(source, Path(name, f"out{jobs}.mcap"), jobs, options.arguments)


def repeated(path: Path, size: int) -> Iterator[bytes]:
    """The clouds of a bag, over and over."""
    with Bag(path) as bag:
        clouds = [m.data for m in bag.contents(STRICT) if isinstance(m, Message) and m.topic.type == POINT_CLOUD]
    written = 0
    while written < size:
        for data in clouds:
            written += len(data)
            yield data


def run_watched(source: Path, target: Path, jobs: int, arguments: Sequence[str]) -> None:
    """One run of the command; memory is the proportional share (PSS) of it and all its workers, sampled."""
    command = [sys.executable, "-m", "anypcc_ros.cli", "bag", "compress", str(source), str(target), "--quiet"]
    start = time.monotonic()
    with subprocess.Popen([*command, "--jobs", str(jobs), *arguments], stdout=subprocess.DEVNULL) as process:
        samples = []
        while process.poll() is None:
            samples.append(memory(process.pid))
            time.sleep(0.5)
    seconds, size = time.monotonic() - start, source.stat().st_size / 1e6 if source.is_file() else folder_size(source) / 1e6
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}")
    at = [samples[int(len(samples) * share)] / 1e6 for share in (0.25, 0.5, 0.95)]
    shown = " | ".join(f"{value:.0f}" for value in [*at, max(samples) / 1e6])
    print(f"| {jobs} | {size:.0f} | {seconds:.0f} | {size / seconds:.1f} | {shown} |", flush=True)


def folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def memory(process: int) -> int:
    """Bytes of a process and of all below it, what several of them share divided among these (Linux: proportional set size)."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        tasks = [file.read_text().split() for file in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return 0  # it has just ended
    own = next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return own + sum(memory(int(child)) for children in tasks for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("sizes")
    one.add_argument("--shared", type=Path, required=True)
    one.add_argument("--markdown", type=Path, required=True)
    one.add_argument("--steps", type=float, nargs="+", default=STEPS, help="0 is exact")
    one.add_argument("--only", default="", help="bags whose names contain this")
    one.add_argument("--jobs", type=int, default=1)
    one.set_defaults(run=sizes)
    two = commands.add_parser("speed")
    two.add_argument("bag", type=Path)
    two.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    two.add_argument("--repeat", type=float, default=0, metavar="BYTES")
    two.add_argument("--folder", type=Path, help="where the bags are made (default: the system's)")
    two.set_defaults(run=speed)
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    options.arguments = arguments[split + 1 :]
    options.run(options)


if __name__ == "__main__":
    main()
