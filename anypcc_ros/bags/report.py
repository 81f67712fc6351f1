"""One HTML file about compressed bags, with everything in it: figures, charts, and pictures of clouds before and after."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from anypcc_ros.bags import types
from anypcc_ros.bags.adaptations import adaptations_of
from anypcc_ros.bags.compare import POSITION
from anypcc_ros.bags.contents import Message
from anypcc_ros.bags.reading import Bag
from anypcc_ros.bags.results import BagResult, TopicTotals
from anypcc_ros.bags.transform import Reading, decode_message, read_message
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.errors import InputError, StreamError
from anypcc_ros.evaluation.figures import new_figure
from anypcc_ros.evaluation.pictures import before_after
from anypcc_ros.files import atomic_write
from anypcc_ros.pointcloud2 import cloud_from_message

PICTURES = 6
"""Topics of a bag of which the first cloud is shown."""

OURS = "#0f766e"

_STYLE = """
:root { color-scheme: light }
body { margin: 0; background: #f4f6f8; color: #17202a; font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 26px; margin: 0 0 2px } h2 { font-size: 20px; margin: 34px 0 12px; overflow-wrap: anywhere }
h3 { font-size: 15px; margin: 20px 0 8px; overflow-wrap: anywhere }
.quiet { color: #5d6b7a } code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
section { background: #fff; border: 1px solid #dfe4ea; border-radius: 10px; padding: 6px 22px 20px; margin: 18px 0 }
.figures { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 16px 0 6px }
.figure b { display: block; font-size: 30px; line-height: 1.15; font-weight: 650 } .main b { color: #0f766e }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { font-size: 14px; padding: 6px 8px; text-align: right; border-bottom: 1px solid #e8ecf0; white-space: nowrap }
th { font-weight: 600; color: #5d6b7a } th:first-child, td:first-child { text-align: left; padding-left: 0 }
.bar { display: grid; grid-template-columns: 250px 1fr 190px; align-items: center; gap: 12px; margin: 7px 0 }
.bar span { height: 18px; border-radius: 4px; background: #b8c0cc; min-width: 2px } .ours span { background: #0f766e }
.ours { font-weight: 600 } img { width: 100%; border-radius: 8px; display: block }
.bad { border-left: 4px solid #b42318; padding: 2px 0 2px 12px; margin: 10px 0 }
"""


def write_report(path: Path, results: Sequence[BagResult], command: str) -> None:
    """Write the report of these bags. Raises FileError, MissingPackageError, BagError."""
    body = "".join(part for result in results for part in _bag(result))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>anypcc bag: {escape(results[0].source.name if results else 'nothing')}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>Compressed recordings</h1><p class=quiet><code>{escape(command)}</code></p>{body}"
        "</main></body></html>\n"
    )
    with atomic_write(path) as out:
        out.write(page.encode())


def _bag(result: BagResult) -> Iterator[str]:
    yield f"<h2>{escape(str(result.source))} → {escape(result.target.name)}</h2><section><div class=figures>"
    yield _figure(f"{result.ratio:.2f} ×", "smaller, file against file", "main")
    yield _figure(_bytes(result.size_before), "before")
    yield _figure(_bytes(result.size_after), f"after, {result.storage}")
    yield _figure(f"{result.messages:,}", "messages")
    yield _figure(f"{result.seconds:.1f} s", f"{result.size_before / 1e6 / max(result.seconds, 1e-9):.1f} MB/s")
    yield "</div>"
    yield from _bars(result)
    yield "</section>"
    yield from _problems(result)
    if result.clouds:
        yield "<section><h3>Topics of clouds</h3>" + _topic_table(result.clouds)
        yield f"<h3>Over time</h3>{_chart(result.clouds)}"
        yield f"<h3>Fields</h3>{_field_table(result.clouds)}</section>"
        yield from _pictures(result)
    others = [topic for topic in result.topics.values() if not topic.converted]
    if others:
        yield f"<section><h3>Other topics, unchanged</h3>{_other_table(others)}</section>"


def _figure(value: str, text: str, kind: str = "") -> str:
    return f'<div class="figure {kind}"><b>{escape(value)}</b><span class=quiet>{escape(text)}</span></div>'


def _bars(result: BagResult) -> Iterator[str]:
    """All messages of the bag under each codec, without their container."""
    topics = result.topics.values()
    raw = sum(topic.bytes_before for topic in topics)
    sizes = {
        "as they are": raw,
        "zstd by message (rosbag2)": sum(topic.zstd_bytes for topic in topics),
        "zstd by file (rosbag2)": result.zstd_file_bytes,
    }
    if all(topic.draco_bytes is not None for topic in result.clouds) and result.clouds:
        rest = sum(topic.zstd_bytes for topic in topics if not topic.converted)
        sizes["Draco, positions on the grid *"] = rest + sum(topic.draco_bytes or 0 for topic in result.clouds)
    ours = sum(topic.bytes_after if topic.converted else topic.zstd_bytes for topic in topics)
    yield "<h3>All messages, without their container</h3>"
    for name, size in sizes.items():
        yield _bar(name, size, raw)
    yield _bar("anypcc", ours, raw, "ours")
    yield "<p class=quiet>What is not a cloud is counted by zstd with each of the compressors."
    if len(sizes) == 4:
        steps = ", ".join(sorted({f"{topic.step:g}" for topic in result.clouds}))
        yield f" * On a grid of {steps} m, points of one cell once, order lost; the other fields by zstd."
    yield "</p>"


def _bar(name: str, size: int, whole: int, kind: str = "") -> str:
    share = size / whole if whole else 0.0
    return (
        f'<div class="bar {kind}"><div>{escape(name)}</div><span style="width:{100 * min(share, 1):.2f}%"></span>'
        f"<div>{_bytes(size)}, {1 / share if share else 0:.2f} ×</div></div>"
    )


def _problems(result: BagResult) -> Iterator[str]:
    texts = [f"damaged: {text}" for text in result.damage]
    texts += [f"not kept, for which {result.storage} has no place: {count} {what}" for what, count in result.not_kept.items()]
    texts += [
        f"{topic.name}: {count} messages passed through as they are: {reason}"
        for topic in result.topics.values()
        for reason, count in topic.passed_through.items()
    ]
    if texts:
        yield "<section><h3>What you should know</h3>"
        yield "".join(f"<p class=bad>{escape(text)}</p>" for text in texts)
        yield "</section>"


def _topic_table(topics: Iterable[TopicTotals]) -> str:
    rows = []
    for topic in topics:
        seconds = np.array([frame.statistics.seconds for frame in topic.frames])
        rows.append(
            [
                topic.name,
                f"{topic.converted:,}",
                f"{topic.points:,}",
                _bytes(topic.bytes_before),
                _bytes(topic.bytes_after),
                f"{topic.bytes_before / topic.bytes_after:.2f} ×",
                f"{topic.bpp:.2f}",
                f"{topic.bytes_before / topic.zstd_bytes:.2f} ×" if topic.zstd_bytes else "",
                f"{topic.bytes_before / topic.draco_bytes:.2f} ×" if topic.draco_bytes else "",
                f"{1e3 * float(np.median(seconds)):.0f} ms" if len(seconds) else "",
                f"{1e3 * float(seconds.max()):.0f} ms" if len(seconds) else "",
            ]
        )
    head = "topic|clouds|points|before|after|ratio|bits per point|zstd|Draco *|encode, median|longest"
    return _table(head.split("|"), rows)


def _field_table(topics: Iterable[TopicTotals]) -> str:
    rows = []
    for topic in topics:
        fields = sum(item.size for item in topic.fields.values())
        off = 0.0 if topic.exact else topic.step / 2
        kept = f"within {off:g} m" if off else "bit-identical"
        rows.append([f"{topic.name} {POSITION}", kept, f"{off:g}", *_share(topic, fields, rest=True)])
        for name, item in topic.fields.items():
            kept = {"exact": "bit-identical", "drop": "dropped"}.get(item.policy, f"within {item.step / 2:g}")
            error = "" if item.policy == "drop" else f"{item.largest_error:g}"
            rows.append([f"{topic.name} {name}", kept, error, *_share(topic, item.size)])
        if topic.left_out:
            rows.append([f"{topic.name}: points with NaN or infinity", "left out", f"{topic.left_out:,}", "", ""])
    return _table(["field", "kept", "largest error", "bytes", "bits per point"], rows)


def _share(topic: TopicTotals, size: int, rest: bool = False) -> tuple[str, str]:
    """Bytes and bits per point; of the ``rest`` of the stream, which holds positions, order and container."""
    size = topic.stream_bytes - size if rest else size
    return _bytes(size), f"{8 * size / topic.points:.2f}" if topic.points else ""


def _other_table(topics: Iterable[TopicTotals]) -> str:
    return _table(
        ["topic", "type", "messages", "bytes"],
        [[topic.name, topic.type, f"{topic.messages:,}", _bytes(topic.bytes_before)] for topic in topics],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>" for tag, row in
             [("th", head), *(("td", row) for row in rows)]]  # fmt: skip
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _chart(topics: Sequence[TopicTotals]) -> str:
    """Bits per point and encode time against the time of recording."""
    figure = new_figure(10.4, 4.6, dpi=120, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    start = min(frame.log_time for topic in topics for frame in topic.frames)
    for topic in topics:
        seconds = [(frame.log_time - start) * 1e-9 for frame in topic.frames]
        points = [max(frame.statistics.points, 1) for frame in topic.frames]
        bpp = [8 * frame.statistics.stream_size / n for frame, n in zip(topic.frames, points, strict=True)]
        style = {"marker": "o" if len(seconds) < 60 else "", "markersize": 3.5, "linewidth": 1.3, "label": topic.name}
        axes[0].plot(seconds, bpp, **style)
        axes[1].plot(seconds, [1e3 * frame.statistics.seconds for frame in topic.frames], **style)
    axes[0].set_ylabel("bits per point")
    axes[1].set(ylabel="encode time, ms", xlabel="seconds from the first cloud")
    for ax in axes:
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    out = BytesIO()
    figure.savefig(out, format="png")
    return _image(out.getvalue(), "bits per point and encode time over the recording")


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _pictures(result: BagResult) -> Iterator[str]:
    topics = result.clouds[:PICTURES]
    new_names = {topic.new_name for topic in topics}
    decoded = _first_clouds(result.target, lambda message: message.topic.name in new_names, len(topics))
    taken = {(topic.name, decoded[topic.new_name][0]) for topic in topics if topic.new_name in decoded}
    originals = _first_clouds(result.source, lambda message: (message.topic.name, message.log_time) in taken, len(taken))
    for topic in topics:
        if topic.new_name in decoded and topic.name in originals:
            (_, before), (_, after) = originals[topic.name], decoded[topic.new_name]
            with tempfile.TemporaryDirectory(prefix="anypcc-") as folder:
                picture = Path(folder, "picture.png")
                before_after(before, after, picture, topic.name, ("before", "after"))
                yield f"<section><h3>{escape(topic.name)}, first cloud</h3>"
                yield _image(picture.read_bytes(), f"{topic.name} before and after") + "</section>"


def _first_clouds(path: Path, wanted: Callable[[Message], bool], topics: int) -> dict[str, tuple[int, PointCloud]]:
    """Of so many topics the first wanted cloud that can be read, and its log time in ns. Damage has been told already."""
    reading = Reading(DecoderConfig()).knowing(adaptations_of(path))
    found: dict[str, tuple[int, PointCloud]] = {}
    with Bag(path) as bag:
        for item in bag.contents(lambda error: None):
            if len(found) == topics:
                break
            if isinstance(item, Message) and item.topic.name not in found and wanted(item):
                with suppress(SerdeError, StreamError, InputError):
                    found[item.topic.name] = item.log_time, _cloud(item, reading)
    return found


def _cloud(message: Message, reading: Reading) -> PointCloud:
    if types.is_compressed(message.topic):
        _, cloud, _ = decode_message(message.data, reading)
        return cloud
    original: Any = read_message(message.data, types.POINT_CLOUD)
    return cloud_from_message(original)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
