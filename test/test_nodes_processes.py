"""Nodes of one test each: configured in many ways, started late, restarted, overloaded, idle, told to stop."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_network import (
    READY,
    cloud_message,
    coordinates,
    on_grid,
    on_grid_in_place,
    start,
    started,
    structured_message,
    until,
)
from sensor_msgs.msg import PointCloud2

from anypcc_ros.pointcloud2 import cloud_from_message

STEP = 0.02
ENCODER, DECODER = "anypcc_encoder", "anypcc_decoder"


def test_a_decoder_started_late_and_an_encoder_restarted(peer, xyz):
    sent = cloud_message(xyz)
    with started("encoder_node", step=STEP, diagnostics_period=0.1) as encoder:
        until(lambda: peer.clouds.get_subscription_count() == 1, "the encoder")
        peer.clouds.publish(sent)
        peer.wait_for_count(ENCODER, "frames skipped, no subscriber", 1)
        with started("decoder_node"):
            peer.listen_decoded()
            np.testing.assert_array_equal(coordinates(peer.pass_through(sent)), on_grid(xyz, STEP))
            encoder.send(signal.SIGKILL)
            encoder.wait()
            with started("encoder_node", step=2 * STEP):
                peer.listen_decoded()  # a second time: what comes through now has passed the new encoder
                np.testing.assert_array_equal(coordinates(peer.pass_through(sent)), on_grid(xyz, 2 * STEP))


def test_a_best_effort_publisher_is_heard_beside_a_reliable_one(peer, xyz):
    with started("encoder_node") as encoder:
        peer.listen_compressed()
        driver = peer.create_publisher(PointCloud2, "points", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
        encoder.wait_for_log("a publisher of /points is best effort")
        for publisher, points in ((driver, 1000), (peer.clouds, 900)):

            def heard(publisher=publisher, points=points):
                publisher.publish(cloud_message(xyz[:points]))  # what is best effort may be lost until all know each other
                return points in [message.points for message in list(peer.compressed.queue)]

            until(heard, f"the cloud of {points} points")


def test_a_subscription_is_reliable_again_when_the_best_effort_publisher_has_gone(peer):
    with started("encoder_node") as encoder:
        driver = peer.create_publisher(PointCloud2, "points", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
        encoder.wait_for_log("a publisher of /points is best effort")
        until(
            lambda: of_nodes(peer.get_subscriptions_info_by_topic("/points")) == [ReliabilityPolicy.BEST_EFFORT], "best effort"
        )
        peer.destroy_publisher(driver)
        until(lambda: of_nodes(peer.get_subscriptions_info_by_topic("/points")) == [ReliabilityPolicy.RELIABLE], "reliable")


def test_latched_clouds_pass_through_nodes_that_are_told_to_latch(peer, xyz):
    """A map: published once, before the encoder is there, and taken by whoever comes after the decoder made it."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    sent = cloud_message(xyz)
    peer.create_publisher(PointCloud2, "map", latched).publish(sent)

    def latching(topic, direction):
        return ["-p", f"qos_overrides./{topic}.{direction}.durability:=transient_local"]

    encoding = ["-r", "points:=map", "-r", "points/anypcc:=map/anypcc", *latching("map", "subscription")]
    decoding = ["-r", "points/anypcc:=map/anypcc", "-r", "points/decoded:=map/decoded", *latching("map/anypcc", "subscription")]
    with (
        started("encoder_node", *encoding, *latching("map/anypcc", "publisher"), step=STEP),
        started("decoder_node", *decoding, *latching("map/decoded", "publisher"), diagnostics_period=0.2),
    ):
        peer.wait_for_count("anypcc_decoder", "frames published", 1)
        peer.create_subscription(PointCloud2, "map/decoded", peer.decoded.put, latched)
        np.testing.assert_array_equal(coordinates(peer.take(peer.decoded)), on_grid(xyz, STEP))


def of_nodes(infos):
    return [info.qos_profile.reliability for info in infos if info.node_name == ENCODER]


def test_quality_of_service_is_a_parameter(peer):
    arguments = ["-p", "qos_overrides./points.subscription.reliability:=best_effort"]
    arguments += ["-p", "qos_overrides./points/anypcc.publisher.depth:=3"]
    arguments += ["-p", "qos_overrides./points/anypcc.publisher.reliability:=best_effort"]
    with started("encoder_node", *arguments):
        best_effort = [ReliabilityPolicy.BEST_EFFORT]
        until(lambda: of_nodes(peer.get_subscriptions_info_by_topic("/points")) == best_effort, "the subscription")
        until(lambda: of_nodes(peer.get_publishers_info_by_topic("/points/anypcc")) == best_effort, "the publisher")


