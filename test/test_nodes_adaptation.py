"""An adaptation that streams name reaches the decoder node by a latched topic, whenever that comes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from ros_network import cloud_message, coordinates, on_grid, started
from std_msgs.msg import UInt8MultiArray

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.model.adaptations import load_adaptation
from anypcc_ros.nodes.adaptations import LATCHED_QOS, adaptation_topic

STEP = 0.02


def test_a_decoder_that_comes_later_gets_the_adaptation(peer, golden, xyz) -> None:
    file = golden / "adapted.standard.apad"
    with started("encoder_node", step=STEP, adaptation=str(file), adaptation_use="always"), started("decoder_node") as decoder:
        peer.listen_decoded()
        peer.listen_compressed()
        decoded = peer.pass_through(cloud_message(xyz))
        assert np.array_equal(coordinates(decoded), on_grid(xyz, STEP))
        assert inspect(bytes(peer.take(peer.compressed).data)).adaptation == load_adaptation(file).hash
        # What is no adaptation does no harm.
        foreign = peer.create_publisher(UInt8MultiArray, adaptation_topic("points/anypcc"), LATCHED_QOS)
        foreign.publish(UInt8MultiArray(data=b"APAD, but no more"))
        decoder.wait_for_log("not an adaptation")
        assert np.array_equal(coordinates(peer.pass_through(cloud_message(xyz))), on_grid(xyz, STEP))
