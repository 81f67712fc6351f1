"""The nodes' parameters are the codec's configuration: described, checked, refused with a reason, effective at once."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from ros_network import Peer, cloud_message, coordinates, on_grid, started, until

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.config import CodecConfig, DecoderConfig, TargetConfig
from anypcc_ros.nodes.codec_node import NodeConfig
from anypcc_ros.nodes.parameters import descriptor
from anypcc_ros.pointcloud2 import MessageConfig

TYPES = {
    float: Parameter.Type.DOUBLE,
    int: Parameter.Type.INTEGER,
    bool: Parameter.Type.BOOL,
    str: Parameter.Type.STRING,
    (float,): Parameter.Type.DOUBLE_ARRAY,
    (str,): Parameter.Type.STRING_ARRAY,
}


@pytest.fixture(scope="module")
def nodes(ros):
    with started("encoder_node", step=0.05) as encoder, started("decoder_node") as decoder:
        yield encoder, decoder


@pytest.fixture
def peer(nodes):
    peer = Peer()
    yield peer
    peer.close()


TOO_LONG = 300 * "a"
"""No file can have this name: whoever looks for it gets an OSError."""


class Client:
    """Blocking calls of one node's parameter services."""

    def __init__(self, peer: Peer, node: str) -> None:
        self._client = AsyncParameterClient(peer, node)
        assert self._client.wait_for_services(30)

    @staticmethod
    def _ask(call):
        """The answer to a request, which is sent again when it stays out: a service that has only just been discovered may
        answer before it knows of this client, and DDS then drops the answer."""
        futures = []

        def answered():
            if not futures or time.monotonic() > answered.again:
                futures.append(call())
                answered.again = time.monotonic() + 3
            return any(future.done() for future in futures)

        until(answered, "the parameter service")
        return next(future.result() for future in futures if future.done())

    def set(self, **values):
        """(successful, reason) for each."""
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        results = self._ask(lambda: self._client.set_parameters(parameters)).results
        return [(result.successful, result.reason) for result in results]

    def set_together(self, **values):
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        result = self._ask(lambda: self._client.set_parameters_atomically(parameters)).result
        return result.successful, result.reason

    def get(self, *names):
        values = self._ask(lambda: self._client.get_parameters(list(names))).values
        return [parameter_value_to_python(value) for value in values]

    def describe(self, *names):
        return self._ask(lambda: self._client.describe_parameters(list(names))).descriptors


@pytest.mark.parametrize(
    ("node", "configs"),
    [
        ("anypcc_encoder", (CodecConfig, TargetConfig, MessageConfig, NodeConfig)),
        ("anypcc_decoder", (DecoderConfig, NodeConfig)),
    ],
)
def test_every_option_is_a_described_parameter(peer, node, configs):
    options = {field.name: field for config in configs for field in dataclasses.fields(config)}
    for found, (name, field) in zip(Client(peer, node).describe(*options), options.items(), strict=True):
        assert found.name == name
        kind = (type(field.default[0]),) if isinstance(field.default, tuple) else type(field.default)
        assert found.type == TYPES[kind].value
        assert found.description.startswith(field.metadata["help"])
        assert found.description.endswith(f"[{field.metadata['unit']}]") or not field.metadata["unit"]
        expected = descriptor(field)
        assert found.floating_point_range == expected.floating_point_range
        assert found.integer_range == expected.integer_range
        for choice in field.metadata["choices"]:
            assert choice in found.additional_constraints
    (step,) = Client(peer, "anypcc_encoder").describe("step")
    assert (step.floating_point_range[0].from_value, step.floating_point_range[0].to_value) == (1e-9, 1e6)


