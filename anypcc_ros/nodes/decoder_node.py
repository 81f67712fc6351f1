"""The decoder node: CompressedCloud in, PointCloud2 out."""

from __future__ import annotations

import time

from sensor_msgs.msg import PointCloud2

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.codec import Decoder
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.codec_node import CodecNode, Result
from anypcc_ros.nodes.conversion import message_from_cloud
from anypcc_ros.pointcloud2 import layout_in


class DecoderNode(CodecNode):
    """Restores every stream of `points/anypcc` to `points/decoded`."""

    def __init__(self) -> None:
        super().__init__(
            "anypcc_decoder",
            "decode",
            (CompressedCloud, "points/anypcc"),
            (PointCloud2, "points/decoded"),
            DecoderConfig(),
            Decoder,
        )

    def convert(self, message: CompressedCloud) -> Result:
        decoder: Decoder = self.codec.product
        stream = memoryview(message.data)
        start = time.perf_counter()
        cloud = decoder.decode(stream)
        seconds = time.perf_counter() - start
        restored = message_from_cloud(cloud, message.header, layout_in(message))
        # What the sender says of the original's size counts for the statistics alone.
        return Result(restored, inspect(stream, decoder.config), message.raw_size, seconds)
