"""`anypcc bag compress --adapt`: an adaptation of the model to each topic's clouds in some bags. Needs torch."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rosbags.serde import SerdeError

from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.convert import Plan
from anypcc_ros.bags.errors import BagUsageError
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import read_message
from anypcc_ros.bags.types import POINT_CLOUD
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import InputError
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.optional import optional
from anypcc_ros.pointcloud2 import cloud_from_message

SAMPLE = 3
"""Clouds of each topic that the model is tuned on; and as many others, if there are any, that what it saves is measured on."""

STEPS = 200

OVERHEAD = 1000
"""Bytes that a bag has of an adaptation besides the adaptation itself: a topic with its type, and a message."""


@dataclass(frozen=True)
class Tuned:
    """What tuning to a topic's clouds brought. ``clouds``: how many there are; ``saved``: bytes of each one, by those measured,
    whose bytes without it were ``before`` on average."""

    topic: str
    adaptation: Adaptation
    clouds: int
    before: float
    saved: float

    @property
    def pays(self) -> bool:
        return self.saved * self.clouds > len(self.adaptation.delta) + OVERHEAD

    def __str__(self) -> str:
        what = f"adaptation {self.adaptation.hash}, {len(self.adaptation.delta)} bytes" if self.pays else "not adapted"
        return f"{self.topic}: {what}: {-100 * self.saved / self.before:+.2f} % for each of {self.clouds} clouds"


def adaptations_to(sources: Sequence[Path], plan: Plan, config: CodecConfig) -> list[Tuned]:
    """An adaptation to some clouds of every topic to be compressed, drawn at random. Raises BagError, MissingPackageError."""
    optional("torch", "torch")
    from anypcc_ros.adaptation.shared import tune_shared

    encoder, found = Encoder(config), []
    for topic, (messages, count) in _samples(sources, plan).items():
        known = [(cloud, size) for data in messages for cloud, size in _encoded(encoder, data)]
        if known:
            adaptation = tune_shared(encoder, [cloud for cloud, _ in known[:SAMPLE]], STEPS, streams=count)
            adapted = Encoder(config, adaptation=adaptation)
            measured = known[SAMPLE:] or known
            before = sum(size for _, size in measured) / len(measured)
            after = sum(len(adapted.encode(cloud)) for cloud, _ in measured) / len(measured)
            found.append(Tuned(topic, adaptation, count, before, before - after))
    if not found:
        raise BagUsageError(f"{sources[0]}: no clouds that --adapt could tune the model to")
    return found


def _encoded(encoder: Encoder, message: bytes) -> Iterator[tuple[PointCloud, int]]:
    """The message's cloud and the size of its stream, if it has any points that can be encoded."""
    try:
        cloud = cloud_from_message(read_message(message, POINT_CLOUD))
        if len(cloud):
            yield cloud, len(encoder.encode(cloud))
    except (SerdeError, InputError):
        return  # the conversion will tell of it


def _samples(sources: Sequence[Path], plan: Plan) -> dict[str, tuple[list[bytes], int]]:
    """By topic, at most 2 SAMPLE messages, every one as likely as another, in any order; and how many there are in all."""
    drawn: dict[str, list[bytes]] = defaultdict(list)
    seen: Counter[str] = Counter()
    rng = random.Random(0)
    for source in sources:
        with Bag(source) as bag:
            for item in bag.contents(DamageLog(keep_going=True)):
                if isinstance(item, Message) and plan.chooses(item.topic):
                    kept = drawn[item.topic.name]
                    place = len(kept) if len(kept) < 2 * SAMPLE else rng.randrange(seen[item.topic.name] + 1)
                    seen[item.topic.name] += 1
                    if place < 2 * SAMPLE:
                        kept[place : place + 1] = [item.data]
    return {topic: (rng.sample(kept, len(kept)), seen[topic]) for topic, kept in drawn.items()}
