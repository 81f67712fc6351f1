"""anypcc_ros: learned point-cloud compression for ROS 2 (AnyPcc, arXiv 2510.20331).

The public names are imported on first use, so that ``import anypcc_ros.msg`` stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

# The generated message modules (anypcc_ros.msg) are installed in another directory than a source checkout.
__path__ = pkgutil.extend_path(__path__, __name__)

_PUBLIC = {
    "CodecConfig": "anypcc_ros.codec.config",
    "Decoder": "anypcc_ros.codec.codec",
    "DecoderConfig": "anypcc_ros.codec.config",
    "Encoder": "anypcc_ros.codec.codec",
    "PointCloud": "anypcc_ros.codec.cloud",
    "StreamInfo": "anypcc_ros.codec.bitstream",
    "inspect": "anypcc_ros.codec.bitstream",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from anypcc_ros.codec.bitstream import StreamInfo, inspect
    from anypcc_ros.codec.cloud import PointCloud
    from anypcc_ros.codec.codec import Decoder, Encoder
    from anypcc_ros.codec.config import CodecConfig, DecoderConfig


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
