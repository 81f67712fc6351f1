"""Compress the clouds of a bag, or restore them: one pass, in the order of the bag, everything else passed through."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from anypcc_ros.bags import types
from anypcc_ros.bags.contents import Attachment, Message, Record, Topic
from anypcc_ros.bags.engines import Engine, InOrder
from anypcc_ros.bags.errors import BagUsageError, DamagedMessageError, OutputError
from anypcc_ros.bags.peers import FileMode, message_size
from anypcc_ros.bags.reading import MCAP, ROS1, Bag
from anypcc_ros.bags.results import BagResult, DamageLog, Frame, TopicTotals
from anypcc_ros.bags.transform import CompressTask, Done, Failed, RestoreTask, Result, adaptation_file, run_slice
from anypcc_ros.bags.writing import BagOutput, check_output

Item: TypeAlias = Topic | Message | Attachment | Record
Progress: TypeAlias = Callable[[int, int, int], None]
"""Told how many bytes of the old bag are done, how many there are, and how many were written."""


@dataclass(frozen=True)
class Plan:
    """What a run does. ``topics``: patterns of the names of those to convert, all if empty. ``storage``: of the new
    bag, "" for that of the old one. ``compare``: keep the figures of every cloud, not only sums, and those of zstd."""

    task: CompressTask | RestoreTask
    topics: tuple[str, ...] = ()
    storage: str = ""
    compare: bool = False

    @property
    def type(self) -> str:
        """Of the messages to convert."""
        return types.POINT_CLOUD if isinstance(self.task, CompressTask) else types.COMPRESSED_CLOUD

    def chooses(self, topic: Topic) -> bool:
        wanted = types.is_cloud(topic) if isinstance(self.task, CompressTask) else types.is_compressed(topic)
        return wanted and (not self.topics or any(fnmatch.fnmatchcase(topic.name, pattern) for pattern in self.topics))

    def with_adaptations_of(self, source: Path) -> Plan:
        """This plan; where it restores, with the adaptations that are in the bag's folder, unless it knows others."""
        return replace(self, task=self.task.with_adaptations_of(source)) if isinstance(self.task, RestoreTask) else self

    def check_topics(self, topics: list[Topic], path: Path) -> None:
        """Raises BagUsageError for a pattern that chooses nothing."""
        for pattern in self.topics:
            named = [topic for topic in topics if fnmatch.fnmatchcase(topic.name, pattern)]
            if not any(self.chooses(topic) for topic in named):
                kinds = ", ".join(sorted({f"{topic.name} of type {topic.type}" for topic in named}))
                have = kinds or ", ".join(sorted(topic.name for topic in topics if self._fits(topic))) or "none"
                raise BagUsageError(f"{path}: --topics {pattern}: no topic of type {self.type} (there is: {have})")

    def _fits(self, topic: Topic) -> bool:
        return topic.type == self.type


def convert(
    source: Path, target: Path, plan: Plan, engine: Engine, damage: DamageLog, progress: Progress | None = None
) -> BagResult:
    """Make ``target`` of ``source``; it appears when it is complete. Raises BagError, OSError."""
    check_output(target, plan.storage)
    plan = plan.with_adaptations_of(source)
    if target.exists():
        raise OutputError(f"{target}: exists already, and is not replaced")
    start = time.perf_counter()
    noted = len(damage.noted)
    with Bag(source) as bag:
        topics = bag.topics()
        if topics is not None:
            plan.check_topics(topics, source)
        storage = plan.storage or (MCAP if bag.storage == ROS1 else bag.storage)
        with BagOutput(target, storage, bag.mode, bag.profile, bag.metadata) as output:
            conversion = _Conversion(bag, output, plan, damage)
            conversion.run(engine, progress)
            if topics is None:
                plan.check_topics(list(conversion.new_topics), source)
            if isinstance(plan.task, CompressTask) and plan.task.config.adaptation:
                output.add_file(*adaptation_file(plan.task.config.adaptation))
            output.publish()
        result = BagResult(source, target, output.storage, bag.size, _size(target), output.summary.messages)
    result.topics, result.not_kept = conversion.totals, +output.not_kept
    result.zstd_file_bytes = conversion.zstd_file_bytes()
    result.damage = damage.noted[noted:]
    result.seconds = time.perf_counter() - start
    return result


