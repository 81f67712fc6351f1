"""The ``anypcc`` command: encode, decode, info, cut, bag, evaluate, benchmark, adapt, train, export.

Exit status 0, or 1 with a message on stderr that names the file, or 2 for a wrong command line. Output files appear
whole or not at all. Flags for the codec's options are generated from its configuration classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib
import importlib.metadata
import io
import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anypcc_ros.codec.config import CodecConfig, DecoderConfig, FieldPolicy, TargetConfig
from anypcc_ros.codec.errors import AnypccError, ConfigError, FileError, LimitExceededError
from anypcc_ros.command_line import (
    STEP_UNIT,
    about,
    add_grid_bits,
    add_option_flags,
    config_from,
    new_file,
    positive_count,
)
from anypcc_ros.files import READABLE, WRITABLE, atomic_write, check_format, read_cloud, write_cloud

if TYPE_CHECKING:
    from anypcc_ros.codec.bitstream import StreamInfo
    from anypcc_ros.codec.cloud import PointCloud
    from anypcc_ros.codec.layout import FieldInfo

# The codec itself (and with it torch) is imported by the commands that run it, so that --help and usage errors are
# immediate.

Subparsers = Any  # argparse does not name the type publicly

CARRIED = "All fields of a cloud are carried, bit for bit unless --fields says otherwise."
LIMITS = ("max_points", "max_field_bytes", "max_bytes")
MISSED = 0.03
"""Part of a target that a stream may be off without a word."""

ELSEWHERE = {
    "bag": ("anypcc_ros.bags.cli", "compress the point clouds of rosbags, restore and verify them"),
    "benchmark": (
        "anypcc_ros.evaluation.benchmark_cli",
        "measure speed and memory on this machine, beside Draco, zstd and G-PCC where they are installed",
    ),
    "evaluate": ("anypcc_ros.evaluation.cli", "measure clouds by really encoding and decoding them"),
    "adapt": ("anypcc_ros.adaptation.cli", "tune the model to a sensor, a sequence or a scene, for many streams"),
    "train": ("anypcc_ros.training.cli", "train a model on folders of clouds"),
    "export": ("anypcc_ros.training.cli", "turn a training checkpoint into a model file"),
}
"""Commands whose module declares their flags (``add_NAME_arguments``) and runs them (``run_NAME``)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. ``--help`` and usage errors raise SystemExit, as argparse does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be what an encoding has no letters for
            stream.reconfigure(errors="backslashreplace")
    try:
        options = command_parser(arguments[0] if arguments else "").parse_args(arguments)
        options.command_line = shlex.join(["anypcc", *arguments])
        with _cleaning_up():
            status: int = options.run(options)
    except ConfigError as error:
        return _fail(f"--{error.option.replace('_', '-')} {error.value!r}: {error.reason}", 2)
    except AnypccError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return status


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """A SIGTERM, as of a container that is stopped, ends the command as Ctrl-C does: nothing half-written stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, status: int) -> int:
    print(f"anypcc: {message}", file=sys.stderr)
    return status


def command_parser(command: str) -> argparse.ArgumentParser:
    """All commands; ``command`` with its flags also where these are declared elsewhere."""
    parser = argparse.ArgumentParser(prog="anypcc", description="Learned point cloud compression.", epilog=CARRIED)
    parser.add_argument("--version", action="version", version=f"anypcc {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_encode(commands)
    _add_decode(commands)
    _add_info(commands)
    _add_cut(commands)
    for name, (module_name, summary) in ELSEWHERE.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == command:  # their flags are declared by the code that does the work, and may import torch
            module = importlib.import_module(module_name)
            getattr(module, f"add_{name}_arguments")(subparser)
            subparser.set_defaults(run=getattr(module, f"run_{name}"))
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("anypcc_ros")
    except importlib.metadata.PackageNotFoundError:
        return "(source tree, not installed)"


# ---- commands


def _add_encode(commands: Subparsers) -> None:
    summary = f"compress a cloud ({' '.join(READABLE)}) to an .apcc stream"
    parser = commands.add_parser("encode", help=summary, description=f"{summary}. {STEP_UNIT} {CARRIED}")
    parser.add_argument("input", type=Path, metavar="IN", help="cloud to compress")
    parser.add_argument("-o", "--output", type=new_file, metavar="OUT.apcc", required=True, help="stream to write")
    grid = parser.add_mutually_exclusive_group()
    add_option_flags(grid, CodecConfig, only={"step"})
    add_grid_bits(grid)
    add_option_flags(parser, CodecConfig, without={"step"})
    target = parser.add_mutually_exclusive_group()
    add_option_flags(target, TargetConfig, only={"target_bpp", "target_bytes"})
    parser.set_defaults(run=_encode)


def _encode(options: argparse.Namespace) -> int:
    config = config_from(options, CodecConfig)
    from anypcc_ros.codec.bitstream import inspect
    from anypcc_ros.codec.codec import Encoder
    from anypcc_ros.codec.rate import RateControl

    target = config_from(options, TargetConfig)
    rate = RateControl(target)
    _check_stream_output(options)
    cloud = read_cloud(options.input, metres=True)
    for policy in _unused_policies(config, cloud):
        names = ", ".join(cloud.fields) or "none"
        print(f"{options.input}: no field is called {policy.pattern} (fields: {names})", file=sys.stderr)
    with about(options.input):
        config = _on_grid_bits(config, cloud, options.grid_bits)
        encoder = Encoder(config)
        start = time.perf_counter()
        data = rate.encode(encoder, cloud)
        seconds = time.perf_counter() - start
    with atomic_write(options.output) as out:
        out.write(data)
    info = inspect(data)
    print(f"{options.output}: {_summary(info)}, {seconds:.3f} s")
    if config.adapt_steps:
        print(f"{options.output}: {_adaptation_summary(info)}")
    wanted = target.bytes_of(len(cloud), 0)
    if wanted and abs(len(data) - wanted) > MISSED * wanted:
        print(f"{options.output}: {len(data)} bytes, no grid comes nearer to the {wanted:.0f} wanted", file=sys.stderr)
    if info.left_out:
        print(f"{options.input}: {info.left_out} of {len(cloud)} points are not finite, left out", file=sys.stderr)
    return 0


def _add_decode(commands: Subparsers) -> None:
    summary = f"reconstruct a cloud ({' '.join(WRITABLE)}) from an .apcc stream"
    parser = commands.add_parser(
        "decode", help=summary, description=f"{summary}. Points come in Morton order unless encoded with --order original."
    )
    parser.add_argument("input", type=Path, metavar="IN.apcc", help="stream to decode")
    parser.add_argument("-o", "--output", type=new_file, metavar="OUT", required=True, help="cloud to write")
    add_option_flags(parser, DecoderConfig)
    parser.set_defaults(run=_decode)


def _decode(options: argparse.Namespace) -> int:
    config = config_from(options, DecoderConfig)
    check_format(options.output)  # known before the work rather than after it
    _check_apart(options)
    data = _read_stream(options.input, config)
    from anypcc_ros.codec.codec import Decoder

    with about(options.input):
        decoder = Decoder(config)
        start = time.perf_counter()
        cloud = decoder.decode(data)
        seconds = time.perf_counter() - start
    write_cloud(options.output, cloud)
    print(f"{options.output}: {len(cloud)} points, {cloud.xyz.dtype}, {seconds:.3f} s")
    return 0


def _add_info(commands: Subparsers) -> None:
    summary = "describe an .apcc stream without decoding it"
    parser = commands.add_parser("info", help=summary, description=summary)
    parser.add_argument("input", type=Path, metavar="FILE.apcc", help="stream to describe")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_option_flags(parser, DecoderConfig, only=LIMITS)
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    from anypcc_ros.codec.bitstream import inspect

    config = config_from(options, DecoderConfig)
    data = _read_stream(options.input, config)
    with about(options.input):
        info = inspect(data, config)
    described = info.to_dict()
    if options.json:
        print(json.dumps(described, indent=2))
        return 0
    print(f"{options.input}: {_summary(info)}")
    width = max(map(len, described)) + 2
    for name, value in described.items():
        if name not in ("chunks", "fields"):
            print(f"  {name:<{width}}{value}")
    for field in info.fields:
        print(f"  field {field.name}: {_field_summary(field, info.points)}")
    for chunk in info.chunks:
        print(f"  chunk {chunk.tag:<7}{chunk.size} bytes{'' if chunk.critical else ', optional'}")
    return 0


def _add_cut(commands: Subparsers) -> None:
    summary = "leave the finest scales out of an .apcc stream, without decoding it and without its model"
    parser = commands.add_parser(
        "cut",
        help=summary,
        description=f"{summary}. Positions are those that encode --drop-scales gives; points in one cell merge, and so fields, "
        "order and exact floats are dropped.",
    )
    parser.add_argument("input", type=Path, metavar="IN.apcc", help="stream to cut")
    parser.add_argument("-o", "--output", type=new_file, metavar="OUT.apcc", required=True, help="stream to write")
    parser.add_argument(
        "--drop-scales", type=positive_count, required=True, metavar="N", help="finest octree scales to leave out, besides any "
        "that are already dropped"
    )  # fmt: skip
    add_option_flags(parser, DecoderConfig, only=LIMITS)
    parser.set_defaults(run=_cut)


def _cut(options: argparse.Namespace) -> int:
    from anypcc_ros.codec.bitstream import inspect
    from anypcc_ros.codec.cutting import cut

    config = config_from(options, DecoderConfig)
    _check_stream_output(options)
    data = _read_stream(options.input, config)
    with about(options.input):
        before, shorter = inspect(data, config), cut(data, options.drop_scales, config)
    with atomic_write(options.output) as out:
        out.write(shorter)
    print(f"{options.output}: {_summary(inspect(shorter, config))}")
    lost = [field.name for field in before.fields if field.policy != "drop"]
    lost += ["order"] * (before.order == "original") + ["exact coordinates"] * before.exact
    if lost:
        print(f"{options.input}: dropped {', '.join(lost)}", file=sys.stderr)
    return 0


# ---- files


def _read_stream(path: Path, config: DecoderConfig) -> bytes:
    """The bytes of a stream file. Raises FileError, and LimitExceededError without reading more than ``max_bytes`` and one."""
    try:
        with open(path, "rb") as file:
            data = file.read(config.max_bytes + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    if len(data) > config.max_bytes:
        raise LimitExceededError(f"{path}: longer than {config.max_bytes} bytes, the limit (--max-bytes)")
    return data


def _check_stream_output(options: argparse.Namespace) -> None:
    """A stream may lose what its original has: it never takes the place of a cloud, nor of the file it is made of."""
    if options.output.suffix.lower() in READABLE:
        raise FileError(f"{options.output}: called like a cloud, which would be overwritten by a stream; call it NAME.apcc")
    _check_apart(options)


def _check_apart(options: argparse.Namespace) -> None:
    if options.output.exists() and options.input.exists() and options.output.samefile(options.input):
        raise FileError(f"{options.output}: is the input {options.input}, refusing to replace it")


def _unused_policies(config: CodecConfig, cloud: PointCloud) -> list[FieldPolicy]:
    """Those of ``fields`` that name no field of the cloud, perhaps by mistake."""
    policies = map(FieldPolicy.parse, config.fields)
    return [policy for policy in policies if policy.pattern != "*" and not fnmatch.filter(cloud.fields, policy.pattern)]


def _field_summary(field: FieldInfo, points: int) -> str:
    shape = field.dtype if field.count == 1 else f"{field.count} x {field.dtype}"
    if field.policy == "drop":
        return f"{shape}, dropped"
    kept = "exact" if field.policy == "exact" else f"step {field.step:g}, largest error {field.largest_error:.6g}"
    return f"{shape}, {kept}, {field.size} bytes, {8 * field.size / max(points, 1):.3f} bits per point"


def _adaptation_summary(info: StreamInfo) -> str:
    sizes = {chunk.tag: chunk.size for chunk in info.chunks}
    if not info.adaptation:
        return "the model as it is, as no adaptation is worth its bytes"
    return f"the model adapted, {sizes['ADAP']} bytes of weights to {sizes['OCCU']} of octree"


def _summary(info: StreamInfo) -> str:
    grid = f"step {info.step:.6g}" + (f", {_scales(info.drop_scales)} dropped" if info.drop_scales else "")
    if info.filled_scales:
        grid += f", {_scales(info.filled_scales)} filled in (rms error {info.rms_error:.4g})"
    return f"{info.points} points, {info.voxels} voxels, {grid}, {info.size} bytes, {info.bpp:.3f} bpp"


def _scales(count: int) -> str:
    return "1 scale" if count == 1 else f"{count} scales"


def _on_grid_bits(config: CodecConfig, cloud: PointCloud, bits: int | None) -> CodecConfig:
    if bits is None:
        return config
    from anypcc_ros.evaluation.evaluate import step_of_bits

    return dataclasses.replace(config, step=step_of_bits(cloud, bits))


if __name__ == "__main__":
    sys.exit(main())
