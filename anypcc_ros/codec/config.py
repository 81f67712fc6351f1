"""The one configuration of encoder and decoder; CLI flags and ROS parameters are generated from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from anypcc_ros.codec.errors import ConfigError

BACKENDS = ("auto", "native", "torch", "cuda")


def option(
    default: Any,
    help: str,  # noqa: A002 - the word that argparse uses
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with the description, unit and range that every front end shows and checks."""
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


def validate(config: Any) -> None:
    """Check every field of a dataclass made of ``option`` against its metadata; raises ConfigError."""
    for item in fields(config):
        value: Any = getattr(config, item.name)
        meta = item.metadata
        default: Any = item.default
        expected = type(default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
            object.__setattr__(config, item.name, value)
        if expected is tuple:
            _validate_tuple(config, item.name, value, default)
            continue
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ConfigError(item.name, value, f"must be of type {expected.__name__}")
        if expected is float and not math.isfinite(value):
            raise ConfigError(item.name, value, "must be finite")
        if meta["minimum"] is not None and value < meta["minimum"]:
            raise ConfigError(item.name, value, f"must be at least {meta['minimum']:g} {meta['unit']}".rstrip())
        if meta["maximum"] is not None and value > meta["maximum"]:
            raise ConfigError(item.name, value, f"must be at most {meta['maximum']:g} {meta['unit']}".rstrip())
        if meta["choices"] and value not in meta["choices"]:
            raise ConfigError(item.name, value, f"must be one of {', '.join(meta['choices'])}")


def _validate_tuple(config: Any, name: str, value: Any, default: tuple[float, ...]) -> None:
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(name, value, f"must be {len(default)} numbers") from error
    if len(numbers) != len(default) or not all(math.isfinite(v) for v in numbers):
        raise ConfigError(name, value, f"must be {len(default)} finite numbers")
    object.__setattr__(config, name, numbers)


@dataclass(frozen=True)
class CodecConfig:
    """Everything that decides the bytes an encoder writes, and the machine resources it may use.

    Raises ConfigError, with the value and the reason, when any option is out of range.
    """

    step: float = option(
        0.01,
        "grid step; a decoded position is at most half a step from the original, per axis",
        unit="m",
        minimum=1e-9,
        maximum=1e6,
    )
    origin: tuple[float, float, float] = option((0.0, 0.0, 0.0), "a point of the grid", unit="m")
    model: str = option("standard", "name of the installed model that predicts the occupancy codes")
    drop_scales: int = option(
        0,
        "finest octree scales left out (lossy: each one doubles the step, and points in one cell merge)",
        minimum=0,
        maximum=20,
    )
    merge_duplicates: bool = option(False, "send points of one grid cell once instead of as often as they occur")
    backend: str = option("auto", "what runs the integer network; the bytes are the same", choices=BACKENDS)
    threads: int = option(0, "threads of the codec, 0 for one per core (the torch backend: one)", minimum=0, maximum=64)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class DecoderConfig:
    """What a decoder may use, and the limits that a stream has to stay within. Raises ConfigError."""

    backend: str = option("auto", "what runs the integer network; the result is the same", choices=BACKENDS)
    threads: int = option(0, "threads of the codec, 0 for one per core (the torch backend: one)", minimum=0, maximum=64)
    model_dir: str = option("", "folder of further models, besides the installed ones")
    max_points: int = option(
        20_000_000, "streams that declare more points are refused", minimum=1, maximum=4_000_000_000
    )
    max_bytes: int = option(268_435_456, "longer streams are refused", unit="bytes", minimum=1, maximum=4_000_000_000)

    def __post_init__(self) -> None:
        validate(self)
