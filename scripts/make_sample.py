#!/usr/bin/env python3
"""Make a rosbag2 MCAP bag of PointCloud2 messages from point cloud files; sample/ was made with it.

    python scripts/make_sample.py OUT_BAG \\
        --stream /rubyplus/points rubyplus intensity,ring recording.mcap frame3.npz frame4.npz \\
        --stream /os2_128/points os_lidar intensity,ring scan.npz

Each --stream is a topic, the frame_id of its messages, the fields that follow x, y, z, and its frames in
order. A frame is an .npz file with `xyz` (N, 3) float32 and the fields, or a bag, whose PointCloud2 messages
are all taken. Points are written as they are, in their order: x, y, z, intensity as float32, ring as uint16,
t as float32, without padding, which is how the common drivers lay them out. Stamps and log times are made:
frame i of every stream has --start + i * --period.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
LAYOUT = {"x": "<f4", "y": "<f4", "z": "<f4", "intensity": "<f4", "ring": "<u2", "t": "<f4"}
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # sensor_msgs/PointField

Frame = dict[str, np.ndarray]


def frames_of_npz(path: Path) -> list[Frame]:
    """The one frame of an .npz file, as a column per field."""
    with np.load(path) as data:
        xyz = data["xyz"]
        if xyz.dtype != np.float32:
            raise SystemExit(f"{path}: xyz is {xyz.dtype}; a driver publishes float32")
        return [dict(zip("xyz", xyz.T, strict=True)) | {name: data[name] for name in LAYOUT if name in data.files}]


def frames_of_bag(path: Path) -> list[Frame]:
    """All PointCloud2 messages of a bag, as a column per field."""
    frames = []
    with AnyReader([path], default_typestore=TYPES) as reader:
        clouds = [c for c in reader.connections if c.msgtype == POINT_CLOUD]
        for connection, _, raw in reader.messages(clouds):
            message = reader.deserialize(raw, connection.msgtype)
            dtype = np.dtype(
                {
                    "names": [f.name for f in message.fields],
                    "formats": [f"{'>' if message.is_bigendian else '<'}{DATATYPES[f.datatype]}" for f in message.fields],
                    "offsets": [f.offset for f in message.fields],
                    "itemsize": message.point_step,
                }
            )
            points = np.frombuffer(message.data, dtype)
            frames.append({name: points[name] for name in dtype.names or () if name in LAYOUT})
        if len(frames) != sum(c.msgcount for c in clouds):
            raise SystemExit(f"{path}: {len(frames)} clouds read, {sum(c.msgcount for c in clouds)} in its index")
    return frames


def serialise(frame: Frame, names: list[str], frame_id: str, stamp: int) -> bytes:
    """One CDR message with the fields packed in order. Raises SystemExit if a value would change."""
    dtype = np.dtype([(name, LAYOUT[name]) for name in names])
    points = np.empty(len(frame["x"]), dtype)
    for name in names:
        points[name] = frame[name]
        if not np.array_equal(points[name].astype(np.float64), frame[name].astype(np.float64)):
            raise SystemExit(f"field {name}: {frame[name].dtype} values do not fit {dtype[name]}")
    return cloud_message(points, frame_id, stamp)


def cloud_message(points: np.ndarray, frame_id: str, stamp: int) -> bytes:
    """A PointCloud2 in CDR of structured points (N,), laid out as they are. ``stamp``: nanoseconds."""
    assert points.dtype.fields is not None
    codes, types = {code: number for number, code in DATATYPES.items()}, TYPES.types
    field, time = types["sensor_msgs/msg/PointField"], types["builtin_interfaces/msg/Time"]
    message = types[POINT_CLOUD](
        header=types["std_msgs/msg/Header"](stamp=time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=frame_id),
        height=1,
        width=len(points),
        fields=[
            field(name=name, offset=offset, datatype=codes[form.str[1:]], count=1)
            for name, (form, offset) in points.dtype.fields.items()
        ],
        is_bigendian=False,
        point_step=points.itemsize,
        row_step=points.nbytes,
        data=points.view(np.uint8),
        is_dense=True,
    )
    return bytes(TYPES.serialize_cdr(message, POINT_CLOUD))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, help="bag directory to create")
    parser.add_argument(
        "--stream",
        action="append",
        nargs="+",
        required=True,
        metavar=("TOPIC", "FRAME_ID FIELDS FILE"),
        help="one topic, its frame_id, its fields after x, y, z, and its frames",
    )
    parser.add_argument("--start", type=int, default=1_700_000_000 * 10**9, help="first stamp, ns")
    parser.add_argument("--period", type=int, default=10**8, help="time between frames, ns")
    options = parser.parse_args()

    messages = []
    for topic, frame_id, fields, *paths in options.stream:
        frames = [f for p in map(Path, paths) for f in (frames_of_npz(p) if p.suffix == ".npz" else frames_of_bag(p))]
        names = ["x", "y", "z", *fields.split(",")]
        for index, frame in enumerate(frames):
            stamp = options.start + index * options.period
            messages.append((stamp, topic, serialise(frame, names, frame_id, stamp)))
        print(f"{topic}: {len(frames)} frames, {[len(f['x']) for f in frames]} points, fields {' '.join(names)}")

    writer = Writer(options.bag, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        topics = {topic: writer.add_connection(topic, POINT_CLOUD, typestore=TYPES) for topic, *_ in options.stream}
        for stamp, topic, data in sorted(messages, key=lambda m: (m[0], m[1])):
            writer.write(topics[topic], stamp, data)


if __name__ == "__main__":
    main()
