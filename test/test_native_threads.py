"""The kernels' thread pool: several callers at once, more threads than cores, and a forked process."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anypcc_ros.codec import geometry
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model import store
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.occupancy import Correction
from anypcc_ros.codec.octree import quantise, voxelise

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))


def convolve(seed: int, threads: int) -> bytes:
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 3000, (3000, 27)).astype(np.int32)
    weight = rng.integers(-127, 128, (27, 32, 32)).astype(np.int8)
    layer = native.Layer(weight, np.zeros((1, 32), np.int32), np.full(32, 1 << 14, np.int32), 24)
    x, y = rng.integers(0, 128, (3000, 32)).astype(np.uint8), np.empty((3000, 32), np.uint8)
    native.conv_int8(native.Plan(table, 3000, threads), layer, x, y, x, threads=threads)
    return y.tobytes()


def test_callers_at_once_and_any_number_of_threads() -> None:
    expected = [convolve(seed, 1) for seed in range(4)]
    for threads in (0, 2, 3, 64, 1000):
        with ThreadPoolExecutor(4) as callers:
            assert list(callers.map(convolve, range(4), [threads] * 4)) == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    expected = convolve(5, 2)  # the parent's pool is running now
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(convolve, (5, 2)).get(timeout=60) == expected


def test_one_encoder_and_one_decoder_serve_several_threads(scan: PointCloud) -> None:
    clouds = [PointCloud(scan.xyz[part::4]) for part in range(4)]
    encoder, decoder = Encoder(CodecConfig(step=0.02)), Decoder()
    streams = [encoder.encode(cloud) for cloud in clouds]
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(encoder.encode, clouds)) == streams
        together = list(callers.map(decoder.decode, streams))
    for stream, cloud in zip(streams, together, strict=True):
        assert np.array_equal(cloud.xyz, decoder.decode(stream).xyz)


def test_a_level_that_fails_leaves_none_behind(scan: PointCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the network next must not meet predictions of a cloud whose encoding has ended."""
    voxels, _ = voxelise(quantise(scan.xyz, 0.05, (0.0, 0.0, 0.0)))
    model = context_model(store.by_name("fast"), "native", 2)
    predicting, ended = threading.Event(), threading.Event()
    code_level, after = ContextModel.code_level, []

    def slow(self: ContextModel, *arguments: object) -> np.ndarray:
        predicting.set()
        ended.wait(0.2)  # if nobody waits for this
        codes = code_level(self, *arguments)
        after.append(ended.is_set())
        return codes

    def fail(*arguments: object) -> None:
        assert predicting.wait(10)
        raise ArithmeticError

    monkeypatch.setattr(ContextModel, "code_level", slow)
    descend = model.descend
    levels = iter([descend, descend, fail])
    monkeypatch.setattr(model, "descend", lambda *arguments: next(levels)(*arguments))
    with pytest.raises(ArithmeticError):
        geometry.encode_occupancy(model, voxels, correction=Correction(threads=2))
    ended.set()
    assert after
    assert not any(after)
