"""The one configuration of encoder and decoder; CLI flags and ROS parameters are generated from it."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from anypcc_ros.codec.errors import ConfigError

BACKENDS = ("auto", "native", "torch", "cuda")
ORDERS = ("codec", "original")
CALIBRATIONS = ("auto", "always", "selective", "never")
LOSSY = ("auto", "scales", "likeliest")
FINEST_STEP, COARSEST_STEP = 1e-9, 1e6


def option(
    default: Any,
    help: str,  # noqa: A002 - the word that argparse uses
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with the description, unit and range that every front end shows and checks.

    The type is that of the default: a bool, int, float, str, or a tuple of floats or strings, which must not be empty.
    """
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


def validate(config: Any) -> None:
    """Check every field of a dataclass that is made of ``option`` against its metadata; raises ConfigError."""
    for item in fields(config):
        if not item.metadata:
            continue  # a configuration of its own, within this one
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


def _validate_tuple(config: Any, name: str, value: Any, default: tuple[Any, ...]) -> None:
    """A tuple of strings may have any length, one of numbers has the length of its default."""
    if isinstance(default[0], str):
        if isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise ConfigError(name, value, "must be a list of texts")
        object.__setattr__(config, name, tuple(value))
        return
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(name, value, f"must be {len(default)} numbers") from error
    if len(numbers) != len(default) or not all(math.isfinite(v) for v in numbers):
        raise ConfigError(name, value, f"must be {len(default)} finite numbers")
    object.__setattr__(config, name, numbers)


@dataclass(frozen=True)
class FieldPolicy:
    """What becomes of the fields whose names match a pattern. ``step`` is 0 unless ``kind`` is "step"."""

    pattern: str
    kind: Literal["exact", "step", "drop"]
    step: float = 0.0

    @classmethod
    def parse(cls, text: str) -> FieldPolicy:
        """A policy from "PATTERN=exact", "PATTERN=drop" or "PATTERN=step:VALUE"; raises ValueError."""
        pattern, separator, policy = text.rpartition("=")
        kind, _, value = policy.partition(":")
        if not separator:
            raise ValueError(f"{text!r} is not PATTERN=POLICY")
        if kind == "step":
            step = float(value)
            if not (math.isfinite(step) and step > 0):
                raise ValueError(f"the step of {text!r} is not positive")
            return cls(pattern, "step", step)
        if kind not in ("exact", "drop") or value:
            raise ValueError(f"the policy of {text!r} is none of exact, drop, step:VALUE")
        return cls(pattern, kind)  # type: ignore[arg-type]  # narrowed just above


EXACT = FieldPolicy("*", "exact")


@dataclass(frozen=True)
class CodecConfig:
    """Everything that decides the bytes an encoder writes, and the machine resources it may use.

    Raises ConfigError, with the value and the reason, when any option is out of range.
    """

    step: float = option(
        0.01,
        "grid step; a decoded position is at most half a step from the original, per axis",
        unit="m",
        minimum=FINEST_STEP,
        maximum=COARSEST_STEP,
    )
    origin: tuple[float, float, float] = option((0.0, 0.0, 0.0), "a point of the grid", unit="m")
    model: str = option("standard", "name of the installed model that predicts the occupancy codes")
    drop_scales: int = option(
        0,
        "finest octree scales that are not sent (lossy: points in one cell merge, and lossy says what is decoded instead)",
        minimum=0,
        maximum=20,
    )
    lossy: str = option(
        "auto",
        "with drop_scales: scales (left out, which doubles the step for each one), likeliest (filled in with the cells that "
        "the model holds likeliest, of which only the number is sent), auto (filled in where surfaces are dense, the result is "
        "nearer to the cloud, and no field is sent that every cell would need)",
        choices=LOSSY,
    )
    truth: float = option(
        0.0,
        "of the coarsest scale that is filled in, the share of the codes that are sent all the same: those that the model "
        "doubts most; 1 sends what one scale less to drop would send",
        minimum=0,
        maximum=1,
    )
    merge_duplicates: bool = option(
        False, "send points of one grid cell once, with the fields of the first, instead of as often as they occur"
    )
    fields: tuple[str, ...] = option(
        ("*=exact",),
        "what becomes of the fields besides x, y and z: PATTERN=exact, PATTERN=step:VALUE (off by at most VALUE / 2, in the "
        "field's own unit) or PATTERN=drop; the first pattern that matches a field's name decides, without one it is exact",
    )
    order: str = option(
        "codec",
        "order of the decoded points: codec (spatial, the smallest) or original (their own, with the shape of an organised "
        "cloud and its invalid points in place)",
        choices=ORDERS,
    )
    exact: bool = option(False, "bit-identical coordinates: what the grid leaves of each float is sent, too")
    calibrate: str = option(
        "auto",
        "correct the network's predictions, and use a spinning sensor's laser beams, while coding: always (the smallest), "
        "selective (of large clouds only those that gain much: where cells crowd or beams tell a lot), never, or auto (as "
        "the model asks)",
        choices=CALIBRATIONS,
    )
    adapt_steps: int = option(
        0,
        "steps by which the model is tuned to each cloud, 0 for none, 200 is usual; what changes is sent where the stream gets "
        "smaller by it (needs torch)",
        minimum=0,
        maximum=100_000,
    )
    adaptation: str = option(
        "", "an .apad file (anypcc adapt) by which the model is adapted; streams name it, and decoders need it"
    )
    adaptation_use: str = option(
        "smaller", "for which clouds the file serves: those that get smaller, so that each is encoded without it, too, in the "
        "node one of 16; or always, without asking", choices=("smaller", "always"),
    )  # fmt: skip
    backend: str = option("auto", "what runs the integer network; the bytes are the same", choices=BACKENDS)
    threads: int = option(0, "threads of the codec, 0 for one per core (the torch backend: one)", minimum=0, maximum=64)

    def __post_init__(self) -> None:
        validate(self)
        for text in self.fields:
            try:
                FieldPolicy.parse(text)
            except ValueError as error:
                raise ConfigError("fields", text, str(error)) from error
        if self.adaptation and self.adapt_steps:
            raise ConfigError("adapt_steps", self.adapt_steps, "not together with adaptation")
        merging = self.merge_duplicates or self.drop_scales > 0
        if merging and self.order == "original":
            raise ConfigError("order", self.order, "not with merged points (merge_duplicates, drop_scales)")
        if merging and self.exact:
            raise ConfigError("exact", self.exact, "not with merged points (merge_duplicates, drop_scales)")

    def policy(self, name: str) -> FieldPolicy:
        """What becomes of the field with this name."""
        policies = map(FieldPolicy.parse, self.fields)
        return next((policy for policy in policies if fnmatch.fnmatchcase(name, policy.pattern)), EXACT)


