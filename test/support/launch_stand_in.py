"""Executes a launch file where ROS 2's launch is not installed: it is not among the Python wheels.

Only what codec.launch.py uses: arguments with defaults and choices, substitutions, and nodes, whose parameters and
remappings become the command line that launch_ros would make of them.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import yaml


class DeclareLaunchArgument:
    def __init__(self, name: str, *, default_value: str | None = None, description: str = "", choices: Any = None) -> None:
        self.name, self.default, self.description, self.choices = name, default_value, description, choices


class LaunchConfiguration:
    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: dict[str, str]) -> str:
        return context[self.name]


class OpaqueFunction:
    def __init__(self, *, function: Any) -> None:
        self.function = function


class LaunchDescription:
    def __init__(self, entities: list[Any]) -> None:
        self.entities = entities


class Node:
    def __init__(self, *, package: str, executable: str, name: str, namespace: str, parameters: list[Any],
                 remappings: list[tuple[str, str]], output: str) -> None:  # fmt: skip
        self.package, self.executable, self.output = package, executable, output
        self.arguments = ["--ros-args", "-r", f"__node:={name}"]
        if namespace:
            self.arguments += ["-r", f"__ns:=/{namespace.strip('/')}"]
        for parameter in parameters:
            self.arguments += ["--params-file", parameter if isinstance(parameter, str) else _write(parameter)]
        for source, target in remappings:
            self.arguments += ["-r", f"{source}:={target}"]


def _write(parameters: dict[str, Any]) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
        yaml.safe_dump({"/**": {"ros__parameters": parameters}}, file)
    return file.name


def nodes_of(launch_file: Path, **arguments: str) -> list[Node]:
    """The nodes that `ros2 launch` would start; raises ValueError for arguments that it would refuse."""
    modules = {
        "launch": types.ModuleType("launch"),
        "launch.actions": types.ModuleType("launch.actions"),
        "launch.substitutions": types.ModuleType("launch.substitutions"),
        "launch_ros": types.ModuleType("launch_ros"),
        "launch_ros.actions": types.ModuleType("launch_ros.actions"),
    }
    vars(modules["launch"]).update(LaunchDescription=LaunchDescription)
    vars(modules["launch.actions"]).update(DeclareLaunchArgument=DeclareLaunchArgument, OpaqueFunction=OpaqueFunction)
    vars(modules["launch.substitutions"]).update(LaunchConfiguration=LaunchConfiguration)
    vars(modules["launch_ros.actions"]).update(Node=Node)
    shadowed = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        spec = importlib.util.spec_from_file_location("launch_file", launch_file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        entities = module.generate_launch_description().entities
        context: dict[str, str] = {}
        nodes = []
        for entity in entities:
            if isinstance(entity, DeclareLaunchArgument):
                value = arguments.pop(entity.name, entity.default)
                if value is None or (entity.choices and value not in entity.choices):
                    raise ValueError(f"{entity.name}={value!r} is not one of {entity.choices}")
                context[entity.name] = value
            else:
                nodes += entity.function(context)
    finally:
        for name, shadow in shadowed.items():
            if shadow is None:
                del sys.modules[name]
            else:
                sys.modules[name] = shadow
    if arguments:
        raise ValueError(f"unknown arguments {', '.join(arguments)}")
    return nodes
