"""Messages of any layout: the class that the tests without ROS use, and Hypothesis' strategy of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from anypcc_ros.pointcloud2 import Field


@dataclass
class Message:
    """What rclpy's and rosbags' PointCloud2 have in common."""

    height: int
    width: int
    fields: list[Field]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: bytes
    is_dense: bool = True


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Fields of any type, count and name, anywhere in a point of random bytes, x, y and z among them."""
    others = draw(st.lists(st.sampled_from(["ring", "ring#2", "x", "", "time", "ü#1"]), max_size=5))
    names = draw(st.permutations(["x", "y", "z"])) + others
    seen: set[str] = set()
    fields, end = [], 0
    for name in draw(st.permutations(names)):
        axis = name in ("x", "y", "z") and name not in seen
        seen.add(name)
        datatype = draw(st.integers(1, 8))
        count = draw(st.integers(0, 1) if axis else st.integers(0, 4))
        gap = draw(st.integers(-8, 3))  # negative: the fields overlap
        fields.append(Field(name, max(0, end + gap), datatype, count))
        end = max(end, fields[-1].end)
    height, width = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    point_step = end + draw(st.integers(0, 5))
    row_step = width * point_step + draw(st.integers(0, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    data = np.random.default_rng(seed).integers(0, 256, height * row_step + draw(st.integers(0, 3)), np.uint8)
    # What random bytes rarely are: zeros and minus zeros, infinities, NaN with and without payload, the smallest numbers.
    special = draw(st.sampled_from([b"", b"\0\0\x80\xff", b"\xff" * 8, b"\1\0\x80\x7f", b"\0\0\0\x80", b"\1\0\0\0"]))
    if special and len(data):
        data[: len(data) // 2] = np.resize(np.frombuffer(special, np.uint8), len(data) // 2)
    return Message(height, width, fields, draw(st.booleans()), point_step, row_step, data.tobytes())
