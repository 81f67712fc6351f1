"""Training: the loss falls, gradients agree between implementations, a run can be stopped, and export keeps the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anypcc_ros.codec.errors import FileError  # noqa: E402
from anypcc_ros.codec.geometry import encode_occupancy  # noqa: E402
from anypcc_ros.codec.kernels import native  # noqa: E402
from anypcc_ros.codec.model.backend import context_model  # noqa: E402
from anypcc_ros.codec.model.floating import FloatNetwork, TorchSparseProduct  # noqa: E402
from anypcc_ros.codec.model.network import ModelConfig, layers  # noqa: E402
from anypcc_ros.codec.occupancy import Correction  # noqa: E402
from anypcc_ros.codec.octree import occupancy_pyramid, quantise, voxelise  # noqa: E402
from anypcc_ros.training import log  # noqa: E402
from anypcc_ros.training.dataset import TrainingCloud, load_clouds  # noqa: E402
from anypcc_ros.training.export import load_checkpoint  # noqa: E402
from anypcc_ros.training.export import quantise as quantise_network  # noqa: E402
from anypcc_ros.training.loop import Trainer, TrainingConfig, batch_bits, validate, validation_batches  # noqa: E402
from anypcc_ros.training.products import NativeSparseProduct  # noqa: E402
from anypcc_ros.training.sampling import Batch, Sampler, forest  # noqa: E402

TINY = TrainingConfig(
    model=ModelConfig(channels=16, parent_convs=1, child_convs=1),
    steps=24, points=3000, crops=2, warmup=2, validate_every=12, checkpoint_every=4, averaging=0.7,
)  # fmt: skip


@pytest.fixture(scope="module")
def clouds(scan):
    turned = scan.xyz[:, [1, 0, 2]].copy()
    return [
        TrainingCloud("a", "lidar_spinning", scan.xyz, 1.0),
        TrainingCloud("b", "aerial", turned, 1.0),
    ]


def test_the_loss_falls_and_a_stopped_run_goes_on_as_if_it_had_not(clouds, tmp_path):
    whole = list(Trainer(TINY, tmp_path / "whole").run(clouds, clouds))
    assert whole[-1]["train_bits_per_node"] < whole[0]["train_bits_per_node"] - 0.5
    assert whole[-1]["lidar_spinning"] < whole[0]["lidar_spinning"]
    list(Trainer(replace(TINY, decay=0.0, steps=12), tmp_path / "parts").run(clouds, clouds))
    resumed = Trainer(replace(TINY, decay=0.0), tmp_path / "parts")
    assert resumed.step == 12
    unbroken = Trainer(replace(TINY, decay=0.0), tmp_path / "unbroken")
    list(resumed.run(clouds, clouds))
    list(unbroken.run(clouds, clouds))
    for one, other in zip(resumed.network.parameters(), unbroken.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    log = (tmp_path / "parts" / "log.csv").read_text().splitlines()
    assert log[0].startswith("step,seconds,train_bits_per_node")
    assert [line.split(",")[0] for line in log[1:]] == ["12", "24"]


def test_the_log_of_a_run(tmp_path):
    path = tmp_path / log.NAME
    for step in (500, 750):
        log.append(path, {"step": step, "seconds": 290, "train_bits_per_node": 4.0745678, "gs": 25.3})
    assert path.read_text().splitlines() == [
        "step,seconds,train_bits_per_node,gs",
        "500,290,4.07457,25.3",
        "750,290,4.07457,25.3",
    ]
    with path.open("a") as file:
        file.write("1000,3")  # a run that was killed
    assert [log.by_category(record) for record in log.read(path)] == [{"gs": 25.3}, {"gs": 25.3}]
    with pytest.raises(FileError, match=r"has the columns step, .* gs, and this run step, .* medical"):
        log.append(path, {"step": 1000, "seconds": 290, "train_bits_per_node": 4.0, "medical": 2.0})
    log.append(path, {"step": 1000, "seconds": 290, "train_bits_per_node": 4.0, "gs": 2.0})
    assert path.read_text().splitlines()[2:] == ["750,290,4.07457,25.3", "1000,290,4,2"]
    path.write_text("step,seconds,train_bits_per_node\n")
    with pytest.raises(FileError, match="not a training log: 0 lines"):
        log.read(path)


@pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
def test_native_gradients_equal_torch(clouds):
    torch.manual_seed(1)
    network = FloatNetwork(TINY.model)
    batch = Sampler(clouds, 2000, 2, seed=3).batch(0)
    gradients = []
    for product in (TorchSparseProduct(), NativeSparseProduct()):
        network.sparse = product
        network.zero_grad()
        bits, _ = batch_bits(network, batch)
        bits.backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        # A rectifier whose input is zero to the last bit may fall on either side: compare as a whole.
        assert float((one - other).norm()) <= 2e-2 * float(one.norm()) + 1e-4


def test_export_keeps_the_loss_and_the_coder_reaches_it(clouds, tmp_path, scan):
    trainer = Trainer(replace(TINY, steps=12), tmp_path)
    list(trainer.run(clouds, clouds))
    network, step = load_checkpoint(tmp_path / "checkpoint.pt")
    assert step == 12
    voxels, _ = voxelise(quantise(scan.xyz, 0.02, (0, 0, 0)))
    with torch.no_grad():
        estimate, _ = batch_bits(network, Batch(occupancy_pyramid(voxels), len(scan)))
    model = context_model(quantise_network(network, "tiny"), "torch", 1)
    calibrated = 8 * len(encode_occupancy(model, voxels).payload)
    coded = 8 * len(encode_occupancy(model, voxels, correction=Correction(calibrated=False)).payload)
    assert coded == pytest.approx(float(estimate), rel=0.01)
    assert calibrated < coded


def test_batches_are_reproducible_forests(clouds):
    one, other = (Sampler(clouds, 2000, 3, seed=7).batch(4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))
    assert len(one.codes[0]) == 3
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, size, (50, 3)) for size in (3, 40)]
    batch = forest(grids, rng)
    assert len(batch.codes) == 6
    children = [int(np.unpackbits(codes).sum()) for codes in batch.codes]
    assert children[:-1] == [len(codes) for codes in batch.codes[1:]]
    assert children[-1] == sum(len(np.unique(grid, axis=0)) for grid in grids)


def test_surfaces_and_scans_are_not_in_one_batch():
    rng = np.random.default_rng(0)
    body, scan = (rng.integers(0, 1000, (size, 3)).astype(np.int32) for size in (50, 7))
    sampler = Sampler([TrainingCloud("a", "dense_human", body, 1.0), TrainingCloud("b", "gs", scan, 1.0)], 2000, 2, seed=1)
    assert {sampler.batch(i).points for i in range(30)} == {100, 14}


def test_the_training_clouds_load(shared):
    clouds = load_clouds([shared / "data" / "val"])
    assert {"lidar_spinning", "dense_human", "gs"} <= {cloud.category for cloud in clouds}
    body = next(cloud for cloud in clouds if cloud.category == "dense_human")
    assert body.voxelised
    assert body.xyz.dtype == np.int32


def test_a_smaller_tier_starts_with_the_layers_of_a_larger_one(tmp_path):
    large = Trainer(replace(TINY, model=replace(TINY.model, parent_convs=2), seed=1), tmp_path / "large")
    small = Trainer(TINY, tmp_path / "small")
    before = small.network.parameters_of("fuse")[0].clone()
    taken = small.start_from(large.network)
    assert "parent0" in taken
    assert "parent1" not in taken
    for network in (small.network, small.average):
        assert torch.equal(network.parameters_of("fuse")[0], large.network.parameters_of("fuse")[0])
    assert not torch.equal(before, small.network.parameters_of("fuse")[0])
    small.step = 1
    assert small.start_from(large.network) == []


def test_weights_for_dense_levels_start_as_those_of_all_and_can_be_trained_alone(tmp_path, clouds):
    plain = Trainer(TINY, tmp_path / "plain")
    config = replace(TINY, model=replace(TINY.model, dense_weights=True), only="dense.", steps=2, validate_every=2, seed=1)
    trainer = Trainer(config, tmp_path / "dense")
    assert len(trainer.start_from(plain.network)) == 2 * len(list(layers(TINY.model)))
    batches = validation_batches(clouds, points=1000)
    assert validate(trainer.network, batches) == validate(plain.network, batches)
    list(trainer.run(clouds, clouds))
    for spec in layers(TINY.model):
        old = plain.network.parameters_of(spec.name)[0]
        assert torch.equal(trainer.network.parameters_of(spec.name)[0], old)
        assert not torch.equal(trainer.network.parameters_of(f"dense.{spec.name}")[0], old)


def test_a_wider_tier_starts_as_good_as_the_narrower_one(tmp_path, clouds):
    narrow = Trainer(TINY, tmp_path / "narrow")
    wide = Trainer(replace(TINY, model=replace(TINY.model, channels=32), seed=1), tmp_path / "wide")
    batches = validation_batches(clouds, points=1000)
    before, expected = validate(wide.network, batches), validate(narrow.network, batches)
    assert len(wide.start_from(narrow.network)) == len(list(layers(TINY.model)))
    assert validate(wide.average, batches) == pytest.approx(expected, rel=1e-5)
    assert before != pytest.approx(expected, rel=1e-3)
    weight, _ = wide.network.parameters_of("parent0")
    assert weight[:, :16, 16:].abs().min() > 0  # the new features see the old ones
