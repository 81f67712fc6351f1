"""The calibration and its contexts: native, NumPy and the independent decoder of the specification agree bit for bit, learning
learns, and the encoder's replay is what the decoder does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import specified_contexts as specified

from anypcc_ros.codec.beams import Beams, encode_beams
from anypcc_ros.codec.calibration import (
    BIAS_LIMIT,
    CHUNK,
    CURVATURE_LIMIT,
    LOGIT_LIMIT,
    MOST_MOVED,
    MOST_TABLES,
    SYMBOLS,
    WEIGHT_RANGE,
    Calibration,
    Corrector,
    NativeCalibration,
    chunks,
    corrector,
    softmax,
)
from anypcc_ros.codec.contexts import CONTEXT_ROWS, Ancestry, GroupContexts
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.kernels.levels import native_level
from anypcc_ros.codec.model.integer import EXP2
from anypcc_ros.codec.model.network import CodePart
from anypcc_ros.codec.neighbors import Level, expand_level, root_level
from anypcc_ros.codec.octree import Place, occupancy_pyramid, voxelise

needs_native = pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))
ISAS = native.usable_isas() if native.available() else []
KINDS: list[Callable[[int], Any]] = [Calibration, *([NativeCalibration] if native.available() else [])]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


def part(rows: int, tables: int, count: int, seed: int = 0, spread: float = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, contexts and symbols of a code part: ``tables`` tables of ``rows`` rows each, some far more frequent."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (count, SYMBOLS)).astype(np.int32)
    contexts = np.minimum(rng.geometric(min(5 / rows, 0.5), (count, tables)), rows) - 1 + rows * np.arange(tables)
    return logits, contexts.astype(np.int32), rng.integers(0, SYMBOLS, count).astype(np.uint8)


@needs_native
@pytest.mark.parametrize("tables", [1, 4, 6, MOST_TABLES])
@pytest.mark.parametrize("count", [0, 1, 17, 3000])
def test_native_equals_reference(isa: str, count: int, tables: int) -> None:
    reference, found = Calibration(300 * tables), NativeCalibration(300 * tables)
    for seed in range(3):  # one after the other, as the parts of a level
        inputs = part(300, tables, count, seed)
        assert np.array_equal(found.replay(*inputs), reference.replay(*inputs))
        assert np.array_equal(found.weights(tables), reference.weights(tables))


EXTREMES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "equal": lambda rng, count: np.zeros((count, SYMBOLS)),
    "int32": lambda rng, count: rng.choice([-(2**31), 2**31 - 1, 0], (count, SYMBOLS)),
    "limits": lambda rng, count: rng.choice([-1, 1], (count, SYMBOLS)) * LOGIT_LIMIT + rng.integers(-2, 3, (count, SYMBOLS)),
    "table's end": lambda rng, count: rng.choice([0, -510, -511, -512, -513], (count, SYMBOLS)),
    "even": lambda rng, count: np.repeat(rng.integers(-9, 9, (count, SYMBOLS // 8)), 8, axis=1),
}


@needs_native
@pytest.mark.parametrize("logits", EXTREMES)
@pytest.mark.parametrize("habit", ["one row", "likeliest", "unlikeliest"])
def test_native_equals_reference_on_extremes(isa: str, logits: str, habit: str) -> None:
    """All nodes in one row, and symbols that are always, or never, what is predicted."""
    rng, count = np.random.default_rng(1), 1500
    values = EXTREMES[logits](rng, count).astype(np.int32)
    contexts = np.tile(np.array([0, 3], np.int32), (count, 1))
    if habit == "one row":
        symbols = rng.integers(0, SYMBOLS, count)
    else:
        symbols = values.argmax(axis=1) if habit == "likeliest" else values.argmin(axis=1)
    reference, found = Calibration(4), NativeCalibration(4)
    for _ in range(3):
        expected = reference.replay(values, contexts, symbols.astype(np.uint8))
        assert np.array_equal(found.replay(values, contexts, symbols.astype(np.uint8)), expected)
        assert (expected.sum(axis=1) == 1 << 16).all()
        assert expected.min() >= 1


@needs_native
def test_native_equals_reference_where_biases_curvature_and_weights_end(isa: str) -> None:
    """One row, and a network that swears by a symbol that does not come, whatever its weight has become."""
    rng, contexts = np.random.default_rng(4), np.zeros((CHUNK, 1), np.int32)
    reference, found = Calibration(1), NativeCalibration(1)
    biases, known, weights = [], [], []
    phases = [
        (None, rng.integers(0, SYMBOLS, (300, CHUNK))),  # all symbols alike: they are known well, and biases move slowly
        (1, np.full((400, CHUNK), 9)),  # the biases of 1 and 9 come to their ends, and the table's weight
        (9, np.full((100, CHUNK), 1)),  # what the table says of both is wrong, and the weight learns so
    ]
    for sworn, parts in phases:
        for symbols in parts.astype(np.uint8):
            logits = np.zeros((CHUNK, SYMBOLS), np.int32)
            if sworn is not None:
                logits[:, sworn] = LOGIT_LIMIT if reference.weights(1)[1] >= 0 else -LOGIT_LIMIT
            expected = reference.replay(logits, contexts, symbols)
            assert np.array_equal(found.replay(logits, contexts, symbols), expected)
            biases.append(reference.bias.copy())
            known.append(int(reference.curvature.max()))
            weights.append(int(reference.weights(1)[0]))
    assert max(map(np.max, biases)) >= BIAS_LIMIT
    assert min(map(np.min, biases)) <= -BIAS_LIMIT
    assert max(known) == CURVATURE_LIMIT
    assert (min(weights), max(weights)) == WEIGHT_RANGE
    assert np.abs(np.diff(weights)).max() == MOST_MOVED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 129, 8192, 20_000])
def test_replay_is_what_the_decoder_does(kind: Callable[[int], Corrector], count: int) -> None:
    logits, contexts, symbols = part(200, 4, count, 2)
    encoder, decoder, coder = kind(800), kind(800), SymbolEncoder()
    coder.encode(symbols, encoder.replay(logits, contexts, symbols))
    at_once = SymbolEncoder()
    kind(800).encode(logits, contexts, symbols, at_once)
    assert at_once.finish() == coder.finish()
    words = SymbolDecoder(coder.finish())
    assert np.array_equal(decoder.decode(logits, contexts, words), symbols)
    assert words.exhausted()


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_no_encoder_wrote_are_refused(kind: Callable[[int], Corrector]) -> None:
    logits, contexts, _ = part(200, 4, 5000, 2)
    with pytest.raises(CorruptStreamError):
        kind(800).decode(logits, contexts, SymbolDecoder(b"\xff" * 400))


def test_chunks_cover_a_code_part() -> None:
    for count in (0, 1, 128, 129, 8191, 8192, 65_536, 1_000_000):
        everything = np.arange(count)
        pieces = [everything[chunk] for chunk in chunks(count)]
        assert np.array_equal(np.concatenate([everything[:0], *pieces]), everything)
        assert all(len(piece) == CHUNK for piece in pieces[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_learning_lowers_the_cost_of_what_goes_on_alike(kind: Callable[[int], Corrector]) -> None:
    """A source that depends on its context in a way that the network does not know, and one that it knows already."""
    rng, count, rows = np.random.default_rng(3), 40_000, 8
    shares = rng.dirichlet(np.full(SYMBOLS, 0.3), rows)
    contexts = rng.integers(0, rows, (count, 1)).astype(np.int32)
    symbols = np.array([rng.choice(SYMBOLS, p=shares[row]) for row in contexts[:, 0]], np.uint8)
    entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1)[contexts[:, 0]].mean()
    ignorant = np.zeros((count, SYMBOLS), np.int32)
    expert = np.rint(32 * np.log2(np.maximum(shares, 1e-5))).astype(np.int32)[contexts[:, 0]]

    def bits(logits: np.ndarray) -> np.ndarray:
        frequencies = kind(rows).replay(logits, contexts, symbols)
        return 16 - np.log2(frequencies[np.arange(count), symbols].astype(float))

    learned = bits(ignorant)
    assert learned[:CHUNK].mean() == pytest.approx(4)  # nothing is known during the first chunk
    assert learned[-count // 2 :].mean() < entropy + 0.1
    assert bits(expert).mean() < entropy + 0.05


def test_what_is_not_used_stays() -> None:
    learner = Calibration(3)
    logits, _, symbols = part(1, 1, 50)
    learner.replay(logits, np.ones((50, 1), np.int32), symbols)
    assert learner.bias[1].any()
    assert not learner.bias[[0, 2]].any()
    assert not learner.curvature[[0, 2]].any()
    two = np.tile(np.array([0, 2], np.int32), (50, 1))  # nodes with two rows have weights of their own
    assert np.array_equal(learner.frequencies(logits, two), softmax(logits))


@needs_native
@pytest.mark.parametrize("row", [-1, 12, 2**31 - 1, -(2**31)])
def test_rows_out_of_range_are_refused_and_change_nothing(row: int) -> None:
    logits, contexts, symbols = part(6, 2, 300)
    touched, untouched = NativeCalibration(12), NativeCalibration(12)
    bad = contexts.copy()
    bad[299, 1] = row
    for attempt in (
        lambda: touched.replay(logits, bad, symbols),
        lambda: touched.encode(logits, bad, symbols, SymbolEncoder()),
        lambda: touched.decode(logits, bad, SymbolDecoder(b"")),
    ):
        with pytest.raises((IndexError, CorruptStreamError)):
            attempt()
    assert np.array_equal(touched.replay(logits, contexts, symbols), untouched.replay(logits, contexts, symbols))


@needs_native
def test_bad_sizes_are_refused() -> None:
    logits, contexts, symbols = part(6, 2, 300)
    learner, exp2 = native.Calibration(12, native.Exp2(EXP2)), native.Exp2(EXP2)
    out = np.empty(logits.shape, np.float32)
    with pytest.raises(ValueError, match="logits has shape"):
        learner.replay(logits[1:], contexts, symbols, out)
    with pytest.raises(ValueError, match="symbols has shape"):
        learner.replay(logits[1:], contexts[1:], symbols, out)
    with pytest.raises(ValueError, match="frequencies has shape"):
        learner.replay(logits, contexts, symbols, out[:, 1:])
    with pytest.raises(ValueError, match="a size"):
        learner.replay(logits, np.zeros((300, MOST_TABLES + 1), np.int32), symbols, out)
    with pytest.raises(MemoryError):
        native.Calibration(0, exp2)


# -- Contexts ----------------------------------------------------------------------------------------------------------


def random_beams(kind: str, rng: np.random.Generator) -> Beams | None:
    """Few or many, with or without planes, crossing each other, or as far out as the format allows."""
    if kind == "none":
        return None
    count = {"one": 1, "cones": 16, "planes": 33, "limits": 512}[kind]
    slopes = np.sort(rng.normal(0, 1 << 23, count).astype(np.int64))
    heights, phases, laterals = rng.integers(-90, 90, count), rng.integers(0, 1 << 32, count), rng.integers(-50, 50, count)
    axis, columns = rng.integers(-200, 200, 2), 0 if kind == "cones" else 700
    if kind == "limits":
        slopes, heights = (np.append(rng.integers(-(1 << 36), 1 << 36, 510), [-(1 << 36), 1 << 36]) for _ in range(2))
        phases, laterals = rng.choice([-(1 << 32), 0, 1 << 32], 512), rng.choice([-(1 << 20), 0, 1 << 20], 512)
        axis, columns = np.array([1 << 36, -(1 << 36)]), 1 << 13
    return Beams(axis, slopes, heights, columns, phases, laterals)


class Scene:
    """The last level but one of an octree, with half of its codes known, and what its contexts are made of."""

    def __init__(self, seed: int, finer: int = 0, shift: int = 0, beams: str = "none") -> None:
        rng = np.random.default_rng(seed)
        points = rng.integers(0, 24, (2500, 3))
        points[:, 2] = (points[:, 0] * 3 + points[:, 1]) // 4 + points[:, 2] // 8
        voxels, _ = voxelise(points)
        self.pyramid = occupancy_pyramid(voxels)
        self.level, self.beams = root_level(), random_beams(beams, rng)
        self.place = Place.of_root(np.array([shift, -shift, shift // 2]), voxels.depth + finer)
        for codes in self.pyramid[:-1]:
            self.level, self.place = expand_level(self.level, codes), self.place.of_children(codes)
        self.ancestry = Ancestry(finer, self.pyramid[-2], self.place)

    def rows(self, level: Level, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The group's nodes, and the rows of their low and of their high half."""
        nodes = level.groups[group]
        part = CodePart(level, nodes, group, 0, 4, self.known(group, high=False))
        contexts = GroupContexts(part, self.ancestry, self.beams)
        low = contexts.rows(False)
        part.codes[nodes] = self.known(group, high=True)[nodes]  # as coding the low half does
        return nodes, low, contexts.rows(True)

    def known(self, group: int, high: bool) -> np.ndarray:
        """Codes as far as they are known before a half of a group's."""
        codes = np.zeros(len(self.level), np.uint8)
        for before in range(group):
            codes[self.level.groups[before]] = self.pyramid[-1][self.level.groups[before]]
        if high:
            codes[self.level.groups[group]] = self.pyramid[-1][self.level.groups[group]] & 15
        return codes


