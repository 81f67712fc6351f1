"""The scripts that train several models and compare them, with a handful of steps each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("DracoPy")

from anypcc_ros import PointCloud, cli
from anypcc_ros.files import write_cloud

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, *arguments: object) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory, scan: PointCloud) -> Path:
    """A folder with one small scan and one small voxelised body."""
    folder = tmp_path_factory.mktemp("clouds")
    body = np.unique(np.rint(scan.xyz[::4] * 20).astype(np.int32), axis=0)
    for category, xyz in (("lidar_spinning", scan.xyz[::4].copy()), ("dense_human", body)):
        (folder / category).mkdir()
        write_cloud(folder / category / "cloud.npz", PointCloud(xyz))
    return folder


def rows_of(text: str) -> dict[str, list[str]]:
    """The last table's cells by first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = max(i for i, line in enumerate(lines) if re.fullmatch("-+:?", line[0]))
    return {line[0]: line[1:] for line in lines[start + 1 :]}


def test_ablation_trains_every_variant_and_goes_on(clouds: Path, tmp_path: Path) -> None:
    data = ["--data", clouds, "--val", clouds, "--out", tmp_path / "runs", "--categories", "lidar_spinning", "dense_human"]
    short = ["--steps", 2, "--points", 600, "--parent-convs", 1]
    rows = rows_of(script("ablation.py", *data, *short))
    assert len(rows) == 5
    baseline, best = rows["baseline"], rows["both, aggregated by convolution"]
    assert (baseline[3], baseline[4], best[4]) == ("+0.0 %", "+0.0 %", "-9.9 %")
    sizes = [int(row[0]) for row in rows.values()]
    assert len(set(sizes)) == 5, "every variant is a network of its own"
    changes = [100 * (float(best[i]) / float(baseline[i]) - 1) for i in (1, 2)]
    assert float(best[3].removesuffix(" %")) == pytest.approx(np.mean(changes), abs=0.1)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*_0/checkpoint.pt")}
    (tmp_path / "doc.md").write_text("kept\n<!-- begin ablation -->\n<!-- end ablation -->\n")
    script("ablation.py", *data, *short, "--seeds", 0, 1, "--markdown", tmp_path / "doc.md")
    assert before == {path: path.stat().st_mtime_ns for path in before}, "the first seed is not trained again"
    text = (tmp_path / "doc.md").read_text()
    assert text.startswith("kept\n")
    assert "seeds 0, 1" in text
    assert re.search(r"\([-+]\d+\.\d to [-+]\d+\.\d\)", text)


def test_category_models_beside_the_universal_one(clouds: Path, tmp_path: Path) -> None:
    shape = ["--channels", "16", "--parent-convs", "1", "--child-convs", "0", "--points", "600"]
    run = str(tmp_path / "universal")
    assert cli.main(["train", "--data", str(clouds), "--val", str(clouds), "--out", run, "--steps", "2", *shape]) == 0
    model = tmp_path / "any.safetensors"
    assert cli.main(["export", run, "-o", str(model)]) == 0
    (tmp_path / "peers.csv").write_text("file,grid,step,points,voxels,peer,bpp\n")
    text = script(
        "category_models.py", "--run", run, "--universal", model, "--steps", 2, "--categories", "dense_human", "--data", clouds,
        "--val", clouds, "--suite", clouds, "--peers", tmp_path / "peers.csv", "--out", tmp_path / "out", "--jobs", 1,
        "--markdown", tmp_path / "doc.md", "--train-options", "--points", 600,
    )  # fmt: skip
    [(category, cells)] = rows_of(text).items()
    assert (category, cells[0], cells[1]) == ("dense_human", "native", "1")
    universal, own = float(cells[2]), float(cells[3])
    assert float(cells[4].removesuffix(" %")) == pytest.approx(100 * (own / universal - 1), abs=0.1)
    assert cells[6] == ("yes" if own < 0.97 * universal else "no")
    assert "2 steps from `any`" in (tmp_path / "doc.md").read_text()


FACES = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def test_synthetic_volumes_are_boundaries_and_come_from_their_seed(tmp_path: Path) -> None:
    script("make_volumes.py", tmp_path, "--count", 2, "--edge", 96)
    files = sorted((tmp_path / "synthetic_volume").glob("*.npz"))
    volumes = [np.load(file)["xyz"] for file in files]
    assert len(volumes) == 2
    for xyz in volumes:
        assert xyz.dtype == np.int32
        cells = {tuple(cell) for cell in xyz.tolist()}
        assert len(cells) == len(xyz) > 100
        buried = [(x, y, z) for x, y, z in cells if all((x + dx, y + dy, z + dz) in cells for dx, dy, dz in FACES)]
        assert len(buried) < 0.3 * len(cells)  # a surface, though noise makes places thick
    script("make_volumes.py", tmp_path, "--count", 2, "--edge", 96)
    assert all(np.array_equal(np.load(file)["xyz"], xyz) for file, xyz in zip(files, volumes, strict=True))
