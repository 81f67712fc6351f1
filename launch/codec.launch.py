"""Start the encoder, the decoder, or both.

    ros2 launch anypcc_ros codec.launch.py input:=/lidar/points step:=0.02 nodes:=encoder
    ros2 launch anypcc_ros codec.launch.py nodes:=decoder output:=/lidar/points_restored

The compressed topic is the input topic with `/anypcc` behind it, whichever of the nodes is started.
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

ARGUMENTS = (
    DeclareLaunchArgument("input", default_value="points", description="topic of the clouds to compress"),
    DeclareLaunchArgument(
        "output", default_value="", description="topic of the decoded clouds (default: the input topic with /decoded)"
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the nodes and of relative topics"),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file of parameters, as config/codec.yaml"),
    DeclareLaunchArgument(
        "nodes", default_value="both", choices=["both", "encoder", "decoder"], description="which nodes to start"
    ),
    DeclareLaunchArgument("model", default_value="", description="the encoder's model (default: the file's, or standard)"),
    DeclareLaunchArgument(
        "step", default_value="", description="the encoder's grid step in metres (default: the file's, or 0.01)"
    ),
)


def make_nodes(context):
    """The nodes that were asked for. Arguments left empty leave the parameter to the file or to the node."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    clouds = value("input")
    topics = [
        ("points", clouds),
        ("points/anypcc", f"{clouds}/anypcc"),
        ("points/decoded", value("output") or f"{clouds}/decoded"),
    ]
    file = [value("params_file")] if value("params_file") else []
    given = {}
    if value("model"):
        given["model"] = value("model")
    if value("step"):
        try:
            given["step"] = float(value("step"))  # `step:=1` is a number of metres, too
        except ValueError:
            raise ValueError(f"step:={value('step')} is not a number of metres") from None
    parameters = {"encoder": [*file, given], "decoder": file}
    return [
        Node(
            package="anypcc_ros",
            executable=f"{kind}_node",
            name=f"anypcc_{kind}",
            namespace=value("namespace"),
            parameters=parameters[kind],
            remappings=topics,
            output="screen",
        )
        for kind in ("encoder", "decoder")
        if value("nodes") in ("both", kind)
    ]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_nodes)])
