"""What a node counts, and how it tells: one DiagnosticStatus for each node on /diagnostics."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from anypcc_ros.codec.layout import FieldInfo


@dataclass(frozen=True)
class Frame:
    """One cloud that went through a node.

    ``stamp``: (seconds, nanoseconds) of its header. ``raw_size`` and ``compressed_size``: bytes of PointCloud2 data and
    of the stream. ``codec_seconds``: encoding or decoding alone. ``node_seconds``: from the message's arrival to the
    publication, waiting for the previous frame included. ``age_seconds``: publication minus stamp, on the ROS clock.
    ``left_out``: points with NaN or infinity that the stream does not hold. ``fields``: what the stream says of each.
    """

    stamp: tuple[int, int]
    points: int
    raw_size: int
    compressed_size: int
    codec_seconds: float
    node_seconds: float
    age_seconds: float
    left_out: int = 0
    fields: tuple[FieldInfo, ...] = ()


@dataclass
class _Window:
    """What has happened since the last report."""

    received_bytes: int = 0
    published_bytes: int = 0
    received: int = 0
    dropped: int = 0
    errors: int = 0
    frames: list[Frame] = field(default_factory=list)


class Statistics:
    """Counters of one node, safe to use from several threads; all totals count from the node's start.

    Every message received ends in exactly one of published, dropped, skipped and errors (or is still at work).
    """

    def __init__(self, name: str, codec_verb: str, now: float) -> None:
        """``name`` of the DiagnosticStatus, ``codec_verb`` "encode" or "decode", ``now`` in seconds of any steady clock."""
        self._name = name
        self._verb = codec_verb
        self._lock = threading.Lock()
        self._window = _Window()
        self._reported_at = now
        self._last_received: float | None = None
        self._last_frame: Frame | None = None
        self.received = 0
        self.published = 0
        self.dropped = 0  # a newer message arrived before the worker got to it
        self.skipped = 0  # nobody subscribed to the output
        self.lost = 0  # lost on the way to this node, as far as the transport knows
        self.left_out = 0  # points that are not finite
        self.errors: Counter[str] = Counter()

    def count_received(self, size: int, now: float) -> None:
        """A message of ``size`` bytes has arrived."""
        with self._lock:
            self.received += 1
            self._last_received = now
            self._window.received += 1
            self._window.received_bytes += size

    def count_dropped(self) -> None:
        with self._lock:
            self.dropped += 1
            self._window.dropped += 1

    def count_skipped(self) -> None:
        with self._lock:
            self.skipped += 1

    def count_lost(self, messages: int) -> None:
        with self._lock:
            self.lost += messages
            self._window.dropped += messages

    def count_error(self, kind: str) -> None:
        with self._lock:
            self.errors[kind] += 1
            self._window.errors += 1

    def count_published(self, frame: Frame, size: int) -> None:
        """A message of ``size`` bytes has gone out."""
        with self._lock:
            self.published += 1
            self.left_out += frame.left_out
            self._last_frame = frame
            self._window.published_bytes += size
            self._window.frames.append(frame)

    def report(self, now: float, settings: dict[str, str]) -> DiagnosticStatus:
        """Totals since the start, means since the last report, and ``settings`` as they are; begins a new window."""
        with self._lock:
            window, self._window = self._window, _Window()
            seconds = max(now - self._reported_at, 1e-9)
            self._reported_at = now
            values = {
                "frames received": str(self.received),
                "frames published": str(self.published),
                "frames dropped for a newer one": str(self.dropped),
                "frames skipped, no subscriber": str(self.skipped),
                "frames lost in transport": str(self.lost),
                "frames failed": str(self.errors.total()),
                **{f"errors {kind}": str(count) for kind, count in sorted(self.errors.items())},
                "points dropped, not finite": str(self.left_out),
                "input bandwidth [Mbit/s]": f"{window.received_bytes * 8e-6 / seconds:.3f}",
                "output bandwidth [Mbit/s]": f"{window.published_bytes * 8e-6 / seconds:.3f}",
                "input rate [Hz]": f"{window.received / seconds:.2f}",
                "output rate [Hz]": f"{len(window.frames) / seconds:.2f}",
            }
            if self._last_received is not None:
                values["time since last input [s]"] = f"{now - self._last_received:.3f}"
            if window.frames:
                values |= self._means(window.frames)
            if self._last_frame is not None:
                values["last frame stamp"] = "{}.{:09d}".format(*self._last_frame.stamp)
            return DiagnosticStatus(
                level=self._level(window),
                name=self._name,
                message=self._summary(window, seconds),
                values=[KeyValue(key=key, value=value) for key, value in (values | settings).items()],
            )

    def _means(self, frames: list[Frame]) -> dict[str, str]:
        points = sum(frame.points for frame in frames)
        raw, compressed = sum(frame.raw_size for frame in frames), sum(frame.compressed_size for frame in frames)
        times = [frame.codec_seconds for frame in frames]
        values = {
            "points per frame": f"{points / len(frames):.0f}",
            f"{self._verb} time [ms]": f"{sum(times) / len(frames) * 1e3:.2f}",
            f"{self._verb} time, longest [ms]": f"{max(times) * 1e3:.2f}",
            "time in node [ms]": f"{sum(frame.node_seconds for frame in frames) / len(frames) * 1e3:.2f}",
            "age when published [ms]": f"{sum(frame.age_seconds for frame in frames) / len(frames) * 1e3:.2f}",
        }
        if points:
            values["bits per point"] = f"{8 * compressed / points:.4f}"
            values |= _fields(frames, points)
        if compressed:
            values["compression ratio"] = f"{raw / compressed:.3f}"
        return values

    @staticmethod
    def _level(window: _Window) -> bytes:
        if window.errors and not window.frames:
            return DiagnosticStatus.ERROR
        return DiagnosticStatus.WARN if window.errors or window.dropped else DiagnosticStatus.OK

    def _summary(self, window: _Window, seconds: float) -> str:
        if window.errors:
            return f"{window.errors} of {window.received} frames failed to {self._verb}"
        if window.dropped:
            return f"{window.dropped} frames dropped: arriving faster than this machine can {self._verb}"
        if window.frames:
            return f"{len(window.frames) / seconds:.1f} frames/s"
        return "idle: nobody subscribes" if window.received else "idle: no input"


def _fields(frames: list[Frame], points: int) -> dict[str, str]:
    """Policy, mean size and largest error of every field; with the positions they make up the stream."""
    values: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    errors: dict[str, float] = {}
    dropped: dict[str, None] = {}
    for frame in frames:
        for item in frame.fields:
            if item.policy == "drop":
                dropped[item.name] = None
                continue
            sizes[item.name] += item.size
            errors[item.name] = max(item.largest_error, errors.get(item.name, 0.0))
            values[f"field {item.name} policy"] = f"step {item.step:g}" if item.policy == "step" else item.policy
    for name, size in sizes.items():
        values[f"field {name} [bits per point]"] = f"{8 * size / points:.4f}"
        values[f"field {name} largest error"] = f"{errors[name]:.6g}"
    others = sum(frame.compressed_size for frame in frames) - sizes.total()
    values["positions [bits per point]"] = f"{8 * others / points:.4f}"
    return values | ({"fields dropped": ", ".join(dropped)} if dropped else {})
