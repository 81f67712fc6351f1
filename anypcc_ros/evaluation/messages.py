"""Whole PointCloud2 messages, every field of them, by this codec and by others, really encoded and decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anypcc_ros.bags.compare import POSITION, Policy, compare_clouds
from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.evaluation.evaluate import matching_decoder
from anypcc_ros.evaluation.message_samples import Sample
from anypcc_ros.evaluation.peers import FLOAT_BITS, PeerError, encode_draco
from anypcc_ros.optional import MissingPackageError, optional

OURS, DRACO = "anypcc", "Draco"
STEPS = (0.001, 0.016)
ZSTD_LEVELS = (1, 3, 19)

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
    return _row(
        sample,
        codec=OURS,
        setting=next(name for name, setting in SETTINGS.items() if setting == (config.order, config.exact)),
        step=config.step,
        size=len(stream),
        seconds=(encoded - start, end - encoded),
        kept=comparison.verdict != "different" and as_asked,
        parts="; ".join(f"{name} {size * per_point:.2f}" for name, size in parts.items()),
        errors="; ".join(f"{name} {error.largest:.3g}" for name, error in comparison.errors.items()),
        lost=f"{comparison.left_out} invalid points" if comparison.left_out else "",
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
    return _row(sample, name, "", None, len(packed), (middle - start, end - middle), kept)


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
    if bits > FLOAT_BITS or not len(cells):
        return
    start = time.perf_counter()
    ranks, lists = _ranks(cloud)
    data = encode_draco(draco, cells.astype(np.float32), bits, dict(enumerate(ranks)))
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
    yield _row(sample, DRACO, GRID, step, len(data) + len(extra), (middle - start, end - middle), True, lost=lost)


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


def _row(
    sample: Sample,
    codec: str,
    setting: str,
    step: float | None,
    size: int,
    seconds: tuple[float, float],
    kept: bool,
    *,
    parts: str = "",
    errors: str = "",
    lost: str = "",
) -> MessageRow:
    """``size``: bytes of the compressed message; ``seconds``: of encoder and decoder; the rest as in ``MessageRow``."""
    raw, points = len(sample.message.data), len(sample.cloud)
    return MessageRow(
        group=sample.group,
        message=sample.name,
        fields=sample.fields,
        points=points,
        message_bytes=raw,
        codec=codec,
        setting=setting,
        step=step,
        bytes=size,
        ratio=raw / max(size, 1),
        bpp=8 * size / max(points, 1),
        parts=parts,
        errors=errors,
        lost=lost,
        kept=kept,
        encode_s=seconds[0],
        decode_s=seconds[1],
    )