def test_defaults_are_those_of_the_configuration(peer):
    names = [field.name for field in dataclasses.fields(DecoderConfig)]
    assert Client(peer, "anypcc_decoder").get(*names) == [getattr(DecoderConfig(), name) for name in names]
    assert Client(peer, "anypcc_encoder").get("step") == [0.05], "given at the start"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": 0.0}, "step"),
        ({"step": float("nan")}, "step"),
        ({"drop_scales": 21}, "drop_scales"),
        ({"drop_scales": 1.5}, "Wrong parameter type"),
        ({"step": 1}, "Wrong parameter type"),
        ({"threads": -1}, "threads"),
        ({"backend": "abacus"}, "backend='abacus': must be one of auto, native, torch, cuda"),
        ({"origin": [0.0, 1.0]}, "must be 3 finite numbers"),
        ({"fields": ["intensity=exact", "t=step:0"]}, "the step of 't=step:0' is not positive"),
        ({"origin": [0.0, 1.0, float("inf")]}, "must be 3 finite numbers"),
        ({"model": "no_such_model"}, "model no_such_model is not installed (installed: "),
        ({"model": ""}, "not installed"),
        ({"model": TOO_LONG}, "not installed"),
        ({"adaptation": TOO_LONG}, "cannot read"),
        ({"diagnostics_period": -1.0}, "diagnostics_period"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_values_are_refused_with_the_reason_and_nothing_changes(peer, change, reason):
    refused(Client(peer, "anypcc_encoder"), change, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_dir": TOO_LONG}, "there is no such folder"),
        ({"adaptation": TOO_LONG}, "cannot read"),
        ({"backend": "cuda"}, "the cuda backend needs"),
        ({"max_points": 0}, "max_points"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_values_are_refused_by_the_decoder(peer, change, reason):
    if "backend" in change and pytest.importorskip("torch").cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(Client(peer, "anypcc_decoder"), change, reason)


def refused(client, change, reason):
    before = client.get(*change)
    ((successful, given),) = client.set(**change)
    assert not successful
    assert reason in given
    assert client.get(*change) == before


def test_changes_take_effect_on_the_next_frame(peer, nodes, xyz):
    client = Client(peer, "anypcc_encoder")
    peer.listen_decoded()
    for step in (0.1, 0.025):
        assert client.set(step=step) == [(True, "")]
        np.testing.assert_array_equal(coordinates(peer.pass_through(cloud_message(xyz))), on_grid(xyz, step))
    encoder, _ = nodes
    encoder.wait_for_log("from the next frame on: CodecConfig(step=0.025")


def test_streams_have_the_bit_rate_that_is_asked_for(peer, xyz):
    client = Client(peer, "anypcc_encoder")
    peer.listen_compressed()
    assert client.set(target_bitrate=320_000.0, target_passes=10) == [(True, ""), (True, "")]
    try:
        sizes = []
        for tenth in range(4):
            peer.clouds.publish(cloud_message(xyz, (100, tenth * 100_000_000)))
            sizes.append(len(peer.take(peer.compressed).data))
    finally:
        assert client.set(target_bitrate=0.0, target_passes=1) == [(True, ""), (True, "")]
    # Streams this small jump by more than one percent where the fit of the beams begins or ceases to pay.
    assert sizes == pytest.approx([4_000] * 4, rel=0.025)


def test_changes_made_together_are_made_all_or_none(peer, xyz):
    client = Client(peer, "anypcc_encoder")
    peer.listen_compressed()
    assert client.set_together(step=0.5, drop_scales=2) == (True, "")
    successful, reason = client.set_together(step=0.25, origin=[1.0])
    assert not successful
    assert "3 finite numbers" in reason
    peer.clouds.publish(cloud_message(xyz))
    info = inspect(bytes(peer.take(peer.compressed).data))
    assert (info.step, info.drop_scales) == (0.5, 2)
    assert client.set_together(step=0.05, drop_scales=0) == (True, "")


def test_the_decoder_takes_new_limits_at_once(peer, xyz):
    client = Client(peer, "anypcc_decoder")
    peer.listen_decoded()
    assert client.set(max_points=100, diagnostics_period=0.1) == [(True, "")] * 2
    peer.clouds.publish(cloud_message(xyz))
    peer.wait_for_count("anypcc_decoder", "errors LimitExceededError", 1)
    assert client.set(max_points=20_000_000) == [(True, "")]
    assert peer.pass_through(cloud_message(xyz)).width == len(xyz)


def test_a_report_after_every_frame(peer, xyz):
    peer.listen_decoded()
    assert Client(peer, "anypcc_decoder").set(diagnostics_period=0.0) == [(True, "")]
    for second in range(3):
        peer.pass_through(cloud_message(xyz, (second, 1)))
    wanted = [f"{second}.000000001" for second in range(3)]
    until(
        lambda: wanted == [r.get("last frame stamp") for n, r in list(peer.history) if n == "anypcc_decoder"][-3:],
        "one report for each frame",
    )
