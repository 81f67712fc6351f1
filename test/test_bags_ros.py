"""A compressed bag played into the real decoder node over DDS, as `ros2 bag play` plays it: bytes, topics, QoS of the bag."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rosbags", reason="needs the extra [bags]")
pytest.importorskip("mcap", reason="needs the extra [bags]")

import recordings
from anypcc_ros.msg import CompressedCloud
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from ros_network import HANDSHAKE, PATIENCE, network, started, until
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import UInt8MultiArray

from anypcc_ros import cli

TOPIC = "/front/points"


@pytest.fixture(scope="module", autouse=True)
def ros(tmp_path_factory):
    with network(tmp_path_factory.mktemp("ros_log")):
        yield


def serialised(bag: Path, topic: str) -> list[bytes]:
    with Reader(bag) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        return [bytes(raw) for _, _, raw in reader.messages(connections)] if connections else []  # none would mean all


ADAPTATION = str(Path(__file__).with_name("golden") / "adapted.standard.apad")
ADAPTED = ("--step", "0.01", "--adaptation", ADAPTATION, "--adaptation-use", "always")


@pytest.mark.parametrize("arguments", [("--step", "0.01"), (), ADAPTED], ids=["step", "exact", "adapted"])
def test_the_decoder_node_takes_what_is_in_the_bag(tmp_path, arguments):
    """The clouds that the node publishes are the messages of the restored bag; an adaptation comes on its own topic."""
    small, back = tmp_path / "small", tmp_path / "back"
    source = recordings.write_rosbag2(tmp_path / "in", "mcap")
    assert cli.main(["bag", "compress", str(source), str(small), "--jobs", "1", *arguments]) == 0
    assert cli.main(["bag", "restore", str(small), str(back), "--jobs", "1"]) == 0

    player, decoded = Node("player"), queue.Queue()
    publisher = player.create_publisher(CompressedCloud, f"{TOPIC}/anypcc", QoSProfile(depth=10))
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # as the bag says
    beside = player.create_publisher(UInt8MultiArray, f"{TOPIC}/anypcc/adaptation", latched)
    player.create_subscription(
        PointCloud2, f"{TOPIC}/decoded", decoded.put, QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    )
    executor = SingleThreadedExecutor()
    executor.add_node(player)
    received: list[PointCloud2] = []

    def spin() -> int:
        executor.spin_once(timeout_sec=0.05)
        while not decoded.empty():
            received.append(decoded.get())
        return len(received)

    def clouds() -> list[PointCloud2]:
        return [cloud for cloud in received if cloud.header.frame_id != HANDSHAKE]

    try:
        with started("decoder_node", "-r", "__ns:=/front") as node:
            ready = (publisher.get_subscription_count, lambda: player.count_publishers(f"{TOPIC}/decoded"))
            until(lambda: spin() >= 0 and all(count() for count in ready), "the decoder node")
            for raw in serialised(small, f"{TOPIC}/anypcc/adaptation"):
                beside.publish(raw)
                node.wait_for_log("adaptation ")
            streams = serialised(small, f"{TOPIC}/anypcc")
            first = deserialize_message(streams[0], CompressedCloud)
            first.header.frame_id = HANDSHAKE

            def connected() -> bool:
                publisher.publish(first)
                return spin() > 0

            until(connected, "whoever knows whom")
            for number, raw in enumerate(streams, 1):
                publisher.publish(raw)
                until(lambda number=number: spin() and len(clouds()) >= number, f"cloud {number} within {PATIENCE} s")
    finally:
        executor.shutdown()
        player.destroy_node()
    assert clouds() == [deserialize_message(raw, PointCloud2) for raw in serialised(back, TOPIC)]
    assert len(clouds()) == 4
