"""Any message through the codec: every field comes back exactly as its policy says, whatever its layout and its bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from any_message import Message, messages
from hypothesis import given, settings
from hypothesis import strategies as st

from anypcc_ros.codec.bitstream import inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.errors import InputError
from anypcc_ros.pointcloud2 import body_from_cloud, cloud_from_message, special_layout

POLICIES: tuple[tuple[str, ...], ...] = (("*=exact",), ("ring*=drop", "time=step:0.001"), ("*=step:0.25",))


@cache
def encoder(config: CodecConfig) -> Encoder:
    return Encoder(config)


@cache
def decoder() -> Decoder:
    return Decoder()


def bits(values: np.ndarray) -> np.ndarray:
    """(N, bytes)"""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values[:1].nbytes or 1)


def on_grid(xyz: np.ndarray, step: float) -> np.ndarray:
    positions = np.rint(xyz.astype(np.float64) / step) * step + 0.0
    return (positions if xyz.dtype.kind == "f" else np.rint(positions)).astype(xyz.dtype)


def in_one_order(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of several (N, bytes), sorted."""
    rows = np.concatenate(columns, axis=1)
    return rows[np.lexsort(rows.T)] if len(rows) else rows


def check(cloud: PointCloud, config: CodecConfig) -> PointCloud:
    """Encode, decode, and compare with what the configuration promises; the decoded cloud."""
    stream = encoder(config).encode(cloud)
    back, info = decoder().decode(stream), inspect(stream)
    finite = np.isfinite(cloud.xyz).all(axis=1)
    in_place = config.order == "original"
    kept = cloud if in_place else cloud.take(finite)
    assert (len(back), back.height) == (len(kept), cloud.height if in_place and len(cloud) else 1)
    assert info.left_out == (0 if in_place else np.count_nonzero(~finite))
    assert back.xyz.dtype == cloud.xyz.dtype

    policies = {name: config.policy(name) for name in cloud.fields}
    assert [field.name for field in info.fields] == list(cloud.fields)
    assert [field.policy for field in info.fields] == [policy.kind for policy in policies.values()]
    names = [name for name, policy in policies.items() if policy.kind != "drop"]
    assert list(back.fields) == names
    assert all(back.fields[name].dtype == cloud.fields[name].dtype for name in names)

    expected_xyz = kept.xyz.copy()
    if not config.exact:  # what is not finite has no place on a grid and stays what it is
        rows = np.isfinite(kept.xyz).all(axis=1)
        expected_xyz[rows] = on_grid(kept.xyz[rows], config.step)
    exact = [name for name in names if policies[name].kind == "exact"]
    mine, theirs = [bits(expected_xyz)], [bits(back.xyz)]
    for name in exact:
        mine.append(bits(kept.fields[name]))
        theirs.append(bits(back.fields[name]))
    if in_place:
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
        for field in info.fields:
            if field.policy == "step":
                check_step(kept.fields[field.name], back.fields[field.name], field.step, field.largest_error)
    else:
        np.testing.assert_array_equal(in_one_order(mine), in_one_order(theirs))
    return back


def check_step(original: np.ndarray, decoded: np.ndarray, step: float, stated: float) -> None:
    one, other = original.astype(np.float64), decoded.astype(np.float64)
    finite = np.isfinite(one)
    np.testing.assert_array_equal(one[~finite], other[~finite])  # NaN counts as equal to NaN
    errors = np.abs(one[finite] - other[finite])
    rounding = np.spacing(np.abs(other[finite]).astype(original.dtype if original.dtype.kind == "f" else np.float64))
    assert (errors <= step / 2 + rounding.astype(np.float64)).all()
    assert errors.max(initial=0.0) <= stated


def nearby(cloud: PointCloud) -> PointCloud:
    """The same with all coordinates within a few metres, on which a grid of centimetres can be laid."""
    if cloud.xyz.dtype.kind == "i":
        return replace(cloud, xyz=(cloud.xyz % 100).astype(cloud.xyz.dtype))
    with np.errstate(invalid="ignore"):
        return replace(cloud, xyz=np.where(np.isfinite(cloud.xyz), np.fmod(cloud.xyz, 7), cloud.xyz).astype(cloud.xyz.dtype))


configurations = st.builds(
    CodecConfig,
    step=st.sampled_from([0.01, 1.0]),
    order=st.sampled_from(["codec", "original"]),
    exact=st.booleans(),
    fields=st.sampled_from(POLICIES),
)


@settings(max_examples=150, deadline=None)
@given(messages(), configurations, st.integers(1, 40))
def test_any_message_comes_back_as_promised(message: Message, config: CodecConfig, times: int) -> None:
    cloud = cloud_from_message(message)
    if times > 4:  # many points, some of them equal
        cloud = cloud.take(np.resize(np.arange(len(cloud)), len(cloud) * times))
    if config.exact:
        check(cloud, config)
    cloud = nearby(cloud)
    back = check(cloud, config)
    layout = special_layout(message)
    body = body_from_cloud(back, layout)
    kept = [(f.name, f.datatype, f.values) for f in message.fields]
    if config.fields != POLICIES[1]:
        assert [(f.name, f.datatype, f.values) for f in body.fields] == kept


@settings(max_examples=40, deadline=None)
@given(messages(), st.booleans())
def test_an_archived_message_is_the_message(message: Message, big_endian: bool) -> None:
    """Exact, in order, with padding: nothing at all is lost but what stands between the fields."""
    message = replace(message, is_bigendian=False)
    cloud = cloud_from_message(message)
    back = decoder().decode(encoder(CodecConfig(exact=True, order="original")).encode(cloud))
    body = body_from_cloud(back, special_layout(message, keep_padding=True))
    if cloud.xyz.dtype in {field.form for field in message.fields if field.name in "xyz"}:  # else a NaN may become quiet
        again = body_from_cloud(cloud, special_layout(message, keep_padding=True))
        assert body == again


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("order", ["codec", "original"])
@pytest.mark.parametrize("points", [0, 1, 2, 700])
def test_few_points_and_duplicates(points: int, order: str, exact: bool) -> None:
    """All points at one place, each with fields of its own."""
    rng = np.random.default_rng(0)
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, 0.1], np.float32)
    fields = {
        "noise": rng.integers(0, 2**32, points, np.uint32).view(np.float32),
        "special": np.resize(special, points),
        "time": rng.normal(size=points),
        "long": rng.integers(0, 2**64, points, np.uint64).view(np.int64),
        "normal": rng.normal(size=(points, 3)).astype(np.float32),
        "rgb": rng.integers(0, 2**24, points).astype(np.uint32).view(np.float32),
        "bytes": rng.integers(0, 256, (points, 7)).astype(np.uint8),
        "ring": np.full(points, 4_000_000_000, np.uint32),
        "channel": np.resize(special, points),
    }
    cloud = PointCloud(np.full((points, 3), [0.1, -2.0, 30.0], np.float32), fields, position=3)
    back = check(cloud, CodecConfig(order=order, exact=exact))
    assert back.position == 3


def test_positions_beyond_any_grid_are_refused_unless_exact() -> None:
    cloud = PointCloud(np.array([[0, 0, 0], [3e38, 0, 0], [1e-40, -0.0, np.nan]], np.float32), {"i": np.arange(3)})
    with pytest.raises(InputError):
        encoder(CodecConfig()).encode(cloud)
    for order in ("codec", "original"):
        check(cloud, CodecConfig(exact=True, order=order))