@dataclass(frozen=True)
class TargetConfig:
    """How large streams shall be; see ``rate``. With no target given they are as large as the step makes them.

    Raises ConfigError for options out of range and for more than one target.
    """

    target_bpp: float = option(
        0.0, "bits per point that streams shall have in all: step and dropped scales are chosen for that, 0 for no target",
        unit="bit", minimum=0, maximum=1e6,
    )  # fmt: skip
    target_bytes: int = option(
        0, "bytes that every stream shall have in all, as with target_bpp", unit="bytes", minimum=0, maximum=1 << 40
    )
    target_bitrate: float = option(
        0.0, "bits per second that the streams of successive frames shall have, as with target_bpp", unit="bit/s", minimum=0,
        maximum=1e12,
    )  # fmt: skip
    target_passes: int = option(
        1, "times that a frame may be encoded to come within 1 % of its target; from 2 on, the few that have not by then three "
        "times more; the first one takes what it needs", minimum=1, maximum=16,
    )  # fmt: skip

    def __post_init__(self) -> None:
        validate(self)
        targets = [name for name in ("target_bpp", "target_bytes", "target_bitrate") if getattr(self, name)]
        if len(targets) > 1:
            raise ConfigError(targets[1], getattr(self, targets[1]), f"not together with {targets[0]}")

    @property
    def wanted(self) -> bool:
        """Whether there is a target."""
        return bool(self.target_bpp or self.target_bytes or self.target_bitrate)

    def bytes_of(self, points: int, seconds: float) -> float:
        """The target for a frame of so many points that stands for so many seconds."""
        return self.target_bytes or self.target_bpp * points / 8 or self.target_bitrate * seconds / 8


@dataclass(frozen=True)
class DecoderConfig:
    """What a decoder may use, and the limits that a stream has to stay within. Raises ConfigError."""

    backend: str = option("auto", "what runs the integer network; the result is the same", choices=BACKENDS)
    threads: int = option(0, "threads of the codec, 0 for one per core (the torch backend: one)", minimum=0, maximum=64)
    model_dir: str = option("", "folder of further models, besides the installed ones")
    adaptation: str = option("", "an .apad file, or a folder of them, for streams that name one of them")
    max_points: int = option(20_000_000, "streams that declare more points are refused", minimum=1, maximum=4_000_000_000)
    max_field_bytes: int = option(
        1 << 30, "streams whose decoded fields take more memory are refused", unit="bytes", minimum=0, maximum=1 << 40
    )
    max_bytes: int = option(268_435_456, "longer streams are refused", unit="bytes", minimum=1, maximum=4_000_000_000)

    def __post_init__(self) -> None:
        validate(self)
