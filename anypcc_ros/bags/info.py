"""What is in a bag, found by reading it through: also that it can be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError

from anypcc_ros.bags import types
from anypcc_ros.bags.contents import Attachment, Message, Record, Topic
from anypcc_ros.bags.errors import DamagedMessageError
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import read_message
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.errors import StreamError


@dataclass
class TopicInfo:
    """One topic. Of compressed clouds also points, bytes before and after, and how positions and fields were kept."""

    name: str
    type: str
    messages: int = 0
    bytes: int = 0
    points: int = 0
    raw_bytes: int = 0
    stream_bytes: int = 0
    kept: list[str] = field(default_factory=list)


@dataclass
class BagInfo:
    """A bag. Times are nanoseconds; ``damage``: what was found when it was read."""

    path: str
    storage: str
    compression: str
    size: int
    messages: int = 0
    start: int | None = None
    end: int | None = None
    attachments: int = 0
    records: int = 0
    topics: dict[str, TopicInfo] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"topics": [asdict(topic) for topic in self.topics.values()]}


def inspect_bag(path: Path, damage: DamageLog) -> BagInfo:
    """Read a bag through. Raises BagError, OSError."""
    with Bag(path) as bag:
        info = BagInfo(str(path), bag.storage, bag.mode, bag.size)
        for item in bag.contents(damage):
            if isinstance(item, Topic):
                info.topics.setdefault(item.name, TopicInfo(item.name, item.type))
            elif isinstance(item, Message):
                _add(info, item, damage)
            elif isinstance(item, Attachment):
                info.attachments += 1
            elif isinstance(item, Record):
                info.records += 1
    info.damage = damage.noted
    return info


def _add(info: BagInfo, message: Message, damage: DamageLog) -> None:
    info.messages += 1
    info.start = message.log_time if info.start is None else min(info.start, message.log_time)
    info.end = message.log_time if info.end is None else max(info.end, message.log_time)
    topic = info.topics[message.topic.name]
    topic.messages += 1
    topic.bytes += len(message.data)
    if not types.is_compressed(message.topic):
        return
    try:
        cloud = read_message(message.data, types.COMPRESSED_CLOUD)
        stream = inspect(memoryview(cloud.data))
    except (SerdeError, StreamError) as error:
        damage(DamagedMessageError(f"{info.path}: message of {topic.name} at {message.log_time} ns: {error}"))
        return
    topic.points += stream.points
    topic.raw_bytes += cloud.raw_size
    topic.stream_bytes += stream.size
    kept = [f"x, y, z {'exact' if stream.exact else f'within {stream.step / 2:g}'}, order {stream.order}"]
    kept += [f"{item.name} {item.policy if item.policy != 'step' else f'within {item.step / 2:g}'}" for item in stream.fields]
    if (text := "; ".join(kept)) not in topic.kept:
        topic.kept.append(text)


def describe(info: BagInfo) -> list[str]:
    """The lines that the command prints."""
    seconds = ((info.end or 0) - (info.start or 0)) * 1e-9
    compression = f", zstd by {info.compression}" if info.compression else ""
    lines = [f"{info.path}: {info.storage}{compression}, {info.size:,} bytes, {info.messages:,} messages, {seconds:.3f} s"]
    if info.attachments or info.records:
        lines.append(f"  {info.attachments} attachments, {info.records} metadata records")
    width = max(map(len, info.topics), default=0)
    for topic in info.topics.values():
        line = f"  {topic.name:<{width}}  {topic.type}, {topic.messages:,} messages, {topic.bytes:,} bytes"
        if topic.points:
            bpp = 8 * topic.stream_bytes / topic.points
            ratio = topic.raw_bytes / topic.stream_bytes
            line += f", {topic.points:,} points, {bpp:.2f} bits per point, {ratio:.2f} times smaller"
        lines.append(line)
        lines += [f"  {'':<{width}}    {text}" for text in topic.kept]
    return lines
