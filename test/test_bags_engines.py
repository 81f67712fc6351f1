"""Who does the work makes no difference to the bag; a worker that dies makes none either, or is told of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("mcap", reason="needs the extra [bags]")

import recordings

from anypcc_ros.bags.convert import Plan, convert
from anypcc_ros.bags.engines import Engine, InOrder, engine
from anypcc_ros.bags.errors import EngineError
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import CompressTask
from anypcc_ros.codec.config import CodecConfig

STRICT = DamageLog(keep_going=False)
PLAN = Plan(CompressTask(CodecConfig(step=0.01, threads=1)))
ROOT = Path(__file__).resolve().parents[1]


def test_the_bag_does_not_depend_on_the_number_of_jobs(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap", clouds=30)
    for jobs in (1, 2):
        with engine("", jobs) as workers:
            convert(source, tmp_path / f"{jobs}.mcap", PLAN, workers, STRICT)
    assert (tmp_path / "1.mcap").read_bytes() == (tmp_path / "2.mcap").read_bytes()


def kill_yourself(slice_: list[int]) -> list[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return slice_


def test_a_killed_process_is_an_error_and_no_hang():
    with engine("", 2) as workers, pytest.raises(EngineError, match="a worker process was killed"):
        list(InOrder(workers, kill_yourself).run((number, number, 1) for number in range(10)))


def runs(process: int) -> bool:
    """Whether there is such a process, and not only its exit status, which nobody may ever ask for in a container."""
    try:
        return Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_do_not_outlive_a_killed_run(tmp_path):
    """The workers say who they are, the run is killed, and they are gone."""
    code = """
import os, time
from anypcc_ros.bags.engines import InOrder, engine

def work(numbers):
    os.write(1, b"%d\\n" % os.getpid())  # in one write, that lines of two processes never mix
    time.sleep(0.2)
    return numbers

if __name__ == "__main__":
    with engine("", 2) as workers:
        list(InOrder(workers, work).run((number, number, 1 << 20) for number in range(10_000)))
"""
    (tmp_path / "run.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        workers: set[int] = set()
        try:
            while len(workers) < 2:  # the second one may start long after the first
                workers.add(int(running.stdout.readline()))
        finally:
            running.kill()
    end = time.monotonic() + 30
    while any(map(runs, workers)):
        assert time.monotonic() < end, f"{workers} are still there"
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 40 << 20])
def test_order_is_kept_and_memory_is_bounded(size):
    """Later slices finish earlier; no more is read than may wait."""
    read, given, most = 0, 0, 0

    def items() -> Iterator[tuple[int, int | None, int]]:
        nonlocal read
        for number in range(200):
            read += 1
            yield number, None if number % 3 == 0 else number, size

    def work(numbers: list[int]) -> list[int]:
        time.sleep(0.002 * (numbers[0] % 5))
        return [-number for number in numbers]

    with ThreadPoolExecutor(4) as pool:
        for number, result in InOrder(Engine(pool, 4, lambda future: future.result()), work).run(items()):
            assert number == given
            assert result == (None if number % 3 == 0 else -number)
            given += 1
            most = max(most, (read - given) * size)
    assert given == 200
    assert most <= (64 << 20) + 10 * max(size, 1 << 20)


def test_errors_of_the_work_are_not_swallowed():
    def work(numbers: list[int]) -> list[int]:
        raise RuntimeError(str(numbers))

    with engine("", 1) as here, pytest.raises(RuntimeError):
        list(InOrder(here, work).run([(0, 0, 1)]))


# A cluster: a scheduler and two workers, processes of their own as on other machines


class Cluster:
    """Dask's own programs on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                     "--scheduler-file", str(file))  # fmt: skip
        while not file.exists() or not file.read_text().strip().endswith("}"):
            assert self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"].removeprefix("tcp://")
        self.workers = [
            self._start("worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard") for _ in range(2)
        ]

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + program, *arguments]
        log = open(self._folder / "log", "ab")  # noqa: SIM115 - belongs to the process
        return subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="needs the extra [cluster]")
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster")
    yield made
    made.close()


def test_a_cluster_that_loses_a_worker_loses_nothing(tmp_path, cluster):
    source = recordings.write_mcap(tmp_path / "in.mcap", clouds=40)
    killed_at = 0

    def kill_one_in_the_middle(read: int, size: int, written: int) -> None:
        nonlocal killed_at
        if not killed_at and read > size // 3:
            cluster.workers[0].kill()
            killed_at = read

    with engine(f"dask://{cluster.address}", 1) as workers:
        convert(source, tmp_path / "cluster.mcap", PLAN, workers, STRICT, kill_one_in_the_middle)
    assert killed_at
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert cluster.workers[1].poll() is None
    with engine("", 1) as here:
        convert(source, tmp_path / "here.mcap", PLAN, here, STRICT)
    assert (tmp_path / "cluster.mcap").read_bytes() == (tmp_path / "here.mcap").read_bytes()


def test_a_cluster_that_is_not_there(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra [cluster]")
    monkeypatch.setattr("anypcc_ros.bags.engines.CONNECTING", 1.0)
    with pytest.raises(EngineError, match="no scheduler there"), engine("dask://127.0.0.1:9", 1):
        pass
