"""Adaptations of the model in bags: one for each topic, on a latched topic beside its streams, where every reader finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

import recordings
from recordings import ROS2, write_rosbag2
from rosbags.rosbag2 import Reader, Writer

from anypcc_ros.bags.adaptations import BYTES, adaptations_of
from anypcc_ros.bags.adapting import OVERHEAD, Tuned
from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.errors import DIFFERENT
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.types import COMPRESSED_CLOUD, typestore
from anypcc_ros.cli import main
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.model.adaptations import Adaptation, load_adaptation

QUIET = ["--jobs", "1", "--quiet"]
ALWAYS = ["--adaptation-use", "always"]
"""Random changes make nothing smaller."""


def messages(bag: Path) -> list[Message]:
    with Bag(bag) as opened:
        return [item for item in opened.contents(lambda error: None) if isinstance(item, Message)]


def named_by(message: Message) -> str:
    """The adaptation that a stream names."""
    return inspect(bytes(typestore().deserialize_cdr(message.data, COMPRESSED_CLOUD).data)).adaptation


def test_qos_is_in_the_form_that_the_bag_has(golden, tmp_path) -> None:
    original, small = recordings.write_ros1(tmp_path / "original.bag", clouds=1), tmp_path / "small"
    compress = ["bag", "compress", str(original), str(small), "--step", "0.05"]
    assert main([*compress, "--adaptation", str(golden / "adapted.standard.apad"), *ALWAYS, *QUIET]) == 0
    (beside,) = (message for message in messages(small) if message.topic.type == BYTES)
    assert "durability: 1" in beside.topic.described("offered_qos_profiles")
    assert "version: 8" in (small / "metadata.yaml").read_text()


@pytest.mark.parametrize("name", ["small.mcap", "small.db3", "small"])
def test_a_bag_of_any_kind_decodes_by_itself(golden, tmp_path, name) -> None:
    original, small, back = write_rosbag2(tmp_path / "original", "mcap"), tmp_path / name, tmp_path / "back"
    file = tmp_path / "scene.apad"
    file.write_bytes((golden / "adapted.standard.apad").read_bytes())
    adaptation = load_adaptation(file)
    compress = ["bag", "compress", str(original), str(small), "--step", "0.05", "--quiet", "--adaptation", str(file), *ALWAYS]
    assert main([*compress, "--jobs", "2"]) == 0  # other processes get it with their work
    file.unlink()

    found = messages(small)
    for topic in ("/front/points", "/rear/points"):
        streams = [message for message in found if message.topic.name == f"{topic}/anypcc"]
        (beside,) = (message for message in found if message.topic.name == f"{topic}/anypcc/adaptation")
        assert {named_by(message) for message in streams} == {adaptation.hash}
        assert found.index(beside) < found.index(streams[0])
        assert "transient_local" in beside.topic.described("offered_qos_profiles")
        assert bytes(ROS2.deserialize_cdr(beside.data, BYTES).data) == adaptation.to_bytes()
    assert list(adaptations_of(small).values()) == [[adaptation]] * 2
    assert adaptations_of(original) == {}

    assert main(["bag", "verify", str(original), str(small), *QUIET]) == 0
    assert main(["bag", "restore", str(small), str(back), *QUIET]) == 0
    assert [(m.topic.name, m.log_time) for m in messages(back)] == [(m.topic.name, m.log_time) for m in messages(original)]
    with Reader(back) as reader:
        assert {connection.topic for connection in reader.connections} == {"/front/points", "/rear/points", "/chatter"}
    # What is not restored keeps what it needs.
    part = tmp_path / "part"
    assert main(["bag", "restore", str(small), str(part), "--topics", "/front/points/anypcc", *QUIET]) == 0
    assert set(adaptations_of(part)) == {"/rear/points/anypcc/adaptation"}
    assert main(["bag", "verify", str(original), str(part), *QUIET, "--step", "0.05"]) == 0


def rewrite(small: Path, new: Path, cut: int, late: int) -> None:
    """A compressed bag whose adaptations lack so many bytes at their ends, and come so many nanoseconds later."""
    with Reader(small) as reader, Writer(new, version=9) as writer:
        topics = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=typestore()) for c in reader.connections}
        for connection, time, data in sorted(reader.messages(), key=lambda item: item[1] + late * (item[0].msgtype == BYTES)):
            writer.write(topics[connection.id], time, data[: len(data) - cut] if connection.msgtype == BYTES else data)


def test_an_adaptation_may_come_late_but_has_to_be_there(golden, tmp_path, capsys) -> None:
    original, small, late, without = (tmp_path / name for name in ("original", "small", "late", "without"))
    file = golden / "adapted.standard.apad"
    write_rosbag2(original, "mcap", clouds=2)
    compress = ["bag", "compress", str(original), str(small), "--step", "0.05", "--adaptation", str(file), *ALWAYS]
    assert main([*compress, *QUIET]) == 0
    rewrite(small, late, cut=0, late=10**12)
    assert messages(late)[-1].topic.name.endswith("/adaptation")
    assert main(["bag", "verify", str(original), str(late), *QUIET]) == 0
    assert main(["bag", "restore", str(late), str(tmp_path / "from late"), *QUIET]) == 0

    rewrite(small, without, cut=1, late=0)
    capsys.readouterr()
    assert main(["bag", "verify", str(original), str(without), *QUIET]) == DIFFERENT
    assert load_adaptation(file).hash in capsys.readouterr().out
    assert main(["bag", "restore", str(without), str(tmp_path / "back"), *QUIET, "--adaptation", str(file)]) == 0
    # What holds no adaptation is nobody's, and stays.
    assert "/front/points/anypcc/adaptation" in {message.topic.name for message in messages(tmp_path / "back")}


def test_every_topic_gets_an_adaptation_of_its_own_where_that_pays(golden, tmp_path, capsys) -> None:
    pytest.importorskip("torch", reason="tuning needs torch")
    original, plain, small = (tmp_path / name for name in ("original.mcap", "plain.mcap", "small.mcap"))
    recordings.write_mcap(original, clouds=72)
    model = ["--model", str(golden / "tiny.safetensors"), "--step", "0.05", *QUIET]
    assert main(["bag", "compress", str(original), str(plain), *model]) == 0
    capsys.readouterr()
    assert main(["bag", "compress", str(original), str(small), *model, "--adapt"]) == 0
    told = capsys.readouterr().out.splitlines()[:2]
    assert [line.partition(":")[0] for line in told] == ["/front/points", "/rear/points"]
    found = adaptations_of(small)
    assert len(found) == sum("not adapted" not in line for line in told) > 0
    assert small.stat().st_size < plain.stat().st_size
    assert main(["bag", "verify", str(original), str(small), "--model-dir", str(golden), *QUIET]) == 0


def test_what_saves_less_than_it_takes_is_not_kept() -> None:
    adaptation = Adaptation("00" * 8, bytes(100))
    enough = (100 + OVERHEAD) / 50 + 0.01
    assert Tuned("/points", adaptation, clouds=50, before=1000, saved=enough).pays
    assert not Tuned("/points", adaptation, clouds=49, before=1000, saved=enough - 0.02).pays
    assert not Tuned("/points", adaptation, clouds=50, before=1000, saved=-1).pays
