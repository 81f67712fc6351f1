"""Bags of every kind in, bags out: everything but the clouds byte for byte, and nothing lost unnoticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("mcap", reason="needs the extra [bags]")

import recordings
from mcap.reader import make_reader
from recordings import CLOUD, ROS2, START, TEXT
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from ruamel.yaml import YAML

from anypcc_ros.bags import types
from anypcc_ros.bags.compare import CompareTask
from anypcc_ros.bags.contents import Attachment, Message, Record, Topic
from anypcc_ros.bags.convert import Plan, convert
from anypcc_ros.bags.engines import engine
from anypcc_ros.bags.errors import BagUsageError, CountMismatchError
from anypcc_ros.bags.reading import Bag, find_bags
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import CompressTask, Reading, RestoreTask
from anypcc_ros.bags.verify import verify
from anypcc_ros.bags.writing import BagOutput
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.config import CodecConfig, DecoderConfig

STRICT = DamageLog(keep_going=False)
EXACT = CodecConfig(order="original", exact=True, threads=1)


def compress(source: Path, target: Path, config: CodecConfig = EXACT, **options):
    with engine("", 1) as here:
        return convert(source, target, Plan(CompressTask(config), **options), here, STRICT)


def restore(source: Path, target: Path, **options):
    with engine("", 1) as here:
        return convert(source, target, Plan(RestoreTask(Reading(DecoderConfig(threads=1))), **options), here, STRICT)


def verdicts(original: Path, other: Path, step: float = 0.0) -> dict[str, str]:
    with engine("", 1) as here:
        found = verify(original, other, CompareTask(Reading(DecoderConfig(threads=1)), step), here, STRICT)
    return {topic.name: topic.verdict for topic in found}


def read(path: Path) -> list:
    with Bag(path) as bag:
        return list(bag.contents(STRICT))


def messages(path: Path) -> list[Message]:
    return [item for item in read(path) if isinstance(item, Message)]


def plain(path: Path) -> list[tuple]:
    """Messages without what only their channel says."""
    return [(m.topic.name, m.topic.type, m.log_time, m.publish_time, m.sequence, m.data) for m in messages(path)]


# MCAP


def test_an_mcap_file_comes_back_as_it_was(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    compress(source, tmp_path / "small.mcap")
    restore(tmp_path / "small.mcap", tmp_path / "back.mcap")
    before, after = read(source), read(tmp_path / "back.mcap")
    assert plain(source) == plain(tmp_path / "back.mcap")  # the padding of these clouds is zero
    for kind in (Topic, Attachment, Record):
        assert {item for item in before if isinstance(item, kind)} == {item for item in after if isinstance(item, kind)}
    assert set(verdicts(source, tmp_path / "back.mcap").values()) == {"identical"}
    assert verdicts(source, tmp_path / "small.mcap") == {
        "/chatter": "identical",
        "/front/points": "exact",
        "/rear/points": "exact",
    }


def test_what_other_readers_see_in_the_compressed_mcap(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    compress(source, tmp_path / "small.mcap")
    with open(source, "rb") as one, open(tmp_path / "small.mcap", "rb") as other:
        before, after = make_reader(one, validate_crcs=True), make_reader(other, validate_crcs=True)
        old, new = ({c.topic: c for c in reader.get_summary().channels.values()} for reader in (before, after))
        assert set(new) == {"/front/points/anypcc", "/rear/points/anypcc", "/chatter", "/silent"}
        assert new["/chatter"].metadata == old["/chatter"].metadata
        metadata = new["/front/points/anypcc"].metadata
        assert metadata == old["/front/points"].metadata | {"topic_type_hash": types.type_hash(types.COMPRESSED_CLOUD)}
        assert list(after.iter_attachments()) == list(before.iter_attachments())
        assert list(after.iter_metadata()) == list(before.iter_metadata())
        pairs = list(zip(before.iter_messages(), after.iter_messages(), strict=True))
        assert len(pairs) == 10
        for (_, channel, original), (schema, new_channel, message) in pairs:
            assert new_channel.topic.removesuffix("/anypcc") == channel.topic
            for name in ("log_time", "publish_time", "sequence"):
                assert getattr(original, name) == getattr(message, name)
            if channel.topic == "/chatter":
                assert (message.data, schema.name) == (original.data, TEXT)
                continue
            # The definition in the file is enough to read the message: nothing of this package is needed.
            assert (schema.name, schema.encoding) == (types.COMPRESSED_CLOUD, "ros2msg")
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(schema.data.decode(), schema.name))
            cloud = store.deserialize_cdr(message.data, schema.name)
            sent = ROS2.deserialize_cdr(original.data, CLOUD)
            assert cloud.header.stamp.nanosec == sent.header.stamp.nanosec
            assert (cloud.header.frame_id, cloud.format, cloud.raw_size) == ("lidar", "apcc/1", len(sent.data))
            assert inspect(memoryview(cloud.data)).points == cloud.points == sent.width


@pytest.mark.parametrize(("compression", "chunks"), [("lz4", True), ("none", True), ("none", False)])
def test_mcap_of_other_kinds(tmp_path, compression, chunks):
    source = recordings.write_mcap(tmp_path / "in.mcap", compression, chunks=chunks)
    compress(source, tmp_path / "small.mcap")
    assert set(verdicts(source, tmp_path / "small.mcap").values()) == {"exact", "identical"}


def test_the_type_hash_is_that_of_rosidl():
    pytest.importorskip("anypcc_ros.msg", reason="needs ROS 2")
    import os
    import sys

    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    described = [Path(prefix, "share/anypcc_ros/msg/CompressedCloud.json") for prefix in prefixes]
    installed = next((path for path in described if path.exists()), None)
    if installed is None:
        pytest.skip("the installed message has no type description")
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(installed.read_text())["type_hashes"]}
    assert types.type_hash(types.COMPRESSED_CLOUD) == hashes["anypcc_ros/msg/CompressedCloud"]


# rosbag2 folders, sqlite3, ROS 1


@pytest.mark.parametrize(("storage", "mode"), [("mcap", "none"), ("mcap", "storage"), ("mcap", "message"), ("mcap", "file"),
                                               ("sqlite3", "none"), ("sqlite3", "message"), ("sqlite3", "file")])  # fmt: skip
def test_folders_in_every_compression(tmp_path, storage, mode):
    source = recordings.write_rosbag2(tmp_path / "in", storage, mode)
    compress(source, tmp_path / "small")
    restore(tmp_path / "small", tmp_path / "back")
    assert plain(source) == plain(tmp_path / "back")
    old, new = (YAML(typ="safe").load((tmp_path / name / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
                for name in ("in", "small"))  # fmt: skip
    for key in ("storage_identifier", "message_count", "duration", "starting_time", "version", "compression_format"):
        assert new[key] == old[key], key
    assert new["compression_mode"].lower() == old["compression_mode"]
    assert [tmp_path / "small" / name for name in new["relative_file_paths"]] == [
        path for path in (tmp_path / "small").iterdir() if path.suffix != ".yaml"
    ]
    counts = {item["topic_metadata"]["name"]: item["message_count"] for item in new["topics_with_message_count"]}
    assert counts == {"/front/points/anypcc": 4, "/chatter": 4, "/rear/points/anypcc": 2}
    # An independent reader finds all of it.
    with Reader(tmp_path / "small") as reader:
        assert Counter(connection.topic for connection, _, _ in reader.messages()) == counts
        times = [(connection.topic, time) for connection, time, _ in reader.messages()]
        assert times == sorted(times, key=lambda item: item[1])


def test_qos_profiles_stay_as_they_are(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    compress(source, tmp_path / "folder")
    metadata = YAML(typ="safe").load((tmp_path / "folder" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    for item in metadata["topics_with_message_count"]:
        (profile,) = item["topic_metadata"]["offered_qos_profiles"]
        assert (profile["reliability"], profile["depth"]) == ("best_effort", 5)
    compress(source, tmp_path / "small.db3")
    rows = sqlite3.connect(tmp_path / "small.db3").execute("SELECT name, offered_qos_profiles FROM topics").fetchall()
    assert len(rows) == 4
    assert {qos for _, qos in rows} == {recordings.QOS}


def test_what_sqlite_has_no_place_for_is_told(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    result = compress(source, tmp_path / "small.db3")
    assert result.not_kept == {
        "attachments": 1,
        "metadata records": 1,
        "publish times that are not the log time": 10,
        "sequence numbers": 10,
    }
    assert set(verdicts(source, tmp_path / "small.db3").values()) == {"exact", "identical"}


def test_sqlite_has_the_definitions(tmp_path):
    compress(recordings.write_mcap(tmp_path / "in.mcap"), tmp_path / "small.db3")
    database = sqlite3.connect(tmp_path / "small.db3")
    rows = database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions").fetchall()
    assert {kind for kind, _, _ in rows} == {types.COMPRESSED_CLOUD, CLOUD, TEXT}
    assert {encoding for _, encoding, _ in rows} == {"ros2msg"}
    definition = next(text for kind, _, text in rows if kind == types.COMPRESSED_CLOUD)
    assert {"MSG: std_msgs/Header", "MSG: builtin_interfaces/Time", "MSG: sensor_msgs/PointField"} <= set(
        definition.splitlines()
    )


def test_old_sqlite(tmp_path):
    source = recordings.write_old_sqlite(tmp_path / "in.db3")
    compress(source, tmp_path / "small.db3")
    assert [m.topic.described("offered_qos_profiles") for m in messages(tmp_path / "small.db3")] == [recordings.QOS] * 10
    restore(tmp_path / "small.db3", tmp_path / "back.db3")
    assert plain(source) == plain(tmp_path / "back.db3")


def test_an_unfinished_sqlite_recording_keeps_the_messages_of_its_log(tmp_path):
    source = recordings.write_old_sqlite(tmp_path / "in.db3")
    database = sqlite3.connect(source)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(2, ?, ?)", (START, recordings.text(99)))
    database.commit()
    (tmp_path / "copy").mkdir()
    for file in tmp_path.glob("in.db3*"):
        shutil.copy(file, tmp_path / "copy")
    before = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    assert len(before) == 3
    compress(tmp_path / "copy" / "in.db3", tmp_path / "small.db3")
    assert len(messages(tmp_path / "small.db3")) == 11
    assert {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()} == before


def test_a_split_recording_becomes_one_file(tmp_path):
    whole = recordings.write_rosbag2(tmp_path / "in", "mcap")
    parts = messages(whole)
    metadata = YAML(typ="safe").load((whole / "metadata.yaml").read_text())
    shutil.copy(whole / "in.mcap", whole / "in_1.mcap")
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["in.mcap", "in_1.mcap"]
    for item in information["topics_with_message_count"]:
        item["message_count"] *= 2
    with open(whole / "metadata.yaml", "w") as out:
        YAML(typ="safe").dump(metadata, out)
    compress(whole, tmp_path / "small")
    assert len(messages(tmp_path / "small")) == 2 * len(parts)


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_ros_1(tmp_path, compression):
    source = recordings.write_ros1(tmp_path / "in.bag", compression=compression)
    result = compress(source, tmp_path / "small")
    assert (result.storage, result.messages) == ("mcap", 8)
    assert verdicts(source, tmp_path / "small") == {"/chatter": "identical", "/points": "exact"}
    restore(tmp_path / "small", tmp_path / "back")
    clouds = [m for m in messages(tmp_path / "back") if m.topic.name == "/points"]
    assert [m.data for m in clouds] == [recordings.cloud(number) for number in range(4)]
    assert [m.log_time for m in clouds] == [START + number * 10**8 for number in range(4)]
    with Reader(tmp_path / "small") as reader:
        latched = next(c for c in reader.connections if c.topic == "/chatter")
        assert latched.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        texts = [reader_text(raw) for connection, _, raw in reader.messages([latched])]
    assert texts == [f"text {number}" for number in range(4)]


def reader_text(raw: bytes) -> str:
    return ROS2.deserialize_cdr(raw, TEXT).data


# Counts


def test_a_count_in_metadata_yaml_that_was_not_read_is_an_error(tmp_path):
    source = recordings.write_rosbag2(tmp_path / "in", "mcap")
    file = source / "metadata.yaml"
    file.write_text(file.read_text().replace("- message_count: 2\n", "- message_count: 20\n"))
    with pytest.raises(CountMismatchError, match=r"2 messages of /rear/points read, its metadata.yaml has 20"):
        compress(source, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_the_statistics_of_an_mcap_file_count(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap", "none", chunks=False)
    data = bytearray(source.read_bytes())
    statistics = data.rindex(b"\x0b", 0, len(data) - 8)
    while int.from_bytes(data[statistics + 9 : statistics + 17], "little") != 10:  # its message count
        statistics = data.rindex(b"\x0b", 0, statistics)
    first_count = statistics + 9 + 42 + 4 + 2
    data[first_count] += 1
    source.write_bytes(data)
    with pytest.raises(CountMismatchError, match="its statistics"):
        compress(source, tmp_path / "small.mcap")


# Choosing


def test_only_the_topics_that_were_chosen(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    compress(source, tmp_path / "small.mcap", topics=("/rear/*",))
    assert {m.topic.name for m in messages(tmp_path / "small.mcap")} == {"/front/points", "/rear/points/anypcc", "/chatter"}
    with pytest.raises(BagUsageError, match=r"no topic of type .* \(there is: /chatter of type std_msgs/msg/String\)"):
        compress(source, tmp_path / "other.mcap", topics=("/chatter",))
    with pytest.raises(BagUsageError, match=r"there is: /front/points, /rear/points"):
        compress(source, tmp_path / "other.mcap", topics=("/nothing",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mcap", "small.mcap"]


def test_compressing_twice_is_refused_where_names_would_clash(tmp_path):
    source = recordings.write_mcap(tmp_path / "in.mcap")
    compress(source, tmp_path / "small.mcap", topics=("/rear/*",))
    compress(tmp_path / "small.mcap", tmp_path / "smaller.mcap")
    assert {m.topic.name for m in messages(tmp_path / "smaller.mcap")} == {
        "/front/points/anypcc",
        "/rear/points/anypcc",
        "/chatter",
    }


def test_compressing_makes_no_one_topic_of_two(tmp_path):
    """As where a robot has recorded its clouds and what its encoder made of them."""
    source, both = recordings.write_mcap(tmp_path / "in.mcap", clouds=2), tmp_path / "both.mcap"
    compress(source, tmp_path / "small.mcap")
    rewrite(both, [*messages(source), *messages(tmp_path / "small.mcap")])
    with pytest.raises(BagUsageError, match=r"/points.* and /.*/points.* would both become .*--topics"):
        compress(both, tmp_path / "c.mcap")
    assert not (tmp_path / "c.mcap").exists()


def test_a_topic_of_two_types_is_not_torn_apart(tmp_path):
    source, two = recordings.write_mcap(tmp_path / "in.mcap", clouds=2), tmp_path / "two.mcap"
    rewrite(two, [replace(message, topic=replace(message.topic, name="/both")) for message in messages(source)])
    with pytest.raises(BagUsageError, match="not to be restored"):
        compress(two, tmp_path / "small.mcap")


def rewrite(path, given):
    with BagOutput(path, "mcap", "", "ros2", {}) as output:
        for message in given:
            output.add_message(message)
        output.publish()


def test_a_cloud_that_the_codec_has_no_code_for_passes_through(tmp_path):
    flat = np.zeros(5, [("range", "<f4"), ("azimuth", "<f4")])
    source = tmp_path / "in.db3"
    recordings.write_old_sqlite(source)
    database = sqlite3.connect(source)
    database.execute("UPDATE messages SET data = ? WHERE id = 1", (recordings.cloud(0, flat),))
    database.commit()
    result = compress(source, tmp_path / "small.db3")
    (reason,) = result.topics["/front/points"].passed_through
    assert "no field x, y, z" in reason
    assert result.topics["/front/points"].converted == 3
    restore(tmp_path / "small.db3", tmp_path / "back.db3")
    assert plain(source) == plain(tmp_path / "back.db3")


def test_find_bags(tmp_path):
    recordings.write_rosbag2(tmp_path / "day" / "one", "mcap")
    recordings.write_mcap(tmp_path / "day" / "two.mcap")
    recordings.write_ros1(tmp_path / "day" / "three.bag")
    (tmp_path / "day" / "notes").mkdir()
    assert [path.name for path in find_bags(tmp_path / "day")] == ["one", "three.bag", "two.mcap"]
    assert find_bags(tmp_path / "day" / "one") == [tmp_path / "day" / "one"]
    with pytest.raises(BagUsageError):
        find_bags(tmp_path / "day" / "notes")


def test_a_bag_of_which_another_reader_returns_nothing(tmp_path):
    """metadata.yaml and the file describe a publisher's QoS differently, as after a tool has edited one of them.

    The reader of rosbags looks for topics that agree in it, finds none, and returns 0 of 10 messages without a word.
    """
    source = recordings.write_rosbag2(tmp_path / "in", "mcap")
    (source / "in.mcap").unlink()
    recordings.write_mcap(source / "in.mcap")
    with Reader(source) as reader:
        assert (reader.message_count, list(reader.messages())) == (10, [])
    compress(source, tmp_path / "small")
    assert len(messages(tmp_path / "small")) == 10
    with Reader(tmp_path / "small") as reader:
        assert sum(1 for _ in reader.messages()) == 10
