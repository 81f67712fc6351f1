"""ROS parameters made from a configuration dataclass: one parameter for each field, with its range, unit and text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from anypcc_ros.codec.errors import AnypccError

Config = TypeVar("Config")
Product = TypeVar("Product")


class ConfigParameters(Generic[Config, Product]):
    """The parameters of one configuration, and what is built from it (an Encoder, a Decoder).

    ``defaults`` is a frozen dataclass whose fields are made by ``codec.config.option``. A change at run time is validated
    by building the new configuration and the new product; an AnypccError from either refuses the change with its
    message, and nothing has changed. Otherwise ``config`` and ``product`` are replaced, so that whoever fetches them next
    has the new ones, and ``applied`` is called.

    The constructor raises ConfigError for a bad start value, and what ``build`` raises; rclpy refuses start values of
    the wrong type with its own errors.
    """

    def __init__(
        self,
        node: Node,
        defaults: Config,
        build: Callable[[Config], Product],
        applied: Callable[[Config], None],
    ) -> None:
        self._build = build
        self._applied = applied
        fields = {field.name: field for field in dataclasses.fields(defaults)}  # type: ignore[arg-type]
        declared = {
            name: _from_ros(node.declare_parameter(name, _to_ros(getattr(defaults, name)), descriptor(field)).value)
            for name, field in fields.items()
        }
        self._names = frozenset(fields)
        self.config = dataclasses.replace(defaults, **declared)  # type: ignore[type-var]
        self.product = build(self.config)
        self._validated: tuple[Config, Product] | None = None
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._commit)

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        changes = {each.name: _from_ros(each.value) for each in parameters if each.name in self._names}
        self._validated = None
        if changes:
            try:
                config = dataclasses.replace(self.config, **changes)  # type: ignore[type-var]
                self._validated = config, self._build(config)
            except (AnypccError, OSError) as error:  # OSError: a path that cannot be looked at
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _commit(self, _parameters: Sequence[Parameter]) -> None:
        """Called once no other callback has refused the change."""
        if self._validated is not None:
            (self.config, self.product), self._validated = self._validated, None
            self._applied(self.config)


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """What `ros2 param describe` shows of a configuration field."""
    meta = field.metadata
    result = ParameterDescriptor(description=f"{meta['help']} [{meta['unit']}]" if meta["unit"] else meta["help"])
    if meta["choices"]:
        result.additional_constraints = f"one of {', '.join(meta['choices'])}"
    if meta["minimum"] is not None or meta["maximum"] is not None:
        low, high = meta["minimum"], meta["maximum"]
        if isinstance(field.default, float):
            most = sys.float_info.max
            result.floating_point_range = [
                FloatingPointRange(
                    from_value=-most if low is None else float(low), to_value=most if high is None else float(high)
                )
            ]
        else:
            most = 2**63 - 1
            result.integer_range = [
                IntegerRange(from_value=-most if low is None else int(low), to_value=most if high is None else int(high))
            ]
    return result


def _to_ros(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_ros(value: Any) -> Any:
    return () if value is None else value  # an empty array has no type, and so comes as nothing at all
