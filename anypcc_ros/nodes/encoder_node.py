"""The encoder node: PointCloud2 in, CompressedCloud out."""

from __future__ import annotations

import time

from sensor_msgs.msg import PointCloud2

from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.codec_node import FORMAT, CodecNode, Result
from anypcc_ros.nodes.conversion import as_uint8_sequence, cloud_from_message, other_fields


class EncoderNode(CodecNode):
    """Compresses every cloud of `points` to `points/anypcc`, one complete stream for each message."""

    def __init__(self) -> None:
        self._told_fields: tuple[str, ...] = ()
        super().__init__(
            "anypcc_encoder",
            "encode",
            (PointCloud2, "points"),
            (CompressedCloud, "points/anypcc"),
            CodecConfig(),
            Encoder,
        )

    def convert(self, message: PointCloud2) -> Result:
        encoder: Encoder = self.codec.product
        self._tell_fields(other_fields(message))
        cloud, not_finite = cloud_from_message(message).finite()
        start = time.perf_counter()
        stream = encoder.encode(cloud)
        seconds = time.perf_counter() - start
        compressed = CompressedCloud(
            header=message.header,
            format=FORMAT,
            points=len(cloud),
            raw_size=len(message.data),
            data=as_uint8_sequence(stream),
        )
        return Result(compressed, len(cloud), len(message.data), len(stream), seconds, not_finite)

    def settings(self) -> dict[str, str]:
        return super().settings() | {"model hash": self.codec.product.model_hash}

    def _tell_fields(self, names: tuple[str, ...]) -> None:
        if names and names != self._told_fields:
            self.get_logger().info(f"fields that are not carried: {', '.join(names)}")
            self._told_fields = names
