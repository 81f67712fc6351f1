"""The same bytes on every machine: other summation orders, threads, CPU code paths and backends change nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig, DecoderConfig  # noqa: E402
from anypcc_ros.codec.geometry import encode_occupancy  # noqa: E402
from anypcc_ros.codec.kernels import native  # noqa: E402
from anypcc_ros.codec.model import reference  # noqa: E402
from anypcc_ros.codec.model.floating import FloatNetwork  # noqa: E402
from anypcc_ros.codec.model.integer import load_model, save_model  # noqa: E402
from anypcc_ros.codec.model.network import ContextModel, ModelConfig  # noqa: E402
from anypcc_ros.codec.neighbors import cross_table, root_level, up_table  # noqa: E402
from anypcc_ros.codec.octree import occupancy_pyramid, quantise, voxelise  # noqa: E402

needs_native = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")


@pytest.fixture(scope="module")
def model_file(make_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_model(make_model(ModelConfig(channels=32, parent_convs=2, child_convs=1)), path)
    return path


@pytest.fixture(scope="module")
def voxels(scan):
    return voxelise(quantise(scan.xyz, 0.02, (0, 0, 0)))[0]


@pytest.fixture(scope="module")
def expected(model_file, voxels):
    model = load_model(model_file)
    return encode_occupancy(ContextModel(model.config, reference.TorchArithmetic(model)), voxels).payload


class ChunkedArithmetic(reference.TorchArithmetic):
    """The reference by another formulation: all taps at once as one wide matrix product, a chunk of rows at a time."""

    chunk = 100

    def _product(self, layer, x, table):
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        weight = self._weight[layer].reshape(-1, self._weight[layer].shape[2])
        rows = torch.as_tensor(np.where(table < 0, len(x), table)).long()
        chunks = [padded[part].reshape(len(part), -1) @ weight for part in rows.split(self.chunk)]
        return torch.cat(chunks) + self._bias[layer] if chunks else x.new_zeros(0, weight.shape[1])

    def conv(self, layer, x, level):
        return self._activation(layer, self._product(layer, x, level.neighbors), residual=x)

    def up(self, layer, x, level):
        return self._activation(layer, self._product(layer, x, up_table(level)))

    def aggregate(self, layer, seen, x, level):
        return self._activation(layer, self._product(layer, seen, cross_table(level, reader=1)), residual=x)


@pytest.mark.parametrize("chunk", [17, 256, 100_000])
def test_another_formulation_and_chunk_size_give_the_same_bytes(model_file, voxels, expected, chunk, monkeypatch):
    monkeypatch.setattr(ChunkedArithmetic, "chunk", chunk)
    model = load_model(model_file)
    assert encode_occupancy(ContextModel(model.config, ChunkedArithmetic(model)), voxels).payload == expected


def test_permuted_points_give_the_same_bytes(model_file):
    """Of a cloud without beams: of a scan the order of the points may tell which laser they come from."""
    encoder = Encoder(CodecConfig(model=str(model_file), step=0.05, backend="torch"))
    rng = np.random.default_rng(0)
    ball = rng.normal(0, 2, (3000, 3))
    assert encoder.encode(PointCloud(rng.permutation(ball))) == encoder.encode(PointCloud(ball))


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_native_streams_equal_the_reference(model_file, scan, threads):
    streams = [
        Encoder(CodecConfig(model=str(model_file), step=0.02, backend=backend, threads=threads)).encode(scan)
        for backend in ("torch", "native")
    ]
    assert streams[0] == streams[1]
    folder = str(model_file.parent)
    clouds = [
        Decoder(DecoderConfig(model_dir=folder, backend=backend, threads=threads)).decode(streams[0]).xyz
        for backend in ("torch", "native")
    ]
    assert np.array_equal(*clouds)


@needs_native
def test_every_native_code_path_gives_the_same_bytes(model_file, scan):
    active = native.active_isa()
    try:
        digests = set()
        for isa in native.usable_isas():
            native.set_isa(isa)
            digests.add(Encoder(CodecConfig(model=str(model_file), step=0.02, backend="native")).encode(scan))
        assert len(digests) == 1
    finally:
        native.set_isa(active)


SCRIPT = """
import hashlib, sys
import numpy as np
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig
config = CodecConfig(model=sys.argv[1], step=0.02, backend="torch", threads=int(sys.argv[3]))
print(hashlib.sha256(Encoder(config).encode(PointCloud(np.load(sys.argv[2])))).hexdigest())
"""

CODE_PATHS = {
    "plain": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "bf16 allowed": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
}


@pytest.mark.parametrize("path", CODE_PATHS)
def test_limited_cpu_code_paths_give_the_same_bytes(model_file, scan, tmp_path, path):
    """In subprocesses, because these limits are read when torch is loaded."""
    np.save(tmp_path / "scan.npy", scan.xyz)
    encoder = Encoder(CodecConfig(model=str(model_file), step=0.02, backend="torch"))
    digest = hashlib.sha256(encoder.encode(scan)).hexdigest()
    root = Path(sys.modules["anypcc_ros"].__path__[0]).parent
    environment = os.environ | CODE_PATHS[path] | {"PYTHONPATH": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", SCRIPT, str(model_file), str(tmp_path / "scan.npy"), "2"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout.split()[-1] == digest


def test_a_float_network_would_not_have_passed(voxels):
    """The reason for the integers: two ways to sum the same float network disagree in the last bits of its logits."""
    torch.manual_seed(0)
    network = FloatNetwork(ModelConfig(channels=32, parent_convs=2, child_convs=1))

    class Listener:
        def __init__(self):
            self.logits = []

        def level(self, codes):
            self.codes = codes
            return self

        def code(self, logits, part):
            self.logits.append(logits.numpy())
            return (self.codes[part.rows] >> part.first_bit & ((1 << part.bits) - 1)).astype(np.uint8)

    def logits(reverse):
        def product(x, weight, level):
            y = x.new_zeros(len(level), weight.shape[2])
            taps = range(27)
            for tap in reversed(taps) if reverse else taps:
                out = np.flatnonzero(level.neighbors[:, tap] >= 0)
                y[out] += x[level.neighbors[out, tap]] @ weight[tap]
            return y

        network.sparse.neighbors = product
        model, listener = ContextModel(network.config, network), Listener()
        level, features = root_level(), model.root_features()
        pyramid = occupancy_pyramid(voxels)
        with torch.no_grad():
            for above, codes in pairwise(pyramid):
                below = network.expand(level, above)
                features = model.descend(features, above, level, below)
                model.code_level(features, below, listener.level(codes))
                level = below
        return np.concatenate(listener.logits)

    forward, backward = logits(False), logits(True)
    assert np.allclose(forward, backward, atol=1e-3)
    different = (forward != backward).any(axis=1).mean()
    assert different > 0.1
