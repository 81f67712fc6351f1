"""docs/bitstream.md is sufficient: a decoder written from that document alone decodes the golden streams.

The decoder below, with its parts in test/support/specified_*.py, uses nothing of the package; it is slow and plain on
purpose. Only the tests of ablated models, of many fields and of the range coder let the package and constriction write
what they read.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import constriction
import numpy as np
import pytest
import specified_fields
from safetensors import safe_open
from specified_basics import RangeDecoder, Reader
from specified_contexts import Beams, Calibration, Surroundings, frequencies_of

GOLDEN = Path(__file__).parent / "golden"
DTYPES = ("<f4", "<f8", "<i4", "<i8")
TAPS = tuple(itertools.product((-1, 0, 1), repeat=3))
ODD_TAPS = tuple(tap for tap in TAPS if sum(tap) % 2)


SHARED = {file.read_bytes()[13:21]: file.read_bytes() for file in GOLDEN.glob("*.apad")}
"""Shared adaptations by hash."""


# -- Header and chunk table --------------------------------------------------------------------------------------------


def chunks_of(data: bytes) -> dict[str, bytes]:
    """The payloads of a stream by tag, every checksum verified."""
    magic, major, _, count, size, checksum = struct.unpack_from("<4sBBHQI", data)
    assert (magic, major, size) == (b"APCC", 1, len(data))
    end = 20 + 16 * count
    assert zlib.crc32(data[:16] + bytes(4) + data[20:end]) == checksum
    chunks: dict[str, bytes] = {}
    for tag, length, crc in struct.iter_unpack("<4sQI", data[20:end]):
        payload = data[end : end + length]
        assert (len(payload), zlib.crc32(payload)) == (length, crc)
        assert tag.decode() not in chunks
        chunks[tag.decode()] = payload
        end += length
    assert end == len(data)
    needed = {"CLOU", "OCCU", "RAWC", "DUPL", "LATT", "BEAM", "ADAP", "LIKE", "FLDS", "ATTR", "OFFG", "REST", "SCAN", "ORDR"}
    needed |= {"IMAG"}
    unknown = set(chunks) - needed
    assert not any(tag[0].isupper() for tag in unknown)
    return chunks


# -- CLOU --------------------------------------------------------------------------------------------------------------


@dataclass
class Grid:
    """What ``CLOU`` says."""

    dtype: str
    depth: int
    dropped: int
    step: float
    origin: np.ndarray
    shift: tuple[int, ...]
    points: int
    cells: int
    checksum: int
    model: bytes
    name: str
    calibrated: bool


def grid_of(payload: bytes) -> Grid:
    reader = Reader(payload)
    flags, depth, dropped = reader.byte(), reader.byte(), reader.byte()
    assert dropped <= depth <= 32
    step = float(reader.floats(1)[0])
    origin = reader.floats(3) if flags & 16 else np.zeros(3)
    shift = tuple(reader.signed() for _ in range(3))
    points, cells = reader.varint(), reader.varint()
    (checksum,) = struct.unpack("<I", reader.take(4))
    hash_size, name_size = reader.byte(), reader.byte()
    model, name = reader.take(hash_size), reader.take(name_size).decode()
    assert hash_size in (0, 8)
    assert not reader.rest()
    return Grid(DTYPES[flags & 15], depth, dropped, step, origin, shift, points, cells, checksum, model, name, not flags & 32)


# -- RAWC, DUPL, LATT --------------------------------------------------------------------------------------------------


def raw_cells(payload: bytes, depth: int, count: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(payload, "u1")).astype(np.int64)
    used = 3 * depth * count
    assert len(bits) == -(-used // 8) * 8
    assert not bits[used:].any()
    return bits[:used].reshape(count, 3, depth) @ (1 << np.arange(depth)[::-1])


def counts(payload: bytes, contexts: np.ndarray) -> np.ndarray:
    """*Counts*: numbers in these contexts (N,), int64 (N,)."""
    reader = Reader(payload)
    excess = Reader(reader.take(reader.varint()))
    decoder = RangeDecoder(reader.rest())
    frequencies = np.tile([32, 8, 4, 2] + 12 * [1], (28, 1))
    values = np.zeros(len(contexts), np.int64)
    order = sorted(range(len(contexts)), key=lambda i: i * 2654435769 % (1 << 32))
    size = 64
    while order:
        block, order = order[:size], order[size:]
        size = min(2 * size, 4096)
        values[block] = decoder.decode(frequencies[contexts[block]])
        np.add.at(frequencies, (contexts[block], values[block]), 16)
        large = frequencies.sum(1) >= 1 << 20
        frequencies[large] = (frequencies[large] + 1) // 2
    for row in np.flatnonzero(values == 15):
        values[row] += excess.varint()
    assert not excess.rest()
    assert decoder.exhausted()
    return values


def density_contexts(cells: np.ndarray) -> np.ndarray:
    """The contexts (N,) of ``DUPL`` for cells (N, 3)."""
    siblings, cousins = (crowd(cells >> levels) for levels in (1, 2))
    return np.array([min(n1 - 1, 3) * 7 + n2.bit_length() - 1 for n1, n2 in zip(siblings, cousins, strict=True)])


def crowd(ancestors: np.ndarray) -> list[int]:
    """How many cells share the ancestor of each."""
    names = list(map(tuple, ancestors.tolist()))
    number = Counter(names)
    return [number[name] for name in names]


def lattices(payload: bytes) -> dict[int, np.ndarray]:
    """The coordinates that occur, by axis."""
    reader = Reader(payload)
    flags = reader.byte()
    axes = {}
    for axis in (axis for axis in range(3) if flags >> axis & 1):
        count, first = reader.varint(), reader.signed()
        gaps = 1 + counts(reader.take(reader.varint()), np.zeros(count - 1, np.int64))
        axes[axis] = first + np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)
    assert not reader.rest()
    return axes


# -- Arithmetic of the model -------------------------------------------------------------------------------------------


class Model:
    """The integer network of a model file."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "np") as file:
            self.config = json.loads(file.metadata()["config"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    def layers(self) -> list[str]:
        config = self.config
        names = ["fuse", *(f"parent{i}" for i in range(config["parent_convs"])), "up"]
        names += [f"child{i}" for i in range(config["child_convs"])]
        names += ["seen", "aggregate"] if config["spatial_grouping"] and config["aggregation"] else []
        heads = itertools.product(range(1 + config["spatial_grouping"]), self.halves(), ("hidden", "out"))
        names += [f"head{group}.{half}.{part}" for group, half, part in heads]
        return names + [f"dense.{name}" for name in names if config["dense_weights"]]

    def halves(self) -> tuple[str, ...]:
        return ("low", "high") if self.config["channel_grouping"] else ("code",)

    def hash(self) -> bytes:
        digest = hashlib.sha256(b"anypcc-ucm/1" + json.dumps(self.config, sort_keys=True).encode())
        for name in self.layers():
            digest.update(self.tensors[f"{name}.weight"].astype("i1").tobytes())
            digest.update(self.tensors[f"{name}.bias"].astype("<i4").tobytes())
            digest.update(self.tensors[f"{name}.multiplier"].astype("<i4").tobytes())
        return digest.digest()[:8]

    def scaled(self, name: str, taps: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray) -> np.ndarray:
        """y of a layer; ``taps`` holds for every tap the outputs that it reaches and the inputs there."""
        weights = self.tensors[f"{name}.weight"].astype(np.int64)
        total = self.tensors[f"{name}.bias"].astype(np.int64)[rows]
        for weight, (reached, inputs) in zip(weights, taps, strict=True):
            total[reached] += inputs @ weight
        assert (abs(total) < 1 << 24).all()
        return (total * self.tensors[f"{name}.multiplier"].astype(np.int64) + (1 << 23)) >> 24

    def layer(self, name: str, inputs: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """A feature layer of one tap."""
        return np.clip(self.logits(name, inputs, rows), 0, 127)

    def logits(self, name: str, inputs: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        everywhere = np.arange(len(inputs))
        return self.scaled(name, [(everywhere, inputs)], 0 * everywhere if rows is None else rows)

    def up(self, name: str, inputs: np.ndarray, octants: np.ndarray) -> np.ndarray:
        """The feature layer whose only occupied tap is the node's octant."""
        taps = [(np.flatnonzero(octants == octant), inputs[octants == octant]) for octant in range(8)]
        return np.clip(self.scaled(name, taps, 0 * octants), 0, 127)

    def convolution(
        self, name: str, inputs: np.ndarray, sources: np.ndarray, outputs: np.ndarray, residual: np.ndarray,
        offsets: tuple[tuple[int, ...], ...],
    ) -> np.ndarray:  # fmt: skip
        """A feature layer over the neighbours: ``inputs`` are at ``sources``, results at ``outputs``; int64 (N, 3)."""
        index = {tuple(position): i for i, position in enumerate(sources.tolist())}
        taps = []
        for offset in offsets:
            found = np.array([index.get(tuple(p), -1) for p in (outputs + offset).tolist()], np.int64)
            taps.append((np.flatnonzero(found >= 0), inputs[found[found >= 0]]))
        return np.clip(residual + self.scaled(name, taps, np.zeros(len(outputs), np.int64)), 0, 127)


# -- LIKE --------------------------------------------------------------------------------------------------------------


class Filling:
    """What ``LIKE`` says; its numbers follow in the order of decoding."""

    def __init__(self, payload: bytes) -> None:
        self.numbers = Reader(payload)
        self.levels = self.numbers.byte()
        assert self.levels
        assert self.numbers.floats(1)[0] >= 0

    def symbols(self, frequencies: np.ndarray, threshold: int, needy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which nodes of a part were sent, and symbols of which those of the others are right."""
        size = frequencies.shape[1]
        bits = range(size.bit_length() - 1)
        chances = [[sum(f[s] for s in range(size) if s >> bit & 1) for bit in bits] for f in frequencies.tolist()]
        sent = [sum(min(m, 65536 - m) for m in row) >= threshold for row in chances]
        ranked = []
        for node in np.flatnonzero(~np.array(sent, bool)).tolist():
            first = chances[node].index(max(chances[node])) if needy[node] else None
            ranked += [(bit != first, -m, node, bit) for bit, m in enumerate(chances[node])]
        number = self.numbers.varint()
        assert sum(not behind for behind, *_ in ranked) <= number <= len(ranked)
        symbols = np.zeros(len(chances), np.int64)
        for _, _, node, bit in sorted(ranked)[:number]:
            symbols[node] |= 1 << bit
        return np.flatnonzero(sent), symbols


# -- ADAP --------------------------------------------------------------------------------------------------------------


def adapted(model: Model, payload: bytes, shared: dict[bytes, bytes] | None) -> Model:
    """The model as an ``ADAP`` chunk changes it."""
    delta = payload[1:]
    if payload[0]:
        assert payload[0] == 1
        assert len(delta) == 8
        file = (shared or {})[delta]
        assert file[:5] == b"APAD\1"
        assert file[5:13] == model.hash()
        assert hashlib.sha256(b"anypcc-adaptation/1" + file[5:13] + file[21:]).digest()[:8] == file[13:21] == delta
        delta = file[21:]
    changed = copy.copy(model)
    changed.tensors = dict(model.tensors)
    reader, slices, names = Reader(delta), [], model.layers()
    shifts = reader.byte(), reader.byte()
    assert max(shifts) <= 22
    flags = int.from_bytes(reader.take(-(-len(names) // 8)), "little")
    assert flags < 1 << len(names)
    for number, name in enumerate(names):
        if flags >> number & 1:
            for part, (kind, shift) in enumerate(zip(("weight", "bias"), shifts, strict=True)):
                base = model.tensors[f"{name}.{kind}"].astype(np.int64)
                changed.tensors[f"{name}.{kind}"] = base.copy()
                places = range(len(base)) if kind == "weight" else [slice(None)]
                slices += [(base[i], changed.tensors[f"{name}.{kind}"][i], 2 * number + part, shift) for i in places]
    rests = Reader(reader.take(reader.varint()))
    decoder = RangeDecoder(reader.rest())
    zeros, values = specified_fields.Mixer(1, 5, 2), specified_fields.Mixer(4, 3, 2)
    before: dict[tuple[int, ...], np.ndarray] = {}
    for base, target, tensor, shift in slices:
        alike = before.get(base.shape, np.zeros(base.shape, np.int64))
        numbers = np.zeros(base.shape, np.int64)
        height = max(128 // base.shape[1], 1)
        for start in range(0, len(base), height):
            block = numbers[start : start + height]
            last = numbers[start - len(block) : start] if start else np.zeros(block.shape, np.int64)
            of_zeros, of_values = [], []
            for row, column in np.ndindex(block.shape):
                like = alike[start + row]
                density = 8 * np.count_nonzero(numbers[:start, column]) // max(start, 1)
                length = int(abs(base[start + row, column])).bit_length() - 7 * (tensor % 2)
                signs = int(np.sign(last[:, column]).sum())
                near = min(np.count_nonzero(last[:, column]), 4)
                crowd = 9 * min(abs(like[column]), 2) + 8 * np.count_nonzero(like) // len(like)
                busy = 8 * np.count_nonzero(last) // last.size
                of_zeros.append([tensor % 128, 2 * near + tensor % 2, 9 * density + busy])
                of_zeros[-1] += [2 * min(max(length, 0), 7) + tensor % 2, int(crowd)]
                of_values.append([tensor % 128, 5 * min(max(signs, -2), 2) + min(max(int(like[column]), -2), 2) + 12, density])
            some = zeros.block(decoder, of_zeros, [tensor % 2] * block.size)
            places = [i for i, token in enumerate(some) if token]
            tokens = values.block(decoder, [of_values[i] for i in places], [tensor % 2] * len(places)) if places else []
            for place, token in zip(places, tokens, strict=True):
                size = 1 + token % 8 + (rests.varint() if token % 8 == 7 else 0)
                block[divmod(place, base.shape[1])] = -size if token >= 8 else size
        target += numbers << shift
        before[base.shape] = numbers
    assert not rests.rest()
    assert decoder.exhausted()
    assert all(abs(changed.tensors[f"{name}.weight"]).max() <= 127 for name in model.layers())
    return changed


# -- OCCU --------------------------------------------------------------------------------------------------------------


def children_of(positions: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, octants and parents of the next level's nodes, in Morton order."""
    parents, octants = np.nonzero(codes[:, None] >> np.arange(8) & 1)
    bits = np.stack([octants >> 2 & 1, octants >> 1 & 1, octants & 1], 1)
    return 2 * positions[parents] + bits, octants, parents


def octree_cells(payload: bytes, grid: Grid, model: Model, beams: Beams | None, likeliest: bytes = b"") -> np.ndarray:
    """The cells of an ``OCCU`` chunk and perhaps a ``LIKE`` chunk, int64 (N, 3) in Morton order."""
    depth = grid.depth - grid.dropped
    positions = np.zeros((1, 3), np.int64)
    if depth == 0:
        assert not payload
        return positions
    codes = np.array([payload[0]])
    decoder, calibration = RangeDecoder(payload[1:]), Calibration()
    filling = Filling(likeliest) if likeliest else None
    x = np.zeros((1, model.config["channels"]), np.int64)
    for level in range(1, depth):
        children, octants, parents = children_of(positions, codes)
        which = "dense." if model.config["dense_weights"] and 2 * len(children) >= 5 * len(positions) else ""
        x = model.layer(f"{which}fuse", x if model.config["carry"] else 0 * x, codes)
        for i in range(model.config["parent_convs"]):
            x = model.convolution(f"{which}parent{i}", x, positions, positions, x, TAPS)
        positions = children
        around = Surroundings(grid.depth - 1 - level, positions, codes[parents], grid.shift, beams)
        x = model.up(f"{which}up", x[parents], octants)
        for i in range(model.config["child_convs"]):
            x = model.convolution(f"{which}child{i}", x, positions, positions, x, TAPS)
        codes = np.zeros(len(positions), np.int64)
        filled = filling if filling and level >= depth - filling.levels else None
        threshold = filled.numbers.varint() if filled else 0
        even = np.isin(octants, (0, 3, 5, 6)) | (not model.config["spatial_grouping"])
        for group, members in enumerate((np.flatnonzero(even), np.flatnonzero(~even))):
            if not len(members):
                continue
            context = x[members]
            if group == 1 and model.config["aggregation"] and even.any():
                seen = model.layer(f"{which}seen", x[even], codes[even])
                context = model.convolution(f"{which}aggregate", seen, positions[even], positions[members], context, ODD_TAPS)
            for half in model.halves():
                rows = codes[members] if half == "high" else None  # so far the low 4 bits
                hidden = model.layer(f"{which}head{group}.{half}.hidden", context, rows)
                logits = model.logits(f"{which}head{group}.{half}.out", hidden)
                symbols, sent = np.zeros(len(members), np.int64), np.arange(len(members))
                if filled:
                    needy = (codes[members] == 0) & (half != "low")
                    sent, symbols = filled.symbols(frequencies_of(logits), threshold, needy)
                if half == "code" or not grid.calibrated:
                    symbols[sent] = decoder.decode(frequencies_of(logits[sent]))
                elif len(sent):
                    names = around.names(members[sent], group, half == "high", codes)
                    symbols[sent] = calibration.decode(logits[sent], names, decoder.decode)
                codes[members] += symbols << 4 if half == "high" else symbols
        assert codes.all()
    assert decoder.exhausted()
    assert not (filling and filling.numbers.rest())
    return children_of(positions, codes)[0]


# -- Grid and octree ---------------------------------------------------------------------------------------------------


@dataclass
class Cloud:
    """What a stream decodes to."""

    xyz: np.ndarray
    fields: dict[str, np.ndarray]
    height: int


def decode(data: bytes, models: dict[bytes, Model], shared: dict[bytes, bytes] | None = None) -> Cloud:
    """The cloud of a stream; ``shared``: .apad files by hash."""
    chunks = chunks_of(data)
    grid = grid_of(chunks["CLOU"])
    if "IMAG" in chunks:
        return image(chunks, grid)
    if "OCCU" in chunks:
        beams = Beams(chunks["BEAM"]) if "BEAM" in chunks else None
        model = adapted(models[grid.model], chunks["ADAP"], shared) if "ADAP" in chunks else models[grid.model]
        cells = octree_cells(chunks["OCCU"], grid, model, beams, chunks.get("LIKE", b""))
    elif "RAWC" in chunks:
        cells = raw_cells(chunks["RAWC"], grid.depth - grid.dropped, grid.cells)
    else:
        cells = np.zeros((0, 3), np.int64)
    assert len(cells) == grid.cells
    assert zlib.crc32(cells.astype("<u4").tobytes()) == grid.checksum
    numbers = (cells << grid.dropped) + np.array(grid.shift)
    for axis, coordinates in lattices(chunks["LATT"]).items() if "LATT" in chunks else ():
        numbers[:, axis] = coordinates[numbers[:, axis]]
    if "DUPL" in chunks:
        repeats = 1 + counts(chunks["DUPL"], density_contexts(cells))
        assert repeats.sum() == grid.points
        numbers = np.repeat(numbers, repeats, axis=0)
    xyz = positions(grid, numbers + (2**grid.dropped - 1) / 2)
    layout = specified_fields.layout_of(chunks["FLDS"]) if "FLDS" in chunks else specified_fields.Layout()
    here = numbers + np.rint(grid.origin / grid.step).astype(np.int64)
    beside = np.arange(layout.off_grid)[:, None] * [1, 0, 0]
    if "REST" in chunks:
        ends = positions(grid, numbers + 0.5), positions(grid, numbers - 0.5)
        xyz = specified_fields.remainders(chunks["REST"], here, xyz, *ends)
    if layout.off_grid:
        xyz = np.concatenate([xyz, specified_fields.off_grid(chunks["OFFG"], layout.off_grid, grid.dtype)])
    everywhere = np.concatenate([here, beside])
    fields, scan = specified_fields.attributes(chunks.get("ATTR", b""), layout, everywhere, chunks.get("SCAN", b""))
    if "ORDR" in chunks:
        before = {name: values[: len(here)] for name, values in fields.items()}
        rows = specified_fields.order(chunks["ORDR"], len(xyz), here, before, scan)
        xyz, fields = xyz[rows], {name: values[rows] for name, values in fields.items()}
    assert len(xyz) % layout.height == 0
    return Cloud(xyz, fields, layout.height)


def image(chunks: dict[str, bytes], grid: Grid) -> Cloud:
    """The cloud of a stream that is a depth image."""
    assert set(chunks) <= {"CLOU", "FLDS", "IMAG", "ATTR"}
    layout = specified_fields.layout_of(chunks["FLDS"])
    xyz, pixels, numbers = specified_fields.image(chunks["IMAG"], layout.off_grid + layout.left_out, grid.dtype)
    if layout.height == 1:
        valid = np.isfinite(xyz).all(axis=1)
        xyz, pixels = xyz[valid], pixels[valid]
    fields, _ = specified_fields.attributes(chunks.get("ATTR", b""), layout, pixels)
    assert len(xyz) == layout.off_grid
    if layout.height > 1:
        assert not layout.left_out
        places = np.argsort(numbers)
        xyz, fields = xyz[places], {name: values[places] for name, values in fields.items()}
    return Cloud(xyz, fields, layout.height)


def positions(grid: Grid, numbers: np.ndarray) -> np.ndarray:
    """Positions (N, 3) of grid coordinates (N, 3)."""
    coordinates = grid.origin + numbers * grid.step
    if grid.dtype[1] == "i":
        limit = min(np.iinfo(grid.dtype).max, 2**53 - 1)
        coordinates = np.clip(np.rint(coordinates), -limit - (grid.dtype == "<i4"), limit)
    return coordinates.astype(grid.dtype)


# -- cuts --------------------------------------------------------------------------------------------------------------


def cuts_of(payload: bytes, occupancy: bytes) -> list[tuple[int, int, bytes]]:
    """Cells, CRC-32 and ``OCCU`` with one scale less, two, ..."""
    cuts = []
    while payload:
        reader = Reader(payload)
        cells = reader.varint()
        (checksum,) = struct.unpack("<I", reader.take(4))
        kept = occupancy[: 1 + 4 * reader.varint()]
        cuts.append((cells, checksum, kept + reader.take(4 * reader.varint())))
        payload = reader.rest()
    return cuts


# -- Tests -------------------------------------------------------------------------------------------------------------


def assert_same(decoded: np.ndarray, expected: np.ndarray) -> None:
    assert (decoded.dtype, decoded.shape) == (expected.dtype, expected.shape)
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("case", sorted(path.name.split(".")[0] for path in GOLDEN.glob("*.tiny.apcc")))
def test_golden_stream_decodes_by_the_document(case: str) -> None:
    tiny = Model(GOLDEN / "tiny.safetensors")
    decoded = decode((GOLDEN / f"{case}.tiny.apcc").read_bytes(), {tiny.hash(): tiny}, SHARED)
    expected = np.load(next(itertools.chain(GOLDEN.glob(f"{case}.tiny.decoded.np?"), GOLDEN.glob(f"{case}.decoded.np?"))))
    if isinstance(expected, np.ndarray):
        assert_same(decoded.xyz, expected)
        return
    assert_same(decoded.xyz, expected["xyz"])
    assert decoded.height == expected["height"]
    assert [f"field {name}" for name in decoded.fields] == [name for name in expected.files if name.startswith("field ")]
    for name, values in decoded.fields.items():
        assert_same(values, expected[f"field {name}"])


def test_a_golden_stream_is_cut_by_the_document() -> None:
    tiny, chunks = Model(GOLDEN / "tiny.safetensors"), chunks_of((GOLDEN / "plain.tiny.apcc").read_bytes())
    grid = grid_of(chunks["CLOU"])
    whole = octree_cells(chunks["OCCU"], grid, tiny, None)
    cells, checksum, occupancy = cuts_of(chunks["cuts"], chunks["OCCU"])[0]
    shorter = octree_cells(occupancy, replace(grid, dropped=1), tiny, None)
    assert (len(shorter), zlib.crc32(shorter.astype("<u4").tobytes())) == (cells, checksum)
    assert {tuple(cell) for cell in shorter.tolist()} == {tuple(cell) for cell in (whole >> 1).tolist()}


def test_a_golden_stream_has_beams_with_planes() -> None:
    beams = Beams(chunks_of((GOLDEN / "scan.tiny.apcc").read_bytes())["BEAM"])
    assert beams.count > 3
    assert beams.columns > 0


def test_the_golden_adaptation_has_rests_and_several_kinds_of_slices() -> None:
    tiny, chunks = Model(GOLDEN / "tiny.safetensors"), chunks_of((GOLDEN / "adapted.tiny.apcc").read_bytes())
    model = adapted(tiny, chunks["ADAP"], SHARED)
    change = {name: tensor.astype(np.int64) - tiny.tensors[name] for name, tensor in model.tensors.items()}
    assert {name.split(".")[0] for name, c in change.items() if c.any()} == {"child0", "head0", "head1"}
    assert abs(change["head0.high.hidden.bias"]).max() >= 9 << 9
    # The same, sent along:
    again = adapted(tiny, b"\0" + SHARED[chunks["ADAP"][1:]][21:], None)
    assert all(np.array_equal(again.tensors[name], tensor) for name, tensor in model.tensors.items())


@pytest.mark.parametrize("switched_off", ["carry", "spatial_grouping", "aggregation", "channel_grouping"])
def test_ablated_model_decodes_by_the_document(switched_off, make_model, tmp_path) -> None:
    from anypcc_ros.codec.cloud import PointCloud
    from anypcc_ros.codec.codec import Decoder, Encoder
    from anypcc_ros.codec.config import CodecConfig, DecoderConfig
    from anypcc_ros.codec.model.integer import save_model
    from anypcc_ros.codec.model.network import ModelConfig

    path = tmp_path / "ablated.safetensors"
    save_model(make_model(ModelConfig(16, 2, 0, **{switched_off: False})), path)
    data = Encoder(CodecConfig(model=str(path), step=0.1)).encode(PointCloud(np.load(GOLDEN / "scan.npy")))
    expected = Decoder(DecoderConfig(model_dir=str(tmp_path))).decode(data).xyz
    ablated = Model(path)
    assert_same(decode(data, {ablated.hash(): ablated}).xyz, expected)


def many_fields(points: int) -> dict[str, np.ndarray]:
    """Fields that take every path of the format."""
    rng = np.random.default_rng(points)
    ring = np.sort(rng.integers(0, 5, points)).astype(np.uint16)
    hundredths = (rng.integers(0, 90, points) / 100).astype(np.float32)
    hundredths[::9] = np.nan
    return {
        "intensity": np.minimum(rng.geometric(0.1, points), 255).astype(np.uint8),
        "ring": ring,
        "time": 1.6e9 + np.arange(points) * 1e-6,
        "hundredths": hundredths,
        "noise": np.frombuffer(rng.bytes(8 * points), np.float64),
        "wide": rng.integers(-(1 << 63), (1 << 63) - 1, points),
        "unsigned": rng.integers(0, 1 << 64, points, np.uint64, endpoint=False),
        "heavy": np.floor(rng.pareto(0.6, points) * 40).astype(np.int32),
        "few": rng.choice([-5.5, 1e30, -0.0, np.inf], points),
        "half": rng.normal(size=points).astype(np.float16),
        "normal": rng.normal(size=(points, 3)).astype(np.float32),
        "flag": rng.integers(0, 2, points).astype(bool),
        "rgb": rng.integers(0, 1 << 32, points, np.uint32, endpoint=False).view(np.float32),
        "rgba": np.clip(rng.normal(128, 30, (points, 4)), 0, 255).astype(np.uint8),
        "lost": rng.integers(0, 9, points),
        "coarse": rng.normal(0, 50, points).astype(np.float32),
        "stepped": rng.integers(-3000, 3000, points).astype(np.int16),
    }


@pytest.mark.parametrize(
    ("options", "points", "names"),
    [
        ({}, 200, None),
        ({"order": "original"}, 100, None),
        ({"order": "original", "exact": True}, 150, ["ring", "rgb"]),
        ({"exact": True}, 2, None),
        ({}, 0, None),
        ({}, 2700, ["flag"]),  # levels in four passes
    ],
)
def test_fields_order_and_exact_coordinates_decode_by_the_document(options, points, names) -> None:
    from anypcc_ros.codec.cloud import PointCloud
    from anypcc_ros.codec.codec import Decoder, Encoder
    from anypcc_ros.codec.config import CodecConfig, DecoderConfig

    rng = np.random.default_rng(1)
    cells = rng.integers(-90, 90, (6, 3))  # so few that they are RAWC
    xyz = (cells[rng.integers(0, 6, points)] + rng.normal(0, 0.01, (points, 3))).astype(np.float32)
    xyz[::50] = [np.nan, -0.0, 1e30]
    policies = ("lost=drop", "coarse=step:0.5", "stepped=step:8.5", "rgba=step:4")
    config = CodecConfig(model=str(GOLDEN / "tiny.safetensors"), step=1.0, fields=policies, **options)
    fields = {name: values for name, values in many_fields(points).items() if names is None or name in names}
    data = Encoder(config).encode(PointCloud(xyz, fields, height=max(points // 50, 1), position=len(fields) // 2))
    expected = Decoder(DecoderConfig(model_dir=str(GOLDEN))).decode(data)
    decoded = decode(data, {})
    assert_same(decoded.xyz, expected.xyz)
    assert decoded.height == expected.height
    assert list(decoded.fields) == list(expected.fields)
    for name, values in expected.fields.items():
        assert_same(decoded.fields[name], values)


@pytest.mark.parametrize("total", [300, 1 << 16, 1 << 20, (1 << 24) - 1])
@pytest.mark.parametrize("symbols", [16, 256])
def test_range_coder_is_that_of_constriction(total: int, symbols: int) -> None:
    rng = np.random.default_rng(total)
    shares = rng.dirichlet(np.full(symbols, 0.2), 500)
    frequencies = 1 + np.floor(shares * (total - symbols)).astype(np.int64)
    written = np.array([rng.choice(symbols, p=f / f.sum()) for f in frequencies], np.int32)
    encoder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    encoder.encode(written, family, frequencies.astype(np.float32))
    decoder = RangeDecoder(encoder.get_compressed().astype("<u4").tobytes())
    assert np.array_equal(decoder.decode(frequencies), written)
    assert decoder.exhausted()
