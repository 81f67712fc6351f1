"""What the nodes count, and what they say of it."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus

from anypcc_ros.codec.layout import FieldInfo
from anypcc_ros.nodes.diagnostics import Frame, Statistics

EXACT = FieldInfo("intensity", "float32", 1, "exact", 0.0, 0.0, 250)
STEP = FieldInfo("t", "float64", 1, "step", 1e-6, 4.5e-7, 125)
DROPPED = FieldInfo("ring", "uint16", 1, "drop", 0.0, 0.0, 0)
FRAME = Frame(
    stamp=(12, 5),
    points=1000,
    raw_size=20_000,
    compressed_size=1000,
    codec_seconds=0.02,
    node_seconds=0.03,
    age_seconds=0.05,
    left_out=7,
    fields=(EXACT, STEP, DROPPED),
)


@pytest.fixture
def statistics():
    return Statistics("robot/anypcc_encoder: encode", "encode", now=100.0)


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def test_totals_means_and_rates(statistics):
    for second in (101, 102):
        statistics.count_received(25_000, second)
        statistics.count_published(FRAME, 1100)
    status = statistics.report(104.0, {"setting": "as given"})
    assert status.name == "robot/anypcc_encoder: encode"
    assert status.level == DiagnosticStatus.OK
    assert status.message == "0.5 frames/s"
    assert values(status) == {
        "frames received": "2",
        "frames published": "2",
        "frames dropped for a newer one": "0",
        "frames skipped, no subscriber": "0",
        "frames lost in transport": "0",
        "frames failed": "0",
        "points dropped, not finite": "14",
        "input bandwidth [Mbit/s]": "0.100",
        "output bandwidth [Mbit/s]": "0.004",
        "input rate [Hz]": "0.50",
        "output rate [Hz]": "0.50",
        "time since last input [s]": "2.000",
        "points per frame": "1000",
        "encode time [ms]": "20.00",
        "encode time, longest [ms]": "20.00",
        "time in node [ms]": "30.00",
        "age when published [ms]": "50.00",
        "bits per point": "8.0000",
        "field intensity policy": "exact",
        "field intensity [bits per point]": "2.0000",
        "field intensity largest error": "0",
        "field t policy": "step 1e-06",
        "field t [bits per point]": "1.0000",
        "field t largest error": "4.5e-07",
        "positions [bits per point]": "5.0000",
        "fields dropped": "ring",
        "compression ratio": "20.000",
        "last frame stamp": "12.000000005",
        "setting": "as given",
    }


def test_means_are_of_the_window_and_totals_of_the_whole_run(statistics):
    statistics.count_received(10, 101)
    statistics.count_published(FRAME, 10)
    statistics.report(102.0, {})
    later = values(statistics.report(103.0, {}))
    assert later["frames published"] == "1"
    assert later["output rate [Hz]"] == "0.00"
    assert later["time since last input [s]"] == "2.000"
    assert "encode time [ms]" not in later


def test_errors_by_kind_and_level(statistics):
    statistics.count_received(10, 101)
    statistics.count_error("TruncatedError")
    alone = statistics.report(102.0, {})
    assert alone.level == DiagnosticStatus.ERROR
    assert alone.message == "1 of 1 frames failed to encode"
    for _ in range(2):
        statistics.count_received(10, 103)
    statistics.count_error("NotAStreamError")
    statistics.count_published(FRAME, 10)
    mixed = statistics.report(104.0, {})
    assert mixed.level == DiagnosticStatus.WARN
    assert mixed.message == "1 of 2 frames failed to encode"
    assert values(mixed)["errors TruncatedError"] == values(mixed)["errors NotAStreamError"] == "1"
    assert values(mixed)["frames failed"] == "2"


def test_drops_are_a_warning_and_idleness_is_told_apart(statistics):
    assert statistics.report(101.0, {}).message == "idle: no input"
    statistics.count_received(10, 101.5)
    statistics.count_skipped()
    assert statistics.report(102.0, {}).message == "idle: nobody subscribes"
    statistics.count_received(10, 102.5)
    statistics.count_dropped()
    statistics.count_published(FRAME, 10)
    busy = statistics.report(103.0, {})
    assert busy.level == DiagnosticStatus.WARN
    assert busy.message == "1 frames dropped: arriving faster than this machine can encode"
    statistics.count_lost(3)
    assert values(statistics.report(104.0, {}))["frames lost in transport"] == "3"


def test_empty_clouds_have_no_bits_per_point(statistics):
    statistics.count_received(10, 101)
    statistics.count_published(Frame((0, 0), 0, 0, 30, 0.0, 0.0, 0.0), 30)
    report = values(statistics.report(102.0, {}))
    assert "bits per point" not in report
    assert report["compression ratio"] == "0.000"


def test_a_field_that_some_frames_have(statistics):
    worse = dataclasses.replace(STEP, largest_error=5e-7, size=375)
    statistics.count_published(FRAME, 10)
    statistics.count_published(dataclasses.replace(FRAME, fields=(worse,)), 10)
    report = values(statistics.report(102.0, {}))
    assert report["field intensity [bits per point]"] == "1.0000"
    assert report["field t [bits per point]"] == "2.0000"
    assert report["field t largest error"] == "5e-07"
    assert report["positions [bits per point]"] == "5.0000"
