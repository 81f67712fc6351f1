"""Adapted models: a delta comes back as it was, belongs to one model, stays with its stream, and is sent where it pays."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anypcc_ros.cli import main
from anypcc_ros.codec import bitstream, geometry, position_encoder
from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.calibration import MOST_MOVED, WEIGHT_BITS
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig, TargetConfig
from anypcc_ros.codec.cutting import cut
from anypcc_ros.codec.errors import AdaptationNotFoundError, ConfigError, CorruptStreamError, StreamError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.adaptations import Adaptation, load_adaptation
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.delta import Delta, LayerDelta, adapt, decode_delta, encode_delta
from anypcc_ros.codec.model.integer import IntegerModel, load_model, save_model
from anypcc_ros.codec.model.network import CodePart, ContextModel, ModelConfig, layers
from anypcc_ros.codec.rate import RateControl
from anypcc_ros.codec.trials import Trials
from anypcc_ros.files import write_cloud

ROOT = Path(__file__).resolve().parents[1]
STEPS = 40


@pytest.fixture(scope="module")
def model(make_model) -> IntegerModel:
    return make_model(ModelConfig(channels=16, parent_convs=1, child_convs=1))


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_model(replace(model, calibrate="never"), path)  # calibration makes up for a model that knows nothing
    return str(path)


@pytest.fixture(scope="module")
def tuned(model_file, scan) -> bytes:
    """A stream with a delta of its own."""
    return Encoder(CodecConfig(model=model_file, step=0.02, adapt_steps=STEPS)).encode(scan)


@pytest.fixture
def decoder(model_file) -> Decoder:
    return Decoder(DecoderConfig(model_dir=str(Path(model_file).parent)))


def random_delta(model: IntegerModel, seed: int, density: float, spread: float) -> Delta:
    """Changes of some layers, within what the model's weights leave."""
    rng, changes = np.random.default_rng(seed), {}
    for spec in layers(model.config):
        if rng.random() < 0.5:
            weight = np.rint(rng.laplace(0, spread, (spec.taps, spec.inputs, spec.outputs))).astype(np.int64)
            weight[rng.random(weight.shape) > density] = 0
            weight[abs(model.layers[spec.name].weight + (weight << 1)) > 127] = 0
            bias = np.rint(rng.laplace(0, 4 * spread, (spec.rows, spec.outputs))).astype(np.int64)
            bias[rng.random(bias.shape) > density] = 0
            changes[spec.name] = LayerDelta(weight, bias)
    return Delta(changes, 1, int(rng.integers(0, 8)))


# -- The delta


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.0, 0.02, 1.0]), spread=st.sampled_from([0.4, 3.0, 40.0]))
def test_a_delta_comes_back_as_it_was(model, seed, density, spread) -> None:
    delta = random_delta(model, seed, density, spread)
    back = decode_delta(model, encode_delta(model, delta))
    assert list(back.layers) == list(delta.layers)
    assert (back.weight_shift, back.bias_shift) == (delta.weight_shift, delta.bias_shift)
    for name, change in delta.layers.items():
        assert np.array_equal(back.layers[name].weight, change.weight)
        assert np.array_equal(back.layers[name].bias, change.bias)
    assert adapt(model, back).hash == adapt(model, delta).hash


def test_zeros_cost_next_to_nothing(model) -> None:
    change = LayerDelta(np.zeros((27, 16, 16), np.int64), np.zeros((1, 16), np.int64))
    change.weight[3, 4, 5] = -2
    assert len(encode_delta(model, Delta({"child0": change}, 0, 0))) < 40


@pytest.mark.parametrize(("part", "change"), [("weight", 200), ("weight", -1 << 40), ("bias", 1 << 24), ("bias", -1 << 50)])
def test_a_delta_that_leaves_the_exact_range_is_refused(model, part, change) -> None:
    zeros = LayerDelta(np.zeros((1, 16, 16), np.int64), np.zeros((1, 16), np.int64))
    getattr(zeros, part)[..., 3] = change
    with pytest.raises(CorruptStreamError, match=r"head0\.low\.out"):
        adapt(model, Delta({"head0.low.out": zeros}, 0, 0))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_a_delta_or_a_typed_error(model, data) -> None:
    good = bytearray(encode_delta(model, random_delta(model, 1, 0.2, 3.0)))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StreamError):
        adapt(model, decode_delta(model, bytes(good[: data.draw(st.integers(0, len(good)))])))


