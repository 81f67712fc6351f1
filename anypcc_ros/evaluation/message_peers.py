"""What others make of whole PointCloud2 messages: Draco, cloudini, zstd and lz4, run live where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from anypcc_ros.bags.compare import Policy, compare_clouds
from anypcc_ros.bags.contents import Message, Topic
from anypcc_ros.bags.mcap_files import McapReader, McapWriter
from anypcc_ros.bags.results import DamageLog
from anypcc_ros.bags.transform import point_cloud_message, read_message
from anypcc_ros.bags.types import POINT_CLOUD, definition, typestore
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.colours import is_colour
from anypcc_ros.evaluation.message_samples import Sample
from anypcc_ros.evaluation.peers import FLOAT_BITS, PeerError, encode_draco
from anypcc_ros.optional import MissingPackageError, optional
from anypcc_ros.pointcloud2 import cloud_from_message

DRACO, CLOUDINI = "Draco", "cloudini"
ZSTD_LEVELS = (1, 3, 19)

CLOUDINI_PROGRAM = "cloudini_rosbag_converter"  # of github.com/facontidavide/cloudini


@dataclass(frozen=True)
class MessageRun:
    """One message by one other codec. ``step``: of the grid, or None where every byte is kept; ``size``: bytes; ``kept``:
    whether all that it promises came back; ``errors`` and ``lost``: as in ``MessageRow``."""

    codec: str
    step: float | None
    size: int
    encode_s: float
    decode_s: float
    kept: bool
    errors: str = ""
    lost: str = ""


def run_peers(sample: Sample, steps: Sequence[float]) -> Iterator[MessageRun]:
    """All that are installed, those with a grid at each step. Raises PeerError."""
    for run in (_draco, _cloudini):
        for step in steps:
            yield from run(sample, step)
    for name, pack, unpack in _packers():
        yield _pack(sample, name, pack, unpack)


# -- zstd and lz4 ------------------------------------------------------------------------------------------------------


def _packers() -> Iterator[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """Compressors of bytes: name, compress, decompress; those that are installed."""
    try:
        zstd = optional("zstandard", "eval")
        for level in ZSTD_LEVELS:
            yield f"zstd -{level}", zstd.ZstdCompressor(level=level).compress, zstd.ZstdDecompressor().decompress
        lz4 = optional("lz4.frame", "bags")
        yield "lz4", lz4.compress, lz4.decompress
    except MissingPackageError:
        return


def _pack(sample: Sample, name: str, pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> MessageRun:
    data = bytes(sample.message.data)
    start = time.perf_counter()
    packed = pack(data)
    middle = time.perf_counter()
    kept = unpack(packed) == data
    end = time.perf_counter()
    return MessageRun(name, None, len(packed), middle - start, end - middle, kept)


# -- Draco -------------------------------------------------------------------------------------------------------------


def _draco(sample: Sample, step: float) -> Iterator[MessageRun]:
    """Draco's kd-tree coder on the same grid, all fields with it as integers.

    That coder takes no floats but quantised ones, so that each field is given by the ranks of its values, and the list of
    the values beside it by zstd: exact, and kinder to Draco than its own coding of floats.
    """
    try:
        draco, zstd = optional("DracoPy", "eval"), optional("zstandard", "eval")
    except MissingPackageError:
        return
    cloud, _ = sample.cloud.finite()
    cells = np.rint(cloud.xyz.astype(np.float64) / step).astype(np.int64)
    cells -= cells.min(axis=0, initial=np.iinfo(np.int64).max) if len(cells) else 0
    bits = max(int(cells.max(initial=0)).bit_length(), 1)
    if bits > FLOAT_BITS or not len(cells):
        return
    start = time.perf_counter()
    ranks, lists = _ranks(cloud)
    data = encode_draco(draco, cells.astype(np.float32), bits, dict(enumerate(ranks)))
    extra = zstd.ZstdCompressor(level=19).compress(lists)
    middle = time.perf_counter()
    back = draco.decode(data)
    end = time.perf_counter()
    decoded = [np.rint(np.asarray(back.points)).astype(np.int64).reshape(-1, 3)]
    decoded += [np.asarray(back.get_attribute_by_unique_id(i)["data"]).reshape(len(decoded[0]), -1) for i in range(len(ranks))]
    rows, expected = (np.concatenate(columns, axis=1, dtype=np.int64) for columns in (decoded, [cells, *ranks]))
    if not np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0)):
        raise PeerError(f"{sample.name}: Draco returned other points than the {len(cells)} it was given")
    lost = "the order of the points" + (f", {len(cells) - len(rows)} points like others" if len(rows) < len(cells) else "")
    yield MessageRun(DRACO, step, len(data) + len(extra), middle - start, end - middle, True, lost=lost)


def _ranks(cloud: PointCloud) -> tuple[list[np.ndarray], bytes]:
    """Each column of each field as (N, 1) unsigned ranks of its values, of the smallest type; and the lists of values."""
    ranks, lists = [], []
    for values in cloud.fields.values():
        bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(len(values), -1)
        for column in bits.T:
            if column.dtype == np.uint8:  # needs no list
                ranks.append(column[:, None])
                continue
            # In the order of the numbers, so that near values have near ranks; equal numbers of other bits stay apart.
            listed, first, inverse = np.unique(column, return_index=True, return_inverse=True)
            numbers = np.ascontiguousarray(column).view(values.dtype)[first]
            order = np.lexsort([listed, numbers])
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order))
            size = np.uint8 if len(listed) <= 1 << 8 else np.uint16 if len(listed) <= 1 << 16 else np.uint32
            ranks.append(place[inverse].astype(size)[:, None])
            lists.append(np.diff(listed[order], prepend=listed.dtype.type(0)).tobytes())
    return ranks, b"".join(lists)


# -- cloudini ----------------------------------------------------------------------------------------------------------


def _cloudini(sample: Sample, step: float) -> Iterator[MessageRun]:
    """What cloudini's ROS plugin would send, as its converter of recordings puts it into one: points in their order, every
    float32 field rounded to the step as the positions are, all others bit for bit, and zstd behind that. Its own times.

    Colours that are packed into a float32 do not survive this: then the run is not ``kept``.
    """
    program = shutil.which(CLOUDINI_PROGRAM)
    if program is None:
        return
    with tempfile.TemporaryDirectory(prefix="anypcc-") as folder:
        given, small, back = (Path(folder, name) for name in ("given.mcap", "small.mcap", "back.mcap"))
        _write_recording(given, _serialised(sample))
        encode_s = _convert(program, "-c", given, small, step)
        decode_s = _convert(program, "-d", small, back, step)
        compressed, restored = _only_message(small), _only_message(back)
    types = get_typestore(Stores.ROS2_JAZZY)
    kind = compressed.topic.type
    described = get_types_from_msg(compressed.topic.definition.text.decode() if compressed.topic.definition else "", kind)
    types.register({kind: described[kind]})
    message: Any = types.deserialize_cdr(compressed.data, kind)
    rounded = {name: step * _is_rounded(name, values) for name, values in sample.cloud.fields.items()}
    decoded = cloud_from_message(read_message(restored.data, POINT_CLOUD))
    compared = compare_clouds(sample.cloud, decoded, Policy(step=step, in_order=True, steps=rounded))
    errors = "; ".join(f"{name} {error.largest:.3g}" for name, error in compared.errors.items())
    lossy = ", ".join(name for name, allowed in rounded.items() if allowed)
    yield MessageRun(
        CLOUDINI,
        step,
        len(message.compressed_data),
        encode_s,
        decode_s,
        kept=compared.verdict != "different",
        errors=errors,
        lost=f"{lossy} within {step / 2:g}" if lossy else "",
    )


def _is_rounded(name: str, values: np.ndarray) -> bool:
    """Whether a field may be, as its values are numbers."""
    return values.dtype == np.float32 and not is_colour(name, values)


def _serialised(sample: Sample) -> bytes:
    types = typestore().types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id="")
    return point_cloud_message(header, sample.message)


def _write_recording(path: Path, data: bytes) -> None:
    topic = Topic("/points", POINT_CLOUD, "cdr", definition(POINT_CLOUD), ())
    with path.open("wb") as file:
        writer = McapWriter(file, "ros2", compress=False)
        writer.add_message(Message(topic, 0, 0, 0, data))
        writer.close({})


def _only_message(path: Path) -> Message:
    with McapReader(path) as recording:
        return next(item for item in recording.contents(DamageLog(keep_going=False)) if isinstance(item, Message))


def _convert(program: str, direction: str, source: Path, target: Path, step: float) -> float:
    """Runs the converter, without a compression of chunks: the seconds that it says it took for the message."""
    command = [program, direction, "-y", "-s", "-m", "none", "-r", f"{step:g}", "-f", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = re.search(r"processing time per message: ([0-9.e+-]+) milliseconds", done.stdout)
    if done.returncode or took is None or not target.exists():
        raise PeerError(
            f"{CLOUDINI_PROGRAM} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"
        )
    return float(took[1]) / 1000
