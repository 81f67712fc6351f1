"""Bags for the tests, made by other libraries than the ones under test wherever there is one: rosbags, mcap, plain SQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

ROS2, ROS1 = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
CLOUD, TEXT = "sensor_msgs/msg/PointCloud2", "std_msgs/msg/String"
START = 1_700_000_000_000_000_000
QOS = """\
- history: keep_last
  depth: 5
  reliability: best_effort
  durability: volatile
  deadline:
    sec: 9223372036
    nsec: 854775807
  lifespan:
    sec: 9223372036
    nsec: 854775807
  liveliness: automatic
  liveliness_lease_duration:
    sec: 9223372036
    nsec: 854775807
  avoid_ros_namespace_conventions: false"""


def points(number: int, count: int = 300) -> np.ndarray:
    """A driver's points: x, y, z, intensity float32, ring uint16, and 2 bytes of padding; the same for the same number."""
    layout = {
        "names": ["x", "y", "z", "intensity", "ring"],
        "formats": ["<f4"] * 4 + ["<u2"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
    made = np.zeros(count, np.dtype(layout))
    rng = np.random.default_rng(number)
    for axis, reach in zip("xyz", (20, 20, 2), strict=True):
        made[axis] = rng.uniform(-reach, reach, count)
    made["intensity"] = rng.integers(0, 256, count)
    made["ring"] = np.arange(count) % 16
    return made


def message(number: int, made: np.ndarray | None = None, height: int = 1, store=ROS2):
    """A PointCloud2 of the class that rosbags has for it."""
    made = points(number) if made is None else made
    types = store.types
    codes = {"f4": 7, "u2": 4, "f8": 8, "u1": 2, "i4": 5, "u4": 6}
    fields = [
        types["sensor_msgs/msg/PointField"](name=name, offset=offset, datatype=codes[form.str[1:]], count=1)
        for name, (form, offset) in made.dtype.fields.items()
    ]
    stamp = START + number * 10**8 + 7
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    sequence = {"seq": number} if store is ROS1 else {}
    return types[CLOUD](
        header=types["std_msgs/msg/Header"](stamp=time, frame_id="lidar", **sequence),
        height=height,
        width=len(made) // height,
        fields=fields,
        is_bigendian=False,
        point_step=made.dtype.itemsize,
        row_step=made.dtype.itemsize * (len(made) // height),
        data=np.frombuffer(made.tobytes(), np.uint8),
        is_dense=True,
    )


def cloud(number: int, made: np.ndarray | None = None, height: int = 1) -> bytes:
    """A serialised PointCloud2."""
    return bytes(ROS2.serialize_cdr(message(number, made, height), CLOUD))


def text(number: int) -> bytes:
    return bytes(ROS2.serialize_cdr(ROS2.types[TEXT](data=f"message {number} " + "x" * 50), TEXT))


def contents(clouds: int = 4) -> list[tuple[str, str, int, bytes]]:
    """Topic, type, log time and message: clouds on two topics, texts between them, not all in the order of time."""
    made = []
    for number in range(clouds):
        made.append(("/front/points", CLOUD, START + number * 10**8, cloud(number)))
        made.append(("/chatter", TEXT, START + number * 10**8 + 5, text(number)))
        if number % 2:
            made.append(("/rear/points", CLOUD, START + number * 10**8 - 3 * 10**7, cloud(100 + number)))
    return made


def write_rosbag2(path: Path, storage: str, mode: str = "none", clouds: int = 4) -> Path:
    """A folder with metadata.yaml, by rosbags."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if mode != "none":
        writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
    with writer:
        topics = {}
        for topic, kind, time, data in contents(clouds):
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(topics[topic], time, data)
    return path


def write_mcap(path: Path, compression: str = "zstd", chunk_size: int = 20_000, clouds: int = 4, chunks: bool = True) -> Path:
    """An MCAP file as a recorder writes it, with all that may be in one: by the mcap library."""
    with open(path, "wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=CompressionType[compression.upper()], use_chunking=chunks)
        writer.start("ros2", "a recorder")
        channels = {}
        for kind in (CLOUD, TEXT):
            definition, _ = ROS2.generate_msgdef(kind, ros_version=2)
            commented = f"# as the recorder has it\n{definition}".encode()
            channels[kind] = writer.register_schema(kind, "ros2msg", commented)
        for topic, kind in (("/front/points", CLOUD), ("/rear/points", CLOUD), ("/chatter", TEXT), ("/silent", TEXT)):
            metadata = {"offered_qos_profiles": QOS, "topic_type_hash": ROS2.hash_rihs01(kind), "recorder": "x\ny"}
            channels[topic] = writer.register_channel(topic, "cdr", channels[kind], metadata)
        writer.add_attachment(START - 5, START, "calibration.bin", "application/octet-stream", bytes(range(256)))
        writer.add_metadata("vehicle", {"name": "käfer", "empty": ""})
        for sequence, (topic, _, time, data) in enumerate(contents(clouds), 1000):
            writer.add_message(channels[topic], time, data, time - 12_345, sequence)
        writer.finish()
    return path


def write_old_sqlite(path: Path, clouds: int = 4) -> Path:
    """A file as Foxy wrote it: no schema table, no definitions, no hashes."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
        "serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,"
        "data BLOB NOT NULL);"
        "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
    )
    topics: dict[str, int] = {}
    for topic, kind, time, data in contents(clouds):
        if topic not in topics:
            topics[topic] = len(topics) + 1
            database.execute("INSERT INTO topics VALUES(?, ?, ?, 'cdr', ?)", (topics[topic], topic, kind, QOS))
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", (topics[topic], time, data))
    database.commit()
    database.close()
    return path


def write_ros1(path: Path, clouds: int = 4, compression: str = "") -> Path:
    """A ROS 1 bag, by rosbags; the texts are on a latched topic."""
    writer = Ros1Writer(path)
    writer.chunk_threshold = 50_000
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    with writer:
        topics = {
            "/points": writer.add_connection("/points", CLOUD, typestore=ROS1),
            "/chatter": writer.add_connection("/chatter", TEXT, typestore=ROS1, latching=1),
        }
        for number in range(clouds):
            data = ROS1.serialize_ros1(message(number, store=ROS1), CLOUD)
            writer.write(topics["/points"], START + number * 10**8, data)
            data = ROS1.serialize_ros1(ROS1.types[TEXT](data=f"text {number}"), TEXT)
            writer.write(topics["/chatter"], START + number * 10**8 + 5, data)
    return path