# -- Adaptations that streams share


@pytest.fixture(scope="module")
def shared_delta(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adaptations") / "scene.apad"
    path.write_bytes(Adaptation(model.hash, encode_delta(model, random_delta(model, 7, 0.1, 1.0))).to_bytes())
    return path


def test_a_shared_adaptation_is_needed_and_enough(model_file, shared_delta, scan, decoder) -> None:
    plain = Encoder(CodecConfig(model=model_file, step=0.02)).encode(scan)
    config = CodecConfig(model=model_file, step=0.02, adaptation=str(shared_delta), adaptation_use="always")
    data = Encoder(config).encode(scan)
    digest = load_adaptation(shared_delta).hash
    assert inspect(data).adaptation == digest
    assert inspect(plain).adaptation == ""
    with pytest.raises(AdaptationNotFoundError, match=digest):
        decoder.decode(data)
    expected = decoder.decode(plain).xyz
    for place in (shared_delta, shared_delta.parent):
        config = DecoderConfig(model_dir=str(Path(model_file).parent), adaptation=str(place))
        assert np.array_equal(Decoder(config).decode(data).xyz, expected)
    decoder.add_adaptation(load_adaptation(shared_delta))
    assert np.array_equal(decoder.decode(data).xyz, expected)
    assert np.array_equal(decoder.decode(plain).xyz, expected)


@pytest.mark.parametrize("options", [{}, {"drop_scales": 1, "lossy": "likeliest"}, {"step": 9.0}])
def test_clouds_are_never_larger_with_an_adaptation(model_file, shared_delta, scan, options) -> None:
    """Random changes make it worse, so that it is not used; and changes of nothing are not named."""
    config = CodecConfig(**{"model": model_file, "step": 0.02, **options})
    plain = Encoder(config).encode(scan)
    unasked = Encoder(replace(config, adaptation=str(shared_delta), adaptation_use="always")).encode(scan)
    assert len(unasked) > len(plain) or options  # lossy ones may be worse in another way
    assert Encoder(replace(config, adaptation=str(shared_delta))).encode(scan) == plain
    model = load_model(Path(model_file))
    nothing = Adaptation(model.hash, encode_delta(model, Delta({}, 0, 0)))
    assert Encoder(config, adaptation=nothing).encode(scan) == plain


def test_of_successive_clouds_the_first_tells_which_way_is_best_for_the_next() -> None:
    sizes = {"plain": [5, 0, 0, 3, 0], "adapted": [4, 9, 9, 6, 0]}
    trials, tried = Trials(("plain", "adapted"), every=3), []

    def encode(cloud: int, way: str) -> int:
        tried.append((cloud, way))
        return sizes[way][cloud]

    taken = [trials.next().best(partial(encode, cloud), lambda way, size: (size,))[0] for cloud in range(5)]
    assert taken == ["adapted", "adapted", "adapted", "plain", "plain"]
    assert tried == [(0, "plain"), (0, "adapted"), (1, "adapted"), (2, "adapted"), (3, "plain"), (3, "adapted"), (4, "plain")]


@pytest.mark.parametrize("options", [{}, {"drop_scales": 1, "lossy": "likeliest"}])
def test_a_frame_counts_once_however_often_it_is_encoded(model_file, shared_delta, scan, monkeypatch, options) -> None:
    """Towards a target frames are encoded several times: every third one is tried both ways all the same."""
    monkeypatch.setattr(position_encoder, "TRIED_EVERY", 3)
    config = CodecConfig(**{"model": model_file, "step": 0.02, "adaptation": str(shared_delta), **options})
    encoder, control = Encoder(config, successive=True), RateControl(TargetConfig(target_bytes=900, target_passes=2))
    passes: list[list[ContextModel]] = []

    def encode_occupancy(network: ContextModel, *arguments: Any, **options: Any) -> geometry.Occupancy:
        passes[-1].append(network)
        return encoded(network, *arguments, **options)

    encoded = geometry.encode_occupancy
    monkeypatch.setattr(geometry, "encode_occupancy", encode_occupancy)
    for i in range(7):
        passes.append([])
        control.encode(encoder, PointCloud(scan.xyz[i % 2 :: 4] * np.float32(1 + i / 7)))
    assert max(map(len, passes)) > 2
    assert [len(set(networks)) for networks in passes] == [2, 1, 1, 2, 1, 1, 2]
    assert all(networks[::2] == networks[:1] * (len(networks) // 2) for networks in passes[::3])


def test_a_damaged_adaptation_and_one_of_another_model_are_refused(make_model, shared_delta, tmp_path) -> None:
    data = bytearray(shared_delta.read_bytes())
    for position in (0, 4, 7, 15, 30, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 4
        with pytest.raises(StreamError):
            Adaptation.from_bytes(bytes(damaged))
    other = make_model(ModelConfig(channels=16, parent_convs=1, child_convs=1), seed=9)
    with pytest.raises(CorruptStreamError, match=other.hash):
        load_adaptation(shared_delta).applied(other)


@pytest.mark.parametrize(
    "payload", [b"", b"\1", b"\1" + bytes(7), b"\1" + bytes(9), b"\2", b"\0", b"\0\xff\0\0\0", b"\0\0\0\xff\xff\0"]
)
def test_forged_adaptation_chunks_are_refused(tuned, decoder, payload) -> None:
    info, layout, chunks = bitstream.read_stream(tuned, DecoderConfig())
    payloads = {tag: bytes(chunk) for tag, chunk in chunks.items()} | {"ADAP": payload}
    with pytest.raises(StreamError):
        decoder.decode(bitstream.write_stream(info, payloads, layout))


# -- Tuning


@pytest.mark.parametrize("calibrate", ["never", "always"])
def test_who_looks_on_is_told_what_the_codes_cost_and_what_the_network_counts(model, model_file, scan, calibrate) -> None:
    class Looking:
        bits, weights = 0.0, ()

        def saw(self, part: CodePart, logits: Any, frequencies: np.ndarray, symbols: np.ndarray, weight: float) -> None:
            self.bits += float((16 - np.log2(frequencies[np.arange(len(symbols)), symbols])).sum())
            self.weights = *self.weights, weight

    looking, encoder = Looking(), Encoder(CodecConfig(model=model_file, step=0.02, calibrate=calibrate))
    data = encoder.watched_by(context_model(model, "auto", 1), looking).encode(scan)
    chunks = {chunk.tag: chunk.size for chunk in inspect(data).chunks}
    assert chunks[bitstream.OCCUPANCY] == pytest.approx(looking.bits / 8, abs=8)
    if calibrate == "never":
        assert set(looking.weights) == {1.0}
    else:
        first, *_, last = looking.weights  # both are means of what it was before the part and after it
        assert 0 < abs(first - 1) <= MOST_MOVED / 2 / (1 << WEIGHT_BITS)
        assert abs(last - 1) > abs(first - 1)


def test_tuning_pays_for_a_model_that_knows_nothing_and_stays_with_its_stream(model_file, scan, tuned, decoder) -> None:
    encoder = Encoder(CodecConfig(model=model_file, step=0.02, adapt_steps=STEPS))
    plain = Encoder(CodecConfig(model=model_file, step=0.02)).encode(scan)
    assert len(tuned) < 0.97 * len(plain)
    assert inspect(tuned).adaptation == "inline"
    half = PointCloud(scan.xyz[::2])
    in_between = encoder.encode(half)
    assert encoder.encode(scan) == tuned
    expected = decoder.decode(plain).xyz
    for data, points in ((tuned, len(scan)), (in_between, len(half)), (plain, len(scan)), (tuned, len(scan))):
        decoded = decoder.decode(data).xyz
        assert len(decoded) == points
        assert points != len(scan) or np.array_equal(decoded, expected)


@pytest.mark.parametrize("backend", ["torch", *(["native"] if native.available() else [])])
def test_every_backend_decodes_a_tuned_stream(model_file, scan, tuned, backend) -> None:
    config = DecoderConfig(model_dir=str(Path(model_file).parent), backend=backend)
    assert len(Decoder(config).decode(tuned)) == len(scan)


def test_what_does_not_pay_is_not_sent(model_file, scan) -> None:
    few = PointCloud(scan.xyz[::40])
    plain = Encoder(CodecConfig(model=model_file, step=0.02)).encode(few)
    assert Encoder(CodecConfig(model=model_file, step=0.02, adapt_steps=3)).encode(few) == plain


def test_a_tuned_stream_can_be_cut(model_file, scan, decoder) -> None:
    data = Encoder(CodecConfig(model=model_file, step=0.002, adapt_steps=STEPS)).encode(scan)
    shorter = cut(data, 1)
    assert inspect(shorter).adaptation == "inline"
    dropped = Encoder(CodecConfig(model=model_file, step=0.002, drop_scales=1)).encode(scan)
    assert np.array_equal(decoder.decode(shorter).xyz, decoder.decode(dropped).xyz)


def test_two_ways_of_adapting_are_one_too_many(shared_delta) -> None:
    with pytest.raises(ConfigError, match="adaptation"):
        CodecConfig(adaptation=str(shared_delta), adapt_steps=1)


def test_tuning_without_torch_says_what_it_needs() -> None:
    code = "import sys; sys.modules['torch'] = None; "  # as if it were not installed
    code += "from anypcc_ros import CodecConfig, Encoder; Encoder(CodecConfig(adapt_steps=1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "BackendError: adapting needs torch (pip install" in done.stderr


def test_an_adapted_model_keeps_what_is_not_of_its_weights(model, tmp_path) -> None:
    save_model(replace(model, calibrate="dense"), tmp_path / "dense.safetensors")
    dense = load_model(tmp_path / "dense.safetensors")
    assert adapt(dense, Delta({}, 0, 0)).calibrate == "dense"


@pytest.mark.parametrize("layers", ["heads", "all"])
def test_adapt_makes_a_file_that_saves_more_than_it_costs(model_file, scan, tmp_path, capsys, layers) -> None:
    files = [tmp_path / f"{name}.ply" for name in ("one", "two", "three")]
    for i, file in enumerate(files):
        write_cloud(file, PointCloud(scan.xyz + np.float32(i / 7)))
    scene, stream, back = (str(tmp_path / name) for name in ("scene.apad", "three.apcc", "back.ply"))
    command = ["adapt", *map(str, files[:2]), "-o", scene, "--step", "0.02", "--steps", str(STEPS), "--model", model_file]
    assert main([*command, "--layers", layers, "--test", str(files[2])]) == 0
    printed = capsys.readouterr().out
    assert load_adaptation(Path(scene)).hash in printed
    gains = [float(gain) for gain in re.findall(r"\(([-+.\d]+) %\)", printed)]
    assert len(gains) == 2
    assert max(gains) < -2
    changed = decode_delta(load_model(Path(model_file)), load_adaptation(Path(scene)).delta).layers
    assert {name.startswith("head") for name in changed} == ({True} if layers == "heads" else {True, False})

    assert main(["encode", str(files[2]), "-o", stream, "--step", "0.02", "--model", model_file, "--adaptation", scene]) == 0
    folder = str(Path(model_file).parent)
    assert main(["decode", stream, "-o", back, "--model-dir", folder]) == 1
    assert load_adaptation(Path(scene)).hash in capsys.readouterr().err
    assert main(["decode", stream, "-o", back, "--model-dir", folder, "--adaptation", scene]) == 0
    assert main(["info", stream]) == 0
    assert load_adaptation(Path(scene)).hash in capsys.readouterr().out


def test_adapting_to_no_points_is_refused(model_file, scan, tmp_path, capsys) -> None:
    good, empty, scene = tmp_path / "good.ply", tmp_path / "empty.ply", tmp_path / "scene.apad"
    write_cloud(good, scan)
    write_cloud(empty, PointCloud(np.full((3, 3), np.nan, np.float32)))
    assert main(["adapt", str(good), str(empty), "-o", str(scene), "--model", model_file]) == 1
    assert f"{empty}: 3 points, none of them with finite coordinates" in capsys.readouterr().err
    assert not scene.exists()


def test_encode_says_whether_adapting_paid(model_file, scan, tmp_path, capsys) -> None:
    write_cloud(tmp_path / "scan.ply", scan)
    for step, said in (("0.02", "bytes of weights to"), ("4", "no adaptation is worth its bytes")):
        command = [
            "encode",
            str(tmp_path / "scan.ply"),
            "-o",
            str(tmp_path / "scan.apcc"),
            "--step",
            step,
            "--model",
            model_file,
        ]
        assert main([*command, "--adapt-steps", "20"]) == 0
        assert said in capsys.readouterr().out
