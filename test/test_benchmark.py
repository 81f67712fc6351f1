"""The benchmark on real but small measurements. Nothing here asserts how long anything takes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from command import anypcc, check_failure

from anypcc_ros import CodecConfig, Decoder, DecoderConfig, Encoder, PointCloud
from anypcc_ros.codec import position_encoder
from anypcc_ros.codec.errors import InputError
from anypcc_ros.codec.kernels import native
from anypcc_ros.evaluation import benchmark, benchmark_report, machine, peers
from anypcc_ros.evaluation.benchmark import Row, Spread
from anypcc_ros.evaluation.stages import STAGES, Stopwatch, recording
from anypcc_ros.files import read_cloud, write_cloud

BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="no native kernels here")),
    "torch",
]


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory, sample_cloud: PointCloud) -> Path:
    """A file with 2,000 neighbouring points of a real frame."""
    nearest = np.argsort(np.linalg.norm(sample_cloud.xyz, axis=1))[:2000]
    path = tmp_path_factory.mktemp("benchmark") / "part.npz"
    write_cloud(path, PointCloud(sample_cloud.xyz[nearest]))
    return path


def row(codec: str = "anypcc", **changes: object) -> Row:
    spread = Spread(0.25, 0.2, 0.5)
    common = {"file": "a/b.npz", "step": 0.02, "threads": 1, "points": 1000, "voxels": 900, "bytes": 1250, "exact": True}
    ours = {"model": "standard", "backend": "native", "memory": 50_000_000} if codec == "anypcc" else {}
    return Row(**{"codec": codec, "encode": spread, "decode": spread, **common, **ours, **changes})  # type: ignore[arg-type]


# ---- stages


def test_stages_within_stages_count_their_own_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("anypcc_ros.evaluation.stages.time.perf_counter", lambda: now)
    watch = Stopwatch()
    inner = watch.timed("entropy", lambda: work(2))
    outer = watch.timed("heads", lambda: [inner(), inner(), work(1)])
    with watch.stage("other"):
        work(8)
        outer()
    assert {stage: seconds for stage, seconds in watch.seconds.items() if seconds} == {"entropy": 4, "heads": 1, "other": 8}


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_stage_is_seen_and_the_codec_is_put_back(backend: str, scan: PointCloud) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    # Centimetres along z on a grid of millimetres make a lattice, the repeated points duplicates.
    xyz = scan.xyz[:1500].astype(np.float64)
    xyz[:, 2] = np.rint(xyz[:, 2] * 100) / 100
    cloud = PointCloud(np.concatenate([xyz, xyz[:100]]))
    before = position_encoder.quantise, Encoder.encode
    encoder, plain = Encoder(CodecConfig(step=0.001, backend=backend, threads=1)), Encoder(CodecConfig(step=0.001))
    with recording(backend) as watch:
        data = encoder.encode(cloud)
    assert data == plain.encode(cloud)
    never = ["beams"]  # on a lattice none are looked for
    assert [stage for stage, seconds in watch.seconds.items() if not seconds] == never
    assert list(watch.seconds) == list(STAGES)
    with recording(backend) as watch:
        Decoder(DecoderConfig(backend=backend, threads=1)).decode(data)
    # The kernels' range decoder is a part of whatever reads from it.
    seen_elsewhere = ["entropy"] if native.available() else []
    assert [stage for stage, seconds in watch.seconds.items() if not seconds] == never + seen_elsewhere
    assert (position_encoder.quantise, Encoder.encode) == before

    with pytest.raises(InputError), recording(backend):
        encoder.encode(PointCloud(np.full((1, 3), 1e300)))
    assert position_encoder.quantise is before[0]


# ---- measurements


def test_a_cloud_with_several_configurations_and_peers(part: Path) -> None:
    configs = [CodecConfig(step=step, threads=1, merge_duplicates=True) for step in (0.02, 0.1)]
    results = list(benchmark.benchmark([part], configs, repeats=2))
    rows = [result for result in results if isinstance(result, Row)]
    assert len(rows) == len(results)
    ours = [measured for measured in rows if measured.codec == benchmark.OURS]
    assert [measured.step for measured in ours] == [0.02, 0.1]
    for measured, config in zip(ours, configs, strict=True):
        cloud = read_cloud(part)
        assert measured.bytes == len(Encoder(config).encode(cloud))
        assert (measured.points, measured.threads, measured.exact) == (2000, 1, True)
        assert measured.encode.low <= measured.encode.median <= measured.encode.high
        assert sum(measured.encode_stages.values()) > 0
        assert {"grid", "levels", "prior", "heads", "calibration"} <= set(measured.decode_stages)
        assert measured.memory is None or 20e6 < measured.memory < 2e9
    pytest.importorskip("DracoPy")
    assert [measured.voxels for measured in rows if measured.codec == "Draco"] == [measured.voxels for measured in ours]


def test_a_failing_peer_is_an_error_in_place_of_its_row(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / peers.GPCC_PROGRAM
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    results = list(benchmark.benchmark([part], [CodecConfig(step=0.1)], repeats=1))
    errors = [str(result) for result in results if not isinstance(result, Row)]
    assert len(errors) == len(peers.GPCC)
    assert all(error == f"{part}: tmc3 ended with status 3: no licence" for error in errors)
    assert benchmark.OURS in [result.codec for result in results if isinstance(result, Row)]


def test_peers_return_what_they_were_given(sample_cloud: PointCloud) -> None:
    cells = np.unique(np.rint(sample_cloud.xyz[:3000] / 0.05).astype(np.int64), axis=0)
    known = {
        "Draco": peers.run_draco(cells),
        "zstd": peers.run_zstd(sample_cloud),
        **{setting: peers.run_gpcc(cells, setting) for setting in peers.GPCC},
    }
    for run in filter(None, known.values()):
        assert run.bytes > 0
        assert min(run.encode_s, run.decode_s) >= 0
    with pytest.raises(peers.PeerError, match="other cells than the 2"):
        peers._check_cells("X", np.zeros((2, 3)), np.array([[5, 0, 0], [6, 0, 0]]))


def test_errors_of_the_measuring_process(tmp_path: Path) -> None:
    with pytest.raises(benchmark.BenchmarkError, match=r"no\.ply: cannot read"):
        benchmark.in_fresh_process(benchmark.measure_file, tmp_path / "no.ply", CodecConfig(), 1, False)
    with pytest.raises(benchmark.BenchmarkError, match=r"^3: the measuring process was killed"):
        benchmark.in_fresh_process(os._exit, 3)
    # An exception of three arguments, which pickle could not bring back.
    with pytest.raises(benchmark.BenchmarkError, match=r"^-1\.0: step=-1\.0: must be at least"):
        benchmark.in_fresh_process(CodecConfig, -1.0)


def test_memory_over_many_frames(part: Path) -> None:
    samples = benchmark.endurance([part, part], CodecConfig(step=0.1, threads=1), 20)
    assert [sample.frames for sample in samples] == list(range(2, 21, 2))
    assert all(sample.memory > 1 << 20 for sample in samples)
    assert samples[-1].memory < 1.1 * samples[1].memory
    table = benchmark_report.endurance_markdown(samples, "anypcc benchmark --frames 20").splitlines()
    assert len([line for line in table if line.startswith("| ")]) == 1 + len(samples)


# ---- growth


@pytest.mark.parametrize("points", [1, 700, 2000, 2001, 25_000])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_resized_clouds_keep_density_and_grid(part: Path, points: int, dtype: type) -> None:
    """A part is the middle of the cloud; a multiple repeats it whole steps apart, without points in one cell."""
    cells = np.unique(np.rint(read_cloud(part).xyz / 0.25), axis=0)
    cloud = PointCloud((cells if dtype == np.int32 else cells * 0.25).astype(dtype))
    step = 1.0 if dtype == np.int32 else 0.25
    result = benchmark.resized(cloud, points, step).xyz
    assert result.shape == (points, 3)
    assert result.dtype == dtype
    grid = result.astype(np.float64) / step
    np.testing.assert_array_equal(grid, np.rint(grid))
    assert len(np.unique(grid, axis=0)) == points
    if points <= len(cloud):
        assert set(map(tuple, result)) <= set(map(tuple, cloud.xyz))


def test_growth(part: Path) -> None:
    rows = list(benchmark.growth(part, CodecConfig(step=0.05, threads=1), [100, 3000], repeats=1))
    assert [(measured.file, measured.points, measured.exact) for measured in rows] == [
        (str(part), 100, True),
        (str(part), 3000, True),
    ]
    with pytest.raises(InputError, match="cannot be tiled"):
        benchmark.resized(PointCloud(np.zeros((0, 3))), 10, 1)


# ---- reports


def test_tables() -> None:
    ours = row(encode_stages={"grid": 0.05, "entropy": 0.1}, decode_stages={"entropy": 0.2})
    text = benchmark_report.markdown([ours, row("Draco")], "anypcc benchmark a/b.npz")
    assert machine.describe() in text
    assert "    anypcc benchmark a/b.npz\n" in text
    times = "250 ms (200–500) | 250 ms (200–500) | 0.00 | 0.00"
    assert f"| b | 0.02 | anypcc standard | 1 | 1250 | **10.000** | {times} | 50 | yes |" in text
    assert f"| b | 0.02 | Draco | 1 | 1250 | 10.000 | {times} |  | yes |" in text
    assert "| b | 0.02 | anypcc standard | 1 | decode | 0.0 | 200.0 | 200.0 |" in text
    assert "| b | 0.02 | anypcc standard | 1 | encode | 50.0 | 100.0 | 150.0 |" in text
    assert "lattice" not in text
    grown = benchmark_report.growth_markdown([row(points=125_000)], "anypcc benchmark --growth")
    times = "250 ms (200–500) | 250 ms (200–500) | 2.00 | 2.00"
    assert f"| b 0.02 | 125,000 | anypcc standard | 1 | 0.080 | {times} | 50 |" in grown


def test_csv() -> None:
    text = benchmark.to_csv([row("Draco"), row(encode_stages={"grid": 0.05})])
    peer, ours = csv.DictReader(text.splitlines())
    assert (peer["codec"], peer["memory_mb"], peer["encode_grid_ms"]) == ("Draco", "", "")
    assert (ours["encode_ms"], ours["encode_max_ms"], ours["encode_points_per_s"]) == ("250", "500", "4000")
    assert (ours["memory_mb"], ours["encode_grid_ms"], ours["bpp"]) == ("50", "50", "10")
    assert text.split("\n")[0].endswith("encode_grid_ms")
    [instant] = csv.DictReader(benchmark.to_csv([row("G-PCC", encode=Spread(0, 0, 0))]).splitlines())
    assert (instant["encode_ms"], instant["encode_points_per_s"]) == ("0", ""), "below the resolution of its clock"


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(), row(threads=2), row("Draco"), row("zstd, not rounded", bytes=60_000)]
    benchmark_report.plot(rows, tmp_path / "rate.png")
    benchmark_report.plot_growth([row(), row(points=9000), row(points=9000, memory=None)], tmp_path / "growth.png")
    for name in ("rate.png", "growth.png"):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert 5_000 < len(data) < 200_000


# ---- the command


def test_command(part: Path) -> None:
    pytest.importorskip("matplotlib")
    outputs = ["--csv", "b.csv", "--markdown", "b.md", "--plot", "b.png"]
    done = anypcc(
        "benchmark", "part.npz", "--step", 0.05, "--threads", 1, "--threads", 2, "--repeats", 1, *outputs, cwd=part.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    rows = list(csv.DictReader((part.parent / "b.csv").open()))
    assert [(each["threads"], each["exact"]) for each in rows if each["codec"] == "anypcc"] == [("1", "True"), ("2", "True")]
    assert "anypcc benchmark part.npz --step 0.05 --threads 1" in (part.parent / "b.md").read_text()
    assert (part.parent / "b.png").stat().st_size > 5_000

    done = anypcc("benchmark", "part.npz", "--grid-bits", 8, "--growth", "--points", 500, "--repeats", 1, cwd=part.parent)
    assert done.returncode == 0, done.stderr
    assert "| 500 |" in done.stdout


def test_a_cloud_without_points(part: Path) -> None:
    write_cloud(part.parent / "empty.ply", PointCloud(np.zeros((0, 3), np.float32)))
    done = anypcc("benchmark", "empty.ply", "--step", 1, "--repeats", 1, cwd=part.parent)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["part.npz"], 2, "--step --grid-bits is required"),
        (["part.npz", "--step", "1", "--points", "5"], 2, "--points needs --growth"),
        (["part.npz", "--step", "1", "--step", "2", "--frames", "5"], 2, "--frames takes one configuration"),
        (["part.npz", "--step", "1", "--repeats", "0"], 2, "0 is not positive"),
        (["part.npz", "--step", "-1"], 2, "--step -1.0: must be at least"),
        (["part.npz", "--step", "1", "--threads", "99"], 2, "--threads 99: must be at most 64"),
        (["part.npz", "--step", "1", "--model", "nonesuch"], 1, "model nonesuch is not installed"),
        (["no.ply", "--step", "1"], 1, "no.ply: cannot read"),
        (["no.ply", "--step", "1", "--growth"], 1, "no.ply: cannot read"),
    ],
)
def test_failures(
    part: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(part.parent)
    check_failure(["benchmark", *arguments], status, message, capsys)
