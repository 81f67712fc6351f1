"""Whole PointCloud2 messages, every field of them, by this codec and by others, really encoded and decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anypcc_ros.bags.compare import POSITION, Policy, compare_clouds
from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.evaluation.evaluate import matching_decoder
from anypcc_ros.evaluation.message_peers import run_peers
from anypcc_ros.evaluation.message_samples import Sample

OURS = "anypcc"
STEPS = (0.001, 0.016)

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
        steps = dict.fromkeys(config.step for config in configs if not config.exact)
        for run in run_peers(sample, list(steps)):
            yield _row(
                sample,
                codec=run.codec,
                setting=GRID if run.step else "",
                step=run.step,
                size=run.size,
                seconds=(run.encode_s, run.decode_s),
                kept=run.kept,
                errors=run.errors,
                lost=run.lost,
            )


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
