"""Whole messages by this codec and by others: what is measured, and that a loss would be noticed."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import anypcc

pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("zstandard", reason="needs the extra [bags]")

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import AnypccError, FileError
from anypcc_ros.evaluation import message_peers, messages
from anypcc_ros.evaluation.message_report import check, markdown
from anypcc_ros.evaluation.message_samples import Sample, samples
from anypcc_ros.evaluation.messages import EXACT, GRID, MessageRow, configurations, measure
from anypcc_ros.files import write_cloud
from anypcc_ros.pointcloud2 import body_from_cloud

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "lidar"


@pytest.fixture(scope="module")
def sample(scan: PointCloud) -> Sample:
    rng = np.random.default_rng(0)
    fields = {
        "intensity": (rng.integers(0, 100, len(scan)) / 100).astype(np.float32),
        "ring": np.repeat(np.arange(16, dtype=np.uint16), 375),
        "t": np.tile(np.arange(375) * 1e-4, 16),
        "rgb": rng.integers(0, 256, len(scan)).astype(np.uint32).view(np.float32),
    }
    cloud = PointCloud(scan.xyz, fields)
    return Sample("here", "scan", body_from_cloud(cloud), cloud)


@pytest.fixture(scope="module")
def rows(sample: Sample) -> list[MessageRow]:
    pytest.importorskip("DracoPy", reason="needs the extra [eval]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_peers, "CLOUDINI_PROGRAM", "there is none")
        return list(measure(sample, [CodecConfig(step=0.016), CodecConfig(step=0.001)], peers=True))


def test_every_codec_is_measured_on_the_same_message(rows: list[MessageRow], sample: Sample) -> None:
    assert [(row.codec, row.setting, row.step) for row in rows] == [
        ("anypcc", GRID, 0.016),
        ("anypcc", GRID, 0.001),
        ("Draco", GRID, 0.016),
        ("Draco", GRID, 0.001),
        ("zstd -1", "", None),
        ("zstd -3", "", None),
        ("zstd -19", "", None),
        ("lz4", "", None),
    ]
    for row in rows:
        assert row.kept
        assert (row.points, row.message_bytes) == (6000, 6000 * 30)
        assert row.ratio == row.message_bytes / row.bytes
        assert row.fields == "x, y, z, intensity, ring, t, rgb"
    assert rows[0].bytes < rows[1].bytes < min(row.bytes for row in rows[4:])
    parts = dict(part.rsplit(" ", 1) for part in rows[0].parts.split("; "))
    assert list(parts) == ["x, y, z", "intensity", "ring", "t", "rgb"]
    assert sum(map(float, parts.values())) == pytest.approx(rows[0].bpp, abs=0.05)
    errors = dict(part.rsplit(" ", 1) for part in rows[0].errors.split("; "))
    assert 0.007 < float(errors.pop("x, y, z")) <= 0.00801
    assert set(errors.values()) == {"0"}


def test_draco_merges_points_that_are_equal(sample: Sample) -> None:
    pytest.importorskip("DracoPy", reason="needs the extra [eval]")
    twice = sample.cloud.take(np.arange(len(sample.cloud)).repeat(2))
    measured = measure(Sample("here", "twice", body_from_cloud(twice), twice), [CodecConfig(step=0.001)], peers=True)
    [row] = [row for row in measured if row.codec == "Draco"]
    assert row.lost == "the order of the points, 6000 points like others"


def test_cloudini_rounds_float32_fields(sample: Sample) -> None:
    if not shutil.which(message_peers.CLOUDINI_PROGRAM):
        pytest.skip(f"needs {message_peers.CLOUDINI_PROGRAM} on the PATH, which no registry has")
    plain = PointCloud(sample.cloud.xyz, {name: sample.cloud.fields[name] for name in ("intensity", "ring", "t")})
    runs = message_peers.run_peers(Sample("here", "scan", body_from_cloud(plain), plain), [0.001])
    [row] = [run for run in runs if run.codec == message_peers.CLOUDINI]
    assert row.kept
    assert 0 < row.size < 26 * 6000
    errors = dict(part.rsplit(" ", 1) for part in row.errors.split("; "))
    assert 0.0004 < float(errors["x, y, z"]) < 0.00051
    assert (errors["ring"], errors["t"], row.lost) == ("0", "0", "intensity within 0.0005")


def test_a_loss_is_noticed(sample: Sample, rows: list[MessageRow], monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(messages.Decoder):
        def decode(self, data: bytes) -> PointCloud:
            cloud = super().decode(data)
            ring = cloud.fields["ring"].copy()
            ring[5] += 1
            return replace(cloud, fields={**cloud.fields, "ring": ring})

    monkeypatch.setattr(messages, "Decoder", Careless)
    [row] = measure(sample, [CodecConfig(step=0.016)], peers=False)
    assert not row.kept
    with pytest.raises(AnypccError, match="1 of 9 did not come back as promised: scan, anypcc"):
        check([*rows, row])


def test_settings_and_steps() -> None:
    configs = configurations(CodecConfig(), [0.001, 0.016])
    assert [(c.step, c.order, c.exact) for c in configs] == [
        (0.001, "codec", False),
        (0.016, "codec", False),
        (0.001, "original", False),
        (0.016, "original", False),
        (0.001, "codec", True),
        (0.001, "original", True),
    ]


def test_tables(rows: list[MessageRow]) -> None:
    exact = replace(rows[0], setting=EXACT, ratio=1.5)
    text = markdown([*rows, exact], "anypcc evaluate --messages x")
    assert text.startswith("    anypcc evaluate --messages x\n")
    lines = text.splitlines()
    assert f"| scan | 6000 | 0.016 | **{rows[0].ratio:.2f}** |  |  | {rows[2].ratio:.2f} |" in text
    assert sum(line.startswith("| scan |") for line in lines) == 3
    assert "| scan | 180000 | **1.50** |" in text
    assert f"| here | 1 | 0.001 | **{rows[1].ratio:.2f}** |  |  | {rows[3].ratio:.2f} |" in text


def test_samples_of_bags_files_and_folders(tmp_path: Path, scan: PointCloud) -> None:
    topics = {sample.name for sample in samples([SAMPLE])}
    assert topics == {"lidar /rubyplus/points", "lidar /os2_128/points", "lidar /pandar64/points"}
    colours = np.random.default_rng(0).integers(0, 256, (len(scan), 3)).astype(np.uint8)
    write_cloud(tmp_path / "colours.npz", PointCloud(scan.xyz, {"rgb": colours, "half": scan.xyz[:, 0].astype(np.float16)}))
    write_cloud(tmp_path / "plain.npz", PointCloud(scan.xyz))
    [sample] = samples([tmp_path])
    assert sample.name == "colours"
    packed = sample.cloud.fields["rgb"].view(np.uint32)
    np.testing.assert_array_equal(packed >> 8 & 255, colours[:, 1])
    assert sample.cloud.fields["half"].dtype == np.float32
    assert [sample.name for sample in samples([tmp_path / "plain.npz"])] == ["plain"]
    for name in ("broken.mcap", "broken.bag", "broken.cdr"):
        (tmp_path / name).write_bytes(b"\x00\x01\x02")
        with pytest.raises(AnypccError, match=name):
            list(samples([tmp_path / name]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"empty: 0 clouds, bags and messages below it"):
        list(samples([tmp_path / "empty"]))
    with pytest.raises(FileError, match=r"nowhere: cannot read: there is no such file"):
        list(samples([tmp_path / "nowhere"]))


def test_the_command(tmp_path: Path, scan: PointCloud) -> None:
    write_cloud(tmp_path / "a.npz", PointCloud(scan.xyz[:500], {"ring": np.zeros(500, np.uint8)}))
    (tmp_path / "results.md").write_text("By hand.\n<!-- begin messages -->\n<!-- end messages -->\n")
    outputs = ["--csv", "a.csv", "--markdown", "results.md"]
    done = anypcc("evaluate", "--messages", "a.npz", "--step", "0.02", "--no-live-peers", *outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "a.csv", newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [row["setting"] for row in table] == list(messages.SETTINGS)
    assert {row["kept"] for row in table} == {"True"}
    assert "| a | 500 | 0.02 |" in (tmp_path / "results.md").read_text()
