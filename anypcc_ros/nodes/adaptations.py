"""The adaptation that an encoder's streams name, on a latched topic beside them: a decoder that comes later gets it, too."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from anypcc_ros.pointcloud2 import ADAPTATION_SUFFIX

LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def adaptation_topic(streams: str) -> str:
    """The topic of the adaptation that goes with the streams of a topic, std_msgs/UInt8MultiArray: an .apad file's bytes."""
    return streams + ADAPTATION_SUFFIX