# All fields


def driver_message(xyz):
    """What a driver with everything sends: organised, holes, padding, intensity, ring, time and colour."""
    layout = np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "rgb", "ring", "time"],
            "formats": ["<f4", "<f4", "<f4", "<f4", "<f4", "<u2", "<f8"],
            "offsets": [0, 4, 8, 16, 20, 24, 32],
            "itemsize": 48,
        }
    )
    rng = np.random.default_rng(0)
    points = np.zeros(len(xyz), layout)
    points["x"], points["y"], points["z"] = xyz.T
    points["x"][::50], points["y"][::50], points["z"][::50] = np.nan, -np.inf, np.nan
    points["intensity"] = rng.integers(0, 100, len(xyz)) / 100
    points["rgb"] = rng.integers(0, 1 << 32, len(xyz)).astype("<u4").view("<f4")
    points["ring"] = np.repeat(np.arange(16), len(xyz) // 16)
    points["time"] = 1.7e9 + np.tile(np.arange(len(xyz) // 16), 16) * 1e-4
    message = structured_message(points)
    message.height, message.width, message.is_dense = 16, len(xyz) // 16, False
    message.row_step = message.width * message.point_step
    message.header.frame_id = "lidar"
    return message


def test_an_archived_message_is_the_original_again(peer, xyz):
    sent = driver_message(xyz)
    parameters = {"order": "original", "exact": "true", "keep_padding": "true", "step": STEP, "diagnostics_period": 0.1}
    with started("encoder_node", **parameters), started("decoder_node"):
        peer.listen_decoded()
        back = peer.pass_through(sent)
    for name in sent.get_fields_and_field_types():
        assert getattr(back, name) == getattr(sent, name), name


def test_fields_by_their_policies_and_what_is_told_of_them(peer, xyz):
    sent = driver_message(xyz)
    policies = "['time=step:0.001','r?ng=drop']"
    with (
        started("encoder_node", step=STEP, fields=policies, diagnostics_period=0.0),
        started("decoder_node", diagnostics_period=0.0),
    ):
        peer.listen_decoded()
        back = peer.pass_through(sent)
        assert [field.name for field in back.fields] == ["x", "y", "z", "intensity", "rgb", "time"]
        assert (back.height, back.is_dense, back.point_step) == (1, True, 28)
        one, other = (cloud_from_message(message) for message in (sent, back))
        one = one.finite()[0]

        def rows(cloud, time):
            """Points by their exact fields; times are within their step, too far apart here to be mixed up."""
            values = [on_grid_in_place(cloud.xyz, STEP), cloud.fields["intensity"], cloud.fields["rgb"].view(np.uint32)]
            return np.lexsort([time, values[2], values[1], *values[0].T])

        times = [cloud.fields["time"] for cloud in (one, other)]
        errors = np.abs(times[0][rows(one, times[0])] - times[1][rows(other, times[1])])
        assert 0 < errors.max() <= 0.0005 + 1e-6
        for node in (ENCODER, DECODER):
            until(lambda node=node: "field time policy" in peer.reports[node], "the fields in the report")
            report = peer.reports[node]
            assert (report["field time policy"], report["fields dropped"]) == ("step 0.001", "ring")
            assert float(report["field time largest error"]) == pytest.approx(errors.max(), rel=1e-3)
            assert float(report["field rgb [bits per point]"]) > 16
            assert report["field intensity largest error"] == "0"
            assert int(report["points dropped, not finite"]) == 120


# Load


def test_nothing_is_computed_while_nobody_subscribes(peer, xyz):
    with started("encoder_node", diagnostics_period=0.1):
        until(lambda: peer.clouds.get_subscription_count() == 1, "the encoder")
        for _ in range(5):
            peer.clouds.publish(cloud_message(xyz))
        report = peer.wait_for_count(ENCODER, "frames skipped, no subscriber", 5)
        assert (report["frames received"], report["frames published"]) == ("5", "0")
        assert peer.levels[ENCODER] == DiagnosticStatus.OK
        until(lambda: peer.summaries[ENCODER].startswith("idle"), "the encoder to call itself idle")
        peer.listen_compressed()
        peer.clouds.publish(cloud_message(xyz))
        assert peer.take(peer.compressed).points == len(xyz)


def test_the_newest_frame_wins_and_every_drop_is_counted(peer, xyz):
    many = np.concatenate([xyz + shift for shift in np.random.default_rng(0).normal(0, 3, (8, 3)).astype(np.float32)])
    with started("encoder_node", diagnostics_period=0.1, step=0.005):
        peer.listen_compressed()
        peer.settle(ENCODER)
        before = dict(peer.reports[ENCODER])
        count = 30
        for number in range(count):
            peer.clouds.publish(cloud_message(many, (number, 0)))
            time.sleep(0.01)
        stamps = []
        while not stamps or stamps[-1] != count - 1:  # the last one published always gets through
            stamps.append(peer.take(peer.compressed).header.stamp.sec)
        assert stamps == sorted(set(stamps)), "in order, and none twice"
        assert len(stamps) < count

        def since(key):
            return peer.count(ENCODER, key) - int(before[key])

        until(lambda: since("frames published") == len(stamps), f"{len(stamps)} frames published: {peer.reports}")
        assert since("frames dropped for a newer one") + len(stamps) == since("frames received")
        assert since("frames received") + since("frames lost in transport") == count


# Shutting down


@pytest.mark.parametrize("kind", ["encoder_node", "decoder_node"])
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]], ids=str
)
def test_signals_end_a_node_cleanly(ros, kind, signals):
    with started(kind) as process:
        for number in signals:
            process.send(number)
            time.sleep(0.02)
        assert process.wait() == 0
        _, _, after = process.log.partition(READY)
        assert not re.search(r"Traceback|\w+(Error|Exception|Interrupt)\b", after), process.log


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.5, 0.8, 1.2])
def test_a_signal_while_a_node_starts(ros, delay):
    process = start("decoder_node")
    try:
        time.sleep(delay)
        process.send(signal.SIGINT)
        # Before the first line of ours runs, the interpreter ends in its own ways. What counts: it always does end.
        assert process.wait() in (0, 1, -signal.SIGINT)
    finally:
        process.end()


