"""The two message types that a bag's clouds have, and the convention for their topics. No ROS is needed for either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from anypcc_ros.bags.contents import TYPE_HASH, Definition, Topic
from anypcc_ros.bags.errors import BagUsageError

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
COMPRESSED_CLOUD = "anypcc_ros/msg/CompressedCloud"

SUFFIX = "/anypcc"
"""Of a compressed topic, behind the name of the original: what the encoder node publishes, and the decoder node takes."""

_DEFINITION = "CompressedCloud.msg"


@cache
def typestore() -> Typestore:
    """ROS 2's types and ours, to read and write serialised messages."""
    here = Path(__file__).resolve()
    installed, source = here.with_name(_DEFINITION), here.parents[2] / "msg" / _DEFINITION
    text = (installed if installed.exists() else source).read_text(encoding="utf-8")
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(text, COMPRESSED_CLOUD))
    return store


@cache
def definition(type_name: str) -> Definition:
    """The definition of POINT_CLOUD or COMPRESSED_CLOUD with that of every type within it, as rosbag2 embeds it."""
    text, _ = typestore().generate_msgdef(type_name, ros_version=2)
    return Definition("ros2msg", text.encode())


@cache
def type_hash(type_name: str) -> str:
    """RIHS01, as rosidl computes it."""
    return typestore().hash_rihs01(type_name)


def compressed(topic: Topic) -> Topic:
    """Where the clouds of ``topic`` go: its name with SUFFIX, our type; QoS and everything else unchanged."""
    renamed = replace(topic, name=topic.name + SUFFIX, type=COMPRESSED_CLOUD, definition=definition(COMPRESSED_CLOUD))
    return renamed.with_metadata(TYPE_HASH, type_hash(COMPRESSED_CLOUD))


def restored(topic: Topic, original: Definition | None) -> Topic:
    """The topic that ``compressed`` was given. ``original``: the definition of PointCloud2 that the bag still has."""
    name = topic.name.removesuffix(SUFFIX) if is_compressed(topic) and topic.name.endswith(SUFFIX) else f"{topic.name}/decoded"
    renamed = replace(topic, name=name, type=POINT_CLOUD, definition=original or definition(POINT_CLOUD))
    return renamed.with_metadata(TYPE_HASH, type_hash(POINT_CLOUD))


def is_cloud(topic: Topic) -> bool:
    return topic.type == POINT_CLOUD and topic.encoding == "cdr"


def is_compressed(topic: Topic) -> bool:
    return topic.type == COMPRESSED_CLOUD and topic.encoding == "cdr"


def check_apart(topic: Topic, new: Topic, others: Mapping[Topic, Topic], merging: bool) -> None:
    """Raises BagUsageError where ``topic`` is to get the name of another, or to leave one of its own name.

    ``others``: those before it, and what they become. ``merging``: two of one type may become one, as what compressing has
    passed through does again with what it has compressed. Several of one name and type are one topic of several publishers.
    """
    for other, made in others.items():
        if made.name == new.name and (made.type != new.type or not (merging or other.name == topic.name)):
            both = f"{topic.name} ({topic.type}) and {other.name} ({other.type})"
            raise BagUsageError(f"{both} would both become {new.name}; --topics chooses one")
        if made.name != new.name and other.name == topic.name:
            raise BagUsageError(f"of two topics {topic.name} one would become {new.name}, one {made.name}: not to be restored")
