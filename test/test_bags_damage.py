"""Broken bags, full disks and killed processes: clear errors, exit statuses, and an output that is whole or not there."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("mcap", reason="needs the extra [bags]")

import recordings
from mcap.reader import make_reader

from anypcc_ros import cli
from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.errors import DAMAGED, DIFFERENT, NOT_WRITTEN, REPORTED
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog

STEP = ("--step", "0.01", "--jobs", "1", "--quiet")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def run(command: str, *arguments: object) -> int:
    """One `anypcc bag` command in this process; its exit status."""
    try:
        return cli.main(["bag", command, *map(str, arguments)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def messages(path: Path) -> list[Message]:
    with Bag(path) as bag:
        return [item for item in bag.contents(DamageLog(keep_going=True)) if isinstance(item, Message)]


def state(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def chunks(path: Path) -> list:
    with open(path, "rb") as file:
        return make_reader(file).get_summary().chunk_indexes


@pytest.fixture
def inputs(tmp_path) -> Path:
    (tmp_path / "inputs").mkdir()
    return tmp_path / "inputs"


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# Files that are no bags, or not all of one


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("text.mcap", b"this is not a bag at all", "as neither MCAP, sqlite3 nor ROS 1 bags do"),
        ("empty.mcap", b"", "the file is empty"),
        ("short.mcap", b"\x89MCAP0\r\n\x01\x00", "ends at byte"),
        ("short.db3", b"SQLite format 3\0" + bytes(84), "short.db3"),
        ("short.bag", b"#ROSBAG V2.0\nE\0\0\0", "short.bag"),
        ("old.bag", b"#ROSBAG V1.2\n" + bytes(100), "version"),
        ("broken.mcap.zstd", ZSTD_MAGIC + b"\xff" * 5, "holds something that"),
    ],
)
def test_files_that_are_no_bags(inputs, out, capsys, name, content, told):
    (inputs / name).write_bytes(content)
    for keep_going in ((), ("--keep-going",)):
        assert run("compress", inputs / name, out / "small", *STEP, *keep_going) == DAMAGED
        assert told in (error := capsys.readouterr().err)
        assert name in error
        assert "Traceback" not in error
    assert run("info", inputs / name) == DAMAGED
    assert not list(out.iterdir())


def test_what_is_not_there(out, capsys):
    assert run("compress", out / "nothing", out / "small", *STEP) == 2
    assert "is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "a: [",
        "rosbag2_bagfile_information: 3",
        "rosbag2_bagfile_information: {version: 99}",
        "rosbag2_bagfile_information: {version: 5, storage_identifier: tape}",
    ],
)
def test_broken_metadata(inputs, out, metadata):
    recordings.write_rosbag2(inputs / "in", "mcap")
    (inputs / "in" / "metadata.yaml").write_text(metadata)
    assert run("compress", inputs / "in", out / "small", *STEP) == DAMAGED


def test_a_folder_that_lacks_a_file(inputs, out, capsys):
    recordings.write_rosbag2(inputs / "in", "mcap")
    (inputs / "in" / "in.mcap").unlink()
    assert run("compress", inputs / "in", out / "small", *STEP) == DAMAGED
    assert "without in.mcap" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_truncated_mcap(inputs, out, capsys, share):
    source = recordings.write_mcap(inputs / "in.mcap")
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    before = state(inputs)
    assert run("compress", source, out / "small.mcap", *STEP) == DAMAGED
    assert not list(out.iterdir())
    assert "ends at byte" in capsys.readouterr().err
    assert run("compress", source, out / "small.mcap", *STEP, "--keep-going") == REPORTED
    readable = len(messages(source))
    assert len(messages(out / "small.mcap")) == readable >= (10 if share > 0.9 else 0)
    assert run("info", out / "small.mcap") == 0
    assert state(inputs) == before


def test_a_corrupt_chunk(inputs, out, capsys):
    source = recordings.write_mcap(inputs / "in.mcap")
    data = bytearray(source.read_bytes())
    hurt = chunks(source)[1]
    data[hurt.chunk_start_offset + hurt.chunk_length // 2] ^= 0xFF
    source.write_bytes(data)
    assert run("compress", source, out / "small.mcap", *STEP) == DAMAGED
    assert f"the chunk at byte {hurt.chunk_start_offset}" in capsys.readouterr().err
    assert run("compress", source, out / "small.mcap", *STEP, "--keep-going") == REPORTED
    told = capsys.readouterr().err
    assert f"the chunk at byte {hurt.chunk_start_offset}" in told
    assert "its statistics has" in told  # and how many messages are missing
    assert 0 < len(messages(out / "small.mcap")) < 10


def test_a_corrupt_chunk_takes_no_other_with_it(inputs, out, capsys):
    """Types and topics are described in the first one, and once more at the end of the file."""
    source = recordings.write_mcap(inputs / "in.mcap")
    whole, data = messages(source), bytearray(source.read_bytes())
    data[data.index(ZSTD_MAGIC)] ^= 0xFF
    source.write_bytes(data)
    assert run("compress", source, out / "small.mcap", *STEP, "--keep-going") == REPORTED
    told = capsys.readouterr().err
    assert "cannot be decompressed" in told
    assert "not described" not in told
    assert run("restore", out / "small.mcap", out / "back.mcap", "--jobs", "1") == 0
    kept, back = messages(source), messages(out / "back.mcap")
    assert 0 < len(kept) < len(whole)
    assert kept == whole[-len(kept) :]
    described = [(message.topic.name, message.topic.type, message.topic.definition, message.log_time) for message in kept]
    assert [(each.topic.name, each.topic.type, each.topic.definition, each.log_time) for each in back] == described


@pytest.mark.parametrize("what", ["the name of the compression", "its length", "the size of what is in it"])
def test_damage_in_the_head_of_a_chunk_is_of_this_chunk_alone(inputs, out, capsys, what):
    source = recordings.write_mcap(inputs / "in.mcap")
    whole, data = len(messages(source)), bytearray(source.read_bytes())
    start = chunks(source)[1].chunk_start_offset + 9  # behind opcode and length
    name = data.index(b"zstd", start)
    data[{"the name of the compression": name, "its length": name - 1, "the size of what is in it": start + 23}[what]] ^= 0x7F
    source.write_bytes(data)
    assert run("compress", source, out / "small.mcap", *STEP, "--keep-going") == REPORTED
    assert "Traceback" not in capsys.readouterr().err
    assert 0 < len(messages(out / "small.mcap")) < whole


def test_in_a_folder_of_bags_one_that_is_none_does_not_stop_the_others(inputs, out, capsys):
    for name in "ac":
        recordings.write_mcap(inputs / f"{name}.mcap", clouds=2)
    (inputs / "b.mcap").write_bytes(b"")
    assert run("compress", inputs, out / "all", *STEP) == DAMAGED
    assert run("compress", inputs, out / "more", *STEP, "--keep-going") == REPORTED
    assert sorted(path.name for path in (out / "more").iterdir()) == ["a.mcap", "c.mcap"]
    assert "b.mcap" in capsys.readouterr().err


def test_two_bags_that_would_become_one_are_refused(inputs, out, capsys):
    recordings.write_ros1(inputs / "run.bag", clouds=2)
    recordings.write_rosbag2(inputs / "run", "sqlite3", clouds=2)
    assert run("compress", inputs, out / "all", *STEP) == 2
    assert "would both become" in capsys.readouterr().err
    assert not (out / "all").exists()


def test_a_bag_that_is_not_there(out, capsys):
    assert run("info", out / "none.mcap") == DAMAGED
    assert "none.mcap: is not there" in capsys.readouterr().err


def test_metadata_without_a_file(inputs, capsys):
    bag = recordings.write_rosbag2(inputs / "run", "mcap", clouds=1)
    described = (bag / "metadata.yaml").read_text()
    emptied = re.sub(r"relative_file_paths:\n( *- .*\n)+", "relative_file_paths: []\n", described)
    assert emptied != described
    (bag / "metadata.yaml").write_text(emptied)
    assert run("info", bag) == DAMAGED
    assert "names no file" in capsys.readouterr().err


def test_a_checksum_that_fails_though_all_can_be_read(inputs, out, capsys):
    source = recordings.write_mcap(inputs / "in.mcap", "none")
    data = bytearray(source.read_bytes())
    data[data.index(b"message 2 ")] ^= 1
    source.write_bytes(data)
    assert run("compress", source, out / "small.mcap", *STEP) == DAMAGED
    assert run("compress", source, out / "small.mcap", *STEP, "--keep-going") == REPORTED
    assert "fails its checksum" in capsys.readouterr().err
    assert len(messages(out / "small.mcap")) == 10


def test_a_damaged_page_of_sqlite(inputs, out, capsys):
    source = recordings.write_old_sqlite(inputs / "in.db3", clouds=20)
    data = bytearray(source.read_bytes())
    leaves = [start for start in range(4096, len(data), 4096) if data[start] == 0x0D]
    data[leaves[len(leaves) // 2]] = 0xFF  # the kind of a page of the tree of messages
    source.write_bytes(data)
    assert run("compress", source, out / "small.db3", *STEP) == DAMAGED
    assert not list(out.iterdir())
    assert run("compress", source, out / "small.db3", *STEP, "--keep-going") == REPORTED
    assert "malformed" in (told := capsys.readouterr().err)
    assert "its index of times has 50" in told
    assert 10 < len(messages(out / "small.db3")) < 50


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_a_damaged_ros_1_bag(inputs, out, compression):
    source = recordings.write_ros1(inputs / "in.bag", clouds=40, compression=compression)
    data = bytearray(source.read_bytes())
    if compression:
        middle = len(data) // 3
        data[middle : middle + 200] = bytes(200)
    else:
        place = data.index((300).to_bytes(4, "little"), len(data) // 3)  # the width of a cloud
        data[place : place + 4] = b"\xff\xff\xff\x7f"
    source.write_bytes(data)
    assert run("compress", source, out / "small", *STEP) == DAMAGED
    assert run("compress", source, out / "small", *STEP, "--keep-going") == REPORTED
    assert 20 < len(messages(out / "small")) <= 80


# Messages


def spoil(path: Path, number: int, data: bytes) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE messages SET data = ? WHERE id = ?", (data, number))
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:7],
        lambda data: b"",
        lambda data: data.replace((20).to_bytes(4, "little"), (21).to_bytes(4, "little")),  # point_step
    ],
)
def test_a_damaged_cloud(inputs, out, capsys, spoilt):
    source = recordings.write_old_sqlite(inputs / "in.db3")
    broken = spoilt(recordings.cloud(0))
    spoil(source, 1, broken)
    assert run("compress", source, out / "small.db3", *STEP) == DAMAGED
    assert "message of /front/points at 1700000000000000000 ns" in capsys.readouterr().err
    assert not list(out.iterdir())
    assert run("compress", source, out / "small.db3", *STEP, "--keep-going") == REPORTED
    first = messages(out / "small.db3")[0]
    assert (first.topic.name, first.topic.type, first.data) == ("/front/points", recordings.CLOUD, broken)
    assert run("restore", out / "small.db3", out / "back.db3", "--jobs", "1") == 0
    back = messages(out / "back.db3")[0]
    assert (back.topic.name, back.topic.type, back.log_time, back.data) == (
        "/front/points",
        recordings.CLOUD,
        recordings.START,
        broken,
    )


def test_a_report_on_a_damaged_cloud(inputs, out):
    pytest.importorskip("matplotlib", reason="needs the extra [eval]")
    source = recordings.write_old_sqlite(inputs / "in.db3")
    spoil(source, 1, recordings.cloud(0)[:100])
    options = [*STEP, "--keep-going", "--report", out / "report.html"]
    assert run("compress", source, out / "small.db3", *options) == REPORTED
    assert "/front/points, first cloud" in (out / "report.html").read_text()


def test_a_damaged_stream_is_passed_through_by_restore(inputs, out, capsys):
    source = recordings.write_old_sqlite(inputs / "in.db3")
    assert run("compress", source, out / "small.db3", *STEP) == 0
    broken = bytearray(messages(out / "small.db3")[0].data)
    broken[-5] ^= 0xFF
    spoil(out / "small.db3", 1, bytes(broken))
    assert run("restore", out / "small.db3", out / "back.db3", "--jobs", "1") == DAMAGED
    assert "CorruptStreamError" in capsys.readouterr().err
    assert run("restore", out / "small.db3", out / "back.db3", "--jobs", "1", "--keep-going") == REPORTED
    first = messages(out / "back.db3")[0]
    assert (first.topic.name, first.data) == ("/front/points/anypcc", broken)
    assert run("verify", source, out / "small.db3", "--jobs", "1") == DIFFERENT


def test_a_format_of_the_future_is_refused(inputs, out, capsys):
    source = recordings.write_old_sqlite(inputs / "in.db3")
    assert run("compress", source, out / "small.db3", *STEP) == 0
    spoil(out / "small.db3", 1, messages(out / "small.db3")[0].data.replace(b"apcc/1", b"apcc/9"))
    assert run("restore", out / "small.db3", out / "back.db3", "--jobs", "1") == DAMAGED
    assert "'apcc/9'" in capsys.readouterr().err


# Outputs


def test_an_output_that_exists_is_left_alone(inputs, out, capsys):
    source = recordings.write_mcap(inputs / "in.mcap")
    (out / "small.mcap").write_text("mine")
    assert run("compress", source, out / "small.mcap", *STEP) == NOT_WRITTEN
    assert run("compress", source, source, *STEP) == NOT_WRITTEN
    assert "exists already" in capsys.readouterr().err
    assert (out / "small.mcap").read_text() == "mine"


@pytest.mark.parametrize("name", ["small.mcap", "small.db3", "folder"])
def test_a_full_disk(inputs, out, name):
    """A limit on the size of files stands for a disk that is full: writing fails in the same places."""
    source = recordings.write_mcap(inputs / "in.mcap", clouds=30)
    before = state(inputs)
    done = in_a_process(source, out / name, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert done.returncode == NOT_WRITTEN, done.stderr
    assert f"{name}: cannot be written" in done.stderr
    assert "nothing of it was left behind" in done.stderr
    assert not list(out.iterdir())
    assert state(inputs) == before


def in_a_process(source: Path, target: Path, preexec=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, target), capture_output=True, text=True, preexec_fn=preexec, check=False)


def command(source: Path, target: Path) -> list[str]:
    code = "import sys; from anypcc_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, "bag", "compress", str(source), str(target), *STEP]


@pytest.mark.parametrize("name", ["small.mcap", "folder"])
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_can_be_started_again(inputs, out, name, stop):
    source = recordings.write_mcap(inputs / "in.mcap", clouds=1500)
    with subprocess.Popen(command(source, out / name), stderr=subprocess.DEVNULL) as running:
        while not list(out.iterdir()):
            time.sleep(0.01)
            assert running.poll() is None
        time.sleep(0.1)
        running.send_signal(stop)
        status = running.wait(60)
    assert status == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    leftover = list(out.iterdir())
    assert [path.name for path in leftover] == ([f".{name}.partial"] if stop == signal.SIGKILL else [])
    small = recordings.write_mcap(inputs / "small.mcap")
    assert run("compress", small, out / name, *STEP) == 0
    assert [path.name for path in out.iterdir()] == [name]
    assert len(messages(out / name)) == 10


def test_of_two_runs_at_once_one_is_refused(inputs, out, capsys):
    from anypcc_ros.bags.errors import OutputError
    from anypcc_ros.bags.writing import BagOutput

    with BagOutput(out / "small.mcap", "mcap", "", "ros2", {}) as first:
        with pytest.raises(OutputError, match="another process is writing it"):
            BagOutput(out / "small.mcap", "mcap", "", "ros2", {}).__enter__()
        first.publish()
    assert [path.name for path in out.iterdir()] == ["small.mcap"]


def test_a_folder_of_bags_goes_on_where_it_was(inputs, out, capsys):
    for name in "abc":
        recordings.write_mcap(inputs / f"{name}.mcap", clouds=2)
    recordings.write_ros1(inputs / "d.bag", clouds=2)
    os.rename(inputs / "b.mcap", inputs / "b.hidden")
    assert run("compress", inputs, out / "all", *STEP) == 0
    os.rename(inputs / "b.hidden", inputs / "b.mcap")
    done = state(out)
    assert sorted(done) == ["all/a.mcap", "all/c.mcap", "all/d/d_0.mcap", "all/d/metadata.yaml"]
    capsys.readouterr()
    assert run("compress", inputs, out / "all", *STEP) == 0
    assert capsys.readouterr().out.count("exists already, left as it is") == 3
    after = state(out)
    assert {name: after[name] for name in done} == done
    assert set(after) - set(done) == {"all/b.mcap"}


def test_wrong_command_lines(inputs, out, capsys):
    source = recordings.write_mcap(inputs / "in.mcap")
    assert run("compress", source, out / "small.bag", *STEP) == 2
    assert run("compress", source, out / "small.mcap", "--storage", "sqlite3", *STEP) == 2
    assert run("compress", source, out / "small.mcap", "--engine", "ray://nowhere", *STEP) == 2
    assert run("compress", source, out / "small.mcap", "--step", "-1") == 2
    assert run("compress", source, out / "small.mcap", "--topics", "/nothing", *STEP) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list(out.iterdir())
