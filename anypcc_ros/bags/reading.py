"""Open a bag of any kind, and read it so that nothing is lost unnoticed."""

from __future__ import annotations

import io
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import IO, Any

import zstandard

from anypcc_ros.bags import metadata
from anypcc_ros.bags.contents import Attachment, Counts, Damage, Definition, Message, Record, StorageReader, Topic
from anypcc_ros.bags.errors import (
    BagUsageError,
    CorruptBagError,
    CountMismatchError,
    DamagedMessageError,
    NotABagError,
    TruncatedBagError,
)
from anypcc_ros.bags.mcap_files import MAGIC as MCAP_MAGIC
from anypcc_ros.bags.mcap_files import McapReader
from anypcc_ros.bags.ros1_files import MAGIC as ROS1_MAGIC
from anypcc_ros.bags.ros1_files import Ros1Reader
from anypcc_ros.bags.sqlite_files import MAGIC as SQLITE_MAGIC
from anypcc_ros.bags.sqlite_files import SqliteReader

MCAP, SQLITE, ROS1 = "mcap", "sqlite3", "rosbag1"
MAGICS = {MCAP_MAGIC: MCAP, SQLITE_MAGIC: SQLITE, ROS1_MAGIC: ROS1}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SUFFIXES = (".mcap", ".db3", ".bag", ".zstd")


