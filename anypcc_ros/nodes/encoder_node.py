"""The encoder node: PointCloud2 in, CompressedCloud out."""

from __future__ import annotations

import time
from functools import partial

from sensor_msgs.msg import PointCloud2

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig, TargetConfig
from anypcc_ros.codec.rate import FramePeriod, RateControl
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.codec_node import CodecNode, Result
from anypcc_ros.nodes.conversion import as_uint8_sequence, put_layout
from anypcc_ros.nodes.parameters import ConfigParameters
from anypcc_ros.pointcloud2 import FORMAT, MessageConfig, cloud_from_message, special_layout


class EncoderNode(CodecNode):
    """Compresses every cloud of `points` to `points/anypcc`, one complete stream for each message."""

    def __init__(self) -> None:
        super().__init__(
            "anypcc_encoder",
            "encode",
            (PointCloud2, "points"),
            (CompressedCloud, "points/anypcc"),
            CodecConfig(),
            partial(Encoder, successive=True),
        )
        self._rate: ConfigParameters[TargetConfig, RateControl] = ConfigParameters(
            self, TargetConfig(), RateControl, self._log_change
        )
        self._period = FramePeriod()
        self._message: ConfigParameters[MessageConfig, MessageConfig] = ConfigParameters(
            self, MessageConfig(), lambda config: config, self._log_change
        )

    def convert(self, message: PointCloud2) -> Result:
        encoder: Encoder = self.codec.product
        cloud = cloud_from_message(message)
        layout = special_layout(message, self._message.config.keep_padding)
        period = self._period.after(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)
        start = time.perf_counter()
        stream = self._rate.product.encode(encoder, cloud, period)
        seconds = time.perf_counter() - start
        info = inspect(stream)
        compressed = CompressedCloud(
            header=message.header,
            format=FORMAT,
            points=info.points,
            raw_size=len(message.data),
            data=as_uint8_sequence(stream),
        )
        put_layout(compressed, layout)
        return Result(compressed, info, len(message.data), seconds)

    def settings(self) -> dict[str, str]:
        return super().settings() | {"model hash": self.codec.product.model_hash}
