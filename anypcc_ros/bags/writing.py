"""Write a bag that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import zstandard

from anypcc_ros.bags.contents import Attachment, Definition, Message, Record, StorageWriter, Topic
from anypcc_ros.bags.errors import BagUsageError, OutputError
from anypcc_ros.bags.mcap_files import McapWriter
from anypcc_ros.bags.metadata import FILE_NAME, ROOT, Summary, dump_yaml
from anypcc_ros.bags.peers import ZSTD_LEVEL
from anypcc_ros.bags.reading import MCAP, SQLITE
from anypcc_ros.bags.sqlite_files import SqliteWriter

ENDINGS = {".mcap": MCAP, ".db3": SQLITE}
"""Of an output that is a single file; any other name is that of a folder with metadata.yaml."""


class BagOutput:
    """A bag being written beside its place, under a hidden name; ``publish`` makes it safe on the disk and gives it its name.

    ``path``: NAME.mcap or NAME.db3 for a single file, any other name for a folder with metadata.yaml. ``storage``: what
    a folder holds, "mcap" or "sqlite3". ``mode``: rosbag2's own compression of a folder. ``profile``: of an MCAP file,
    "ros2". ``metadata``: of the bag it is made from. ``not_kept``: what the container has no place for, and how often.
    To be used in a ``with`` statement; without ``publish`` nothing is left. What a run that was killed has left is removed
    by the next one; of two runs at the same time one is refused. Raises OutputError.
    """

    def __init__(self, path: Path, storage: str, mode: str, profile: str, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.is_file = path.suffix in ENDINGS
        self.storage = ENDINGS.get(path.suffix, storage)
        self.mode = "" if self.is_file else mode
        self.summary = Summary()
        self.not_kept: Counter[str] = Counter()
        self._profile, self._source = profile, metadata
        self._partial = path.with_name(f".{path.name}.partial")
        self._lock = -1
        self._file: IO[bytes] | None = None
        self._opened: StorageWriter | None = None

    def __enter__(self) -> BagOutput:
        if self.path.exists():
            raise OutputError(f"{self.path}: exists already, and is not replaced")
        try:
            with self._naming():
                self._lock = self._take_place()
                self._opened = self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def _open(self) -> StorageWriter:
        if self.storage == SQLITE:
            return SqliteWriter(self._file_path)
        self._file = open(self._file_path, "wb")  # noqa: SIM115 - closed by publish or _discard
        return McapWriter(self._file, self._profile, compress=not self.mode)

    @property
    def _writer(self) -> StorageWriter:
        if self._opened is None:
            raise ValueError(f"{self.path}: not open")
        return self._opened

    @property
    def _file_path(self) -> Path:
        """Where messages are written to."""
        ending = {MCAP: ".mcap", SQLITE: ".db3"}[self.storage]
        return self._partial if self.is_file else self._partial / f"{self.path.name}_0{ending}"

    def _take_place(self) -> int:
        """Makes what is written to, locked: a folder, or a file. Clears away what a dead process has left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            leftover = os.open(self._partial, os.O_RDONLY)
            try:
                self._lock_it(leftover)
                _remove(self._partial)
            finally:
                os.close(leftover)
        if self.is_file:
            lock = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        else:
            self._partial.mkdir()
            lock = os.open(self._partial, os.O_RDONLY)
        self._lock_it(lock)
        return lock

    def _lock_it(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.path}: another process is writing it") from None

    def add_topic(self, topic: Topic) -> None:
        with self._naming():
            self._writer.add_topic(topic)
        self.summary.add_topic(topic)

    def add_definition(self, type_name: str, definition: Definition) -> None:
        with self._naming():
            self._writer.add_definition(type_name, definition)

    def add_message(self, message: Message) -> None:
        if self.storage == SQLITE:
            self.not_kept["publish times that are not the log time"] += message.publish_time != message.log_time
            self.not_kept["sequence numbers"] += message.sequence != 0
        self.summary.add_message(message.topic, message.log_time)
        if self.mode == "message":
            message = replace(message, data=zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(message.data))
        with self._naming():
            self._writer.add_message(message)

    def add_other(self, other: Attachment | Record) -> None:
        if self.storage == SQLITE:
            self.not_kept["attachments" if isinstance(other, Attachment) else "metadata records"] += 1
        with self._naming():
            self._writer.add_other(other)

    def bytes_written(self) -> int:
        """So far, about."""
        return self._file_path.stat().st_size

    def publish(self) -> None:
        """Finish the bag and give it its name. Only now does anything stand there."""
        name = self.path.name if self.is_file else self._file_path.name + (".zstd" if self.mode == "file" else "")
        described = self.summary.metadata(self._source, self.storage, name, self.mode)
        with self._naming():
            self._writer.close(described)
            if self._file is not None:
                self._file.close()
            if self.mode == "file":
                _pack(self._file_path)
            if not self.is_file:
                text = dump_yaml({ROOT: described})
                (self._partial / FILE_NAME).write_text(text, encoding="utf-8")
            for file in [self._partial] if self.is_file else [*self._partial.iterdir(), self._partial]:
                _sync(file)
            if self.path.exists():
                raise OutputError(f"{self.path}: has appeared meanwhile, and is not replaced")
            os.rename(self._partial, self.path)
            _sync(self.path.parent)

    def __exit__(self, *error: object) -> None:
        self._discard()

    def _discard(self) -> None:
        """What was not published goes; of a place that is another process's nothing is touched."""
        if self._opened is not None:
            self._opened.abandon()
        if self._file is not None:
            with suppress(OSError):  # of a full disk has been told; the file is going to be removed
                self._file.close()
        if self._lock >= 0:
            _remove(self._partial)
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                reason += f" after {self.summary.messages} messages"
            raise OutputError(f"{self.path}: cannot be written: {reason}; nothing of it was left behind") from error
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: cannot be written: {error}; nothing of it was left behind") from error


def check_output(path: Path, storage: str) -> None:
    """Raises BagUsageError where a single file of this ending cannot be asked for."""
    if path.suffix in (".bag", ".zstd"):
        raise BagUsageError(f"{path}: {path.suffix} files are read, not written; .mcap, .db3 or a folder is")
    if path.suffix in ENDINGS and storage and ENDINGS[path.suffix] != storage:
        raise BagUsageError(f"{path}: the ending asks for {ENDINGS[path.suffix]}, --storage for {storage}")


def _pack(path: Path) -> None:
    with open(path, "rb") as plain, open(path.with_name(path.name + ".zstd"), "wb") as out:
        zstandard.ZstdCompressor(level=ZSTD_LEVEL).copy_stream(plain, out, size=path.stat().st_size)
    path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
