"""Whole PointCloud2 messages to measure: out of bags, or made of clouds in files as a driver would publish them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import read_message
from anypcc_ros.bags.types import POINT_CLOUD, is_cloud
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.files import READABLE, read_cloud
from anypcc_ros.pointcloud2 import PointCloud2, body_from_cloud, cloud_from_message

BAGS = (".bag", ".mcap", ".db3")
SERIALISED = ".cdr"
"""One message as it goes over the wire."""


@dataclass(frozen=True)
class Sample:
    """A message, the folder it comes from, and what it is called."""

    group: str
    name: str
    message: PointCloud2
    cloud: PointCloud

    @property
    def fields(self) -> str:
        names = list(self.cloud.fields)
        names.insert(self.cloud.position, "x, y, z")
        return ", ".join(names)


def samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """The messages of clouds and bags, and in folders those below them that have any field besides x, y and z.

    Of a bag the first message of each topic. Raises FileError, BagError, InputError, MissingPackageError.
    """
    for path in paths:
        if path.is_dir() and not (path / "metadata.yaml").exists():
            yield from _below(path)
        elif path.exists():
            yield from _samples(path)
        else:
            raise FileError(f"{path}: cannot read: there is no such file")


def _below(folder: Path) -> Iterator[Sample]:
    files = sorted(file for file in folder.rglob("*") if file.suffix in (*READABLE, *BAGS, SERIALISED))
    found = 0
    for file in files:
        for sample in _samples(file):
            if sample.cloud.fields:
                found += 1
                yield sample
    if not found:
        raise FileError(f"{folder}: {len(files)} clouds, bags and messages below it, none with fields besides x, y and z")


def _samples(path: Path) -> Iterator[Sample]:
    if path.is_dir() or path.suffix in BAGS:
        for message in _first_messages(path):
            yield _sample(path, f"{path.stem} {message.topic.name}", message.data)
    elif path.suffix == SERIALISED:
        yield _sample(path, path.stem, path.read_bytes())
    else:
        body = body_from_cloud(as_published(read_cloud(path, metres=True)))
        yield Sample(_group(path), path.stem, body, cloud_from_message(body))


def _first_messages(path: Path) -> Iterator[Message]:
    """The first message of every topic of clouds, and no more read of the bag than that takes where it has an index."""
    with Bag(path) as bag:
        topics = bag.topics()
        missing = None if topics is None else {topic.name for topic in topics if is_cloud(topic)}
        seen: set[str] = set()
        if missing == seen:
            return
        for item in bag.contents(DamageLog(keep_going=False)):
            if isinstance(item, Message) and is_cloud(item.topic) and item.topic.name not in seen:
                seen.add(item.topic.name)
                yield item
                if missing == seen:
                    return


def _sample(path: Path, name: str, data: bytes) -> Sample:
    try:
        message = read_message(data, POINT_CLOUD)
    except SerdeError as error:
        raise FileError(f"{path}: {len(data)} bytes that are not a serialised PointCloud2: {error}") from error
    return Sample(_group(path), name, message, cloud_from_message(message))


def _group(path: Path) -> str:
    return path.resolve().parent.name


def as_published(cloud: PointCloud) -> PointCloud:
    """The cloud in the types of a driver's message: float32 positions, colours packed into 32 bits as PCL does."""
    fields = {}
    for name, values in cloud.fields.items():
        if values.shape[1:] == (3,) and values.dtype == np.uint8:
            values = (values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)).view(np.float32)
        fields[name] = values.astype(np.float32) if values.dtype == np.float16 else values
    return replace(cloud, xyz=cloud.xyz.astype(np.float32), fields=fields)
