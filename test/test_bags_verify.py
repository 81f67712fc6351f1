"""verify notices what is different, and says by how much; the report shows what happened, in one file."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.recfunctions import rename_fields, repack_fields

pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("mcap", reason="needs the extra [bags]")

import recordings
import zstandard

from anypcc_ros import cli
from anypcc_ros.bags.compare import POSITION, CompareTask, Policy, compare_clouds
from anypcc_ros.bags.contents import Message, Topic
from anypcc_ros.bags.engines import engine
from anypcc_ros.bags.errors import DIFFERENT
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import Reading, read_message
from anypcc_ros.bags.types import COMPRESSED_CLOUD
from anypcc_ros.bags.verify import verify
from anypcc_ros.bags.writing import BagOutput
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import DecoderConfig

STRICT = DamageLog(keep_going=False)


def run(command: str, *arguments: object) -> int:
    return cli.main(["bag", command, *map(str, arguments)])


def changed(source: Path, target: Path, change) -> Path:
    """A copy of a bag with every message as ``change`` makes it; None leaves one out."""
    with Bag(source) as bag, BagOutput(target, "mcap", "", "ros2", {}) as output:
        for item in bag.contents(STRICT):
            if isinstance(item, Topic):
                output.add_topic(item)
            elif isinstance(item, Message) and (new := change(item)) is not None:
                output.add_message(new)
        output.publish()
    return target


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> tuple[Path, Path]:
    """A bag and its compressed form, positions within 5 mm, intensity within 2."""
    folder = tmp_path_factory.mktemp("bags")
    source, small = recordings.write_mcap(folder / "in.mcap", clouds=2), folder / "small.mcap"
    assert run("compress", source, small, "--step", "0.01", "--fields", "intensity=step:4", "--jobs", "1") == 0
    return source, small


def verdicts(original: Path, other: Path):
    with engine("", 1) as here:
        found = verify(original, other, CompareTask(Reading(DecoderConfig(threads=1))), here, STRICT)
    return {topic.name: topic for topic in found}


def test_a_target_size_is_met_and_verified(bags, tmp_path, capsys):
    source, _ = bags
    assert run("compress", source, tmp_path / "small.mcap", "--target-bytes", "1600", "--jobs", "1") == 0
    found = verdicts(source, tmp_path / "small.mcap")
    assert {topic.verdict for topic in found.values()} <= {"within", "equal", "same", "identical"}
    with Bag(tmp_path / "small.mcap") as bag:
        messages = [item for item in bag.contents(STRICT) if isinstance(item, Message) and item.topic.name.endswith("/anypcc")]
    sizes = [len(read_message(message.data, COMPRESSED_CLOUD).data) for message in messages]
    assert sizes == pytest.approx([1600] * len(sizes), rel=0.03)
    assert run("compress", source, tmp_path / "no.mcap", "--target-bpp", "5", "--order", "codec") == 2
    assert "--order original" in capsys.readouterr().err


def test_within_the_policy(bags):
    found = verdicts(*bags)
    front = found["/front/points"]
    assert (front.verdict, front.other_name, front.messages) == ("within", "/front/points/anypcc", 2)
    assert 0 < front.errors[POSITION].largest <= front.errors[POSITION].allowed == pytest.approx(0.005, rel=1e-3)
    assert 0 < front.errors["intensity"].largest <= front.errors["intensity"].allowed == pytest.approx(2, rel=1e-3)
    assert front.errors["ring"].largest == front.errors["ring"].allowed == 0
    assert found["/chatter"].verdict == "identical"


@pytest.mark.parametrize(
    ("change", "topic", "told"),
    [
        (lambda m: None if m.sequence == 1001 else m, "/chatter", "1 message missing"),
        (lambda m: dataclasses.replace(m, log_time=m.log_time + (m.sequence == 1001)), "/chatter", "it has log time"),
        (lambda m: dataclasses.replace(m, publish_time=m.publish_time + (m.sequence == 1000)), "/front/points", "publish time"),
        (lambda m: dataclasses.replace(m, sequence=m.sequence + (m.sequence == 1000)), "/front/points", "sequence number"),
        (lambda m: dataclasses.replace(m, data=m.data.replace(b"message 1", b"message 7")), "/chatter", "it has other bytes"),
        (lambda m: dataclasses.replace(m, data=m.data.replace(b"lidar", b"radar")), "/front/points", "radar"),
        (lambda m: dataclasses.replace(m, data=m.data[:-9]), "/front/points", "Error"),
    ],
)
def test_what_is_different_is_noticed(bags, tmp_path, change, topic, told):
    source, small = bags
    found = verdicts(source, changed(small, tmp_path / "other.mcap", change))
    assert found[topic].verdict == "different"
    assert told in " ".join(found[topic].reasons)


def without_ring(number: int, named: str = "") -> bytes:
    made = recordings.points(number)
    kept = [name for name in made.dtype.names if name != "ring"]
    return recordings.cloud(number, rename_fields(repack_fields(made[kept]), {"intensity": named or "intensity"}))


@pytest.mark.parametrize("named", ["", "Intensity"])
def test_a_field_that_the_stream_never_had_is_missed(bags, tmp_path, named):
    """Nothing in the stream says that it was dropped."""
    source, _ = bags
    poorer = changed(source, tmp_path / "poorer.mcap", lambda m: dataclasses.replace(
        m, data=without_ring(0, named)) if m.topic.name == "/front/points" and m.sequence == 1000 else m)  # fmt: skip
    assert run("compress", poorer, tmp_path / "small.mcap", "--jobs", "1", "--quiet") == 0
    found = verdicts(source, tmp_path / "small.mcap")["/front/points"]
    assert found.verdict == "different"
    assert "ring" in found.reasons[0]


def test_fields_that_were_dropped_on_purpose_are_told(bags, tmp_path, capsys):
    source, _ = bags
    small = tmp_path / "small.mcap"
    assert run("compress", source, small, "--fields", "ring=drop", "--jobs", "1", "--quiet") == 0
    capsys.readouterr()
    assert run("verify", source, small, "--jobs", "1", "--quiet") == 0
    assert "  dropped: ring\n" in capsys.readouterr().out


def test_another_type_of_equal_bytes_is_noticed(bags, tmp_path):
    source, _ = bags
    other = changed(source, tmp_path / "other.mcap", lambda m: dataclasses.replace(
        m, topic=dataclasses.replace(m.topic, type="std_msgs/msg/Empty")) if m.topic.name == "/chatter" else m)  # fmt: skip
    assert "it is a std_msgs/msg/Empty" in verdicts(source, other)["/chatter"].reasons[0]


def test_a_compressed_bag_is_itself_though_its_topics_are_not_known_up_front(bags, tmp_path):
    _, small = bags
    packed = tmp_path / "small.mcap.zstd"
    packed.write_bytes(zstandard.ZstdCompressor().compress(small.read_bytes()))
    assert {topic.verdict for topic in verdicts(packed, small).values()} == {"identical"}


def test_exact_is_what_all_clouds_are(bags, tmp_path, capsys):
    source, small = bags
    assert run("compress", source, tmp_path / "exact.mcap", "--jobs", "1", "--quiet") == 0
    exact = {m.log_time: m for m in front(tmp_path / "exact.mcap")}
    last = front(small)[-1].log_time
    mixed = changed(small, tmp_path / "mixed.mcap", lambda m: dataclasses.replace(
        m, data=exact[last].data) if m.topic.name.startswith("/front") and m.log_time == last else m)  # fmt: skip
    capsys.readouterr()
    assert run("restore", mixed, tmp_path / "back.mcap", "--topics", "/front/*", "--jobs", "1", "--quiet") == 0
    assert "x, y, z within 0.005" in capsys.readouterr().out


def front(path: Path) -> list[Message]:
    with Bag(path) as bag:
        read = [item for item in bag.contents(STRICT) if isinstance(item, Message)]
    return [message for message in read if message.topic.name == "/front/points/anypcc"]


def test_a_topic_too_many_is_noticed(bags, tmp_path):
    source, small = bags
    more = changed(small, tmp_path / "other.mcap", lambda m: m)
    assert verdicts(source, more)["/chatter"].verdict == "identical"
    renamed = changed(small, tmp_path / "more.mcap", lambda m: dataclasses.replace(
        m, topic=dataclasses.replace(m.topic, name="/gossip")) if m.topic.name == "/chatter" else m)  # fmt: skip
    found = verdicts(source, renamed)
    assert (found["/chatter"].verdict, found["/gossip"].verdict) == ("different", "different")
    assert "2 messages not in the original" in found["/gossip"].reasons[0]


def test_the_command_says_it_in_its_exit_status_and_in_json(bags, tmp_path, capsys):
    source, small = bags
    assert run("verify", source, small, "--jobs", "1", "--json") == 0
    topics = {topic["name"]: topic for topic in json.loads(capsys.readouterr().out)["topics"]}
    assert topics["/front/points"]["verdict"] == "within"
    other = changed(small, tmp_path / "other.mcap", lambda m: None if m.sequence == 1001 else m)
    assert run("verify", source, other, "--jobs", "1") == DIFFERENT
    for step in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            run("verify", source, other, "--step", step)
    odd = changed(source, tmp_path / "odd.mcap", lambda m: dataclasses.replace(
        m, data=recordings.cloud(0, doubles(recordings.points(0)))) if m.sequence == 1000 else m)  # fmt: skip
    capsys.readouterr()
    assert run("verify", source, odd, "--jobs", "1", "--json") == DIFFERENT
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert run("verify", source, recordings.write_mcap(tmp_path / "same.mcap", clouds=2), "--jobs", "1") == 0
    assert run("info", small, "--json") == 0


def doubles(points: np.ndarray) -> np.ndarray:
    """With intensities of another type, which no number tells the difference of."""
    return points.astype([(name, "<f8" if name == "intensity" else points.dtype[name]) for name in points.dtype.names])


XYZ = np.array([[1, 2, 3], [np.nan, 0, 0], [-0.0, 5, np.inf]], np.float32)
FIELDS = {"i": np.array([1, np.nan, 3], np.float32), "n": np.arange(3, dtype=np.uint8)}


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [("x", 0, 1.0001), ("x", 1, 0.0), ("x", 2, 0.0), ("z", 2, -np.inf), ("i", 1, 0.0), ("i", 0, 1.0000001), ("n", 2, 7)],
)
def test_one_value_bit_for_bit(name, row, value):
    cloud = PointCloud(XYZ, FIELDS)
    exact = Policy.of_clouds(cloud, cloud, 0.0)
    assert compare_clouds(cloud, PointCloud(XYZ.copy(), dict(FIELDS)), exact).verdict == "exact"
    xyz, fields = XYZ.copy(), {key: values.copy() for key, values in FIELDS.items()}
    if name in fields:
        fields[name][row] = value
    else:
        xyz[row, "xyz".index(name)] = value
    assert compare_clouds(cloud, PointCloud(xyz, fields), exact).verdict == "different"


def test_points_in_another_order_are_found():
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-9, 9, (500, 3)).astype(np.float32)
    xyz[100:200] = xyz[:100]  # several points in a cell
    cloud = PointCloud(xyz, {"i": rng.integers(0, 9, 500).astype(np.uint8), "t": rng.random(500).astype(np.float32)})
    order = rng.permutation(500)
    back = PointCloud(
        (np.rint(xyz.astype(np.float64) / 0.1) * 0.1).astype(np.float32)[order],
        {"i": cloud.fields["i"][order], "t": (np.rint(cloud.fields["t"] / 0.01) * 0.01).astype(np.float32)[order]},
    )
    policy = Policy(0.1, False, {"i": 0.0, "t": 0.01})
    found = compare_clouds(cloud, back, policy)
    assert found.verdict == "within", found
    back.fields["i"][17] += 1
    assert compare_clouds(cloud, back, policy).verdict == "different"


# The report


class Page(HTMLParser):
    """The texts of a page, and where its elements get anything from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "data", "srcset")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib", reason="needs the extra [eval]")
    folder = tmp_path_factory.mktemp("report")
    source = recordings.write_mcap(folder / "in <&>.mcap", clouds=2)
    assert (
        run("compress", source, folder / "small.db3", "--step", "0.01", "--jobs", "1", "--report", folder / "report.html") == 0
    )
    return folder / "report.html"


def test_the_report_is_one_file_with_everything_in_it(report):
    page = Page(report.read_text())
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|<script", report.read_text())
    for wanted in ("in <&>.mcap", "/front/points", "zstd by message", "zstd by file", "Draco", "bits per point", "intensity",
                   "bit-identical", "/chatter", "sequence numbers", "--step 0.01"):  # fmt: skip
        assert wanted in page.text, wanted


def test_a_browser_shows_the_report(report, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium to open the report in")
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
             "--disable-background-networking", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    command = [browser, *flags, "--window-size=1100,3600", f"--screenshot={shot}", report.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3]
    assert pixels.shape == (3600, 1100, 3)
    teal = np.abs(pixels - np.array([15, 118, 110]) / 255).max(axis=2) < 0.02
    assert np.count_nonzero(teal) > 500  # our bar
    assert np.count_nonzero(pixels.max(axis=2) < 0.15) > 100_000  # the pictures
