"""The encoder node: PointCloud2 in, CompressedCloud out."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from sensor_msgs.msg import PointCloud2
from std_msgs.msg import UInt8MultiArray

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig, TargetConfig
from anypcc_ros.codec.rate import RateControl
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.adaptations import LATCHED_QOS, adaptation_topic
from anypcc_ros.nodes.codec_node import CodecNode, Result
from anypcc_ros.nodes.conversion import as_uint8_sequence, put_layout
from anypcc_ros.nodes.frame_period import FramePeriod
from anypcc_ros.nodes.parameters import ConfigParameters
from anypcc_ros.pointcloud2 import FORMAT, MessageConfig, cloud_from_message, special_layout


class EncoderNode(CodecNode):
    """Compresses every cloud of `points` to `points/anypcc`, one complete stream for each message.

    An adaptation that the streams name is published on `points/anypcc/adaptation`.
    """

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
        self._adaptations = self.create_publisher(UInt8MultiArray, adaptation_topic(self._output.topic_name), LATCHED_QOS)
        self._announced = ""
        self._announce()
        self._message: ConfigParameters[MessageConfig, MessageConfig] = ConfigParameters(
            self, MessageConfig(), lambda config: config, self._log_change
        )

    def _log_change(self, config: Any) -> None:
        super()._log_change(config)
        self._announce()

    def _announce(self) -> None:
        """Publish the adaptation that the streams name from now on, if it is another one."""
        adaptation = self.codec.product.adaptation
        if adaptation and adaptation.hash != self._announced:
            self._announced = adaptation.hash
            self._adaptations.publish(UInt8MultiArray(data=as_uint8_sequence(adaptation.to_bytes())))

    def convert(self, message: PointCloud2) -> Result:
        encoder: Encoder = self.codec.product
        cloud = cloud_from_message(message)
        layout = special_layout(message, self._message.config.keep_padding)
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        period = self._period.after(stamp, time.monotonic())
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