SCENES = [
    *[{"seed": finer, "finer": finer} for finer in range(5)],
    *[{"seed": finer, "finer": finer, "beams": "planes", "shift": 70 << finer} for finer in range(11)],
    {"seed": 20, "beams": "one", "shift": 5}, {"seed": 21, "finer": 1, "beams": "cones", "shift": -30},
    {"seed": 22, "finer": 27, "beams": "planes", "shift": -(1 << 31)}, {"seed": 23, "beams": "limits", "shift": 1 << 52},
    {"seed": 24, "finer": 27, "beams": "limits", "shift": -(1 << 52)},
]  # fmt: skip


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=needs_native)], ids=["numpy", "native"])
@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_contexts_are_those_of_the_specification(scene: dict, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same exactly where the names are the same; that also holds between groups and halves."""
    here = Scene(**scene)
    level = native_level(here.level) if kernels else here.level
    if not kernels:
        monkeypatch.setattr(native, "available", lambda: False)
    beams = here.beams and specified.Beams(encode_beams(here.beams))
    parents = here.pyramid[-2][here.level.parent_row]
    around = specified.Surroundings(here.ancestry.finer, here.place.coords, parents, tuple(here.place.shift.tolist()), beams)
    name_of: dict[int, object] = {}
    row_of: dict[object, int] = {}
    for group in (0, 1):
        nodes, *halves = here.rows(level, group)
        for high, rows in zip((False, True), halves, strict=True):
            names = around.names(nodes, group, high, here.known(group, high))
            assert rows.shape == (len(nodes), len(names[0]))
            assert rows.min() >= 0
            assert rows.max() < CONTEXT_ROWS
            for row, name in zip(rows.ravel().tolist(), (name for node in names for name in node), strict=True):
                assert name_of.setdefault(row, name) == name
                assert row_of.setdefault(name, row) == row


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
def test_native_contexts_equal_numpy_on_a_large_level(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So large that several threads are at work, on every code path."""
    rng = np.random.default_rng(8)
    nodes = np.arange(40_000, dtype=np.int32)
    level = expand_level(expand_level(root_level(5000), np.full(5000, 255, np.uint8)), np.full(40_000, 1, np.uint8))
    place = Place(rng.integers(0, 1 << 20, (len(nodes), 3)).astype(np.uint32), np.array([-9, 5, 2]), 1)
    ancestry, beams = Ancestry(0, rng.integers(1, 256, 40_000).astype(np.uint8), place), random_beams("planes", rng)
    codes = rng.integers(0, 256, len(nodes)).astype(np.uint8)

    def rows(level: Level) -> list[np.ndarray]:
        groups = [GroupContexts(CodePart(level, nodes, group, 0, 4, codes), ancestry, beams, threads) for group in (0, 1)]
        return [group.rows(high) for group in groups for high in (False, True)]

    found = []
    for isa in ISAS:
        native.set_isa(isa)
        found.append(rows(native_level(level)))
    native.set_isa("auto")
    monkeypatch.setattr(native, "available", lambda: False)
    for one in found:
        for fast, slow in zip(one, rows(level), strict=True):
            assert np.array_equal(fast, slow)


@needs_native
def test_hostile_rows_of_contexts_are_refused() -> None:
    here = Scene(0, beams="planes")
    assert here.beams is not None
    level = native_level(here.level)
    nodes = level.groups[1].copy()
    group = GroupContexts(CodePart(level, nodes, 1, 0, 4, here.pyramid[-1]), here.ancestry, here.beams)
    for bad in (-1, len(level), 2**31 - 1):
        nodes[-1] = bad
        with pytest.raises(IndexError):
            group.rows(False)
        with pytest.raises(IndexError):
            native.face_cells(level.data, nodes, np.empty(len(nodes), np.uint64), here.pyramid[-1])
        with pytest.raises(IndexError):
            native.edge_cells(level.data, nodes, here.pyramid[-1], np.empty(len(nodes), np.uint8))
        with pytest.raises(IndexError):
            here.beams.bins(here.place, nodes)
    with pytest.raises(IndexError):  # fewer parents than the level has
        native.face_cells(level.data, level.groups[0], np.empty(len(level.groups[0]), np.uint64), None, here.pyramid[-2][:3])
    with pytest.raises(ValueError, match="a size"):
        native.face_cells(level.data, level.groups[0], np.empty(len(level.groups[0]), np.uint64))


def test_the_kernels_are_used_where_they_are() -> None:
    assert isinstance(corrector(1), NativeCalibration if native.available() else Calibration)
