"""Demo: stands in for a LiDAR driver. Publishes the clouds of one topic of a bag over and over, at a sensor's rate."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.highlevel import AnyReader, AnyReaderError
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Empty, Header

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.command_line import positive_count
from anypcc_ros.nodes.conversion import message_from_cloud

HANDSHAKE = "handshake"
"""frame_id of the clouds that only find out whether everybody is connected."""

READY_TOPIC = "demo/ready"
READY_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

WAIT = 30.0
"""Seconds to wait for the other three processes."""


def read_clouds(bag: Path, topic: str) -> list[PointCloud2]:
    try:
        with AnyReader([bag]) as reader:
            connections = [connection for connection in reader.connections if connection.topic == topic]
            messages = reader.messages(connections) if connections else []  # of no connections: all messages
            clouds = [deserialize_message(raw, PointCloud2) for _, _, raw in messages]
    except (AnyReaderError, OSError) as error:
        raise SystemExit(f"player: {bag}: {error}") from error
    if not clouds:
        raise SystemExit(f"player: no clouds on {topic} in {bag}")
    return clouds


def wait_for_the_others(node: Node, publisher: Publisher) -> None:
    """Send clouds of one point until the checker says that all parts of one have reached it.

    No process can tell of the others whether they are connected yet, and a frame sent too early would count as dropped.
    """
    ready: list[Empty] = []
    node.create_subscription(Empty, READY_TOPIC, ready.append, READY_QOS)
    point = message_from_cloud(PointCloud(np.ones((1, 3), np.float32)), Header(frame_id=HANDSHAKE))
    end = time.monotonic() + WAIT
    while not ready:
        if time.monotonic() > end:
            raise SystemExit(f"player: encoder, decoder and checker are not all there after {WAIT:g} s")
        point.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(point)
        rclpy.spin_once(node, timeout_sec=0.2)
    time.sleep(0.5)  # for the points that are still on their way


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True, help="clouds per second")
    parser.add_argument("--frames", type=positive_count, required=True, help="how many to publish in all")
    options = parser.parse_args()
    if not options.rate > 0:
        parser.error(f"--rate {options.rate} is not positive")

    clouds = read_clouds(options.bag, options.topic)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("demo_player")
    publisher = node.create_publisher(PointCloud2, "points", QoSProfile(depth=5))
    wait_for_the_others(node, publisher)
    due = time.monotonic()
    for number in range(options.frames):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / options.rate
        cloud = clouds[number % len(clouds)]
        cloud.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(cloud)
    time.sleep(2.0)  # a publisher takes what has not been delivered yet with it
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
