"""Demo: collects what becomes of every cloud that was published, has it compared, and counts."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from anypcc_ros.msg import CompressedCloud
from comparison import Verdict, compare
from diagnostic_msgs.msg import DiagnosticArray
from player import HANDSHAKE, READY_QOS, READY_TOPIC, WAIT
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Empty

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.evaluation.pictures import before_after
from anypcc_ros.nodes.memory import keep_freed_memory
from anypcc_ros.optional import MissingPackageError
from anypcc_ros.pointcloud2 import cloud_from_message

KEEP = QoSProfile(depth=100)
"""The checker may fall behind for a moment; it must not lose messages of its own."""

PATIENCE = 5.0
"""Seconds without any message after which what is missing is taken for dropped."""

KEY_SIZE = 4096
"""Bytes that tell most clouds of a clip apart."""

KEPT_CLOUDS = 32
"""Clouds of a clip that are kept with what came back of them."""

COLUMNS = "{:>5} {:>7} {:>8} {:>7} {:>7} {:>8} {:>8} {:>9} {:>10}  {}"
HEADINGS = ("frame", "points", "bytes", "bpp", "ratio", "enc ms", "dec ms", "delay ms", "error/half", "")


@dataclass
class Passage:
    """One frame on its way; every part fills in as its message arrives. Times in nanoseconds of the system clock."""

    number: int
    original: PointCloud2
    published_at: int
    handshake: bool
    compressed: CompressedCloud | None = None
    decoded: PointCloud2 | None = None
    decoded_at: int = 0
    encode_ms: float | None = None
    decode_ms: float | None = None

    def complete(self) -> bool:
        return None not in (self.compressed, self.decoded, self.encode_ms, self.decode_ms)


@dataclass(frozen=True)
class Passed:
    """What is kept of a frame that has come through. Sizes in bytes, times in milliseconds but for ``decoded_at``."""

    points: int
    size: int
    raw_size: int
    encode_ms: float
    decode_ms: float
    delay_ms: float
    decoded_at: int


class Compared(NamedTuple):
    """Two clouds, and what their comparison said."""

    original: PointCloud2
    decoded: PointCloud2
    verdict: Verdict


def same_body(one: PointCloud2, other: PointCloud2) -> bool:
    """Whether two messages differ in nothing but their header."""
    names = ("height", "width", "fields", "is_bigendian", "point_step", "row_step", "is_dense")
    alike = all(getattr(one, name) == getattr(other, name) for name in names)
    return alike and np.array_equal(np.frombuffer(one.data, np.uint8), np.frombuffer(other.data, np.uint8))


class Checker(Node):
    """Collects the parts of every frame by its stamp, prints a line when all are there, and counts."""

    def __init__(self, step: float, positions_only: bool) -> None:
        super().__init__("demo_checker")
        self._step, self._positions_only = step, positions_only
        self._open: dict[tuple[int, int], Passage] = {}
        self.seen = 0
        self.messages = 0
        self.verdicts: list[Verdict] = []
        self.done: list[Passed] = []
        self._first: Compared | None = None
        self._compared: dict[bytes, Compared] = {}
        self.fields: tuple[str, ...] = ()
        self.totals: dict[str, dict[str, str]] = {}
        self._totals_before: dict[str, dict[str, str]] = {}
        self._ready = self.create_publisher(Empty, READY_TOPIC, READY_QOS)
        self.create_subscription(PointCloud2, "points", self._on_original, KEEP)
        self.create_subscription(CompressedCloud, "points/anypcc", self._on_compressed, KEEP)
        self.create_subscription(PointCloud2, "points/decoded", self._on_decoded, KEEP)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, KEEP)

    @property
    def pending(self) -> int:
        return sum(not passage.handshake for passage in self._open.values())

    def _on_original(self, message: PointCloud2, info: dict[str, int]) -> None:
        self.messages += 1
        handshake = message.header.frame_id == HANDSHAKE
        if not handshake:
            if not self.seen:
                self._totals_before = dict(self.totals)
            self.seen += 1
        self._open[_stamp(message)] = Passage(self.seen, message, info["source_timestamp"], handshake)

    def _on_compressed(self, message: CompressedCloud) -> None:
        self._update(_stamp(message), compressed=message)

    def _on_decoded(self, message: PointCloud2, info: dict[str, int]) -> None:
        self._update(_stamp(message), decoded=message, decoded_at=info["received_timestamp"])

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            self.totals[status.name] = values
            if "last frame stamp" in values:
                seconds, nanoseconds = values["last frame stamp"].split(".")
                parts = {
                    f"{verb}_ms": float(values[f"{verb} time [ms]"])
                    for verb in ("encode", "decode")
                    if f"{verb} time [ms]" in values
                }
                self._update((int(seconds), int(nanoseconds)), **parts)

    def _update(self, stamp: tuple[int, int], **parts: Any) -> None:
        self.messages += 1
        passage = self._open.get(stamp)
        if passage is None:
            return
        for name, value in parts.items():
            setattr(passage, name, value)
        if passage.complete():
            del self._open[stamp]
            if passage.handshake:
                self._ready.publish(Empty())
            else:
                self._finish(passage)

    def _finish(self, passage: Passage) -> None:
        original, compressed, decoded = passage.original, passage.compressed, passage.decoded
        assert compressed is not None
        assert decoded is not None
        assert passage.encode_ms is not None
        assert passage.decode_ms is not None
        verdict = self._compare(original, decoded)
        if decoded.header != original.header:
            verdict = Verdict(False, verdict.error, f"header {decoded.header}")
        self._first = self._first or Compared(original, decoded, verdict)
        self.verdicts.append(verdict)
        done = Passed(
            compressed.points,
            len(compressed.data),
            len(original.data),
            passage.encode_ms,
            passage.decode_ms,
            (passage.decoded_at - passage.published_at) * 1e-6,
            passage.decoded_at,
        )
        self.done.append(done)
        print(
            COLUMNS.format(
                passage.number,
                done.points,
                done.size,
                f"{8 * done.size / max(1, done.points):.3f}",
                f"{done.raw_size / done.size:.2f}",
                f"{done.encode_ms:.1f}",
                f"{done.decode_ms:.1f}",
                f"{done.delay_ms:.1f}",
                f"{verdict.error:.4f}",
                "exact" if verdict.exact else f"NOT EXACT: {verdict.reason}",
            ),
            flush=True,
        )

    def _compare(self, original: PointCloud2, decoded: PointCloud2) -> Verdict:
        """The player plays its clouds again and again. What has come back as it did before, to the last byte, is not compared
        once more: this process has only what the other three leave of the machine."""
        key = bytes(memoryview(original.data)[:KEY_SIZE])
        known = self._compared.get(key)
        if known and same_body(known.original, original) and same_body(known.decoded, decoded):
            return known.verdict
        before, after = cloud_from_message(original), cloud_from_message(decoded)
        if self._positions_only:
            before = PointCloud(before.xyz)
        self.fields = tuple(before.fields)
        verdict = compare(before, after, self._step)
        if len(self._compared) < KEPT_CLOUDS:
            self._compared[key] = Compared(original, decoded, verdict)
        return verdict

    def draw(self, picture: Path) -> None:
        """The first frame that came back, before and after."""
        assert self._first is not None
        picture.parent.mkdir(parents=True, exist_ok=True)
        before_after(cloud_from_message(self._first.original), cloud_from_message(self._first.decoded), picture)

    def summary(self, published: int) -> list[str]:
        done = self.done
        lines = [f"{published} published, {len(done)} decoded, {published - len(done)} dropped on the way"]
        for name, values in sorted(self.totals.items()):
            before = self._totals_before.get(name, {})
            counts = {key: int(values[key]) - int(before.get(key, "0")) for key in values if key.startswith("frames ")}
            lines.append(f"{name}: {', '.join(f'{count} {key}' for key, count in counts.items() if count)}")
        if done:
            points, size, raw = (sum(column) for column in zip(*((d.points, d.size, d.raw_size) for d in done), strict=True))
            delays = np.array([d.delay_ms for d in done])
            seconds = (done[-1].decoded_at - done[0].decoded_at) * 1e-9
            rate = f", {(len(done) - 1) / seconds:.2f} clouds/s" if seconds > 0 else ""
            lines += [
                f"{8 * size / points:.3f} bits per point, {raw / size:.2f} times smaller{rate}",
                f"encode {np.mean([d.encode_ms for d in done]):.1f} ms, decode {np.mean([d.decode_ms for d in done]):.1f} ms,"
                f" topic to topic {np.median(delays):.1f} ms median, {delays.max():.1f} ms longest",
                f"largest error {max(v.error for v in self.verdicts):.4f} half steps (one half step is {self._step / 2:g} m)",
            ]
        wrong = sum(not verdict.exact for verdict in self.verdicts)
        if wrong or not done:
            lines.append(f"{wrong} of {len(done)} NOT exact" if wrong else "nothing came back")
        else:
            fields = f", and every other field ({', '.join(self.fields)}) bit for bit" if self.fields else ""
            lines.append(f"all {len(done)} exact on their grid{fields}")
        return lines


def _stamp(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=float, required=True, help="the encoder's grid step, metres")
    parser.add_argument("--frames", type=int, required=True, help="how many the player publishes")
    parser.add_argument("--positions-only", action="store_true", help="the encoder drops all other fields")
    parser.add_argument("--picture", type=Path, required=True, help="where to write the picture of the first frame")
    options = parser.parse_args()

    keep_freed_memory()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    checker = Checker(options.step, options.positions_only)
    print(COLUMNS.format(*HEADINGS), flush=True)
    messages, last = 0, time.monotonic()
    while checker.seen < options.frames or checker.pending:
        rclpy.spin_once(checker, timeout_sec=0.2)
        if checker.messages != messages:
            messages, last = checker.messages, time.monotonic()
        elif time.monotonic() - last > (PATIENCE if checker.seen else PATIENCE + WAIT):
            break
    if checker.done:
        try:
            checker.draw(options.picture)
            print(f"\npicture of the first frame before and after: {options.picture}")
        except MissingPackageError as error:  # as after LIGHT=1 bash scripts/setup.sh
            print(f"\nno picture of the first frame: {error}")
    print("\n".join(checker.summary(options.frames)), flush=True)
    checker.destroy_node()
    rclpy.shutdown()
    return 0 if checker.done and all(verdict.exact for verdict in checker.verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
