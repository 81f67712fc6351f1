#!/usr/bin/env python3
"""What one adaptation for many clouds of a sensor brings: tuned on some frames, measured on others. For docs/adaptation.md.

    python scripts/shared_adaptation.py ROWS.csv --shared ../shared

Positions on the grid of `anypcc evaluate`, 16 mm of LiDAR. Rows that the CSV has for the same model are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.adaptation.shared import tune_shared  # noqa: E402
from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.rows import read_csv, write_csv  # noqa: E402
from anypcc_ros.files import read_cloud  # noqa: E402
from anypcc_ros.optional import optional  # noqa: E402

STEP, STEPS, STREAMS = 0.016, 200, 100
VAL, TEST, TRAIN, MORE = "data/val", "data/test", "data/train", "data/train_extra"
KITTI, RADIATE = "sequences/kitti_odometry_00_000000-000009", "sequences/radiate_hdl32_tiny_foggy_000020-000034"
RUBY, E1 = "lidar_spinning/tier4+nebula__rubyplus_", "lidar_other/tier4+nebula__e1_"
PANDAR, BALM = "lidar_spinning__scaleapi+pandaset-devkit__lidar_", "lidar_other__hku-mars+BALM__benchmark_realworld_full"
AT128, QT64 = "lidar_other__tier4+nebula__at128_1671446145", "lidar_spinning/tier4+nebula__qt64_167340119"

SETS: dict[str, tuple[float, list[str], list[str]]] = {
    "CT: abdomen, bone; then skin": (
        1.0,
        [f"{TEST}/medical/FNNDSC+data__andrei_abdomen_bone.npz"],
        [f"{TEST}/medical/FNNDSC+data__andrei_abdomen_skin.npz"],
    ),
    "Robosense Ruby Plus": (
        STEP,
        [f"{TEST}/{RUBY}{stamp}.npz" for stamp in (1693387799081352450, 1693387802085646590)],
        [f"{TEST}/{RUBY}1693387803086629659.npz"],
    ),
    "Robosense Helios 16P": (
        STEP,
        [f"{VAL}/lidar_spinning/tier4+nebula__helios16P_1691031766781547066.npz"],
        [f"{VAL}/lidar_spinning/tier4+nebula__helios16P_1691031767081713313.npz"],
    ),
    "Robosense E1, solid state": (
        STEP,
        [f"{TEST}/{E1}1693393248892823096.npz"],
        [f"{TEST}/{E1}1693393255493116006.npz"],
    ),
    "Ouster OS1-64 (Newer College)": (
        STEP,
        [f"{VAL}/lidar_spinning/koide3+gtsam_points__newer_06_raw_00.npz"],
        [f"{VAL}/lidar_spinning/koide3+gtsam_points__newer_06_raw_02.npz"],
    ),
    "Hesai Pandar64 (PandaSet) *": (
        STEP,
        [f"{MORE}/{PANDAR}{number}.pkl.drc" for number in (21, 32, 43)],
        [f"{MORE}/{PANDAR}79.pkl.drc", f"{TRAIN}/lidar_spinning/scaleapi+pandaset-devkit__lidar_67.pkl.npz"],
    ),
    "Hesai QT64 *": (STEP, [f"{TRAIN}/{QT64}6087570870.npz"], [f"{TRAIN}/{QT64}6487436604.npz"]),
    "Hesai AT128, solid state *": (
        STEP,
        [f"{MORE}/{AT128}{stamp}.drc" for stamp in (446979878, 648138124)],
        [f"{MORE}/{AT128}747395854.drc"],
    ),
    "Livox (BALM) *": (
        STEP,
        [f"{MORE}/{BALM}{number}.drc" for number in (0, 13, 20, 35, 50)],
        [f"{MORE}/{BALM}{number}.drc" for number in (80, 99, 115, 145, 161)],
    ),
    "RADIATE, HDL-32 in fog *": (
        STEP,
        [f"{RADIATE}/frame_{number:03}.npz" for number in range(5)],
        [f"{RADIATE}/frame_{number:03}.npz" for number in range(5, 15)],
    ),
    "KITTI odometry 00, HDL-64 *": (
        STEP,
        [f"{KITTI}/frame_{number:03}.npz" for number in range(5)],
        [f"{KITTI}/frame_{number:03}.npz" for number in range(5, 10)],
    ),
}
"""Name to grid step in metres, clouds to tune on, others. With a star: the model was trained on such frames, or on these."""


@dataclass(frozen=True)
class Row:
    """One of ``SETS``. ``model``: its hash. ``tuned``, ``others``: numbers of clouds. ``file``: bytes of the adaptation;
    those of all clouds tuned on, and of all others, before and after. ``seconds``: CPU time of tuning."""

    model: str
    name: str
    tuned: int
    others: int
    file: int
    before: int
    after: int
    before_others: int
    after_others: int
    seconds: float


def positions(path: Path) -> PointCloud:
    """Finite positions of a cloud, in metres or on its own grid, around its sensor."""
    if path.suffix != ".drc":
        cloud = read_cloud(path, metres=True).finite()[0]
        return PointCloud(cloud.xyz)
    with next(path.parent.glob("MANIFEST*.csv")).open(newline="") as lines:
        row = next(row for row in csv.DictReader(lines) if row["file"] == path.name)
    origin = re.search(r"\((-?\d+),\s*(-?\d+),\s*(-?\d+)\)", row["notes"])
    assert origin, f"{path}: no origin in {row['notes']!r}"
    points = np.rint(optional("DracoPy", "train").decode(path.read_bytes()).points)
    return PointCloud(((points + np.array(origin.groups(), np.float64)) * float(row["step"])).astype(np.float32))


def measure(name: str, shared: Path, model: str) -> Row:
    step, *groups = SETS[name]
    tuned_on, others = ([positions(shared / file) for file in files] for files in groups)
    config = CodecConfig(step=step, merge_duplicates=True, model=model)
    encoder = Encoder(config)
    start = time.process_time()
    adaptation = tune_shared(encoder, tuned_on, STEPS, streams=STREAMS)
    seconds = time.process_time() - start
    adapted = Encoder(config, adaptation=adaptation)
    sizes = [sum(len(way.encode(cloud)) for cloud in clouds) for clouds in (tuned_on, others) for way in (encoder, adapted)]
    return Row(encoder.model_hash, name, len(tuned_on), len(others), len(adaptation.delta), *sizes, round(seconds, 1))


def section(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        saved = (row.before_others - row.after_others) / row.others
        changes = row.after / row.before - 1, row.after_others / row.before_others - 1
        pays = f"{row.file / saved:.0f}" if saved > 0 else "never"
        size = row.before_others / row.others
        each = [f"{100 * change:+.2f} %" for change in changes]
        figures = f"{row.tuned}, {row.others}", f"{size:,.0f}", f"{row.file:,}", *each, pays, f"{row.seconds:.1f}"
        lines.append([row.name, *figures])
    names = ["clouds", ">tuned, others", ">bytes of one", ">file", ">tuned on", ">others", ">pays after", ">tuning, CPU s"]
    return table(names, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the clouds")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--limit", type=int, default=len(SETS), help="measure so many sets, then stop")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "adaptation.md")
    options = parser.parse_args()
    digest = Encoder(CodecConfig(model=options.model)).model_hash
    rows = [row for row in read_csv(options.csv, Row, missing_ok=True) if row.model == digest]
    known = {row.name for row in rows}
    for name in [name for name in SETS if name not in known][: options.limit]:
        rows.append(measure(name, options.shared, options.model))
        print(rows[-1], flush=True)
        write_csv(options.csv, rows, Row)
    rows.sort(key=lambda row: list(SETS).index(row.name))
    command = shlex.join(["python", "scripts/shared_adaptation.py", "ROWS.csv", "--shared", str(options.shared)])
    text = f"    {command}\n\nModel `{options.model}` {digest}, heads tuned for {STEPS} steps:\n\n{section(rows)}"
    write_section(options.markdown, "shared", text)


if __name__ == "__main__":
    main()
