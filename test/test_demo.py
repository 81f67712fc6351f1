"""The demo's player and checker, and that the checker would notice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("matplotlib", reason="needs the extra [eval]")

from ros_network import started

from anypcc_ros.codec.cloud import PointCloud

pytestmark = pytest.mark.usefixtures("ros")

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "scripts" / "demo"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("demo_comparison", DEMO / "comparison.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.compare


def run_demo(folder: Path, told_step: float) -> subprocess.CompletedProcess[str]:
    """Four frames through the real nodes; the checker is told a step, the encoder's is 0.02."""
    picture = folder / "before_after.png"
    player = [sys.executable, DEMO / "player.py", ROOT / "sample" / "lidar", "--topic", "/rubyplus/points"]
    checker = [sys.executable, DEMO / "checker.py", "--step", told_step, "--frames", 4, "--picture", picture]
    with (
        started("encoder_node", step=0.02, diagnostics_period=0.0),
        started("decoder_node", diagnostics_period=0.0),
        subprocess.Popen(list(map(str, [*player, "--rate", 2, "--frames", 4]))) as playing,
    ):
        result = subprocess.run(list(map(str, checker)), capture_output=True, text=True, timeout=120)
        assert playing.wait() == 0
    return result


def test_the_demo_prints_a_line_for_each_frame_and_a_picture(tmp_path):
    result = run_demo(tmp_path, told_step=0.02)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    frames = [line.split() for line in lines[1:] if line.rstrip().endswith("exact")]
    assert len(frames) >= 2, result.stdout  # a busy machine may drop some
    number, points, size, bpp, ratio, encode_ms, decode_ms, delay_ms, error, verdict = frames[0]
    assert (number, points, verdict) == ("1", "29770", "exact")
    assert float(bpp) == pytest.approx(8 * int(size) / int(points), abs=1e-3)
    assert float(ratio) == pytest.approx(int(points) * 18 / int(size), abs=1e-2)
    assert float(delay_ms) > float(encode_ms) > 0 < float(decode_ms)
    assert 0.9 < float(error) < 1.001
    assert lines[-1] == f"all {len(frames)} exact on their grid, and every other field (intensity, ring) bit for bit"
    assert (tmp_path / "before_after.png").read_bytes().startswith(b"\x89PNG")


def test_the_checker_notices(tmp_path):
    result = run_demo(tmp_path, told_step=0.01)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT EXACT" in result.stdout


@pytest.mark.parametrize(
    ("bag", "rate", "status", "message"),
    [
        ("nowhere", "10", 1, "player: nowhere: "),
        (str(ROOT / "sample" / "lidar"), "10", 1, "player: no clouds on /nothing in "),
        ("nowhere", "0", 2, "--rate 0.0 is not positive"),
    ],
)
def test_a_player_without_clouds_says_so(tmp_path, bag, rate, status, message):
    command = [sys.executable, str(DEMO / "player.py"), bag, "--topic", "/nothing", "--rate", rate, "--frames", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_compare_notices_one_point(compare):
    step = 0.02
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-50, 50, (1000, 3)).astype(np.float32)
    xyz[1] = xyz[0]
    fields = {"ring": rng.integers(0, 9, 1000).astype(np.uint16), "normal": rng.normal(size=(1000, 3)).astype(np.float32)}
    fields["normal"][5] = np.nan
    fields["ring"][:2] = 1, 2
    original = PointCloud(xyz, fields)
    decoded = replace(original, xyz=(np.rint(xyz.astype(np.float64) / step) * step).astype(np.float32))
    decoded = decoded.take(np.arange(1000)[::-1])

    def judged(**changes):
        return compare(original, replace(decoded, **changes), step)

    assert judged().exact
    for change in (step, step / 8):
        wrong = decoded.xyz.copy()
        wrong[17, 1] += change
        assert not judged(xyz=wrong).exact
    assert not compare(original, decoded.take(np.arange(1, 1000)), step).exact
    assert not judged(xyz=decoded.xyz.astype(np.float64)).exact
    twice = decoded.xyz.copy()
    twice[0] = twice[7]
    assert not judged(xyz=twice).exact
    assert not judged(fields={"ring": decoded.fields["ring"]}).exact
    for name in fields:
        wrong = decoded.fields[name].copy()
        wrong.reshape(-1)[20] += 1
        assert judged(fields={**decoded.fields, name: wrong}).reason == f"1 points with another {name}"
    swapped = [*range(998), 999, 998]  # two points of one cell have no order, but each has its own fields
    assert compare(original, decoded.take(np.array(swapped)), step).exact
    assert not judged(fields={**decoded.fields, "ring": decoded.fields["ring"][swapped]}).exact
    assert compare(original.take(slice(0)), decoded.take(slice(0)), step).exact
