"""Golden streams: the bytes of this version and what they decode to, on every backend. See scripts/make_golden.py."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from anypcc_ros.codec.codec import Decoder, Encoder
from anypcc_ros.codec.config import DecoderConfig
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model import store

ROOT = Path(__file__).resolve().parents[1]
MAKE = runpy.run_path(str(ROOT / "scripts" / "make_golden.py"))
CASES = MAKE["CASES"]
STREAMS = sorted(path.name for path in (ROOT / "test" / "golden").glob("*.apcc"))
BACKENDS = ["torch", *(["native"] if native.available() else [])]


def test_there_are_golden_streams_of_every_case_and_of_every_shipped_model():
    models = ["tiny", *store.installed()]
    assert sorted(f"{case}.{model}.apcc" for model in models for case in MAKE["cases_of"](model)) == STREAMS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", STREAMS)
def test_golden_streams_decode_to_the_bit(golden, name, backend):
    decoder = Decoder(DecoderConfig(model_dir=str(golden), adaptation=str(golden), backend=backend))
    decoded = decoder.decode((golden / name).read_bytes())
    case, label, _ = name.split(".")
    expected = MAKE["load_cloud"](MAKE["decoded_path"](case, label))
    assert list(decoded.fields) == list(expected.fields)
    assert decoded.height == expected.height
    for values, wanted in zip([decoded.xyz, *decoded.fields.values()], [expected.xyz, *expected.fields.values()], strict=True):
        assert (values.dtype, values.shape) == (wanted.dtype, wanted.shape)
        assert values.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", STREAMS)
def test_encoding_again_gives_the_golden_bytes(golden, name, backend):
    case, label, _ = name.split(".")
    encoder = Encoder(MAKE["config_of"](case, label, backend=backend))
    assert encoder.encode(MAKE["load_cloud"](golden / CASES[case][0])) == (golden / name).read_bytes()
