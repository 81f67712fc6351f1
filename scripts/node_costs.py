"""What the nodes add to the codec for one message of the sample's large cloud, in processor time.

.venv/bin/python scripts/node_costs.py        # in an environment with ROS 2, as scripts/setup.sh makes it
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from demo.player import read_clouds
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2

from anypcc_ros.nodes.conversion import message_from_cloud
from anypcc_ros.pointcloud2 import cloud_from_message

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = 200
PERIOD = 0.02  # seconds between two of them


def milliseconds(function: Callable[[], object], repeats: int = 15) -> float:
    """Median processor time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def processor_time(process: int) -> float:
    """Seconds that a process has used."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def through_dds(cloud: PointCloud2) -> tuple[float, float]:
    """Milliseconds for a message: of the publisher, and of an encoder node that receives it and need not encode it."""
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "resource" / "fastdds_large_messages.xml"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    node = Node("node_costs")
    publisher = node.create_publisher(PointCloud2, "points", QoSProfile(depth=5))
    with subprocess.Popen([Path(sys.executable).with_name("encoder_node")]) as receiver:
        while not publisher.get_subscription_count():
            rclpy.spin_once(node, timeout_sec=0.1)
        time.sleep(2.0)
        received, published = processor_time(receiver.pid), time.process_time()
        for _ in range(MESSAGES):
            publisher.publish(cloud)
            time.sleep(PERIOD)
        published = time.process_time() - published
        time.sleep(0.5)
        received = processor_time(receiver.pid) - received
        receiver.terminate()
    node.destroy_node()
    rclpy.shutdown()
    return 1e3 * published / MESSAGES, 1e3 * received / MESSAGES


def main() -> None:
    message = read_clouds(ROOT / "sample" / "lidar", "/os2_128/points")[0]
    raw, cloud = serialize_message(message), cloud_from_message(message)
    publish, receive = through_dds(message)
    costs = {
        "encoder: receive": receive,
        "encoder: deserialize": milliseconds(lambda: deserialize_message(raw, PointCloud2)),
        "encoder: to a cloud": milliseconds(lambda: cloud_from_message(message)),
        "decoder: to a message": milliseconds(lambda: message_from_cloud(cloud, message.header)),
        "decoder: serialize and publish": publish,
    }
    print(f"{len(message.data)} bytes, {len(cloud)} points")
    for name, cost in costs.items():
        print(f"{name:32} {cost:5.1f} ms")


if __name__ == "__main__":
    main()
