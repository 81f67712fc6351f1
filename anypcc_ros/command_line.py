"""What the commands share: flags made from the configuration classes, and files named in what is said of them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import AnypccError, ConfigError, FileError, ModelNotFoundError
from anypcc_ros.files import READABLE, check_output, read_cloud

if TYPE_CHECKING:
    from anypcc_ros.codec.cloud import PointCloud

Config = TypeVar("Config")

STREAMS_AND_RECORDINGS = (".apcc", ".mcap", ".db3", ".bag", ".zstd")

STEP_UNIT = "The step is in the cloud's own unit, metres for LiDAR; on integer coordinates a step of 1 is their grid."


class CommandError(AnypccError):
    """A command failed on a file, which the message names."""


def read_finite(path: Path) -> PointCloud:
    """A cloud without its points that are not finite, which are reported on stderr."""
    cloud, dropped = read_cloud(path).finite()
    if dropped:
        print(f"{path}: {dropped} of {len(cloud) + dropped} points are not finite, dropped", file=sys.stderr)
    return cloud


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Name the file in whatever the codec has to say of it."""
    try:
        yield
    except (FileError, ConfigError, ModelNotFoundError):
        raise
    except AnypccError as error:
        raise CommandError(f"{path}: {error}") from error


def _options(config: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass made of ``codec.config.option``, by name."""
    return {item.name: item for item in dataclasses.fields(config)}


def add_option_flags(
    parser: Any,
    config: type[Any],
    only: Collection[str] = (),
    without: Collection[str] = (),
) -> None:
    """Add a flag for every option of a configuration class to an argparse parser or group.

    The flag of ``drop_scales`` is ``--drop-scales``. Ranges are checked by the class itself, see ``config_from``.
    """
    for name, item in _options(config).items():
        if (only and name not in only) or name in without:
            continue
        meta, default = item.metadata, item.default
        flag = "--" + name.replace("_", "-")
        shown = " ".join(v if isinstance(v, str) else f"{v:g}" for v in default) if isinstance(default, tuple) else default
        text = _help(item, f"default: {shown}" if shown not in ("", False) else "")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        elif isinstance(default, tuple) and isinstance(default[0], str):
            parser.add_argument(flag, nargs="+", default=default, metavar="TEXT", help=text)
        elif isinstance(default, tuple):
            parser.add_argument(flag, type=float, nargs=len(default), default=default, metavar=tuple("XYZ"), help=text)
        elif meta["choices"]:
            parser.add_argument(flag, choices=meta["choices"], default=default, help=text)
        else:
            parser.add_argument(flag, type=type(default), default=default, metavar=_metavar(item), help=text)


def _help(item: dataclasses.Field[Any], addition: str) -> str:
    """What argparse shows of an option."""
    text = str(item.metadata["help"]).replace("%", "%%")
    return f"{text} ({addition})" if addition else text


def _metavar(item: dataclasses.Field[Any]) -> str:
    unit = item.metadata["unit"]
    if unit:
        return "METRES" if unit == "m" else str(unit).upper()
    if isinstance(item.default, str):
        return "DIR" if item.name.endswith("_dir") else "PATH" if item.name == "adaptation" else "NAME"
    return "N"


def config_from(options: argparse.Namespace, config: type[Config], without: Collection[str] = ()) -> Config:
    """The configuration that the flags say. Raises ConfigError for values out of range."""
    names = [name for name in _options(config) if name not in without and hasattr(options, name)]
    return config(**{name: getattr(options, name) for name in names})


def add_repeatable(parser: Any, name: str) -> None:
    """The flag of an option, to be given any number of times."""
    item = _options(CodecConfig)[name]
    meta, kind = item.metadata, type(item.default)
    shown = "" if name == "step" else f"; default: {item.default}"
    names: dict[str, Any] = {"choices": meta["choices"]} if meta["choices"] else {"metavar": _metavar(item)}
    parser.add_argument(f"--{name}", type=kind, action="append", help=_help(item, f"repeatable{shown}"), **names)


def add_merging(parser: Any) -> None:
    """--merge-duplicates, on by default as in published figures."""
    text = _help(_options(CodecConfig)["merge_duplicates"], "default: on")
    parser.add_argument("--merge-duplicates", action=argparse.BooleanOptionalAction, default=True, help=text)


def add_grid_bits(parser: Any) -> None:
    parser.add_argument("--grid-bits", type=_bits, metavar="B", help="instead of a step: the largest extent of the cloud / 2^B")


def check_exact(rows: Sequence[Any], drop_scales: int) -> int:
    """Whatever is not exact though nothing was dropped is a failure of the codec, and of the command. Raises CommandError."""
    failed = 0 if drop_scales else sum(not row.exact for row in rows)
    if failed:
        raise CommandError(f"{failed} of {len(rows)} measurements did not come back exactly")
    return 0


def new_file(text: str) -> Path:
    """The file that a flag says is to be written. Raises FileError where none can be put: before the work, not after it."""
    check_output(text)
    return Path(text)


def new_document(text: str) -> Path:
    """The same for what is neither cloud, recording nor stream, and so takes the place of none. Raises FileError."""
    path = new_file(text)
    if path.suffix.lower() in (*READABLE, *STREAMS_AND_RECORDINGS):
        raise FileError(f"{path}: called like a cloud, a stream or a recording, which would be overwritten by something else")
    return path


def positive_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not positive")
    return count


def _bits(text: str) -> int:
    bits = int(text)
    if not 1 <= bits <= 31:
        raise argparse.ArgumentTypeError(f"{bits} is not between 1 and 31")
    return bits
