"""Compress the clouds of a bag, or restore them: one pass, in the order of the bag, everything else passed through."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from anypcc_ros.bags import types
from anypcc_ros.bags.adaptations import adaptation_message, adaptations_of
from anypcc_ros.bags.contents import Attachment, Message, Record, Topic
from anypcc_ros.bags.engines import Engine, InOrder
from anypcc_ros.bags.errors import BagUsageError, DamagedMessageError, OutputError
from anypcc_ros.bags.peers import FileMode, message_size
from anypcc_ros.bags.reading import MCAP, ROS1, Bag
from anypcc_ros.bags.results import BagResult, DamageLog, Frame, TopicTotals
from anypcc_ros.bags.ros1_files import VERSION
from anypcc_ros.bags.transform import Argument, CompressTask, Done, Failed, RestoreTask, Result, run_slice
from anypcc_ros.bags.writing import BagOutput, check_output
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.pointcloud2 import ADAPTATION_SUFFIX

Item: TypeAlias = Topic | Message | Attachment | Record
Progress: TypeAlias = Callable[[int, int, int], None]
"""Told how many bytes of the old bag are done, how many there are, and how many were written."""


@dataclass(frozen=True)
class Plan:
    """What a run does. ``topics``: patterns of the names of those to convert, all if empty. ``storage``: of the new
    bag, "" for that of the old one. ``compare``: keep the figures of every cloud, not only sums, and those of zstd.
    ``adaptations``: of the model, by the name of the topic whose clouds are compressed with it, "" for all others."""

    task: CompressTask | RestoreTask
    topics: tuple[str, ...] = ()
    storage: str = ""
    compare: bool = False
    adaptations: Mapping[str, Adaptation] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """Of the messages to convert."""
        return types.POINT_CLOUD if isinstance(self.task, CompressTask) else types.COMPRESSED_CLOUD

    def chooses(self, topic: Topic) -> bool:
        wanted = types.is_cloud(topic) if isinstance(self.task, CompressTask) else types.is_compressed(topic)
        return wanted and (not self.topics or any(fnmatch.fnmatchcase(topic.name, pattern) for pattern in self.topics))

    def adaptation(self, topic: Topic) -> Adaptation | None:
        """By which the clouds of a topic are compressed."""
        return self.adaptations.get(topic.name, self.adaptations.get(""))

    def knowing(self, adaptations: Mapping[str, Iterable[Adaptation]]) -> Plan:
        """This plan; where it restores, with what the bag's streams may name."""
        if isinstance(self.task, RestoreTask):
            return replace(self, task=RestoreTask(self.task.reading.knowing(adaptations)))
        return self

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
    if target.exists():
        raise OutputError(f"{target}: exists already, and is not replaced")
    start = time.perf_counter()
    noted = len(damage.noted)
    named = adaptations_of(source) if isinstance(plan.task, RestoreTask) else {}
    plan = plan.knowing(named)
    with Bag(source) as bag:
        topics = bag.topics()
        if topics is not None:
            plan.check_topics(topics, source)
        storage = plan.storage or (MCAP if bag.storage == ROS1 else bag.storage)
        with BagOutput(target, storage, bag.mode, bag.profile, bag.metadata) as output:
            conversion = _Conversion(bag, output, plan, damage, named)
            conversion.run(engine, progress)
            if topics is None:
                plan.check_topics(list(conversion.new_topics), source)
            output.publish()
        result = BagResult(source, target, output.storage, bag.size, _size(target), output.summary.messages)
    result.topics, result.not_kept = conversion.totals, +output.not_kept
    result.zstd_file_bytes = conversion.zstd_file_bytes()
    result.damage = damage.noted[noted:]
    result.seconds = time.perf_counter() - start
    return result


class _Conversion:
    """One bag on its way. ``new_topics``: what each topic becomes; ``totals``: by name of the old topic."""

    def __init__(self, bag: Bag, output: BagOutput, plan: Plan, damage: DamageLog, named: Collection[str]) -> None:
        """``named``: topics of adaptations."""
        self._bag, self._output, self._plan, self._damage, self._named = bag, output, plan, damage, named
        self._adapted: set[str] = set()
        self.new_topics: dict[Topic, Topic] = {}
        self.totals: dict[str, TopicTotals] = {}
        self._file_mode = FileMode() if plan.compare else None
        self._read = self._done = 0  # bytes of messages

    def zstd_file_bytes(self) -> int:
        """Of all messages, once the run is over."""
        return self._file_mode.finish() if self._file_mode is not None else 0

    def run(self, engine: Engine, progress: Progress | None) -> None:
        in_order: InOrder[Item, Argument, Result] = InOrder(engine, partial(run_slice, self._plan.task))
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

    def _items(self) -> Iterator[tuple[Item, Argument | None, int]]:
        for item in self._bag.contents(self._damage):
            if self._is_used_up(item):
                continue
            if isinstance(item, Message):
                self._read += len(item.data)
                argument = (item.data, self._plan.adaptation(item.topic)) if self._plan.chooses(item.topic) else None
                yield item, argument, len(item.data)
            else:
                yield item, None, len(item.data) if isinstance(item, Attachment) else 0

    def _is_used_up(self, item: Item) -> bool:
        """Whether it is an adaptation that nobody needs who has the restored clouds."""
        topic = item.topic if isinstance(item, Message) else item
        if not isinstance(topic, Topic) or topic.name not in self._named:
            return False
        return self._plan.chooses(replace(topic, name=topic.name.removesuffix(ADAPTATION_SUFFIX), type=self._plan.type))

    def _add_topic(self, topic: Topic) -> None:
        new = topic
        if self._plan.chooses(topic):
            new = self._converted(topic)
            if topic.definition is not None:
                self._output.add_definition(topic.type, topic.definition)  # for who restores it
        types.check_apart(topic, new, self.new_topics, merging=isinstance(self._plan.task, RestoreTask))
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
            self._add_adaptation(message.topic, new, result)
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

    def _add_adaptation(self, topic: Topic, stream: Message, result: Done) -> None:
        """Before the first stream that names it."""
        adaptation = self._plan.adaptation(topic) if isinstance(self._plan.task, CompressTask) else None
        if adaptation and result.adaptation and topic.name not in self._adapted:
            self._adapted.add(topic.name)
            version = VERSION if self._bag.storage == ROS1 else self._bag.metadata.get("version")
            message = adaptation_message(adaptation, stream, version)
            types.check_apart(message.topic, message.topic, self.new_topics, merging=True)
            self._output.add_message(message)

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
