"""The decoder node: CompressedCloud in, PointCloud2 out."""

from __future__ import annotations

import time
from collections import deque

from sensor_msgs.msg import PointCloud2
from std_msgs.msg import UInt8MultiArray

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.codec import Decoder
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.errors import StreamError
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.codec.position_decoder import ADDED
from anypcc_ros.msg import CompressedCloud
from anypcc_ros.nodes.adaptations import LATCHED_QOS, adaptation_topic
from anypcc_ros.nodes.codec_node import CodecNode, Result
from anypcc_ros.nodes.conversion import message_from_cloud
from anypcc_ros.pointcloud2 import layout_in


class DecoderNode(CodecNode):
    """Restores every stream of `points/anypcc` to `points/decoded`.

    Adaptations that streams name are those of the parameter, and what comes on `points/anypcc/adaptation`.
    """

    def __init__(self) -> None:
        self._heard: deque[Adaptation] = deque(maxlen=ADDED)
        super().__init__(
            "anypcc_decoder",
            "decode",
            (CompressedCloud, "points/anypcc"),
            (PointCloud2, "points/decoded"),
            DecoderConfig(),
            self._decoder,
        )
        topic = adaptation_topic(self._input.topic_name)
        self._adaptations = self.create_subscription(UInt8MultiArray, topic, self._hear, LATCHED_QOS)

    def _decoder(self, config: DecoderConfig) -> Decoder:
        decoder = Decoder(config)
        for adaptation in self._heard:
            decoder.add_adaptation(adaptation)
        return decoder

    def _hear(self, message: UInt8MultiArray) -> None:
        try:
            adaptation = Adaptation.from_bytes(bytes(message.data))
        except StreamError as error:
            self.get_logger().warning(f"{self._adaptations.topic_name}: not an adaptation: {error}")
            return
        if adaptation.hash not in {heard.hash for heard in self._heard}:
            self._heard.append(adaptation)
        self.codec.product.add_adaptation(adaptation)
        self.get_logger().info(f"adaptation {adaptation.hash} of model {adaptation.base}")

    def convert(self, message: CompressedCloud) -> Result:
        decoder: Decoder = self.codec.product
        stream = memoryview(message.data)
        start = time.perf_counter()
        cloud = decoder.decode(stream)
        seconds = time.perf_counter() - start
        restored = message_from_cloud(cloud, message.header, layout_in(message))
        # What the sender says of the original's size counts for the statistics alone.
        return Result(restored, inspect(stream, decoder.config), message.raw_size, seconds)
