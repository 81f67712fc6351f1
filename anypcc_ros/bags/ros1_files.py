"""ROS 1 .bag files, read as if rosbag2 had recorded them: messages in CDR, types and definitions by their ROS 2 names.

The library ``rosbags`` reads the container and rewrites each message. Not kept, because ROS 2 has no place for it: the
sequence number in std_msgs/Header, the caller's id of a connection, and the MD5 sum of a type.
"""

from __future__ import annotations

import bisect
import heapq
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.rosbag1 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from anypcc_ros.bags.contents import QOS, TYPE_HASH, Content, Counts, Damage, Definition, Message, Topic
from anypcc_ros.bags.errors import CorruptBagError, DamagedMessageError, NotABagError, UnsupportedBagError
from anypcc_ros.bags.metadata import latched

MAGIC = b"#ROSBAG V"

VERSION = 8
"""Of rosbag2's metadata, in whose form QoS profiles are given."""

_RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}
_HEADER = "std_msgs/msg/Header"
_MALFORMED = (ReaderError, AssertionError, OSError, EOFError, ValueError, RuntimeError, KeyError, IndexError, struct.error)
"""What the reader and the decompressors below it raise on damaged bytes."""


class Ros1Reader:
    """One .bag file, in the order of time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._read = 0
        with open(path, "rb") as file:
            if not (magic := file.read(len(MAGIC))).startswith(MAGIC):
                raise NotABagError(f"{path}: begins with {magic!r}; a ROS 1 bag begins with {MAGIC!r}")
        self._reader = Reader(path)
        try:
            self._reader.open()
        except _MALFORMED as error:
            raise CorruptBagError(f"{path}: {error or type(error).__name__} (rosbag reindex may repair it)") from error
        self._store, self._topics = _describe(path, self._reader)

    def __enter__(self) -> Ros1Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.close()

    def position(self) -> int:
        return min(self._read, self.size)

    def topics(self) -> list[Topic] | None:
        return list(self._topics.values())

    def definition(self, type_name: str) -> Definition | None:
        return next((topic.definition for topic in self._topics.values() if topic.type == type_name), None)

    def contents(self, damage: Damage) -> Iterator[Content]:
        yield from self._topics.values()
        for number, time, data in self._raw_messages(damage):
            self._read += len(data)
            topic = self._topics[number]
            try:
                converted = bytes(self._store.ros1_to_cdr(data, topic.type))
            except (SerdeError, *_MALFORMED) as error:
                damage(DamagedMessageError(f"{self.path}: a message of {topic.name} at {time} ns is no {topic.type}: {error}"))
                continue
            yield Message(topic, time, time, 0, converted)
        counts: dict[str, int] = {}
        for connection in self._reader.connections:
            counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
        yield Counts("index", counts)

    def _raw_messages(self, damage: Damage) -> Iterator[tuple[int, int, bytes]]:
        """Connection, time and bytes of each message; behind one that cannot be read the reader starts again.

        Of the messages of one chunk only the first that cannot be read is told of; how many they are shows in the counts.
        """
        entries = list(heapq.merge(*self._reader.indexes.values()))
        times = [entry.time for entry in entries]
        damaged_chunks: set[int] = set()
        done = 0  # of the entries of the index
        while done < len(times):
            first = bisect.bisect_left(times, times[done])  # of those with this time, which the reader gives again
            try:
                messages = self._reader.messages(start=times[done])
                for skipped, (connection, time, data) in enumerate(messages, first):
                    if skipped >= done:
                        yield connection.id, time, data
                        done += 1
            except _MALFORMED as error:
                if entries[done].chunk_pos not in damaged_chunks:
                    damaged_chunks.add(entries[done].chunk_pos)
                    where = f"the chunk at byte {entries[done].chunk_pos}, from {times[done]} ns on,"
                    damage(CorruptBagError(f"{self.path}: {where} cannot be read: {error or type(error).__name__}"))
                done += 1


def _describe(path: Path, reader: Any) -> tuple[Typestore, dict[int, Topic]]:
    """A store of all types of the bag, with ROS 2's Header, and the topics by connection."""
    store = get_typestore(Stores.EMPTY)
    types: dict[str, Any] = {}
    try:
        for connection in reader.connections:
            kind = _RENAMED.get(connection.msgtype, connection.msgtype)
            types.update(get_types_from_msg(connection.msgdef.data, kind))
        types[_HEADER] = get_typestore(Stores.ROS2_JAZZY).fielddefs[_HEADER]
        store.register(types)
        topics = {}
        for connection in reader.connections:
            kind = _RENAMED.get(connection.msgtype, connection.msgtype)
            text, _ = store.generate_msgdef(kind, ros_version=2)
            metadata = ((QOS, latched(VERSION) if connection.ext.latching else ""), (TYPE_HASH, store.hash_rihs01(kind)))
            topics[connection.id] = Topic(connection.topic, kind, "cdr", Definition("ros2msg", text.encode()), metadata)
    except (TypesysError, KeyError, ValueError) as error:
        raise UnsupportedBagError(f"{path}: a message type that ROS 2 cannot express: {error}") from error
    return store, topics