def test_a_signal_in_the_middle_of_the_work(peer, xyz):
    with started("encoder_node") as encoder, started("decoder_node") as decoder:
        peer.listen_decoded()
        for _ in range(10):
            peer.clouds.publish(cloud_message(xyz))
            time.sleep(0.01)
        for process in (encoder, decoder):
            process.send(signal.SIGINT)
            process.send(signal.SIGINT)
        assert (encoder.wait(), decoder.wait()) == (0, 0)
        assert "Traceback" not in encoder.log + decoder.log


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"model": "no_such_model"}, "ModelNotFoundError: model no_such_model is not installed (installed: "),
        ({"backend": "abacus"}, "ConfigError: backend='abacus': must be one of auto, native, torch, cuda"),
        ({"step": -1.0}, "step"),
        ({"step": "fine"}, "step"),
        ({"threads": 65}, "threads"),
        ({"fields": "[ring=never]"}, "ConfigError: fields='ring=never': "),
        ({"keep_padding": 3}, "keep_padding"),
        ({"origin": "[1.0, 2.0]"}, "ConfigError: origin=[1.0, 2.0]: must be 3 finite numbers"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_start_parameters_end_the_node_with_the_reason(ros, parameters, reason):
    ends_with(start("encoder_node", **parameters), reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--params-file", "/there/is/none.yaml"], "none.yaml"),
        (["-r", "points:=not a name"], "not a name"),
        (["-p", "qos_overrides./points.subscription.reliability:=perhaps"], "perhaps"),
        (["-p", "qos_overrides./points.subscription.depth:=-1"], "depth"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_bad_arguments_end_the_node_with_the_reason(ros, arguments, reason):
    ends_with(start("encoder_node", *arguments), reason)


def ends_with(process, reason):
    try:
        assert process.wait() == 1
        assert reason in process.log
        assert "Traceback" not in process.log
    finally:
        process.end()


def test_an_empty_list_of_policies_is_none(ros):
    with started("encoder_node", "-p", "fields:=[]") as encoder:
        assert "fields=()" in encoder.log


FAILING = """
from anypcc_ros.nodes import codec_node, start

def fail(self):
    raise LookupError("something that fails")

codec_node.CodecNode.{method} = fail
raise SystemExit(start.decoder_node())
"""


@pytest.mark.parametrize("method", ["report", "_work"])
def test_a_callback_or_a_worker_that_fails_ends_the_node_with_its_traceback(ros, method):
    script = FAILING.format(method=method)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "LookupError: something that fails" in done.stderr
