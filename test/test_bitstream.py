"""The container: whatever the bytes are, a typed error or the cloud; never a crash, never a wrong cloud."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anypcc_ros.codec import bitstream
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import CodecConfig, DecoderConfig
from anypcc_ros.codec.counts import decode_counts, encode_counts
from anypcc_ros.codec.entropy import decode_signed, encode_signed
from anypcc_ros.codec.errors import (
    CorruptStreamError,
    LimitExceededError,
    ModelNotFoundError,
    NotAStreamError,
    StreamError,
    TruncatedError,
    UnsupportedVersionError,
)
from anypcc_ros.codec.model.integer import save_model
from anypcc_ros.codec.model.network import ModelConfig


@pytest.fixture(scope="module")
def model_dir(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_model(make_model(ModelConfig(channels=16, parent_convs=1, child_convs=1)), folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def stream(model_dir, scan):
    cloud = PointCloud(np.concatenate([scan.xyz[:1500], scan.xyz[:30]]))
    return Encoder(CodecConfig(model=str(model_dir / "tiny.safetensors"), step=0.02)).encode(cloud)


@pytest.fixture(scope="module")
def decoder(model_dir):
    return Decoder(DecoderConfig(model_dir=str(model_dir)))


def resealed(data: bytes, change) -> bytes:
    """The stream with payloads changed by ``change(tag, payload)`` and every length and checksum made right again."""
    table = bitstream._read_table(memoryview(data), 1 << 30)
    chunks = {tag: change(tag, bytes(payload)) for tag, payload, _ in table}
    entries = b"".join(struct.pack("<4sQI", tag.encode(), len(p), zlib.crc32(p)) for tag, p in chunks.items())
    size = 20 + len(entries) + sum(map(len, chunks.values()))
    head = struct.pack("<4sBBHQI", b"APCC", 1, 0, len(chunks), size, 0)
    crc = zlib.crc32(head + entries)
    return head[:-4] + struct.pack("<I", crc) + entries + b"".join(chunks.values())


def test_the_stream_says_what_it_holds(stream):
    info = bitstream.inspect(stream)
    assert [c.tag for c in info.chunks] == ["CLOU", "OCCU", "BEAM", "DUPL"]
    assert (info.points, info.version, info.size) == (1530, 1, len(stream))
    assert info.to_dict()["bpp"] == pytest.approx(8 * len(stream) / 1530)


def test_every_truncation_is_noticed(stream, decoder):
    for length in [*range(0, 200, 7), *range(200, len(stream), 211), len(stream) - 1]:
        with pytest.raises(StreamError):
            decoder.decode(stream[:length])


def test_every_flipped_byte_is_noticed(stream, decoder):
    for position in [*range(150), *range(150, len(stream), 53)]:
        broken = bytearray(stream)
        broken[position] ^= 0x10
        with pytest.raises(StreamError):
            decoder.decode(broken)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(StreamError if data.startswith(b"APCC") else NotAStreamError):
        Decoder().decode(data)
    with pytest.raises(StreamError):
        Decoder().decode(b"APCC\x01\x00" + data)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_hostile_payloads_behind_right_checksums_are_refused(stream, decoder, data):
    tag = data.draw(st.sampled_from(["CLOU", "OCCU", "DUPL"]))
    at, value = data.draw(st.integers(0, 10_000)), data.draw(st.integers(1, 255))

    def change(name: str, payload: bytes) -> bytes:
        if name != tag:
            return payload
        broken = bytearray(payload)
        broken[at % len(broken)] ^= value
        return bytes(broken)

    try:
        cloud = decoder.decode(resealed(stream, change))
    except (StreamError, ModelNotFoundError):  # a changed hash names a model that is not installed
        return
    # What the checksum of the voxels does not cover (step, position, dtype, the model's name) changes no count.
    assert len(cloud) <= 1530


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_hostile_lattices_are_refused(model_dir, decoder, data):
    grid = np.random.default_rng(0).integers(0, 9, (300, 3)) * [1, 10, 7]
    stream = Encoder(CodecConfig(model=str(model_dir / "tiny.safetensors"), step=1.0)).encode(PointCloud(grid))
    payload = bytearray(next(p for tag, p, _ in bitstream._read_table(memoryview(stream), 1 << 30) if tag == "LATT"))
    at, value = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(0, 255))
    payload[at] = value
    if data.draw(st.booleans()):
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        cloud = decoder.decode(resealed(stream, lambda tag, p: bytes(payload) if tag == "LATT" else p))
    except StreamError:
        return
    assert len(cloud) == 300


def test_limits_are_checked_before_anything_is_allocated(stream, model_dir):
    with pytest.raises(LimitExceededError, match="1530 points declared, the limit is 1000"):
        Decoder(DecoderConfig(max_points=1000, model_dir=str(model_dir))).decode(stream)
    with pytest.raises(LimitExceededError, match=f"{len(stream)} bytes, the limit is 100"):
        Decoder(DecoderConfig(max_bytes=100)).decode(stream)
    huge = bytearray(stream)
    huge[8:16] = (1 << 60).to_bytes(8, "little")
    with pytest.raises(LimitExceededError, match=str(1 << 60)):
        Decoder().decode(huge)


def test_a_flood_of_nodes_is_stopped_at_the_declared_count(stream, decoder):
    def flood(tag: str, payload: bytes) -> bytes:
        return b"\xff" * len(payload) if tag == "OCCU" else payload

    with pytest.raises(CorruptStreamError):
        decoder.decode(resealed(stream, flood))


def test_versions_and_chunks_this_reader_does_not_know(stream, decoder):
    newer = bytearray(stream)
    newer[4] = 2
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        decoder.decode(newer)
    expected = decoder.decode(stream).xyz
    for tag, outcome in (("note", None), ("XTRA", UnsupportedVersionError)):
        renamed = with_chunk(stream, tag, b"later")
        if outcome is None:
            assert np.array_equal(decoder.decode(renamed).xyz, expected)
            assert bitstream.inspect(renamed).chunks[-1] == bitstream.ChunkInfo("note", 5, critical=False)
        else:
            with pytest.raises(outcome, match=tag):
                decoder.decode(renamed)


def with_chunk(data: bytes, tag: str, payload: bytes) -> bytes:
    chunks = [(t.encode(), bytes(p)) for t, p, _ in bitstream._read_table(memoryview(data), 1 << 30)]
    chunks.append((tag.encode(), payload))
    entries = b"".join(struct.pack("<4sQI", t, len(p), zlib.crc32(p)) for t, p in chunks)
    size = 20 + len(entries) + sum(len(p) for _, p in chunks)
    head = struct.pack("<4sBBHQI", b"APCC", 1, 0, len(chunks), size, 0)
    return head[:-4] + struct.pack("<I", zlib.crc32(head + entries)) + entries + b"".join(p for _, p in chunks)


def test_foreign_and_extended_data_are_told_apart(stream, decoder):
    with pytest.raises(NotAStreamError, match="DRAC"):
        decoder.decode(b"DRACO\x02\x02" + bytes(100))
    with pytest.raises(CorruptStreamError, match="3 bytes after the end"):
        decoder.decode(stream + b"abc")
    with pytest.raises(TruncatedError):
        decoder.decode(stream[:-1])


@given(st.integers(-(1 << 60), 1 << 60))
def test_signed_integers_survive(value):
    data = encode_signed(value)
    assert decode_signed(data, 0) == (value, len(data))


@settings(deadline=None)
@given(st.lists(st.tuples(st.one_of(st.integers(0, 17), st.integers(0, 10**6)), st.integers(0, 55)), max_size=300))
def test_counts_survive(pairs):
    values, contexts = np.array(pairs, np.int64).reshape(-1, 2).T
    contexts = contexts.astype(np.uint8)
    assert decode_counts(encode_counts(values, contexts), contexts).tolist() == values.tolist()


def test_long_runs_of_counts_stay_within_the_exact_range():
    values = np.random.default_rng(0).geometric(0.7, 200_000) - 1
    contexts = np.zeros(len(values), np.uint8)
    data = encode_counts(values, contexts)
    assert np.array_equal(decode_counts(data, contexts), values)
    probability = np.bincount(np.minimum(values, 15)) / len(values)
    entropy = -(probability * np.log2(np.maximum(probability, 1e-12))).sum() * len(values) / 8
    assert len(data) < 1.01 * entropy + 100
