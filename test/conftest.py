"""Fixtures that several test modules share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.integer import IntegerLayer, IntegerModel
from anypcc_ros.codec.model.network import ModelConfig, layers
from anypcc_ros.optional import MissingPackageError

if TYPE_CHECKING:
    from ros_network import Peer

try:
    import torch
except ImportError:  # the codec runs without it on the native kernels
    pass
else:
    # The test networks are tiny: a second thread brings nothing and, on a busy machine, costs minutes in OpenMP barriers.
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # What runs in the background of a shell has interrupts ignored, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "lidar"
GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """What needs a package of an extra that is not installed is skipped."""
    try:
        return (yield)
    except MissingPackageError as error:
        pytest.skip(str(error))


def random_model(config: ModelConfig, seed: int = 0) -> IntegerModel:
    """An untrained integer model whose activations stay in a lively range; the same integers on every machine."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for spec in layers(config):
        reach = 2.0**24 / np.sqrt(spec.inputs * min(spec.taps, 9)) / 30
        parameters[spec.name] = IntegerLayer(
            rng.integers(-90, 91, (spec.taps, spec.inputs, spec.outputs)).astype(np.int8),
            rng.integers(-20_000, 20_001, (spec.rows, spec.outputs)).astype(np.int32),
            rng.integers(int(reach / 4), int(reach), spec.outputs).astype(np.int32),
        )
    return IntegerModel("random", config, parameters)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., IntegerModel]:
    return random_model


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clouds and bags beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of shared clouds at {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Streams and models that pin the bytes of this version."""
    return GOLDEN


@pytest.fixture(scope="session")
def encode(golden: Path) -> Callable[..., bytes]:
    """Encodes a cloud with the tiny model and any options."""

    def run(cloud: PointCloud, **options: Any) -> bytes:
        return Encoder(CodecConfig(model=str(golden / "tiny.safetensors"), **options)).encode(cloud)

    return run


@pytest.fixture(scope="session")
def decoder(golden: Path) -> Decoder:
    """Knows the tiny model, too."""
    return Decoder(DecoderConfig(model_dir=str(golden)))


@pytest.fixture(scope="session")
def scan() -> PointCloud:
    """A synthetic scan with a LiDAR's rings, ground and walls: 6,000 points in metres, float32."""
    rng = np.random.default_rng(5)
    azimuth = np.tile(np.linspace(-np.pi, np.pi, 375, endpoint=False), 16)
    elevation = np.repeat(np.radians(np.linspace(-22, 8, 16)), 375)
    wall = 9 + 4 * np.sign(np.sin(3 * azimuth))
    ground = np.where(elevation < -0.05, 1.7 / np.maximum(np.tan(-elevation), 1e-3), np.inf)
    distance = np.minimum(wall, ground) + rng.normal(0, 0.01, len(azimuth))
    direction = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    return PointCloud((direction * distance[:, None]).astype(np.float32))


@pytest.fixture(scope="session")
def xyz(scan: PointCloud) -> np.ndarray:
    return scan.xyz


@pytest.fixture(scope="module")
def ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """rclpy, on a DDS network of the test module's own."""
    from ros_network import network

    with network(tmp_path_factory.mktemp("ros_log")):
        yield


@pytest.fixture
def peer(ros: None) -> Iterator[Peer]:
    """A node of this process that talks with the nodes under test."""
    from ros_network import Peer

    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def sample_cloud() -> PointCloud:
    """The first Ruby Plus frame of sample/: 29,770 real points in metres, float32, with intensity and ring."""
    reader = pytest.importorskip("rosbags.highlevel")
    with reader.AnyReader([SAMPLE]) as bag:
        connection = next(c for c in bag.connections if c.topic == "/rubyplus/points")
        _, _, raw = next(bag.messages([connection]))
        message = bag.deserialize(raw, connection.msgtype)
    points = np.frombuffer(message.data, [("xyz", "<f4", 3), ("intensity", "<f4"), ("ring", "<u2")])
    return PointCloud(points["xyz"].copy(), {name: points[name].copy() for name in ("intensity", "ring")})


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a function without the kernels."""

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(native, "available", lambda: False)
            return function(*arguments)

    return run