class _Conversion:
    """One bag on its way. ``new_topics``: what each topic becomes; ``totals``: by name of the old topic."""

    def __init__(self, bag: Bag, output: BagOutput, plan: Plan, damage: DamageLog) -> None:
        self._bag, self._output, self._plan, self._damage = bag, output, plan, damage
        self.new_topics: dict[Topic, Topic] = {}
        self.totals: dict[str, TopicTotals] = {}
        self._file_mode = FileMode() if plan.compare else None
        self._read = self._done = 0  # bytes of messages

    def zstd_file_bytes(self) -> int:
        """Of all messages, once the run is over."""
        return self._file_mode.finish() if self._file_mode is not None else 0

    def run(self, engine: Engine, progress: Progress | None) -> None:
        in_order: InOrder[Item, bytes, Result] = InOrder(engine, partial(run_slice, self._plan.task))
        for item, result in in_order.run(self._items()):
            if isinstance(item, Message):
                self._write(item, result)
            elif isinstance(item, Topic):
                self._add_topic(item)
            else:
                self._output.add_other(item)
            if progress is not None:
                share = self._done / self._read if self._read else 1.0  # what has been read may still wait
                progress(int(self._bag.position() * share), self._bag.size, self._output.bytes_written())

    def _items(self) -> Iterator[tuple[Item, bytes | None, int]]:
        for item in self._bag.contents(self._damage):
            if isinstance(item, Message):
                self._read += len(item.data)
                yield item, item.data if self._plan.chooses(item.topic) else None, len(item.data)
            else:
                yield item, None, len(item.data) if isinstance(item, Attachment) else 0

    def _add_topic(self, topic: Topic) -> None:
        new = topic
        if self._plan.chooses(topic):
            new = self._converted(topic)
            if topic.definition is not None:
                self._output.add_definition(topic.type, topic.definition)  # for who restores it
        types.check_free(new, self.new_topics.values())
        self.new_topics[topic] = new
        self.totals.setdefault(topic.name, TopicTotals.of(topic, new))
        self._output.add_topic(new)

    def _converted(self, topic: Topic) -> Topic:
        if isinstance(self._plan.task, CompressTask):
            return types.compressed(topic)
        return types.restored(topic, self._bag.definition(types.POINT_CLOUD))

    def _write(self, message: Message, result: Result | None) -> None:
        self._done += len(message.data)
        totals = self.totals[message.topic.name]
        if isinstance(result, Done):
            new = replace(message, topic=self.new_topics[message.topic], data=result.data)
            totals.add_cloud(result.statistics)
            if self._plan.compare:
                totals.frames.append(Frame(message.log_time, result.statistics))
        else:
            if isinstance(result, Failed):
                self._pass_through(message, result)
            new = message
            totals.zstd_bytes += message_size(message.data) if self._plan.compare else 0
        totals.add(message, len(new.data))
        if self._file_mode is not None:
            self._file_mode.add(message.data)
        self._output.add_message(new)

    def _pass_through(self, message: Message, failure: Failed) -> None:
        """A message that is sound but not one for the codec is no damage, and the totals tell of it."""
        if failure.damaged:
            where = f"{self._bag.path}: message of {message.topic.name} at {message.log_time} ns"
            self._damage(DamagedMessageError(f"{where}: {failure.reason}"))
        self.totals[message.topic.name].passed_through[failure.reason] += 1


def _size(path: Path) -> int:
    """Bytes of the recording itself; metadata.yaml is not counted, as it is not in the old bag's size."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix != ".yaml"]
    return sum(file.stat().st_size for file in files)
