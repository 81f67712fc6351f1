"""The anypcc command: what it does in a process of its own, and how it fails."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command import anypcc, check_failure, status_of

from anypcc_ros import CodecConfig, PointCloud
from anypcc_ros.evaluation.cli import DATASET_NAMES
from anypcc_ros.files import read_cloud, write_cloud


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_cloud: PointCloud) -> Path:
    """A folder with a real frame as frame.ply and its stream on a 2 cm grid as frame.apcc."""
    path = tmp_path_factory.mktemp("anypcc")
    write_cloud(path / "frame.ply", sample_cloud)
    done = anypcc("encode", "frame.ply", "-o", "frame.apcc", "--step", "0.02", "--model", "standard", cwd=path)
    assert done.returncode == 0, done.stderr
    assert "29770 points" in done.stdout
    assert not done.stderr
    return path


@pytest.mark.parametrize("ending", [".ply", ".pcd", ".npz"])
def test_decode_returns_every_point_within_half_a_step(folder: Path, sample_cloud: PointCloud, ending: str) -> None:
    done = anypcc("decode", "frame.apcc", "-o", f"out{ending}", cwd=folder)
    assert done.returncode == 0, done.stderr
    decoded = read_cloud(folder / f"out{ending}").xyz
    expected = (np.rint(sample_cloud.xyz.astype(np.float64) / 0.02) * 0.02).astype(np.float32)
    np.testing.assert_array_equal(decoded[np.lexsort(decoded.T)], expected[np.lexsort(expected.T)])


def test_info(folder: Path) -> None:
    done = anypcc("info", "frame.apcc", "--json", cwd=folder)
    described = json.loads(done.stdout)
    assert described["points"] == 29770
    assert described["step"] == 0.02
    assert described["size"] == (folder / "frame.apcc").stat().st_size
    assert described["model_name"] == "standard"
    assert described["axis_error"] == 0.01
    assert described["point_error"] == pytest.approx(0.01 * 3**0.5)
    assert described["bpp"] == 8 * described["size"] / 29770
    plain = anypcc("info", "frame.apcc", cwd=folder).stdout
    assert described["model_hash"] in plain
    assert "29770 points" in plain


def test_cut(folder: Path) -> None:
    done = anypcc("cut", "frame.apcc", "-o", "shorter.apcc", "--drop-scales", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "1 scale dropped" in done.stdout
    assert "dropped intensity" in done.stderr
    dropped = ("--step", "0.02", "--drop-scales", "1", "--fields", "*=drop")
    again = anypcc("encode", "frame.ply", "-o", "again.apcc", *dropped, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "shorter.apcc").read_bytes() == (folder / "again.apcc").read_bytes()
    refused = anypcc("cut", "frame.apcc", "-o", "none.apcc", "--drop-scales", "12", cwd=folder)
    assert (refused.returncode, (folder / "none.apcc").exists()) == (1, False)
    assert "frame.apcc" in refused.stderr


def test_encode_to_a_size(folder: Path) -> None:
    done = anypcc("encode", "frame.ply", "-o", "sized.apcc", "--step", "0.05", "--target-bytes", "60000", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "sized.apcc").stat().st_size == pytest.approx(60_000, rel=0.0101)
    assert not done.stderr
    done = anypcc("encode", "frame.ply", "-o", "least.apcc", "--target-bytes", "10", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{(folder / 'least.apcc').stat().st_size} bytes, no grid comes nearer to the 10 wanted" in done.stderr


def test_evaluate_writes_one_row_per_file_and_step(folder: Path) -> None:
    done = anypcc(
        "evaluate", "frame.ply", "--step", "0.05", "--step", "0.2", "--model", "standard", "--csv", "out.csv", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((folder / "out.csv").open()))
    assert list(rows[0]) == ["file", "step", "points", "voxels", "bytes", "bpp", "encode_s", "decode_s", "exact"]
    assert [(row["file"], row["step"], row["exact"]) for row in rows] == [
        ("frame.ply", "0.05", "True"),
        ("frame.ply", "0.2", "True"),
    ]
    assert rows[0]["voxels"] == "8828"
    assert float(rows[0]["bpp"]) > float(rows[1]["bpp"])


def test_evaluate_on_grid_bits_and_duplicates(folder: Path) -> None:
    merged = anypcc("evaluate", "frame.ply", "--grid-bits", "9", cwd=folder)
    counted = anypcc("evaluate", "frame.ply", "--grid-bits", "9", "--no-merge-duplicates", cwd=folder)
    rows = [next(csv.DictReader(done.stdout.splitlines())) for done in (merged, counted)]
    extent = float(np.ptp(read_cloud(folder / "frame.ply").xyz.astype(float), axis=0).max())
    assert float(rows[0]["step"]) == pytest.approx(extent / 512)
    assert rows[0]["exact"] == rows[1]["exact"] == "True"
    assert int(rows[0]["bytes"]) < int(rows[1]["bytes"])


def test_integer_cloud_on_its_own_grid(folder: Path) -> None:
    xyz = np.unique(np.random.default_rng(0).integers(0, 40, (3000, 3)), axis=0).astype(np.int32)
    np.savez(folder / "body.npz", xyz=xyz)
    assert anypcc("encode", "body.npz", "-o", "body.apcc", "--step", "1", cwd=folder).returncode == 0
    assert anypcc("decode", "body.apcc", "-o", "back.npz", cwd=folder).returncode == 0
    back = read_cloud(folder / "back.npz").xyz
    assert back.dtype == np.int32
    np.testing.assert_array_equal(np.unique(back, axis=0), xyz)


def test_dropped_scales(folder: Path) -> None:
    done = anypcc("encode", "frame.ply", "-o", "coarse.apcc", "--step", "0.02", "--drop-scales", "4", cwd=folder)
    assert done.returncode == 0
    assert "4 scales dropped" in done.stdout
    assert (folder / "coarse.apcc").stat().st_size < (folder / "frame.apcc").stat().st_size / 3
    assert anypcc("evaluate", "frame.ply", "--step", "0.02", "--drop-scales", "4", cwd=folder).returncode == 0


def test_scales_of_a_surface_are_filled_in(folder: Path) -> None:
    direction = np.random.default_rng(8).normal(size=(40_000, 3))
    ball = np.unique(np.rint(direction / np.linalg.norm(direction, axis=1, keepdims=True) * 25).astype(np.int32), axis=0)
    np.savez(folder / "ball.npz", xyz=ball)
    done = anypcc("encode", "ball.npz", "-o", "ball.apcc", "--step", "1", "--drop-scales", "1", cwd=folder)
    assert "1 scale filled in (rms error 0." in done.stdout
    assert re.search(r"rms_error +0\.", anypcc("info", "ball.apcc", cwd=folder).stdout)
    cut = anypcc("cut", "ball.apcc", "-o", "cut.apcc", "--drop-scales", "1", cwd=folder)
    assert cut.returncode == 1
    assert "filled in" in cut.stderr
    told = anypcc("encode", "ball.npz", "-o", "ball.apcc", "--step", "1", "--drop-scales", "1", "--lossy", "scales", cwd=folder)
    assert "1 scale dropped" in told.stdout


def test_points_that_are_not_finite_are_dropped_and_counted(folder: Path) -> None:
    write_cloud(folder / "nan.pcd", PointCloud(np.array([[0, 0, 0], [np.nan, 0, 0], [1, np.inf, 0]], np.float32)))
    done = anypcc("encode", "nan.pcd", "-o", "nan.apcc", cwd=folder)
    assert done.returncode == 0
    assert "nan.pcd: 2 of 3 points are not finite" in done.stderr


def test_suite_writes_csv_and_markdown(folder: Path) -> None:
    (folder / "suite" / "lidar_spinning").mkdir(parents=True)
    write_cloud(folder / "suite" / "lidar_spinning" / "frame.npz", read_cloud(folder / "frame.ply"))
    suite = ["evaluate", "--suite", "suite", "--grid", "50mm", "--no-live-peers", "--jobs", "1", "--csv", "suite.csv"]
    done = anypcc(*suite, "--markdown", "suite.md", cwd=folder)
    assert done.returncode == 0, done.stderr
    [row] = csv.DictReader((folder / "suite.csv").open())
    assert (row["category"], row["grid"], row["voxels"], row["exact"]) == ("lidar_spinning", "50mm", "8828", "True")
    tables = (folder / "suite.md").read_text()
    assert "| lidar_spinning | 50mm | 1 |" in tables
    assert "    anypcc evaluate --suite suite --grid 50mm --no-live-peers --csv suite.csv --markdown suite.md\n" in tables
    again = anypcc(*suite, "--resume", "--group", "all=*", "--markdown", "suite.md", cwd=folder)
    assert (again.returncode, again.stderr) == (0, ""), "nothing is left to measure"
    tables = (folder / "suite.md").read_text()
    assert "| all | 50mm | 1 |" in tables
    (folder / "suite.csv").rename(folder / "suite.csv.part")  # as a run that was interrupted leaves it
    drawn = anypcc(*suite, "--tables-only", "--group", "all=*", "--markdown", "drawn.md", cwd=folder)
    assert drawn.returncode == 0, drawn.stderr
    assert (folder / "drawn.md").read_text().splitlines()[5:] == tables.splitlines()[5:]


def test_list_of_datasets_and_plot_of_training(folder: Path) -> None:
    listed = anypcc("evaluate", "--datasets", cwd=folder).stdout
    assert all(f"`{name}`" in listed for name in DATASET_NAMES)
    (folder / "log.csv").write_text("step,seconds,train_bits_per_node,gs\n500,290,4.07,25.3\n750,462,3.9,25.2\n")
    done = anypcc("evaluate", "--training-log", "log.csv", "--plots", "plots", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "plots" / "training.png").read_bytes()[:4] == b"\x89PNG"


# ---- failures: a message that names the file, an exit status, no file left behind


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["encode", "missing.ply", "-o", "x.apcc"], 1, "missing.ply: cannot read: No such file"),
        (["encode", "frame.apcc", "-o", "x.apcc"], 1, "frame.apcc: cannot read .apcc"),
        (["encode", "frame.ply", "-o", "x.apcc", "--model", "nonesuch"], 1, "model nonesuch is not installed"),
        (["encode", "frame.ply", "-o", "x.apcc", "--model", "random.ply"], 1, "random.ply: the file of a model is called *"),
        (["encode", "frame.ply", "-o", "nowhere/x.apcc"], 1, "nowhere/x.apcc: cannot write"),
        (["encode", "frame.ply", "-o", "x.apcc", "--step", "-1"], 2, "--step -1.0: must be at least"),
        (["encode", "frame.ply", "-o", "x.apcc", "--drop-scales", "99"], 2, "--drop-scales 99: must be at most 20"),
        (["encode", "frame.ply", "-o", "x.apcc", "--step", "1", "--grid-bits", "9"], 2, "not allowed with"),
        (["encode", "frame.ply", "-o", "x.apcc", "--grid-bits", "40"], 2, "40 is not between 1 and 31"),
        (["encode", "frame.ply"], 2, "-o"),
        (["decode", "frame.ply", "-o", "x.ply"], 1, "frame.ply: "),
        (["decode", "cut.apcc", "-o", "x.ply"], 1, "cut.apcc: 1000 of "),
        (["decode", "flipped.apcc", "-o", "x.ply"], 1, "flipped.apcc: "),
        (["decode", "frame.apcc", "-o", "x.xyz"], 1, "x.xyz: cannot write .xyz"),
        (["decode", "frame.apcc", "-o", "x.ply", "--max-points", "100"], 1, "frame.apcc: 29770 points declared"),
        (["decode", "frame.apcc", "-o", "x.ply", "--max-bytes", "100"], 1, "frame.apcc: longer than 100 bytes, the limit"),
        (["encode", "frame.ply", "-o", "frame.ply"], 1, "frame.ply: called like a cloud"),
        (["encode", "frame.ply", "-o", "nan.pcd"], 1, "nan.pcd: called like a cloud"),
        (["cut", "frame.apcc", "-o", "./frame.apcc", "--drop-scales", "1"], 1, "is the input frame.apcc, refusing"),
        (["encode", "random.ply", "-o", "x.apcc"], 1, "random.ply: not a readable PLY"),
        (["encode", "random.npz", "-o", "x.apcc"], 1, "random.npz: not an .npz archive: 1000 bytes that begin with"),
        (["decode", "frame.apcc", "-o", "x"], 1, "x: cannot write a file without ending; one of .ply"),
        (["evaluate", "frame.ply", "--step", "1", "--csv", "nowhere/x.csv"], 1, "nowhere/x.csv: cannot write: there is no"),
        (["benchmark", "frame.ply", "--step", "1", "--plot", "empty"], 1, "empty: not a regular file"),
        (["adapt", "frame.ply", "-o", "nowhere/x.apad"], 1, "nowhere/x.apad: cannot write"),
        (["adapt", "frame.ply", "-o", "random.ply"], 1, "random.ply: the file of an adaptation is called *.apad"),
        (["evaluate", "frame.ply", "--step", "1", "--csv", "random.ply"], 1, "random.ply: called like a cloud"),
        (["evaluate", "frame.ply", "--step", "1", "--markdown", "frame.apcc"], 1, "frame.apcc: called like a cloud"),
        (["benchmark", "frame.ply", "--step", "1", "--markdown", "random.npz"], 1, "random.npz: called like a cloud"),
        (["bag", "compress", "frame.ply", "small", "--report", "x.mcap"], 1, "x.mcap: called like a cloud"),
        (
            ["decode", "frame.apcc", "-o", "x.ply", "--model-dir", "nowhere"],
            2,
            "--model-dir 'nowhere': there is no such folder",
        ),
        (
            ["decode", "frame.apcc", "-o", "x.ply", "--adaptation", "cut.apcc"],
            1,
            "cut.apcc: 1000 bytes that begin with b'APCC'",
        ),
        (["info", "cut.apcc"], 1, "cut.apcc: "),
        (["info", "missing.apcc"], 1, "missing.apcc: cannot read: No such file"),
        (["evaluate", "frame.ply"], 2, "--step or --grid-bits"),
        (["evaluate", "--step", "1"], 2, "FILE... or --suite"),
        (["evaluate", "frame.ply", "--suite", "suite"], 2, "FILE... or --suite"),
        (["evaluate", "--suite", "suite", "--step", "1"], 2, "own grids"),
        (["evaluate", "--suite", "suite", "--group", "x"], 2, "NAME=PATTERN"),
        (["evaluate", "--dataset", "kitty", "suite"], 2, "no data set kitty; known are 8ivfb"),
        (["evaluate", "--dataset", "kitti", "suite"], 1, "suite: no SemanticKITTI"),
        (["evaluate", "frame.ply", "--step", "1", "--peers", "p.csv"], 2, "need --suite"),
        (["evaluate", "--suite", "empty", "--csv", "x.csv"], 1, "empty: no clouds"),
        (["evaluate", "frame.ply", "missing.ply", "--step", "1", "--csv", "x.csv"], 1, "missing.ply: cannot read"),
        ([], 2, "COMMAND"),
        (["train"], 2, "--data"),
        (["train", "--data", "x", "--val", "x", "--out", "x", "--decay", "2"], 2, "--decay 2.0: must be at most 1"),
        (["export"], 2, "RUN"),
    ],
)
def test_failures(
    folder: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = (folder / "frame.apcc").read_bytes()
    (folder / "cut.apcc").write_bytes(whole[:1000])
    (folder / "flipped.apcc").write_bytes(whole[:-50] + bytes(byte ^ 255 for byte in whole[-50:]))
    (folder / "empty").mkdir(exist_ok=True)
    for name in ("random.ply", "random.npz"):
        (folder / name).write_bytes(np.random.default_rng(0).bytes(1000))
    before = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    check_failure(arguments, status, message, capsys)
    assert sorted(folder.iterdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
def test_a_file_whose_name_is_no_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    done = anypcc("encode", "frame.ply", "-o", os.fsdecode(b"na\xefve.apcc"), "--step", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "na\\udcefve.apcc: " in done.stdout


def test_a_policy_for_no_field_is_told(folder: Path) -> None:
    policies = ["intensty=step:0.1", "ring=drop", "*=exact"]
    done = anypcc("encode", "frame.ply", "-o", "policy.apcc", "--step", "0.5", "--fields", *policies, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "frame.ply: no field is called intensty (fields: intensity, ring)\n")


def test_an_old_output_survives_a_failure(folder: Path) -> None:
    (folder / "old.ply").write_text("precious")
    (folder / "broken.apcc").write_bytes((folder / "frame.apcc").read_bytes()[:500])
    assert anypcc("decode", "broken.apcc", "-o", "old.ply", cwd=folder).returncode == 1
    assert (folder / "old.ply").read_text() == "precious"


@pytest.mark.parametrize(
    "command", ["encode", "decode", "info", "cut", "bag", "benchmark", "evaluate", "adapt", "train", "export"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command in ("train", "export"):
        pytest.importorskip("torch")
    assert status_of(command, "--help") == 0
    assert "--help" in capsys.readouterr().out


def test_help_names_every_option_and_what_is_carried(folder: Path) -> None:
    text = " ".join(anypcc("encode", "--help", cwd=folder).stdout.split())
    for option in dataclasses.fields(CodecConfig):
        assert f"--{option.name.replace('_', '-')}" in text
    assert "--step METRES" in text
    assert "--origin X Y Z" in text
    assert "All fields of a cloud are carried" in text


def test_a_model_is_trained_exported_and_used(
    folder: Path, sample_cloud: PointCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(folder)
    (folder / "data" / "lidar_spinning").mkdir(parents=True)
    np.savez(folder / "data" / "lidar_spinning" / "a.npz", xyz=sample_cloud.xyz[:3000])
    small = ["--channels", "16", "--parent-convs", "0", "--child-convs", "0", "--points", "800"]
    schedule = ["--steps", "2", "--validate-every", "2"]
    assert status_of("train", "--data", "data", "--val", "data", "--out", "run", *small, *schedule) == 0
    assert "lidar_spinning" in capsys.readouterr().out
    assert status_of("export", "run", "-o", "mine.safetensors", "--notes", "Hardly trained.") == 0
    assert "Hardly trained." in (folder / "mine.md").read_text()
    assert status_of("encode", "frame.ply", "-o", "mine.apcc", "--step", "0.02", "--model", "mine.safetensors") == 0
    assert status_of("decode", "mine.apcc", "-o", "mine.ply", "--model-dir", ".") == 0
    assert status_of("decode", "mine.apcc", "-o", "never.ply") == 1
    assert "is not installed" in capsys.readouterr().err
    assert not (folder / "never.ply").exists()
