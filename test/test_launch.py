"""The launch file and the parameter file, executed: by ROS 2's launch where it is installed, else by a stand-in."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import sysconfig
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from anypcc_ros.msg import CompressedCloud
from launch_stand_in import nodes_of
from rclpy.qos import QoSProfile
from ros_network import Peer, Process, cloud_message, on_grid, program, until
from sensor_msgs.msg import PointCloud2

from anypcc_ros.codec.config import CodecConfig, DecoderConfig, TargetConfig
from anypcc_ros.nodes.codec_node import NodeConfig
from anypcc_ros.pointcloud2 import MessageConfig, cloud_from_message

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILE = ROOT / "launch" / "codec.launch.py"
PARAMETER_FILE = ROOT / "config" / "codec.yaml"
LIVE_FILE = ROOT / "config" / "live.yaml"
REAL_LAUNCH = all(importlib.util.find_spec(name) for name in ("launch", "launch_ros"))

LAUNCH_SERVICE = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
source = PythonLaunchDescriptionSource(file)
service = LaunchService(argv=arguments)
included = IncludeLaunchDescription(source, launch_arguments=[argument.split(":=") for argument in arguments])
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


@contextmanager
def launched(*, expected: int, **arguments: str):
    """What `ros2 launch anypcc_ros codec.launch.py name:=value ...` starts, once ``expected`` nodes are ready."""
    with ExitStack() as stack:
        if REAL_LAUNCH:
            given = [f"{name}:={value}" for name, value in arguments.items()]
            prefix = sysconfig.get_path("data")
            environment = {} if "AMENT_PREFIX_PATH" in os.environ else {"AMENT_PREFIX_PATH": prefix}
            command = [sys.executable, "-c", LAUNCH_SERVICE, str(LAUNCH_FILE), *given]
            processes = [Process(command, environment)]
        else:
            processes = [Process([program(node.executable), *node.arguments]) for node in nodes_of(LAUNCH_FILE, **arguments)]
            assert len(processes) == expected
        for process in processes:
            stack.callback(process.end)
        until(lambda: sum(process.log.count("Config(") for process in processes) == expected, f"{expected} nodes")
        yield processes
        for process in processes:
            process.popen.send_signal(2)
        for process in processes:
            assert process.wait() == 0, process.log


def collect(peer: Peer, kind: type, topic: str) -> list:
    messages: list = []
    peer.create_subscription(kind, topic, messages.append, QoSProfile(depth=10))
    return messages


def test_both_nodes_in_a_namespace_with_topics_and_step(peer, scan):
    arguments = {"input": "lidar/points", "output": "lidar/back", "namespace": "robot", "step": "1", "model": "standard"}
    with launched(expected=2, **arguments):
        compressed = collect(peer, CompressedCloud, "/robot/lidar/points/anypcc")
        decoded = collect(peer, PointCloud2, "/robot/lidar/back")
        clouds = peer.create_publisher(PointCloud2, "/robot/lidar/points", QoSProfile(depth=10))

        def sent_and_back():
            clouds.publish(cloud_message(scan.xyz))
            return bool(decoded and compressed)

        until(sent_and_back, "a compressed and a decoded cloud")
        xyz = cloud_from_message(decoded[0]).xyz
        np.testing.assert_array_equal(xyz[np.lexsort(xyz.T)], on_grid(scan.xyz, 1.0))
        nodes = {("anypcc_encoder", "/robot"), ("anypcc_decoder", "/robot")}
        until(lambda: nodes <= set(peer.get_node_names_and_namespaces()), "both nodes by name")


def test_one_node_with_a_parameter_file(peer, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(PARAMETER_FILE.read_text().replace("step: 0.01", "step: 0.125"))
    with launched(expected=1, nodes="encoder", params_file=str(file)) as (process,):
        process.wait_for_log("/points -> /points/anypcc: CodecConfig(step=0.125")
    # What is given beside the file wins.
    with launched(expected=1, nodes="encoder", params_file=str(file), step="0.5") as (process,):
        process.wait_for_log("CodecConfig(step=0.5")


def test_the_decoder_alone_takes_the_parameter_file_in_a_namespace(peer):
    arguments = {"nodes": "decoder", "input": "/front", "namespace": "a/b", "params_file": str(PARAMETER_FILE)}
    with launched(expected=1, **arguments) as (process,):
        process.wait_for_log("/front/anypcc -> /front/decoded: DecoderConfig(")


def test_the_file_for_live_clouds_is_taken(peer):
    wanted = yaml.safe_load(LIVE_FILE.read_text())
    encoder, decoder = (wanted[f"/**/anypcc_{kind}"]["ros__parameters"] for kind in ("encoder", "decoder"))
    with launched(expected=1, nodes="encoder", params_file=str(LIVE_FILE)) as (process,):
        for name, value in encoder.items():
            process.wait_for_log(f"{name}={value!r}")
    with launched(expected=1, nodes="decoder", params_file=str(LIVE_FILE)) as (process,):
        for name, value in decoder.items():
            process.wait_for_log(f"{name}={value!r}")


@pytest.mark.skipif(REAL_LAUNCH, reason="of the stand-in")
def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="not one of"):
        nodes_of(LAUNCH_FILE, nodes="neither")
    with pytest.raises(ValueError, match="unknown"):
        nodes_of(LAUNCH_FILE, speed="1")
    with pytest.raises(ValueError, match="step:=fine is not a number of metres"):
        nodes_of(LAUNCH_FILE, step="fine")


def test_the_parameter_file_states_every_default():
    file = yaml.safe_load(PARAMETER_FILE.read_text())
    for name, kinds in (
        ("anypcc_encoder", (CodecConfig, TargetConfig, MessageConfig, NodeConfig)),
        ("anypcc_decoder", (DecoderConfig, NodeConfig)),
    ):
        defaults = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
        stated = file[f"/**/{name}"]["ros__parameters"]
        assert {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()} == defaults
