"""What came of a run: figures by topic, and what was found to be damaged."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from anypcc_ros.bags.contents import Message, Topic
from anypcc_ros.bags.transform import Statistics
from anypcc_ros.codec.rate import TOLERANCE


class DamageLog:
    """A ``Damage``: the first raises, or with ``keep_going`` all are noted and told on stderr."""

    def __init__(self, keep_going: bool) -> None:
        self._keep_going = keep_going
        self.noted: list[str] = []

    def __call__(self, error: Exception) -> None:
        if not self._keep_going:
            raise error
        self.noted.append(str(error))
        print(f"anypcc: damaged: {error}", file=sys.stderr, flush=True)


def counted(number: int, what: str) -> str:
    """As "1 message" and "2 messages"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass
class FieldTotals:
    """One field over all clouds of a topic. ``largest_error``: in its own unit, as the encoder measured it."""

    policy: str
    step: float
    largest_error: float = 0.0
    size: int = 0


@dataclass(frozen=True)
class Frame:
    """One cloud, for the report: when it was recorded (ns) and its figures."""

    log_time: int
    statistics: Statistics


@dataclass
class TopicTotals:
    """One topic of a run. Bytes of serialised messages before and after, of those that were converted and of all.

    ``missed``: clouds that are farther from their target than a search comes; ``farthest``: how far the worst is, relatively.
    """

    name: str
    type: str
    new_name: str
    messages: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    converted: int = 0
    points: int = 0
    left_out: int = 0
    missed: int = 0
    farthest: float = 0.0
    raw_bytes: int = 0
    stream_bytes: int = 0
    seconds: float = 0.0
    step: float = 0.0
    exact: bool = False
    order: str = ""
    zstd_bytes: int = 0
    draco_bytes: int | None = None
    fields: dict[str, FieldTotals] = field(default_factory=dict)
    passed_through: Counter[str] = field(default_factory=Counter)
    frames: list[Frame] = field(default_factory=list)

    @classmethod
    def of(cls, topic: Topic, new: Topic) -> TopicTotals:
        return cls(topic.name, topic.type, new.name)

    @property
    def bpp(self) -> float:
        """Bits of stream per point."""
        return 8 * self.stream_bytes / self.points if self.points else 0.0

    def add(self, message: Message, size_after: int) -> None:
        self.messages += 1
        self.bytes_before += len(message.data)
        self.bytes_after += size_after

    def add_cloud(self, statistics: Statistics) -> None:
        first = not self.converted
        self.converted += 1
        self.left_out += statistics.left_out
        self.raw_bytes += statistics.raw_size
        self.stream_bytes += statistics.stream_size
        self.seconds += statistics.seconds
        if statistics.points:
            self.exact = statistics.exact and (self.exact or not self.points)
            self.step = max(self.step, 0.0 if statistics.exact else statistics.step)
            self.order = statistics.order
            self.points += statistics.points
        for info in statistics.fields:
            totals = self.fields.setdefault(info.name, FieldTotals(info.policy, info.step))
            totals.largest_error = max(totals.largest_error, info.largest_error)
            totals.size += info.size
        if statistics.wanted and abs(miss := statistics.stream_size / statistics.wanted - 1) > TOLERANCE:
            self.missed += 1
            self.farthest = max(self.farthest, miss, key=abs)
        if statistics.peers is not None:
            self.zstd_bytes += statistics.peers.zstd
            draco = statistics.peers.draco
            known = draco is not None and (first or self.draco_bytes is not None)
            self.draco_bytes = (self.draco_bytes or 0) + (draco or 0) if known else None


@dataclass
class BagResult:
    """A bag that was converted. ``zstd_file_bytes``: its messages by zstd, as one file; 0 where that was not asked for."""

    source: Path
    target: Path
    storage: str
    size_before: int = 0
    size_after: int = 0
    messages: int = 0
    seconds: float = 0.0
    zstd_file_bytes: int = 0
    topics: dict[str, TopicTotals] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    not_kept: Counter[str] = field(default_factory=Counter)

    @property
    def ratio(self) -> float:
        """Times smaller the new bag is, files against files."""
        return self.size_before / self.size_after if self.size_after else 0.0

    @property
    def clouds(self) -> list[TopicTotals]:
        return [topic for topic in self.topics.values() if topic.converted]
