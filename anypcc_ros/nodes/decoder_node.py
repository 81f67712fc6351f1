"""The decoder node: CompressedCloud in, PointCloud2 out."""

from __future__ import annotations

import time

from sensor_msgs.msg import PointCloud2

from anypcc_ros.codec.codec import Decoder
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.codec_node import CodecNode, Result
from anypcc_ros.nodes.conversion import message_from_cloud


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
        start = time.perf_counter()
        cloud = decoder.decode(memoryview(message.data))
        seconds = time.perf_counter() - start
        restored = message_from_cloud(cloud, message.header)
        # What the sender says of the original counts for the statistics alone.
        return Result(restored, message.points, message.raw_size, len(message.data), seconds)
