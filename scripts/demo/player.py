"""Demo: stands in for a LiDAR driver. Publishes the clouds of one topic of a bag over and over, at a sensor's rate."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import PointCloud2

WAIT = 30.0
"""Seconds to wait for the other three processes."""


def read_clouds(bag: Path, topic: str) -> list[PointCloud2]:
    with AnyReader([bag]) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        clouds = [deserialize_message(raw, PointCloud2) for _, _, raw in reader.messages(connections)]
    if not clouds:
        raise SystemExit(f"player: no clouds on {topic} in {bag}")
    return clouds


def wait_for_the_others(node: Node) -> None:
    """Until encoder, decoder and checker are all connected: a frame sent earlier would not go all the way."""
    end = time.monotonic() + WAIT
    wanted = {"points": 2, "points/anypcc": 2, "points/decoded": 1}
    while any(node.count_subscribers(topic) < count for topic, count in wanted.items()):
        if time.monotonic() > end:
            raise SystemExit(f"player: encoder, decoder and checker are not all there after {WAIT:g} s")
        time.sleep(0.1)
    time.sleep(0.5)  # they know each other a moment after this process knows all of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True, help="clouds per second")
    parser.add_argument("--frames", type=int, required=True, help="how many to publish in all")
    options = parser.parse_args()

    clouds = read_clouds(options.bag, options.topic)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("demo_player")
    publisher = node.create_publisher(PointCloud2, "points", QoSProfile(depth=5))
    wait_for_the_others(node)
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
