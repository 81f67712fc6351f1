"""sqlite3 files of rosbag2, every version of their schema; written in the one of Iron and later.

Read with Python's own sqlite3 rather than rosbags, which orders by time what was recorded in another order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from anypcc_ros.bags.contents import QOS, TYPE_HASH, Attachment, Content, Counts, Damage, Definition, Message, Record, Topic
from anypcc_ros.bags.errors import CorruptBagError, NotABagError
from anypcc_ros.bags.metadata import dump_yaml

MAGIC = b"SQLite format 3\0"

_SCHEMA = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
    offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
    encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
"""
"""Version 4, of rosbag2 since Iron; https://github.com/ros2/rosbag2, sqlite_storage.cpp."""


class SqliteReader:
    """One sqlite3 file, in the order in which it was recorded. The file is never written to, nor is its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._read = 0
        with open(path, "rb") as file:
            if (magic := file.read(len(MAGIC))) != MAGIC:
                raise NotABagError(f"{path}: begins with {magic!r}; a sqlite3 bag begins with {MAGIC!r}")
        self._definitions: dict[str, Definition] = {}
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            self._topics = self._read_topics()
        except sqlite3.Error as error:
            raise CorruptBagError(f"{path}: {error}") from error

    def __enter__(self) -> SqliteReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def position(self) -> int:
        return min(self._read, self.size)

    def topics(self) -> list[Topic] | None:
        return list(self._topics.values())

    def _read_topics(self) -> dict[int, Topic]:
        columns = self._columns("topics")
        if not columns or not self._columns("messages"):
            raise NotABagError(f"{self.path}: a database without the tables topics and messages is no bag")
        if self._columns("message_definitions"):
            rows = self._database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
            self._definitions = {kind: Definition(encoding, text.encode()) for kind, encoding, text in rows}
        qos, digest = (name if name in columns else "''" for name in ("offered_qos_profiles", "type_description_hash"))
        rows = self._database.execute(f"SELECT id, name, type, serialization_format, {qos}, {digest} FROM topics ORDER BY id")
        return {
            number: Topic(name, kind, form, self._definitions.get(kind), ((QOS, profiles), (TYPE_HASH, digest)))
            for number, name, kind, form, profiles, digest in rows
        }

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self._database.execute(f"PRAGMA table_info({table})")]

    def definition(self, type_name: str) -> Definition | None:
        return self._definitions.get(type_name)

    def contents(self, damage: Damage) -> Iterator[Content]:
        yield from self._topics.values()
        last = None
        try:
            for row in self._database.execute("SELECT id, topic_id, timestamp, data FROM messages ORDER BY id"):
                last = row[0]
                yield self._message(row)
        except sqlite3.DatabaseError as error:
            damage(CorruptBagError(f"{self.path}: after message {last}: {error}"))
            yield from self._one_by_one(last)
        yield from self._counts()

    def _one_by_one(self, last: int | None) -> Iterator[Message]:
        """What can still be read behind a damaged page; what cannot shows in the counts."""
        try:
            (end,) = self._database.execute("SELECT MAX(id) FROM messages").fetchone()
        except sqlite3.DatabaseError:
            return
        for number in range((last or 0) + 1, (end or 0) + 1):
            with suppress(sqlite3.DatabaseError):
                query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id = ?"
                for row in self._database.execute(query, (number,)):
                    yield self._message(row)

    def _message(self, row: tuple[int, int, int, bytes]) -> Message:
        number, topic, time, data = row
        self._read += len(data)
        if topic not in self._topics:
            raise CorruptBagError(f"{self.path}: message {number} is of topic {topic}, which is not described")
        return Message(self._topics[topic], time, time, 0, data)

    def _counts(self) -> Iterator[Counts]:
        """sqlite3 keeps no statistics; its index of times is a second list of all messages, and often sound alone."""
        query = "SELECT COUNT(*) FROM messages INDEXED BY timestamp_idx"
        with suppress(sqlite3.DatabaseError):
            (total,) = self._database.execute(query).fetchone()
            yield Counts("index of times", {"": total})


class SqliteWriter:
    """A new sqlite3 bag at ``path``; nothing of it is safe on the disk before ``close``, and its writer's fsync."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "BEGIN"):  # the file gets its name at the end
            self._database.execute(statement)
        for statement in _SCHEMA.strip().split(";\n"):
            self._database.execute(statement.rstrip(";"))
        self._topics: dict[Topic, int] = {}
        self._definitions: set[str] = set()

    def add_topic(self, topic: Topic) -> None:
        if topic in self._topics:
            return
        self._topics[topic] = len(self._topics) + 1
        row = (self._topics[topic], topic.name, topic.type, topic.encoding, topic.described(QOS), topic.described(TYPE_HASH))
        self._database.execute("INSERT INTO topics VALUES(?, ?, ?, ?, ?, ?)", row)
        if topic.definition is not None:
            self.add_definition(topic.type, topic.definition, topic.described(TYPE_HASH))

    def add_definition(self, type_name: str, definition: Definition, digest: str = "") -> None:
        if type_name not in self._definitions:
            self._definitions.add(type_name)
            self._database.execute(
                "INSERT INTO message_definitions(topic_type, encoding, encoded_message_definition, type_description_hash) "
                "VALUES(?, ?, ?, ?)",
                (type_name, definition.encoding, definition.text.decode("utf-8", "replace"), digest),
            )

    def add_message(self, message: Message) -> None:
        self.add_topic(message.topic)
        row = (self._topics[message.topic], message.log_time, message.data)
        self._database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", row)

    def add_other(self, other: Attachment | Record) -> None:
        """There is no place for it; who writes the bag says so."""

    def close(self, metadata: dict[str, object]) -> None:
        version = metadata["version"]
        row = (version, dump_yaml(metadata))
        self._database.execute("INSERT INTO metadata(metadata_version, metadata) VALUES(?, ?)", row)
        self._database.execute("INSERT INTO schema VALUES(4, ?)", (metadata.get("ros_distro", "unknown"),))
        self._database.execute("COMMIT")
        self._database.close()

    def abandon(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()
