#!/usr/bin/env python3
"""What instance-adaptive fine-tuning brings: clouds encoded with several numbers of steps, decoded, compared, measured.

    python scripts/adaptation_table.py ROWS.csv --suite ../shared/data/test                  # all that docs/adaptation.md shows
    python scripts/adaptation_table.py ROWS.csv CLOUD.npz --steps 0 50 200 800               # others, one by one
    python scripts/adaptation_table.py ROWS.csv CLOUD.npz --stress noise --grid 10bit

Rows that the CSV has for the same model are not measured again. A cloud's grid is that of `anypcc evaluate`, points of one
cell are one. Seconds are of all cores together (CPU time). `--limit N` stops after so many seconds, to be gone on with.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from anypcc_ros.codec.bitstream import inspect  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig  # noqa: E402
from anypcc_ros.evaluation.document import table, write_section  # noqa: E402
from anypcc_ros.evaluation.rows import read_csv, write_csv  # noqa: E402
from anypcc_ros.evaluation.stress import KINDS, StressSource  # noqa: E402
from anypcc_ros.evaluation.suite import FileSource, step_of_grid  # noqa: E402

CATEGORIES = ("gs", "photogrammetry", "medical")
STRESSED = (
    "medical/niivue+niivue__T1.npz",
    "photogrammetry/potree+potree__pointclouds_lion_takanawa.copc.npz",
    "lidar_spinning/tier4+nebula__vlp32_1713492677464078412.npz",
)
TIMED = (
    "gs/playcanvas+engine__splats_biker.compressed.npz",
    "photogrammetry/potree+potree__pointclouds_lion_takanawa.copc.npz",
    "medical/FNNDSC+data__andrei_abdomen_bone.npz",
    "medical/FNNDSC+data__andrei_abdomen_skin.npz",
)
"""With other numbers of steps as well; and the second of ``STRESSED`` in every kind of stress."""


@dataclass(frozen=True)
class Row:
    """One cloud on one grid, tuned for so many ``steps``. ``model``: its hash. ``bytes``: of the stream, of which ``weights``
    are the adaptation. Seconds of CPU time."""

    model: str
    category: str
    file: str
    grid: str
    points: int
    steps: int
    bytes: int
    weights: int
    encode_s: float
    decode_s: float


Source = FileSource | StressSource
Work = tuple[Source, str, int]
"""A cloud, its grid ("" for the category's), and a number of steps."""


def work_of(suite: Path) -> Iterator[Work]:
    """All that is shown in the document."""
    for category in CATEGORIES:
        for path in sorted((suite / category).glob("*.npz")):
            for grid in ("", "10bit") if category == "gs" else ("",):
                yield from ((FileSource(path), grid, steps) for steps in (0, 200))
    for kind in KINDS:
        for file in STRESSED:
            numbers = (0, 50, 200, 800) if file == STRESSED[1] else (0, 200)
            yield from ((StressSource(FileSource(suite / file), kind), "", steps) for steps in numbers)
    for file in TIMED:
        yield from ((FileSource(suite / file), "", steps) for steps in (50, 800))


def measure(source: Source, grid: str, steps: int, model: str) -> Row:
    """One row; raises SystemExit where the decoded cloud is not the one without adaptation."""
    cloud, unit = source.load()
    name = grid or source.grids(cloud, unit)[0].grid
    config = {"step": step_of_grid(name, cloud, unit) / unit, "merge_duplicates": True, "model": model}
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
    seconds = round(encoded - start, 2), round(end - encoded, 2)
    return Row(encoder.model_hash, source.category, source.file, name, len(cloud), steps, len(data), weights, *seconds)


def tables(rows: list[Row]) -> str:
    """Two tables: each cloud at 200 steps, or as many as there are; and time and bytes by steps, sums over kinds of clouds."""
    of = {(r.file, r.grid, r.steps): r for r in rows}
    lines, clouds = [], sorted({(r.category, r.file, r.grid) for r in rows})
    for category, file, grid in clouds:
        plain = of[file, grid, 0]
        steps = [s for f, g, s in of if (f, g) == (file, grid) and s]
        bits = 8 / plain.points
        cells = []
        for count in (50, 200, 800):
            tuned = of.get((file, grid, count))
            cells.append(f"{100 * (tuned.bytes / plain.bytes - 1):+.2f}" if tuned else "")
        tuned = of[file, grid, 200 if 200 in steps else max(steps)]
        name, parts = file.rpartition("/")[2].removesuffix(".npz")[-34:], (tuned.bytes - tuned.weights, tuned.weights)
        figures = f"{bits * plain.bytes:.3f}", " + ".join(f"{bits * part:.3f}" for part in parts)
        lines.append([category, name, grid, *figures, *cells])
    found = table(["category", "cloud", "grid", ">bpp", ">positions + weights", ">50", ">200 steps, %", ">800"], lines)
    return found + "\n\n" + table(["clouds", ">steps", ">bytes", ">encoding, CPU s", ">decoding, CPU s"], list(_timed(rows)))


def _timed(rows: list[Row]) -> Iterator[list[str]]:
    """Lines of the clouds that were measured with every number of steps."""
    steps = sorted({row.steps for row in rows})
    of = {(row.file, row.grid, row.steps): row for row in rows}
    whole = [key for key in of if all((*key[:2], count) in of for count in steps)]
    kinds = sorted({of[key].category for key in whole}, key=[*CATEGORIES, *KINDS].index)
    for kind in kinds:
        clouds = sorted({key[:2] for key in whole if of[key].category == kind})
        for count in steps:
            some = [of[(*cloud, count)] for cloud in clouds]
            seconds = [f"{sum(times):.1f}" for times in zip(*((row.encode_s, row.decode_s) for row in some), strict=True)]
            name = f"{kind}, {len(clouds)}" if count == steps[0] else ""
            yield [name, str(count), f"{sum(row.bytes for row in some):,}", *seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--suite", type=Path, help="folder of test clouds")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--grid", default="", help="another grid than the category's, like 10bit")
    parser.add_argument("--stress", choices=KINDS, help="the clouds made harder, as in the stress set")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS", help="begin nothing after this time")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "adaptation.md")
    options = parser.parse_args()
    digest = Encoder(CodecConfig(model=options.model)).model_hash
    rows = [row for row in read_csv(options.csv, Row, missing_ok=True) if row.model == digest]
    known = {(row.file, row.grid, row.steps) for row in rows}
    sources: list[Source] = [FileSource(path) for path in options.files]
    if options.stress:
        sources = [StressSource(FileSource(path), options.stress) for path in options.files]
    work: list[Work] = [(source, options.grid, steps) for source in sources for steps in options.steps]
    start = time.monotonic()
    for source, grid, steps in [*work, *(work_of(options.suite) if options.suite else ())]:
        if time.monotonic() - start > options.limit:
            break
        if not grid:
            cloud, unit = source.load()
            grid = source.grids(cloud, unit)[0].grid
        if (source.file, grid, steps) in known:
            continue
        rows.append(measure(source, grid, steps, options.model))
        print(rows[-1], flush=True)
        write_csv(options.csv, rows, Row)
    command = shlex.join(["python", "scripts/adaptation_table.py", "ROWS.csv", "--suite", str(options.suite or "FOLDER")])
    text = f"    {command}\n\nModel `{options.model}` {digest}:\n\n{tables(rows)}"
    write_section(options.markdown, "fine-tuning", text)


if __name__ == "__main__":
    main()
