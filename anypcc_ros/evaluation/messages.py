"""Whole PointCloud2 messages, every field of them, by this codec and by others, really encoded and decoded.

Messages come out of bags, or are made of clouds in files as a driver would publish them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags.compare import POSITION, Policy, compare_clouds
from anypcc_ros.bags.transform import read_message
from anypcc_ros.bags.types import POINT_CLOUD
from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import AnypccError, FileError
from anypcc_ros.evaluation import document
from anypcc_ros.evaluation.evaluate import matching_decoder
from anypcc_ros.evaluation.peers import PeerError
from anypcc_ros.files import READABLE, read_cloud
from anypcc_ros.optional import MissingPackageError, optional
from anypcc_ros.pointcloud2 import PointCloud2, body_from_cloud, cloud_from_message

OURS, DRACO = "anypcc", "Draco"
STEPS = (0.001, 0.016)
BAGS = (".bag", ".mcap", ".db3")
SERIALISED = ".cdr"
"""One message as it goes over the wire."""
ZSTD_LEVELS = (1, 3, 19)
DRACO_BITS = 24
"""Draco takes float32 positions, which hold integers up to here."""

GRID, ORDERED, EXACT, EXACT_ORDERED = "grid", "grid, in order", "exact", "exact, in order"
SETTINGS = {
    GRID: ("codec", False),
    ORDERED: ("original", False),
    EXACT: ("codec", True),
    EXACT_ORDERED: ("original", True),
}
"""How this codec is run: CodecConfig.order and CodecConfig.exact."""


PARTS = {
    bitstream.REMAINDERS: "rest of the floats",
    bitstream.OFF_GRID: "invalid points",
    bitstream.SCAN: "columns of the scan",
    bitstream.ORDER: "order",
}
"""What the chunks of a stream besides the grid and the fields are for."""


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


@dataclass(frozen=True)
class MessageRow:
    """One message by one codec; the names are the columns of the CSV file.

    ``group``: of messages whose means are told. ``setting``: of SETTINGS, for other codecs GRID where they are given the same
    grid and "" where they keep every byte. ``message_bytes``: of the data of the PointCloud2; ``ratio``: that by ``bytes``.
    ``bpp``: bits per point of the message; ``parts``: the same by part, as "x, y, z 7.1; intensity 3.2; order 0.5".
    ``errors``: the largest by part, in its own unit. ``lost``: what does not come back besides. ``kept``: everything else
    came back as promised, which is checked here.
    """

    group: str
    message: str
    fields: str
    points: int
    message_bytes: int
    codec: str
    setting: str
    step: float | None
    bytes: int
    ratio: float
    bpp: float
    parts: str
    errors: str
    lost: str
    kept: bool
    encode_s: float
    decode_s: float


# ---- messages


def samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """The messages of clouds in files and bags, and of those in folders that have any field besides x, y and z.

    Of a bag the first message of each topic. Raises FileError, MissingPackageError.
    """
    for path in paths:
        if path.is_dir() and not (path / "metadata.yaml").exists():
            below = sorted(file for file in path.rglob("*") if file.suffix in (*READABLE, *BAGS, SERIALISED))
            yield from (sample for file in below for sample in _samples(file) if sample.cloud.fields)
        else:
            yield from _samples(path)


def _samples(path: Path) -> Iterator[Sample]:
    if path.is_dir() or path.suffix in BAGS:
        yield from _from_bag(path)
    elif path.suffix == SERIALISED:
        yield _from_wire(path)
    else:
        message = body_from_cloud(as_published(read_cloud(path, metres=True)))
        yield Sample(_group(path), path.stem, message, cloud_from_message(message))


def _from_bag(path: Path) -> Iterator[Sample]:
    highlevel = optional("rosbags.highlevel", "bags")
    try:
        with highlevel.AnyReader([path]) as reader:
            for connection in (c for c in reader.connections if c.msgtype == POINT_CLOUD):
                _, _, data = next(reader.messages([connection]))
                message: Any = reader.deserialize(data, connection.msgtype)
                yield Sample(_group(path), f"{path.stem} {connection.topic}", message, cloud_from_message(message))
    except (highlevel.AnyReaderError, StopIteration) as error:
        raise FileError(f"{path}: {error or 'a topic without messages'}") from error


def _from_wire(path: Path) -> Sample:
    try:
        message = read_message(path.read_bytes(), POINT_CLOUD)
    except SerdeError as error:
        raise FileError(f"{path}: not a serialised PointCloud2: {error}") from error
    return Sample(_group(path), path.stem, message, cloud_from_message(message))


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


# ---- codecs


def measure(sample: Sample, configs: Sequence[CodecConfig], peers: bool) -> Iterator[MessageRow]:
    """This codec with each configuration and, with ``peers``, the others where they are installed. Raises PeerError."""
    for config in configs:
        yield _measure_ours(sample, config)
    if peers:
        for step in dict.fromkeys(config.step for config in configs if not config.exact):
            yield from _measure_draco(sample, step)
        for name, pack, unpack in _packers():
            yield _measure_packer(sample, name, pack, unpack)


def configurations(common: CodecConfig, steps: Sequence[float]) -> list[CodecConfig]:
    """Every setting on every step; the exact ones on the first alone, because only the size depends on it."""
    return [
        replace(common, step=step, order=order, exact=exact)
        for order, exact in SETTINGS.values()
        for step in (steps[:1] if exact else steps)
    ]


def _measure_ours(sample: Sample, config: CodecConfig) -> MessageRow:
    encoder, decoder = Encoder(config), Decoder(matching_decoder(config))
    start = time.perf_counter()
    stream = encoder.encode(sample.cloud)
    encoded = time.perf_counter()
    decoded = decoder.decode(stream)
    end = time.perf_counter()
    info = inspect(stream)
    comparison = compare_clouds(sample.cloud, decoded, Policy.of_stream(info))
    as_asked = (info.order, info.exact) == (config.order, config.exact) or not info.points
    per_point = 8 / max(info.points, 1)
    sizes = {field.name: field.size for field in info.fields}
    sizes |= {PARTS[chunk.tag]: chunk.size for chunk in info.chunks if chunk.tag in PARTS}
    parts = {POSITION: info.size - sum(sizes.values()), **sizes}
    return MessageRow(
        group=sample.group,
        message=sample.name,
        fields=sample.fields,
        points=len(sample.cloud),
        message_bytes=len(sample.message.data),
        codec=OURS,
        setting=next(name for name, setting in SETTINGS.items() if setting == (config.order, config.exact)),
        step=config.step,
        bytes=len(stream),
        ratio=len(sample.message.data) / len(stream),
        bpp=8 * len(stream) / max(len(sample.cloud), 1),
        parts="; ".join(f"{name} {size * per_point:.2f}" for name, size in parts.items()),
        errors="; ".join(f"{name} {error.largest:.3g}" for name, error in comparison.errors.items()),
        lost=f"{comparison.left_out} invalid points" if comparison.left_out else "",
        kept=comparison.verdict != "different" and as_asked,
        encode_s=encoded - start,
        decode_s=end - encoded,
    )


def _packers() -> Iterator[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """Compressors of bytes: name, compress, decompress; those that are installed."""
    try:
        zstd = optional("zstandard", "eval")
        for level in ZSTD_LEVELS:
            yield f"zstd -{level}", zstd.ZstdCompressor(level=level).compress, zstd.ZstdDecompressor().decompress
        lz4 = optional("lz4.frame", "bags")
        yield "lz4", lz4.compress, lz4.decompress
    except MissingPackageError:
        return


def _measure_packer(sample: Sample, name: str, pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> MessageRow:
    data = bytes(sample.message.data)
    start = time.perf_counter()
    packed = pack(data)
    middle = time.perf_counter()
    kept = unpack(packed) == data
    end = time.perf_counter()
    return _peer_row(sample, name, "", None, packed, kept, middle - start, end - middle)


def _peer_row(
    sample: Sample, codec: str, setting: str, step: float | None, data: bytes, kept: bool, encode_s: float, decode_s: float
) -> MessageRow:
    return MessageRow(
        group=sample.group,
        message=sample.name,
        fields=sample.fields,
        points=len(sample.cloud),
        message_bytes=len(sample.message.data),
        codec=codec,
        setting=setting,
        step=step,
        bytes=len(data),
        ratio=len(sample.message.data) / max(len(data), 1),
        bpp=8 * len(data) / max(len(sample.cloud), 1),
        parts="",
        errors="",
        lost="",
        kept=kept,
        encode_s=encode_s,
        decode_s=decode_s,
    )


def _measure_draco(sample: Sample, step: float) -> Iterator[MessageRow]:
    """Draco's kd-tree coder on the same grid, all fields with it as integers.

    That coder takes no floats but quantised ones, so that each field is given by the ranks of its values, and the list of
    the values beside it by zstd: exact, and kinder to Draco than its own coding of floats.
    """
    try:
        draco, zstd = optional("DracoPy", "eval"), optional("zstandard", "eval")
    except MissingPackageError:
        return
    cloud, _ = sample.cloud.finite()
    cells = np.rint(cloud.xyz.astype(np.float64) / step).astype(np.int64)
    cells -= cells.min(axis=0, initial=np.iinfo(np.int64).max) if len(cells) else 0
    bits = max(int(cells.max(initial=0)).bit_length(), 1)
    if bits > DRACO_BITS or not len(cells):
        return
    start = time.perf_counter()
    ranks, lists = _ranks(cloud)
    data: bytes = draco.encode(
        cells.astype(np.float32),
        quantization_bits=bits,
        quantization_range=2**bits - 1,
        quantization_origin=[0, 0, 0],
        compression_level=10,
        generic_attributes=dict(enumerate(ranks)) or None,
    )
    extra = zstd.ZstdCompressor(level=19).compress(lists)
    middle = time.perf_counter()
    back = draco.decode(data)
    end = time.perf_counter()
    decoded = [np.rint(np.asarray(back.points)).astype(np.int64).reshape(-1, 3)]
    decoded += [np.asarray(back.get_attribute_by_unique_id(i)["data"]).reshape(len(decoded[0]), -1) for i in range(len(ranks))]
    rows, expected = (np.concatenate(columns, axis=1, dtype=np.int64) for columns in (decoded, [cells, *ranks]))
    if not np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0)):
        raise PeerError(f"{sample.name}: Draco returned other points than the {len(cells)} it was given")
    lost = "the order of the points" + (f", {len(cells) - len(rows)} points like others" if len(rows) < len(cells) else "")
    yield replace(_peer_row(sample, DRACO, GRID, step, data + extra, True, middle - start, end - middle), lost=lost)


def _ranks(cloud: PointCloud) -> tuple[list[np.ndarray], bytes]:
    """Each column of each field as (N, 1) unsigned ranks of its values, of the smallest type; and the lists of values."""
    ranks, lists = [], []
    for values in cloud.fields.values():
        bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(len(values), -1)
        for column in bits.T:
            if column.dtype == np.uint8:  # needs no list
                ranks.append(column[:, None])
                continue
            # In the order of the numbers, so that near values have near ranks; equal numbers of other bits stay apart.
            listed, first, inverse = np.unique(column, return_index=True, return_inverse=True)
            numbers = np.ascontiguousarray(column).view(values.dtype)[first]
            order = np.lexsort([listed, numbers])
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order))
            size = np.uint8 if len(listed) <= 1 << 8 else np.uint16 if len(listed) <= 1 << 16 else np.uint32
            ranks.append(place[inverse].astype(size)[:, None])
            lists.append(np.diff(listed[order], prepend=listed.dtype.type(0)).tobytes())
    return ranks, b"".join(lists)


# ---- tables


def summary(row: MessageRow) -> str:
    """One line on a measurement."""
    step = f" at {row.step:g}" if row.step else ""
    how = f"{row.codec} {row.setting}{step}".strip()
    lost = f", lost: {row.lost}" if row.lost else ""
    parts = f" ({row.parts})" if row.parts else ""
    return (
        f"{row.message}: {how}: {row.message_bytes} bytes to {row.bytes}, {row.ratio:.2f} times smaller, "
        f"{row.bpp:.2f} bits per point{parts}{lost}, {'as promised' if row.kept else 'NOT as promised'}"
    )


def check(rows: Sequence[MessageRow]) -> None:
    """Raises AnypccError where a message did not come back as promised."""
    wrong = [row for row in rows if not row.kept]
    if wrong:
        raise AnypccError(f"{len(wrong)} of {len(rows)} did not come back as promised: {wrong[0].message}, {wrong[0].codec}")


def markdown(rows: Sequence[MessageRow], command: str) -> str:
    """The tables of docs/results.md: all messages of a group together, each on a grid, and each kept to the last bit."""
    return "\n\n".join([f"    {command}", _group_table(rows), _grid_table(rows), _exact_table(rows)])


PACKERS = [*(f"zstd -{level}" for level in ZSTD_LEVELS), "lz4"]


def _group_table(rows: Sequence[MessageRow]) -> str:
    """Bytes of all messages of a group before and after."""
    columns = ["messages", ">", ">step", f">**{OURS}**", ">in order", f">{DRACO}", *(f">{name}" for name in PACKERS)]
    lines = []
    steps = dict.fromkeys(row.step for row in rows if row.codec == OURS and row.setting == GRID)
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        count = str(len({row.message for row in members}))
        for step in steps:
            ratio = _ratio_of_all(members)
            others = [ratio(OURS, ORDERED, step), ratio(DRACO, GRID, step), *(ratio(name, "", None) for name in PACKERS)]
            lines.append([group, count, f"{step:g}", f"**{ratio(OURS, GRID, step)}**", *others])
        exact = _ratio_of_all(members)
        lines.append(
            [
                group,
                count,
                "exact",
                f"**{exact(OURS, EXACT, None)}**",
                exact(OURS, EXACT_ORDERED, None),
                "",
                *(exact(name, "", None) for name in PACKERS),
            ]
        )
    return document.table(columns, lines)


def _ratio_of_all(rows: Sequence[MessageRow]) -> Callable[[str, str, float | None], str]:
    """What a codec makes of all these messages together, or nothing where it did not run on each of them."""
    messages = {row.message for row in rows}

    def ratio(codec: str, setting: str, step: float | None) -> str:
        found = [r for r in rows if (r.codec, r.setting) == (codec, setting) and step in (r.step, None)]
        if {row.message for row in found} != messages:
            return ""
        return f"{sum(row.message_bytes for row in found) / sum(row.bytes for row in found):.2f}"

    return ratio


def _grid_table(rows: Sequence[MessageRow]) -> str:
    columns = [
        "message", ">points", ">step", f">**{OURS}**", ">in order", f">{DRACO}", *(f">{name}" for name in PACKERS),
        ">bits per point", "of which", "largest error",
    ]  # fmt: skip
    lines = []
    for row in (row for row in rows if row.codec == OURS and row.setting == GRID):
        found = _beside(rows, row)
        others = [found(OURS, ORDERED, row.step), found(DRACO, GRID, row.step), *(found(name, "", None) for name in PACKERS)]
        mine = [row.message, f"{row.points}", f"{row.step:g}", f"**{row.ratio:.2f}**"]
        lines.append([*mine, *others, f"{row.bpp:.2f}", row.parts, _errors(row)])
    return document.table(columns, lines)


def _exact_table(rows: Sequence[MessageRow]) -> str:
    columns = ["message", ">bytes", f">**{OURS} exact**", ">in order", *(f">{name}" for name in PACKERS), "bits per point"]
    lines = []
    for row in (row for row in rows if row.codec == OURS and row.setting == EXACT):
        found = _beside(rows, row)
        others = [found(OURS, EXACT_ORDERED, row.step), *(found(name, "", None) for name in PACKERS)]
        lines.append([row.message, f"{row.message_bytes}", f"**{row.ratio:.2f}**", *others, row.parts])
    return document.table(columns, lines)


def _beside(rows: Sequence[MessageRow], row: MessageRow) -> Callable[[str, str, float | None], str]:
    """The ratio of another codec or setting on the same message, or nothing."""
    found = {(r.codec, r.setting, r.step): f"{r.ratio:.2f}" for r in rows if r.message == row.message}
    return lambda codec, setting, step: found.get((codec, setting, step), "")


def _errors(row: MessageRow) -> str:
    """Those that are not zero."""
    errors = [text for text in row.errors.split("; ") if text and not text.endswith(" 0")]
    return "; ".join([*errors, *([row.lost] if row.lost else [])]) or "none"
