"""What the tests of the nodes share: real processes on a real DDS network of their own, and a peer in this process."""

from __future__ import annotations

import fcntl
import os
import queue
import random
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from anypcc_ros.msg import CompressedCloud
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2, PointField

from anypcc_ros.nodes.conversion import as_uint8_sequence
from anypcc_ros.pointcloud2 import DATATYPES, cloud_from_message

PATIENCE = 30.0
"""Seconds to wait for anything at all; a busy machine is no reason to fail."""

HANDSHAKE = "handshake"
"""frame_id of the clouds that only find out whether everybody is connected."""

READY = " -> "
"""In the line that a node logs once it is there."""


@contextmanager
def isolated(log_dir: Path) -> Iterator[None]:
    """Give this process, and those it starts, a ROS network that no other test of this machine is on."""
    with own_domain() as domain:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_LOG_DIR"] = str(log_dir)
        yield


@contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain from 1 to 100 that nobody else who asks here has meanwhile: each has a file that its user locks."""
    for domain in random.SystemRandom().sample(range(1, 101), 100):
        with open(Path(tempfile.gettempdir(), f"anypcc_ros_domain_{domain}.lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise AssertionError("all of the domains 1 to 100 are in use")


def program(name: str) -> str:
    """An installed node: an entry point of this environment (pip), or below the prefix of a workspace (colcon)."""
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [sysconfig.get_path("scripts"), *(os.path.join(prefix, "lib", "anypcc_ros") for prefix in prefixes)]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found, f"{name} is in none of {', '.join(folders)}"
    return found


class Process:
    """A node in a process of its own; ``log`` grows as it writes."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.log = ""
        self._grown = threading.Condition()
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._grown:
                self.log += line
                self._grown.notify_all()

    def wait_for_log(self, text: str, count: int = 1) -> None:
        with self._grown:
            seen = self._grown.wait_for(lambda: self.log.count(text) >= count, PATIENCE)
        assert seen, f"{text!r} was not logged {count} times:\n{self.log}"

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Exit status; fails the test if the process goes on."""
        status = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def running(self) -> bool:
        return self.popen.poll() is None

    def end(self) -> None:
        if self.running():
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.wait()


@contextmanager
def started(kind: str, *arguments: str, **parameters: Any) -> Iterator[Process]:
    """An encoder_node or decoder_node that is ready; ``arguments`` follow --ros-args."""
    process = start(kind, *arguments, **parameters)
    try:
        process.wait_for_log(READY)
        yield process
    finally:
        process.end()


def start(kind: str, *arguments: str, **parameters: Any) -> Process:
    settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return Process([program(kind), "--ros-args", *arguments, *settings])


class Peer(Node):
    """Publishes clouds and streams, collects what the nodes publish. Its callbacks run in a thread of their own."""

    def __init__(self, name: str = "peer") -> None:
        super().__init__(name)
        qos = QoSProfile(depth=100)
        self.compressed: queue.Queue[CompressedCloud] = queue.Queue()
        self.decoded: queue.Queue[PointCloud2] = queue.Queue()
        self.reports: dict[str, dict[str, str]] = {}
        self.levels: dict[str, bytes] = {}
        self.summaries: dict[str, str] = {}
        self.history: list[tuple[str, dict[str, str]]] = []
        self.clouds = self.create_publisher(PointCloud2, "points", qos)
        self.streams = self.create_publisher(CompressedCloud, "points/anypcc", qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._executor.shutdown()
        self.destroy_node()

    def listen_compressed(self) -> None:
        """Collect compressed clouds, once the encoder is connected to this peer."""
        self._listen(CompressedCloud, "points/anypcc", self.compressed)

    def listen_decoded(self) -> None:
        """Collect decoded clouds, once encoder and decoder are connected to each other and to this peer."""
        self._listen(PointCloud2, "points/decoded", self.decoded)

    def _listen(self, kind: type, topic: str, collected: queue.Queue[Any]) -> None:
        arrived = threading.Event()

        def collect(message: Any) -> None:
            if message.header.frame_id == HANDSHAKE:
                arrived.set()
            else:
                collected.put(message)

        self.create_subscription(kind, topic, collect, QoSProfile(depth=100))
        self.handshake(arrived)

    def handshake(self, arrived: threading.Event) -> None:
        """Send clouds of one point until one has come through: who knows whom by now, no process can tell of the others."""
        point = cloud_message(np.ones((1, 3), np.float32), frame_id=HANDSHAKE)
        end = time.monotonic() + PATIENCE
        while not arrived.is_set():
            assert time.monotonic() < end, f"nothing comes through: {self.reports}"
            self.clouds.publish(point)
            arrived.wait(0.2)
        time.sleep(0.2)  # for those that are still on their way

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.split(":")[0]
            self.levels[name], self.summaries[name] = status.level, status.message
            self.reports[name] = {item.key: item.value for item in status.values}
            self.history.append((name, self.reports[name]))

    def count(self, node: str, key: str) -> int:
        return int(self.reports.get(node, {}).get(key, "0"))

    def wait_for_count(self, node: str, key: str, wanted: int) -> dict[str, str]:
        """The report of ``node`` in which ``key`` has come to ``wanted``."""
        until(lambda: self.count(node, key) >= wanted, f"{key} of {node} to reach {wanted}: {self.reports}")
        return self.reports[node]

    def settle(self, *nodes: str) -> None:
        """Wait until three reports in a row of each of the nodes count no more messages: all sent before have been counted."""

        def quiet(node: str) -> bool:
            received = [report["frames received"] for name, report in list(self.history)[seen:] if name == node]
            return len(received) > 3 and len(set(received[-3:])) == 1

        seen = len(self.history)
        until(lambda: all(map(quiet, nodes)), f"quiet around {', '.join(nodes)}: {self.reports}")

    def take(self, collected: queue.Queue[Any]) -> Any:
        """The next message of ``compressed`` or ``decoded``."""
        try:
            return collected.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no message came: {self.reports}") from None

    def pass_through(self, message: PointCloud2) -> PointCloud2:
        """The cloud as encoder and decoder give it back."""
        self.clouds.publish(message)
        return self.take(self.decoded)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.02)


def cloud_message(xyz: np.ndarray, stamp: tuple[int, int] = (0, 0), frame_id: str = "lidar") -> PointCloud2:
    """A PointCloud2 as drivers make them: x y z intensity float32, ring uint16, 2 bytes of padding."""
    layout = np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "ring"],
            "formats": ["<f4"] * 4 + ["<u2"],
            "offsets": [0, 4, 8, 12, 16],
            "itemsize": 20,
        }
    )
    rng = np.random.default_rng(len(xyz))
    points = np.zeros(len(xyz), layout)
    points["x"], points["y"], points["z"] = xyz.T
    points["intensity"], points["ring"] = rng.integers(0, 256, len(xyz)) / 255, rng.integers(0, 16, len(xyz))
    message = structured_message(points)
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = frame_id
    return message


def structured_message(points: np.ndarray, big_endian: bool = False) -> PointCloud2:
    """A PointCloud2 of one row that holds a structured array as it is."""
    datatypes = {form: number for number, form in DATATYPES.items()}
    assert points.dtype.fields is not None
    return PointCloud2(
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=offset, datatype=datatypes[form.str[1:]], count=1)
            for name, (form, offset) in points.dtype.fields.items()
        ],
        is_bigendian=big_endian,
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * len(points),
        data=as_uint8_sequence(points),
        is_dense=True,
    )


def on_grid(xyz: np.ndarray, step: float) -> np.ndarray:
    """What the codec promises to give back for ``xyz``, sorted: worked out here, without the codec."""
    return in_order(on_grid_in_place(xyz, step))


def on_grid_in_place(xyz: np.ndarray, step: float) -> np.ndarray:
    return (np.rint(xyz.astype(np.float64) / step) * step + 0.0).astype(xyz.dtype)  # the grid has no minus zero


def in_order(xyz: np.ndarray) -> np.ndarray:
    return xyz[np.lexsort(xyz.T)]


def coordinates(message: PointCloud2) -> np.ndarray:
    """Of a decoded message, sorted."""
    return in_order(cloud_from_message(message).xyz)


def contents(message: PointCloud2, step: float = 0.0) -> list[bytes]:
    """The points, each with all its fields, sorted. With a ``step``: as the codec promises to give them back on that grid."""
    cloud, _ = cloud_from_message(message).finite()
    xyz = on_grid_in_place(cloud.xyz, step) if step else cloud.xyz
    points = zip(xyz, *cloud.fields.values(), strict=True)
    return sorted(b"".join(value.tobytes() for value in point) for point in points)


@contextmanager
def network(log_dir: Path) -> Iterator[None]:
    """rclpy, on a network of this test module's own."""
    with isolated(log_dir):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        # With its last node a process leaves the network, and takes seconds to be found when it comes back.
        anchor = Node("anchor")
        try:
            yield
        finally:
            anchor.destroy_node()
            rclpy.shutdown()
