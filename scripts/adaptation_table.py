#!/usr/bin/env python3
"""What instance-adaptive fine-tuning brings: clouds encoded with several numbers of steps, decoded, compared, measured.

    python scripts/adaptation_table.py ROWS.csv ../shared/data/test/gs/*.npz --steps 0 50 200 800
    python scripts/adaptation_table.py ROWS.csv ../shared/data/test/medical/*.npz --stress noise
    python scripts/adaptation_table.py ROWS.csv --markdown docs/adaptation.md

Rows that the CSV has are not measured again. A cloud's grid is that of `anypcc evaluate`, points of one cell are one. Seconds
are of all cores together (CPU time).
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.bitstream import inspect  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.stress import KINDS, StressSource  # noqa: E402
from anypcc_ros.evaluation.suite import FileSource, step_of_grid  # noqa: E402

COLUMNS = ("category", "file", "grid", "points", "steps", "bytes", "weights", "encode_s", "decode_s")
Row = dict[str, str]


def measure(source: FileSource | StressSource, grid: str, steps: int) -> Row:
    """One row; raises SystemExit where the decoded cloud is not the one without adaptation."""
    cloud, unit = source.load()
    name = grid or source.grids(cloud, unit)[0].grid
    config = {"step": step_of_grid(name, cloud, unit) / unit, "merge_duplicates": True}
    encoder, decoder = Encoder(CodecConfig(**config, adapt_steps=steps)), Decoder()
    plain = decoder.decode(Encoder(CodecConfig(**config)).encode(cloud))
    start = time.process_time()
    data = encoder.encode(cloud)
    encoded = time.process_time()
    decoded = decoder.decode(data)
    end = time.process_time()
    if not np.array_equal(decoded.xyz, plain.xyz):
        raise SystemExit(f"{source.file}: another cloud came back")
    weights = {chunk.tag: chunk.size for chunk in inspect(data).chunks}.get("ADAP", 0)
    values = source.category, source.file, name, len(cloud), steps, len(data), weights, encoded - start, end - encoded
    return {key: f"{v:.2f}" if isinstance(v, float) else str(v) for key, v in zip(COLUMNS, values, strict=True)}


def tables(rows: list[Row]) -> str:
    """Two tables: each cloud at 200 steps, or as many as there are; sums of seconds by steps."""
    of = {(r["file"], r["grid"], int(r["steps"])): r for r in rows}
    lines, clouds = [], sorted({(r["category"], r["file"], r["grid"]) for r in rows})
    for category, file, grid in clouds:
        plain = of[file, grid, 0]
        steps = [s for f, g, s in of if (f, g) == (file, grid) and s]
        bits = 8 / int(plain["points"])
        cells = []
        for count in (50, 200, 800):
            tuned = of.get((file, grid, count))
            cells.append(f"{100 * (int(tuned['bytes']) / int(plain['bytes']) - 1):+.2f}" if tuned else "")
        tuned = of[file, grid, 200 if 200 in steps else max(steps)]
        size, weights = int(tuned["bytes"]), int(tuned["weights"])
        lines.append(
            [category, file.rpartition("/")[2].removesuffix(".npz")[-34:], grid, f"{bits * int(plain['bytes']):.3f}",
             f"{bits * (size - weights):.3f} + {bits * weights:.3f}", *cells]
        )  # fmt: skip
    found = table(["category", "cloud", "grid", ">bpp", ">positions + weights", ">50", ">200 steps, %", ">800"], lines)
    timed = []
    for count in sorted({s for _, _, s in of}):
        alike = [key for key in of if key[2] == count and all((*key[:2], s) in of for s in (0, 50, 200, 800))]
        if alike:
            seconds = [sum(float(of[key][name]) for key in alike) for name in ("encode_s", "decode_s")]
            total = sum(int(of[key]["bytes"]) for key in alike)
            timed.append([str(count), str(len(alike)), f"{total}", f"{seconds[0]:.1f}", f"{seconds[1]:.1f}"])
    return found + "\n\n" + table([">steps", ">clouds", ">bytes", ">encoding, CPU s", ">decoding, CPU s"], timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--grid", default="", help="another grid than the category's, like 10bit")
    parser.add_argument("--stress", choices=KINDS, help="the clouds made harder, as in the stress set")
    parser.add_argument("--markdown", type=Path, help="write tables of all rows here")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.csv.exists():
        with options.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    known = {(row["file"], row["grid"], row["steps"]) for row in rows}
    for path in options.files:
        source = StressSource(FileSource(path), options.stress) if options.stress else FileSource(path)
        cloud, unit = source.load()
        grid = options.grid or source.grids(cloud, unit)[0].grid
        for steps in options.steps:
            if (source.file, grid, str(steps)) in known:
                continue
            rows.append(measure(source, grid, steps))
            print(*rows[-1].values(), flush=True)
            with options.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    if options.markdown:
        write_section(options.markdown, "fine-tuning", tables(rows))


if __name__ == "__main__":
    main()
