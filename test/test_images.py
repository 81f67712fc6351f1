"""Depth images: found among organised clouds, and back bit for bit, or as near as was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.bitstream import inspect, read_stream, write_stream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.cutting import cut
from anypcc_ros.codec.errors import CutError, LimitExceededError, StreamError
from anypcc_ros.codec.images import find_image, within

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

HEIGHT, WIDTH = 24, 40
ROW, COLUMN = np.divmod(np.arange(HEIGHT * WIDTH), WIDTH)


def depths(dtype: str, lattice: bool = True) -> np.ndarray:
    millimetres = 900 + 11 * COLUMN + (COLUMN > 20) * 400 + np.random.default_rng(3).integers(0, 4, len(ROW))
    return (millimetres * 0.001 if lattice else np.sqrt(millimetres / 999)).astype(dtype)


def of_value(place: np.ndarray, centre: float, z: np.ndarray) -> np.ndarray:
    return (place - centre).astype(z.dtype) * z * z.dtype.type(1 / 52.5)


def of_millimetres(place: np.ndarray, centre: float, z: np.ndarray) -> np.ndarray:
    return (place - centre).astype(z.dtype) * np.rint(z * 1000) * z.dtype.type(0.001 / 52.5)


def divided(place: np.ndarray, centre: float, z: np.ndarray) -> np.ndarray:
    """As no projection computes it, but nearly."""
    return z * ((place - centre).astype(z.dtype) / z.dtype.type(52.5))


def picture(formula, dtype: str = "float32", depth_axis: int = 2, lattice: bool = True) -> PointCloud:
    z = depths(dtype, lattice)
    columns = [formula(COLUMN, 19.5, z), formula(ROW, 11.5, z)]
    columns.insert(depth_axis, z)
    xyz = np.stack(columns, axis=1)
    xyz[np.random.default_rng(1).random(len(z)) < 0.1] = np.nan
    return PointCloud(xyz, {"shade": (COLUMN * 5).astype(np.uint8), "time": ROW * 0.001}, HEIGHT)


def size_of_image(data: bytes) -> int:
    return next(chunk.size for chunk in inspect(data).chunks if chunk.tag == bitstream.IMAGE)


def assert_same(one: PointCloud, other: PointCloud) -> None:
    assert one.height == other.height
    for name, values in [("xyz", one.xyz), *one.fields.items()]:
        wanted = other.xyz if name == "xyz" else other.fields[name]
        assert (values.dtype, values.tobytes()) == (wanted.dtype, wanted.tobytes()), name


@pytest.mark.parametrize("formula", [of_value, of_millimetres, divided])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_images_come_back_bit_for_bit(formula, dtype, depth_axis, encode, decoder):
    cloud = picture(formula, dtype, depth_axis)
    data = encode(cloud, exact=True, order="original")
    assert_same(decoder.decode(data), cloud)
    info = inspect(data)
    assert (info.order, info.exact, info.points, info.height) == ("original", True, len(cloud), HEIGHT)
    depth_alone = size_of_image(encode(cloud, order="original", step=1e-3))
    assert (size_of_image(data) == depth_alone) == (formula is not divided)
    assert size_of_image(data) <= depth_alone + 0.6 * len(cloud)  # not even five bits


def test_depths_off_any_lattice_make_an_image_too(encode, decoder):
    cloud = picture(of_value, lattice=False)
    data = encode(cloud, exact=True, order="original")
    assert size_of_image(data)
    assert_same(decoder.decode(data), cloud)


def test_in_the_order_of_the_codec_the_valid_points_come_back(encode, decoder):
    cloud = picture(of_value)
    data = encode(cloud, exact=True)
    back, wanted = decoder.decode(data), cloud.finite()[0]
    info = inspect(data)
    assert (info.order, info.exact, info.points) == ("codec", True, len(wanted))
    assert info.left_out == len(cloud) - len(wanted)
    order, other = (np.lexsort(c.xyz.T) for c in (back, wanted))
    assert_same(back.take(order), wanted.take(other))


@pytest.mark.parametrize("step", [0.05, 1e-3, 1e-9])
@pytest.mark.parametrize("lattice", [True, False])
def test_in_their_order_and_within_a_step_images_take_their_depth_alone(step, lattice, encode, decoder):
    cloud = picture(divided, lattice=lattice)
    data = encode(cloud, order="original", step=step)
    back, info = decoder.decode(data), inspect(data)
    is_image = any(chunk.tag == bitstream.IMAGE for chunk in info.chunks)
    assert is_image == (step > 1e-6)  # which is more than the last places of a float32
    assert (info.order, info.exact, back.height) == ("original", False, HEIGHT)
    assert np.array_equal(np.isnan(back.xyz), np.isnan(cloud.xyz))
    error = np.nanmax(np.abs(back.xyz.astype(np.float64) - cloud.xyz))
    assert error <= step / 2 + np.spacing(np.float32(2))
    assert back.fields["shade"].tobytes() == cloud.fields["shade"].tobytes()


def test_coarser_steps_make_images_smaller(encode):
    sizes = [
        size_of_image(encode(picture(of_value, lattice=False), order="original", step=step)) for step in (1e-4, 1e-3, 1e-2)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[2]


def test_invalid_pixels_keep_their_bits(encode, decoder):
    cloud = picture(of_value)
    xyz = cloud.xyz.copy()
    xyz[5] = [np.inf, 0.5, np.nan]
    xyz[6, 2] = -np.inf
    xyz[7] = np.array([0x7FC12345, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    xyz[8] = [1e30, -0.0, 1e-42]
    cloud = PointCloud(xyz, cloud.fields, HEIGHT)
    data = encode(cloud, exact=True, order="original")
    assert size_of_image(data)
    assert_same(decoder.decode(data), cloud)


def test_what_is_no_image():
    image = picture(of_value)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(960, 3)).astype(np.float32)
    turn = COLUMN * (2 * np.pi / WIDTH)
    scan = np.stack([np.cos(turn), np.sin(turn), (ROW - 12) / 50], axis=1) * rng.uniform(2, 30, (960, 1))
    assert find_image(image.xyz, HEIGHT)
    assert find_image(image.xyz, 1) is None
    assert find_image(image.xyz[:, :1] * np.ones(3, np.float32), HEIGHT) is None
    assert find_image(np.full_like(image.xyz, np.nan), HEIGHT) is None
    assert find_image(np.zeros_like(image.xyz), HEIGHT) is None
    assert find_image(noise, HEIGHT) is None
    assert find_image(scan.astype(np.float32), HEIGHT) is None
    assert find_image(np.ones((960, 3), np.int32), HEIGHT) is None


def test_a_pixel_that_is_off_is_not_made_to_fit():
    cloud = picture(of_value)
    image = find_image(cloud.xyz, HEIGHT)
    assert image
    assert within(image, cloud.xyz, 2e-6)[0]
    for wrong in (0.5, np.nan):
        xyz = cloud.xyz.copy()
        xyz[np.flatnonzero(np.isfinite(xyz[:, 0]))[3], 0] = wrong
        assert within(image, xyz, 2e-6)[0] is None


def test_images_have_no_scales_to_cut(encode):
    with pytest.raises(CutError, match="image"):
        cut(encode(picture(of_value), exact=True), 1)


def test_more_pixels_than_the_limit_are_refused(encode, golden):
    data = encode(picture(of_value), exact=True)
    limited = Decoder(DecoderConfig(model_dir=str(golden), max_points=900))  # points, but not pixels
    assert inspect(data).points <= 900
    with pytest.raises(LimitExceededError, match="pixels"):
        limited.decode(data)


def test_broken_images_are_refused(encode, decoder):
    for options in ({}, {"order": "original"}):
        info, layout, chunks = read_stream(encode(picture(of_value), exact=True, **options), DecoderConfig())
        payloads = {tag: bytes(payload) for tag, payload in chunks.items()}
        payload = payloads[bitstream.IMAGE]
        broken = [payload[:size] for size in range(0, len(payload), 7)]
        broken += [payload + b"\0", b"\3" + payload[1:], b"\2\0" + payload[2:], b"\2\7" + payload[2:]]
        for wrong in broken:
            with pytest.raises(StreamError):
                decoder.decode(write_stream(info, {**payloads, bitstream.IMAGE: wrong}, layout))
        with pytest.raises(StreamError, match="an image with"):
            decoder.decode(write_stream(info, {**payloads, bitstream.OFF_GRID: b""}, layout))


def test_damage_gives_a_typed_error_or_some_cloud(encode, decoder):
    info, layout, chunks = read_stream(encode(picture(divided), exact=True), DecoderConfig())
    payloads, rng = {tag: bytes(payload) for tag, payload in chunks.items()}, np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(payloads[bitstream.IMAGE])
        damaged[rng.integers(0, min(len(damaged), 2 ** int(rng.integers(3, 12))))] ^= 1 << rng.integers(0, 8)
        try:
            decoder.decode(write_stream(info, {**payloads, bitstream.IMAGE: bytes(damaged)}, layout))
        except StreamError:
            continue
