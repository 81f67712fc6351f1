"""Is one bag what became of another? Every message is compared; nothing is taken on trust."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from anypcc_ros.bags import types
from anypcc_ros.bags.adaptations import adaptations_of
from anypcc_ros.bags.compare import ORDER, CompareTask, Comparison, Error, Verdict, run_comparisons
from anypcc_ros.bags.contents import Message, Topic
from anypcc_ros.bags.engines import Engine, InOrder
from anypcc_ros.bags.reading import MCAP, Bag
from anypcc_ros.bags.results import DamageLog, counted

Pair: TypeAlias = tuple[Message, Message]
Known: TypeAlias = tuple[Pair, Comparison]
"""A pair, and what a look at its times and bytes has told already."""

Progress: TypeAlias = Callable[[int, int, int], None]


@dataclass
class TopicVerdict:
    """One topic, by its name in the original. ``reasons``: the first few of what is different."""

    name: str
    other_name: str = ""
    messages: int = 0
    verdict: Verdict = "identical"
    counts: dict[Verdict, int] = field(default_factory=dict)
    errors: dict[str, Error] = field(default_factory=dict)
    left_out: int = 0
    dropped: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, pair: Pair, comparison: Comparison) -> None:
        original, other = pair
        self.messages += 1
        self.other_name = other.topic.name
        self.left_out += comparison.left_out
        self.dropped = sorted(comparison.dropped.union(self.dropped))
        for name, error in comparison.errors.items():
            known = self.errors.get(name, Error(0.0, 0.0))
            self.errors[name] = Error(max(known.largest, error.largest), max(known.allowed, error.allowed))
        self.counts[comparison.verdict] = self.counts.get(comparison.verdict, 0) + 1
        self.verdict = max(self.verdict, comparison.verdict, key=ORDER.index)
        if comparison.reason:
            self._tell(f"message {self.messages} at {original.log_time} ns: {comparison.reason}")

    def differ(self, reason: str) -> None:
        """For something that is not in a pair of messages."""
        self.verdict = "different"
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        if len(self.reasons) < 5:
            self.reasons.append(reason)


def verify(
    original: Path, other: Path, task: CompareTask, engine: Engine, damage: DamageLog, progress: Progress | None = None
) -> list[TopicVerdict]:
    """Compare every message of ``original`` with the one of ``other`` that it became, compressed or restored.

    Raises BagError, OSError.
    """
    adaptations = adaptations_of(other)
    task = replace(task, reading=task.reading.knowing(adaptations))
    with Bag(original) as first, Bag(other) as second:
        times_only = MCAP not in (first.storage, second.storage) or first.storage != second.storage
        matching = _Matching(first, second, damage, times_only, adaptations)
        in_order: InOrder[Known, tuple[bytes, bytes, bool], Comparison] = InOrder(engine, partial(run_comparisons, task))
        for (pair, known), comparison in in_order.run(matching.work()):
            matching.verdict(pair[0].topic.name).add(pair, comparison or known)
            if progress is not None:
                progress(first.position(), first.size, second.position())
        matching.finish()
    return sorted(matching.verdicts.values(), key=lambda verdict: verdict.name)


class _Matching:
    """Reads two bags side by side and pairs the k-th messages of each topic."""

    def __init__(self, first: Bag, second: Bag, damage: DamageLog, times_only: bool, added: Collection[str]) -> None:
        """``added``: topics that compressing adds to a bag."""
        self._bags, self._damage, self._times_only = (first, second), damage, times_only
        topics = first.topics()
        if topics is None:  # there is nothing that tells them but reading it all
            with Bag(first.path) as again:
                topics = [item for item in again.contents(lambda error: None) if isinstance(item, Topic)]
        self._originals = {topic.name for topic in topics}
        self._added = set(added) - self._originals
        self._waiting: tuple[dict[str, deque[Message]], dict[str, deque[Message]]] = ({}, {})
        self.verdicts: dict[str, TopicVerdict] = {}

    def work(self) -> Iterator[tuple[Known, tuple[bytes, bytes, bool] | None, int]]:
        """All pairs, and what of them needs more than a look."""
        for original, other in self._pairs():
            known = self._look(original, other)
            compressed = types.is_compressed(other.topic)
            closer = types.is_cloud(original.topic) and original.data != other.data and not known.reason
            argument = (original.data, other.data, compressed) if closer else None
            yield ((original, other), known), argument, len(original.data) + len(other.data)

    def _pairs(self) -> Iterator[Pair]:
        streams = [self._messages(0), self._messages(1)]
        open_streams = {0, 1}
        while open_streams:
            for side in sorted(open_streams):
                message = next(streams[side], None)
                if message is None:
                    open_streams.discard(side)
                    continue
                name = self._original_name(message) if side else message.topic.name
                partners = self._waiting[1 - side].get(name)
                if partners:
                    partner = partners.popleft()
                    yield (partner, message) if side else (message, partner)
                else:
                    self._waiting[side].setdefault(name, deque()).append(message)

    def _original_name(self, message: Message) -> str:
        """The topic that a message of the other bag belongs to in the original, which may have compressed topics itself."""
        name = message.topic.name
        converted = types.is_compressed(message.topic) and name not in self._originals
        return name.removesuffix(types.SUFFIX) if converted else name

    def _messages(self, side: int) -> Iterator[Message]:
        for item in self._bags[side].contents(self._damage):
            if isinstance(item, Message) and not (side and item.topic.name in self._added):
                yield item

    def _look(self, original: Message, other: Message) -> Comparison:
        kinds = {types.POINT_CLOUD, types.COMPRESSED_CLOUD}
        if original.topic.type != other.topic.type and not {original.topic.type, other.topic.type} <= kinds:
            return Comparison("different", reason=f"it is a {other.topic.type}, not a {original.topic.type}")
        if original.log_time != other.log_time:
            return Comparison("different", reason=f"it has log time {other.log_time} ns")
        numbers = [(message.publish_time, message.sequence) for message in (original, other)]
        if not self._times_only and numbers[0] != numbers[1]:
            shown = [f"publish time {time} ns and sequence number {sequence}" for time, sequence in numbers]
            return Comparison("different", reason=f"it has {shown[1]}, not {shown[0]}")
        if original.data != other.data and not types.is_cloud(original.topic):
            return Comparison("different", reason="it has other bytes")
        return Comparison("identical")

    def verdict(self, name: str) -> TopicVerdict:
        """That of a topic of the original."""
        return self.verdicts.setdefault(name, TopicVerdict(name))

    def finish(self) -> None:
        """Tell of messages that have no counterpart, and of topics that one bag alone has."""
        for side, what in enumerate(("missing", "not in the original")):
            for name, messages in self._waiting[side].items():
                if messages:
                    self.verdict(name).differ(
                        f"{counted(len(messages), 'message')} {what}, the first at {messages[0].log_time} ns"
                    )
