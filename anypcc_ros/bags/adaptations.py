"""Adaptations that the streams of a bag name, on a latched topic beside them, as the encoder node publishes them.

So a bag of any storage, a single file too, has what its streams need, and a player gives it to the decoder node.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags.contents import QOS, TYPE_HASH, Message, Topic
from anypcc_ros.bags.metadata import latched
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.transform import read_message
from anypcc_ros.bags.types import definition, type_hash, typestore
from anypcc_ros.codec.errors import StreamError
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.pointcloud2 import ADAPTATION_SUFFIX

BYTES = "std_msgs/msg/UInt8MultiArray"


def adaptation_message(adaptation: Adaptation, stream: Message, version: int | None) -> Message:
    """The message that goes before ``stream``, the first one that names the adaptation. ``version``: of the bag's metadata, if
    it has any."""
    qos = latched(version, stream.topic.described(QOS))
    described = (QOS, qos), (TYPE_HASH, type_hash(BYTES))
    topic = Topic(stream.topic.name + ADAPTATION_SUFFIX, BYTES, definition=definition(BYTES), metadata=described)
    types = typestore().types
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    message = types[BYTES](layout=layout, data=np.frombuffer(adaptation.to_bytes(), np.uint8))
    return Message(topic, stream.log_time, stream.publish_time, 0, bytes(typestore().serialize_cdr(message, BYTES)))


def adaptations_of(path: Path) -> dict[str, list[Adaptation]]:
    """By the name of their topic, all that are in a bag, wherever in it; of topics that hold nothing else.

    Where the bag tells its topics it is read only if there are such ones. What is wrong with it whoever reads the streams will
    tell. Raises BagError, OSError.
    """
    found: dict[str, list[Adaptation]] = {}
    others: set[str] = set()
    with Bag(path) as bag:
        topics = bag.topics()
        if topics is not None and not any(map(_may_be, topics)):
            return {}
        for item in bag.contents(lambda error: None):
            if isinstance(item, Message) and _may_be(item.topic):
                adaptation = _adaptation_in(item)
                if adaptation is None:
                    others.add(item.topic.name)
                elif adaptation not in found.setdefault(item.topic.name, []):
                    found[item.topic.name].append(adaptation)
    return {name: adaptations for name, adaptations in found.items() if name not in others}


def _may_be(topic: Topic) -> bool:
    return topic.type == BYTES and topic.encoding == "cdr" and topic.name.endswith(ADAPTATION_SUFFIX)


def _adaptation_in(message: Message) -> Adaptation | None:
    try:
        return Adaptation.from_bytes(bytes(read_message(message.data, BYTES).data))
    except (SerdeError, StreamError):
        return None
