"""The model: its integer form, its file, and the switches of its mechanisms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anypcc_ros.codec.errors import ModelFileError
from anypcc_ros.codec.geometry import decode_occupancy, encode_occupancy
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.integer import (
    EXACT_SUM,
    EXP2,
    IntegerLayer,
    IntegerModel,
    largest_sum,
    load_model,
    save_model,
)
from anypcc_ros.codec.model.network import ModelConfig, layers
from anypcc_ros.codec.octree import quantise, voxelise

SMALL = ModelConfig(channels=16, parent_convs=1, child_convs=1)


def test_the_exponent_table_is_rounded_powers_of_two():
    assert EXP2.tolist() == [round(65536 * 2 ** (-d / 32)) for d in range(512)]


@pytest.mark.parametrize(
    "change",
    [{}, {"carry": False}, {"spatial_grouping": False}, {"aggregation": False}, {"channel_grouping": False},
     {"spatial_grouping": False, "channel_grouping": False}, {"parent_convs": 0, "child_convs": 0}, {"channels": 48},
     {"dense_weights": True}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_every_mechanism_can_be_switched_off(make_model, scan, change, backend):
    model = make_model(replace(SMALL, **change))
    voxels, _ = voxelise(quantise(scan.xyz, 0.05, (0, 0, 0)))
    network = context_model(model, backend, 1)
    data = encode_occupancy(network, voxels).payload
    decoded = decode_occupancy(network, memoryview(data), voxels.depth, len(voxels.coords), voxels.shift)
    assert np.array_equal(decoded, voxels.coords)


def test_dense_levels_have_weights_of_their_own(make_model):
    plain = make_model(SMALL)
    other = make_model(SMALL, seed=1)
    config = replace(SMALL, dense_weights=True)
    surface = np.stack(np.meshgrid(np.arange(64), np.arange(64), [3]), axis=-1).reshape(-1, 3)
    line = np.repeat(np.arange(400)[:, None], 3, axis=1)

    def payload(model, cells):
        return encode_occupancy(context_model(model, "native", 1), voxelise(cells)[0]).payload

    def both(dense):
        dense_layers = {f"dense.{name}": layer for name, layer in dense.layers.items()}
        return IntegerModel("both", config, {**plain.layers, **dense_layers})

    for cells in (surface, line):
        assert payload(both(plain), cells) == payload(plain, cells)
    assert payload(both(other), surface) == payload(other, surface) != payload(plain, surface)
    assert payload(both(other), line) == payload(plain, line) != payload(other, line)


def test_a_model_survives_its_file(make_model, tmp_path):
    model = make_model(SMALL)
    save_model(model, tmp_path / "other.safetensors")
    loaded = load_model(tmp_path / "other.safetensors")
    assert (loaded.hash, loaded.config, loaded.name) == (model.hash, SMALL, "other")


def test_the_hash_covers_every_integer_and_the_configuration(make_model):
    model = make_model(SMALL)
    hashes = {model.hash}
    for name in ("weight", "bias", "multiplier"):
        layer = model.layers["up"]
        array = getattr(layer, name).copy()
        array.flat[-1] += 1
        changed = dict(model.layers) | {"up": replace(layer, **{name: array})}
        hashes.add(IntegerModel("x", SMALL, changed).hash)
    hashes.add(IntegerModel("x", replace(SMALL, carry=False), model.layers).hash)
    assert len(hashes) == 5


def test_sums_that_could_leave_the_exact_range_are_refused():
    config = ModelConfig(channels=64, parent_convs=1, child_convs=0)
    parameters = {
        spec.name: IntegerLayer(
            np.full((spec.taps, spec.inputs, spec.outputs), 127, np.int8),
            np.zeros((spec.rows, spec.outputs), np.int32),
            np.ones(spec.outputs, np.int32),
        )
        for spec in layers(config)
    }
    assert largest_sum(parameters["parent0"]) == 27 * 64 * 127 * 127 > EXACT_SUM
    with pytest.raises(ModelFileError, match=f"sums of parent0 reach {27 * 64 * 127 * 127}"):
        IntegerModel("wide", config, parameters)


@pytest.mark.parametrize("damage", ["missing", "shape", "value", "format", "truncated"])
def test_damaged_model_files_are_refused(make_model, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_model(make_model(SMALL), path)
    tensors = load_file(path)
    metadata = {"format": "anypcc-ucm/1", "config": '{"channels": 16, "parent_convs": 1, "child_convs": 1}', "hash": "0" * 16}
    if damage == "missing":
        del tensors["up.weight"]
    elif damage == "shape":
        tensors["up.weight"] = tensors["up.weight"][:-1].copy()
    elif damage == "format":
        metadata["format"] = "other"
    save_file(tensors, path, metadata)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="model"):
        load_model(path)
