"""MCAP files: everything that is in them, in the order of the file, every length and checksum verified.

The records are parsed and written by the library ``mcap``. Its own readers take a short read for a whole record, and the
reader of ``rosbags`` gives neither sequence numbers nor publish times, attachments, metadata records or channel metadata;
so what walks through the file, and says where it is damaged, is here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Attachment as McapAttachment
from mcap.records import Channel, Chunk, DataEnd, Header, Metadata, Schema, Statistics
from mcap.summary import Summary
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from anypcc_ros.bags.contents import Attachment, Content, Counts, Damage, Definition, Message, Record, Topic
from anypcc_ros.bags.errors import CorruptBagError, DamagedBagError, NotABagError, TruncatedBagError, UnsupportedBagError
from anypcc_ros.bags.metadata import dump_yaml

MAGIC = MCAP0_MAGIC

CHUNK_SIZE = 1 << 20
"""Bytes of a chunk before compression; larger ones gain nothing on clouds that are compressed already."""

RECORD_LIMIT = 1 << 31
"""Bytes of a record; a longer one is a broken length."""

_HEAD = struct.Struct("<BQ")  # opcode, length of the record
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_MALFORMED = (McapError, struct.error, UnicodeDecodeError, ValueError, KeyError, OverflowError, MemoryError)
_ROSBAG2 = "rosbag2"
_SERIALIZED = "serialized_metadata"

Parsed = TypeVar("Parsed")


class McapReader:
    """One MCAP file, read from its beginning to its end. ``unpack``: how to read the content of a compressed file."""

    def __init__(self, path: Path, unpack: Callable[[IO[bytes]], IO[bytes]] | None = None) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._on_disk = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        self._file = unpack(self._on_disk) if unpack else self._on_disk
        self._packed = unpack is not None
        self._offset = 0
        self._crc = 0
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[int, Topic] = {}
        try:
            self.profile = self._read_header()
        except BaseException:
            self._on_disk.close()
            raise

    def _read_header(self) -> str:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            raise NotABagError(f"{self.path}: begins with {magic!r}; an MCAP file begins with {MAGIC!r}")
        self._advance(magic)
        opcode, record = self._read_record()
        if opcode != Opcode.HEADER:
            raise CorruptBagError(f"{self.path}: begins with a record of kind {opcode}, not with the header")
        return self._parse(Header.read, record, len(MAGIC)).profile

    def __enter__(self) -> McapReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._on_disk.close()

    def position(self) -> int:
        return self._on_disk.tell()

    def topics(self) -> list[Topic] | None:
        return [_topic(channel, self._summary.schemas) for channel in self._summary.channels.values()] or None

    @cached_property
    def _summary(self) -> Summary:
        """What stands once more at the end of the file; empty where that is missing or wants all of it to be unpacked."""
        if self._packed:
            return Summary()
        with open(self.path, "rb") as file:
            try:
                return make_reader(file).get_summary() or Summary()
            except (*_MALFORMED, OSError):
                return Summary()  # what is wrong with it is found, and told, when it is read

    def definition(self, type_name: str) -> Definition | None:
        found = (schema for schema in self._schemas.values() if schema.name == type_name)
        return next((Definition(schema.encoding, schema.data) for schema in found), None)

    def contents(self, damage: Damage) -> Iterator[Content]:
        try:
            yield from self._data_section(damage)
        except TruncatedBagError as error:
            damage(error)

    def _data_section(self, damage: Damage) -> Iterator[Content]:
        stated: Statistics | None = None
        ended = False
        while True:
            start, checksum = self._offset, self._crc
            opcode, record = self._read_record()
            try:
                if opcode == Opcode.CHUNK:
                    yield from self._chunk(record, start, damage)
                elif opcode == Opcode.STATISTICS:
                    stated = self._parse(Statistics.read, record, start)
                elif opcode == Opcode.DATA_END:
                    ended = True
                    declared = self._parse(DataEnd.read, record, start).data_section_crc
                    if declared and declared != checksum:
                        raise CorruptBagError(f"{self.path}: the data up to byte {start} fails its checksum")
                elif opcode == Opcode.FOOTER:
                    break
                elif not ended or opcode in (Opcode.SCHEMA, Opcode.CHANNEL):  # the summary repeats those, or has them alone
                    yield from self._record(opcode, record, start)
            except DamagedBagError as error:
                damage(error)
        end = self._file.read(len(MAGIC))
        if end != MAGIC:
            damage(TruncatedBagError(f"{self.path}: ends with {end!r} at byte {self._offset}, not as an MCAP file does"))
        if stated is not None:
            counts: dict[str, int] = {}
            for number, count in stated.channel_message_counts.items():
                name = self._topics[number].name if number in self._topics else f"channel {number}"
                counts[name] = counts.get(name, 0) + count
            yield Counts("statistics", counts)

    def _read_record(self) -> tuple[int, bytes]:
        start = self._offset
        head = self._exactly(_HEAD.size, start)
        opcode, length = _HEAD.unpack(head)
        if length > RECORD_LIMIT:
            raise TruncatedBagError(f"{self.path}: a record of {length} bytes at byte {start}; nothing beyond it can be read")
        return opcode, self._exactly(length, start)

    def _exactly(self, length: int, start: int) -> bytes:
        data = self._file.read(length)
        self._advance(data)
        if len(data) != length:
            raise TruncatedBagError(
                f"{self.path}: ends at byte {self._offset}, within a record that begins at byte {start}"
                " (was the recording interrupted?)"
            )
        return data

    def _advance(self, data: bytes) -> None:
        self._offset += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def _chunk(self, record: bytes, start: int, damage: Damage) -> Iterator[Content]:
        chunk = self._parse(Chunk.read, record, start)
        data = self._decompressed(chunk, start)
        if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            damage(CorruptBagError(f"{self.path}: the chunk at byte {start} fails its checksum"))
        position = 0
        while position < len(data):
            if len(data) - position < _HEAD.size:
                damage(CorruptBagError(f"{self.path}: {len(data) - position} bytes too many in the chunk at byte {start}"))
                return
            opcode, length = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            if position + length > len(data):
                damage(CorruptBagError(f"{self.path}: a record of {length} bytes runs out of the chunk at byte {start}"))
                return
            try:
                yield from self._record(opcode, data[position : position + length], start)
            except DamagedBagError as error:
                damage(error)
            position += length

    def _decompressed(self, chunk: Chunk, start: int) -> bytes:
        size = chunk.uncompressed_size
        if size > RECORD_LIMIT:
            raise CorruptBagError(f"{self.path}: the chunk at byte {start} says that it holds {size} bytes")
        try:
            if chunk.compression == "zstd":
                if zstandard.frame_content_size(chunk.data) > size:
                    raise zstandard.ZstdError(f"it holds more than {size} bytes")
                data = zstandard.ZstdDecompressor().decompress(chunk.data, max_output_size=size) if size else b""
            elif chunk.compression == "lz4":
                data = lz4.frame.decompress(chunk.data)
            elif chunk.compression == "":
                data = chunk.data
            else:
                raise UnsupportedBagError(f"{self.path}: compression {chunk.compression!r} of the chunk at byte {start}")
        except (zstandard.ZstdError, RuntimeError) as error:
            raise CorruptBagError(f"{self.path}: the chunk at byte {start} cannot be decompressed: {error}") from error
        if len(data) != size:
            raise CorruptBagError(f"{self.path}: the chunk at byte {start} holds {len(data)} bytes, not {size}")
        return data

    def _record(self, opcode: int, record: bytes, start: int) -> Iterator[Content]:
        if opcode == Opcode.MESSAGE:
            if len(record) < _MESSAGE_HEAD.size:
                raise CorruptBagError(f"{self.path}: a message record of {len(record)} bytes at byte {start}")
            channel, sequence, log_time, publish_time = _MESSAGE_HEAD.unpack_from(record)
            if channel not in self._topics:
                yield self._topic_again(channel, start)
            yield Message(self._topics[channel], log_time, publish_time, sequence, record[_MESSAGE_HEAD.size :])
        elif opcode == Opcode.SCHEMA:
            schema = self._parse(Schema.read, record, start)
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel_record = self._parse(Channel.read, record, start)
            if channel_record.id not in self._topics:
                topic = self._topics[channel_record.id] = _topic(channel_record, self._schemas)
                yield topic
        elif opcode == Opcode.ATTACHMENT:
            item = self._parse(McapAttachment.read, record, start)
            if (crc := struct.unpack("<I", record[-4:])[0]) and crc != zlib.crc32(record[:-4]):
                raise CorruptBagError(f"{self.path}: the attachment {item.name!r} at byte {start} fails its checksum")
            yield Attachment(item.name, item.media_type, item.log_time, item.create_time, item.data)
        elif opcode == Opcode.METADATA:
            table = self._parse(Metadata.read, record, start)
            yield Record(table.name, tuple(table.metadata.items()))

    def _topic_again(self, channel: int, start: int) -> Topic:
        """That of a channel whose own record was lost with a damaged chunk, from the summary. Raises CorruptBagError."""
        if channel not in self._summary.channels:
            raise CorruptBagError(f"{self.path}: a message of channel {channel}, which is not described, at byte {start}")
        self._schemas = {**self._summary.schemas, **self._schemas}
        topic = self._topics[channel] = _topic(self._summary.channels[channel], self._schemas)
        return topic

    def _parse(self, read: Callable[[ReadDataStream], Parsed], record: bytes, start: int) -> Parsed:
        try:
            return read(ReadDataStream(BytesIO(record)))
        except _MALFORMED as error:
            raise CorruptBagError(f"{self.path}: a malformed record at byte {start}: {type(error).__name__} {error}") from error


def _topic(channel: Channel, schemas: dict[int, Schema]) -> Topic:
    schema = schemas.get(channel.schema_id)
    definition = Definition(schema.encoding, schema.data) if schema else None
    return Topic(
        channel.topic, schema.name if schema else "", channel.message_encoding, definition, tuple(channel.metadata.items())
    )


class McapWriter:
    """A new MCAP file in ``file``, in zstd chunks unless ``compress`` is off. The file stays the caller's to close."""

    def __init__(self, file: IO[bytes], profile: str, compress: bool) -> None:
        kind = CompressionType.ZSTD if compress else CompressionType.NONE
        self._writer = Writer(file, chunk_size=CHUNK_SIZE, compression=kind, enable_data_crcs=True)
        self._writer.start(profile, "anypcc_ros")
        self._schemas: dict[tuple[str, Definition], int] = {}
        self._channels: dict[Topic, int] = {}
        self._rosbag2: dict[str, str] | None = None

    def add_definition(self, type_name: str, definition: Definition) -> None:
        self._schema(type_name, definition)

    def _schema(self, type_name: str, definition: Definition | None) -> int:
        if definition is None and not type_name:
            return 0
        definition = definition or Definition("", b"")
        key = (type_name, definition)
        if key not in self._schemas:
            self._schemas[key] = self._writer.register_schema(type_name, definition.encoding, definition.text)
        return self._schemas[key]

    def add_topic(self, topic: Topic) -> None:
        if topic not in self._channels:
            schema = self._schema(topic.type, topic.definition)
            self._channels[topic] = self._writer.register_channel(topic.name, topic.encoding, schema, dict(topic.metadata))

    def add_message(self, message: Message) -> None:
        self.add_topic(message.topic)
        number = self._channels[message.topic]
        self._writer.add_message(number, message.log_time, message.data, message.publish_time, message.sequence)

    def add_other(self, other: Attachment | Record) -> None:
        if isinstance(other, Attachment):
            self._writer.add_attachment(other.create_time, other.log_time, other.name, other.media_type, other.data)
        elif other.name == _ROSBAG2 and _SERIALIZED in dict(other.table):
            self._rosbag2 = dict(other.table)  # describes the bag: written anew at the end
        else:
            self._writer.add_metadata(other.name, dict(other.table))

    def close(self, metadata: dict[str, object]) -> None:
        if self._rosbag2 is not None:
            self._writer.add_metadata(_ROSBAG2, self._rosbag2 | {_SERIALIZED: dump_yaml(metadata)})
        self._writer.finish()  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        """Nothing is open but the file, which is the caller's."""
