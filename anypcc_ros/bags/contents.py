"""What is in a bag, whatever its container: topics, messages, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

QOS, TYPE_HASH = "offered_qos_profiles", "topic_type_hash"
"""Keys of ``Topic.metadata``, as rosbag2 names them in MCAP channels."""


@dataclass(frozen=True)
class Definition:
    """The text that defines a message type, as it stands in the bag. ``encoding``: "ros2msg", "ros2idl", ..."""

    encoding: str
    text: bytes


@dataclass(frozen=True)
class Topic:
    """One topic as one connection of a recording: equal topics are one channel of the output.

    ``type``: like "sensor_msgs/msg/PointCloud2"; empty where the bag has none. ``metadata``: pairs of texts, with the QoS
    profiles of its publishers and the hash of its type, byte for byte.
    """

    name: str
    type: str
    encoding: str = "cdr"
    definition: Definition | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def described(self, key: str) -> str:
        """A text of ``metadata``, or nothing."""
        return dict(self.metadata).get(key, "")

    def with_metadata(self, key: str, value: str) -> Topic:
        """The same topic, its metadata changed under a key that it has; as it is without that key."""
        return replace(self, metadata=tuple((k, value if k == key else v) for k, v in self.metadata))


@dataclass(frozen=True)
class Message:
    """A recorded message: ``data`` is serialised as ``topic.encoding`` says; times are nanoseconds."""

    topic: Topic
    log_time: int
    publish_time: int
    sequence: int
    data: bytes


@dataclass(frozen=True)
class Attachment:
    """A file within an MCAP file."""

    name: str
    media_type: str
    log_time: int
    create_time: int
    data: bytes


@dataclass(frozen=True)
class Record:
    """A named table of texts within an MCAP file (a Metadata record)."""

    name: str
    table: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Counts:
    """Messages by topic as the bag itself counts them. ``where``: which part of it says so."""

    where: str
    messages: dict[str, int]


Content: TypeAlias = Topic | Message | Attachment | Record | Counts


class Damage(Protocol):
    """Told of damage that can be passed over. Raises it, or notes it and lets the reader go on."""

    def __call__(self, error: Exception) -> None: ...


class StorageReader(AbstractContextManager["StorageReader"], Protocol):
    """One file of a bag."""

    path: Path
    size: int
    """Bytes of the file."""

    def position(self) -> int:
        """How many of them have been read, about."""

    def topics(self) -> list[Topic] | None:
        """All topics, where that can be known without reading everything."""

    def definition(self, type_name: str) -> Definition | None:
        """Of a type, as far as it has been read."""

    def contents(self, damage: Damage) -> Iterator[Content]:
        """Everything, in the order of the file; a topic before its messages, ``Counts`` at the end."""


class StorageWriter(Protocol):
    """One file of a new bag. Every method may raise OSError or sqlite3.Error."""

    def add_topic(self, topic: Topic) -> None:
        """Make a topic known, also one that gets no message. Equal topics count once."""

    def add_definition(self, type_name: str, definition: Definition) -> None:
        """Keep the definition of a type that no topic needs to have."""

    def add_message(self, message: Message) -> None: ...

    def add_other(self, other: Attachment | Record) -> None: ...

    def close(self, metadata: dict[str, object]) -> None:
        """Finish the file; ``metadata``: the bag's, as in metadata.yaml."""

    def abandon(self) -> None:
        """Close the file as it is."""
