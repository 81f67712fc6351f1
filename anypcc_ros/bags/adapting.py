"""`anypcc bag compress --adapt`: one adaptation of the model to the clouds of some bags. Needs torch."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
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
"""Clouds of each topic that the model is tuned on."""

STEPS = 200


def adaptation_to(sources: Sequence[Path], plan: Plan, config: CodecConfig) -> Adaptation:
    """Tuned to some clouds of every topic to be compressed, drawn at random. Raises BagError, MissingPackageError."""
    optional("torch", "torch")
    from anypcc_ros.adaptation.shared import tune_shared

    clouds, count = _sample(sources, plan)
    if not clouds:
        raise BagUsageError(f"{sources[0]}: no clouds that --adapt could tune the model to")
    return tune_shared(Encoder(config), clouds, STEPS, streams=count)


def _sample(sources: Sequence[Path], plan: Plan) -> tuple[list[PointCloud], int]:
    """Clouds, SAMPLE of each topic, every one as likely as another; and how many clouds there are in all."""
    drawn: dict[str, list[bytes]] = defaultdict(list)
    seen: Counter[str] = Counter()
    rng = random.Random(0)
    for source in sources:
        with Bag(source) as bag:
            for item in bag.contents(DamageLog(keep_going=True)):
                if isinstance(item, Message) and plan.chooses(item.topic):
                    kept = drawn[item.topic.name]
                    place = len(kept) if len(kept) < SAMPLE else rng.randrange(seen[item.topic.name] + 1)
                    seen[item.topic.name] += 1
                    if place < SAMPLE:
                        kept[place : place + 1] = [item.data]
    clouds = []
    for data in (data for kept in drawn.values() for data in kept):
        try:
            clouds.append(cloud_from_message(read_message(data, POINT_CLOUD)))
        except (SerdeError, InputError):
            continue  # the conversion will tell of it
    return [cloud for cloud in clouds if len(cloud)], seen.total()