class Bag:
    """A bag that is open for reading: a file, or a folder with metadata.yaml and one file or several.

    ``storage``: "mcap", "sqlite3" or "rosbag1". ``mode``: rosbag2's own compression, "", "message" or "file".
    ``profile``: that of MCAP files, "ros2".
    ``metadata``: of metadata.yaml, empty without one. ``size``: bytes of its files. To be used in a ``with`` statement.
    Raises BagError, OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.mode = ""
        self._stack = ExitStack()
        with self._stack:
            if path.is_dir():
                self.metadata = metadata.read_metadata(path)
                self.mode, _ = metadata.compression_of(self.metadata)
                self.files = [path / PurePath(name).name for name in self.metadata["relative_file_paths"]]
            else:
                self.files = [path]
            missing = [file.name for file in self.files if not file.is_file()]
            if missing == [path.name]:
                raise NotABagError(f"{path}: is not there")
            if not self.files:
                raise TruncatedBagError(f"{path}: its {metadata.FILE_NAME} names no file")
            if missing:
                raise TruncatedBagError(f"{path}: without {', '.join(missing)}, which its metadata names")
            self._readers = [self._stack.enter_context(_open(file, self._stack)) for file in self.files]
            if any(_magic(file).startswith(ZSTD_MAGIC) for file in self.files):
                self.mode = "file"
            self.storage = {McapReader: MCAP, SqliteReader: SQLITE, Ros1Reader: ROS1}[type(self._readers[0])]
            self.size = sum(file.stat().st_size for file in self.files)
            self.profile = next((reader.profile for reader in self._readers if isinstance(reader, McapReader)), "ros2")
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def position(self) -> int:
        """Bytes read so far, about."""
        return sum(reader.position() for reader in self._readers)

    def topics(self) -> list[Topic] | None:
        """All topics, where that can be known without reading everything."""
        found: dict[Topic, None] = {}
        for reader in self._readers:
            topics = reader.topics()
            if topics is None:
                return None
            found.update(dict.fromkeys(topics))
        return list(found)

    def definition(self, type_name: str) -> Definition | None:
        """The definition of a type that the bag has, as far as it has been read."""
        found = (reader.definition(type_name) for reader in self._readers)
        return next((definition for definition in found if definition is not None), None)

    def stated_counts(self) -> dict[str, int]:
        """Messages by topic according to metadata.yaml; empty without one."""
        return metadata.stated_counts(self.metadata, self.path)

    def contents(self, damage: Damage) -> Iterator[Topic | Message | Attachment | Record]:
        """Everything in the bag, file after file, in each file's order.

        Damage that can be passed over is given to ``damage``, also the news that messages are missing: every container's
        own count, in its index, its statistics or metadata.yaml, is held against what was read.
        """
        read: dict[str, int] = {}
        for reader in self._readers:
            yield from self._file(reader, damage, read)
        for topic, stated in self.stated_counts().items():
            if read.get(topic, 0) != stated:
                damage(CountMismatchError(self.path, topic, stated, read.get(topic, 0), metadata.FILE_NAME))

    def _file(
        self, reader: StorageReader, damage: Damage, read: dict[str, int]
    ) -> Iterator[Topic | Message | Attachment | Record]:
        in_file: dict[str, int] = {}
        for item in reader.contents(damage):
            if isinstance(item, Counts):
                for topic, stated in item.messages.items():
                    count = in_file.get(topic, 0) if topic else sum(in_file.values())
                    if count != stated:
                        damage(CountMismatchError(reader.path, topic or "all topics", stated, count, item.where))
            elif isinstance(item, Message):
                name = item.topic.name
                read[name] = read.get(name, 0) + 1
                in_file[name] = in_file.get(name, 0) + 1
                yield self._unpacked(item, damage) if self.mode == "message" else item
            else:
                yield item

    def _unpacked(self, message: Message, damage: Damage) -> Message:
        try:
            unpacker = zstandard.ZstdDecompressor().decompressobj()
            data = unpacker.decompress(message.data)
            if not unpacker.eof:
                raise zstandard.ZstdError("it ends too early")
        except zstandard.ZstdError as error:
            where = f"{self.path}: a message of {message.topic.name} at {message.log_time} ns"
            damage(DamagedMessageError(f"{where} cannot be decompressed: {error}"))
            return message
        return replace(message, data=data)


def find_bags(path: Path) -> list[Path]:
    """``path`` itself if it is a bag, or all bags below a folder that is none. Raises BagUsageError where there is none."""
    if not path.is_dir() or (path / metadata.FILE_NAME).exists():
        return [path]
    bags = []
    for child in sorted(path.iterdir()):
        if child.name.startswith("."):
            continue
        if child.is_dir():
            bags += find_bags_below(child)
        elif child.suffix in SUFFIXES:
            bags.append(child)
    if not bags:
        raise BagUsageError(f"{path}: no {metadata.FILE_NAME} in it, nor any bag below it")
    return bags


def find_bags_below(folder: Path) -> list[Path]:
    try:
        return find_bags(folder)
    except BagUsageError:
        return []


def _magic(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _open(path: Path, stack: ExitStack) -> StorageReader:
    """The reader that the first bytes of the file ask for."""
    magic = _magic(path)
    if magic.startswith(ZSTD_MAGIC):
        return _open_packed(path, stack)
    storage = next((storage for known, storage in MAGICS.items() if magic.startswith(known)), None)
    if storage == MCAP:
        return McapReader(path)
    if storage == SQLITE:
        return SqliteReader(stack.enter_context(_with_its_log(path)))
    if storage == ROS1:
        return Ros1Reader(path)
    if not magic:
        raise TruncatedBagError(f"{path}: the file is empty")
    raise NotABagError(f"{path}: begins with {magic[:8]!r}, as neither MCAP, sqlite3 nor ROS 1 bags do")


@contextmanager
def _with_its_log(path: Path) -> Iterator[Path]:
    """A database whose recording was cut short has its last messages in a log beside it: both are copied, to be joined."""
    log = path.with_name(path.name + "-wal")
    if not (log.exists() and log.stat().st_size):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="anypcc-") as folder:
        for file in (path, log):
            shutil.copy(file, folder)
        copy = Path(folder, path.name)
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield copy


def _open_packed(path: Path, stack: ExitStack) -> StorageReader:
    with open(path, "rb") as file:
        try:
            magic = _unpacking(file).read(16)
        except zstandard.ZstdError as error:
            raise CorruptBagError(f"{path}: cannot be decompressed: {error}") from error
    if magic.startswith(MCAP_MAGIC):
        return McapReader(path, _unpacking)
    if not magic.startswith(SQLITE_MAGIC):
        raise NotABagError(f"{path}: holds something that begins with {magic[:8]!r}, as neither MCAP nor sqlite3 bags do")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anypcc-")))
    with open(path, "rb") as packed, open(folder / path.stem, "wb") as out:
        try:
            shutil.copyfileobj(_unpacking(packed), out, 1 << 20)
        except zstandard.ZstdError as error:
            raise CorruptBagError(f"{path}: cannot be decompressed: {error}") from error
    return SqliteReader(folder / path.stem)


def _unpacking(file: IO[bytes]) -> IO[bytes]:
    """The content of a zstd file; its ``read`` gives all bytes that are asked for, but at the end."""
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, closefd=False), 1 << 20)
