"""Fields, order and exact coordinates of a stream, decoded by docs/bitstream.md alone; plain and slow on purpose."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from specified_basics import RangeDecoder, Reader
from specified_contexts import angle

DTYPES = ("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<f4", "<f8", "<i8", "<u8", "<f2", "?")
CLAMP = 1 << 30


# -- FLDS --------------------------------------------------------------------------------------------------------------


@dataclass
class Field:
    name: str
    dtype: str
    count: int
    policy: int
    size: int


@dataclass
class Layout:
    """What ``FLDS`` says."""

    height: int = 1
    position: int = 0
    left_out: int = 0
    off_grid: int = 0
    fields: tuple[Field, ...] = ()


def layout_of(payload: bytes) -> Layout:
    reader = Reader(payload)
    height, position, left_out, off_grid, number = (reader.varint() for _ in range(5))
    fields = []
    for _ in range(number):
        code, count = reader.byte(), reader.varint()
        name = reader.take(reader.varint()).decode()
        policy = code >> 4
        if policy == 1:
            step, error = reader.floats(2)
            assert 0 <= error <= step
        fields.append(Field(name, DTYPES[code & 15], count, policy, 0 if policy == 2 else reader.varint()))
    assert not reader.rest()
    assert len({field.name for field in fields}) == number
    return Layout(height, position, left_out, off_grid, tuple(fields))


# -- Integers of values ------------------------------------------------------------------------------------------------


def integers_of(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    bits = values.view(f"<i{values.dtype.itemsize}").astype(np.int64)
    return np.where(bits >= 0, bits, bits ^ ((1 << 8 * values.dtype.itemsize - 1) - 1))


def values_of(integers: np.ndarray, dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind != "f":
        values = integers.astype(kind)
        assert np.array_equal(values.astype(np.int64), integers)
        return values
    bits = np.where(integers >= 0, integers, integers ^ ((1 << 8 * kind.itemsize - 1) - 1))
    signed = bits.astype(f"<i{kind.itemsize}")
    assert np.array_equal(signed.astype(np.int64), bits)
    return signed.view(kind)


def wrap(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


# -- Surroundings ------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    """One point's surroundings."""

    nearest: list[int]
    shares: tuple[int, int]
    distance: int
    reach: int
    elevation: int


def root(number: int) -> int:
    return int(math.sqrt(float(number)))


def passes(points: int) -> list[list[int]]:
    result = [[0]] if points else []
    for level in reversed(range(max(points - 1, 0).bit_length())):
        rows = list(range(1 << level, points, 2 << level))
        result += [rows] if len(rows) < 1024 else [rows[part::4] for part in (0, 2, 1, 3)]
    return result


def blocks(points: int) -> list[list[int]]:
    return [rows[start : start + 64] for rows in passes(points) for start in range(0, len(rows), 64)]


def morton(position: list[int]) -> int:
    x, y, z = position
    return sum((x >> b & 1) << 3 * b + 2 | (y >> b & 1) << 3 * b + 1 | (z >> b & 1) << 3 * b for b in range(33))


def surroundings(grid: np.ndarray, in_a_row: bool = False) -> list[Point]:
    """Of points at these coordinates (N, 3)."""
    n = [[int(v) for v in row] for row in grid]
    count = len(n)
    if not count:
        return []
    low = [min(axis) for axis in zip(*n, strict=True)]
    local = [[v - m for v, m in zip(row, low, strict=True)] for row in n]
    depth = max(map(max, local)).bit_length()
    bits = depth if in_a_row else min(depth, 20)
    local = [[v >> depth - bits for v in row] for row in local]
    shifted = [morton([v + (1 << bits) // 3 >> max(bits - 13, 0) for v in row]) for row in local]
    curves = [list(range(count)), sorted(range(count), key=lambda i: shifted[i])]

    nearest: list[list[tuple[int, int]]] = [[(0, 0)] * 5 for _ in n]
    known: list[bool] = [False] * count
    for rows in passes(count):
        decoded = [[i for i in curve if known[i]] for curve in curves]
        if decoded[0]:
            starts = []
            for curve in curves:
                before, start = 0, {}
                for i in curve:
                    start[i] = before
                    before += known[i]
                starts.append(start)
            for row in rows:
                candidates: dict[int, None] = {}  # in their order
                for along, start in zip(decoded, starts, strict=True):
                    candidates.update(dict.fromkeys(along[max(start[row] - 4, 0) : start[row] + 4]))
                squares = [(square(local[row], local[other]), other) for other in candidates]
                found = sorted(squares, key=lambda candidate: candidate[0])[:5]
                nearest[row] = found + [found[0]] * (5 - len(found))
        for row in rows:
            known[row] = True

    near = [[max(min(v, 1 << 25), -(1 << 25)) for v in row] for row in n]
    reaches = [(x * x + y * y + z * z).bit_length() for x, y, z in near]
    slopes = [max(min(2048 * z / max(root(x * x + y * y), 1), 8191), -8192) for x, y, z in near]
    ascending = sorted(map(int, slopes))
    smaller = {slope: ascending.index(slope) for slope in set(ascending)}
    least = min(reaches)
    points = []
    for i, found in enumerate(nearest):
        first, second, third = (1 + root(s) for s, _ in found[:3])
        parts = (first * third, first * second) if not in_a_row else (first, 0)
        whole = second * third + sum(parts) if not in_a_row else first + second
        points.append(
            Point(
                [other for _, other in found],
                (256 * parts[0] // whole, 256 * parts[1] // whole),
                root(found[0][0]).bit_length(),
                min(reaches[i] - least, 15),
                256 * smaller[int(slopes[i])] // count,
            )
        )
    return points


def square(one: list[int], other: list[int]) -> int:
    return sum(max(min(a - b, 8191), -8191) ** 2 for a, b in zip(one, other, strict=True))


def row_of(points: int) -> list[Point]:
    return surroundings(np.arange(points)[:, None] * [1, 0, 0], in_a_row=True)


# -- Channels ----------------------------------------------------------------------------------------------------------


class Mixer:
    """Counts and weights of all contexts."""

    def __init__(self, bits: int, kinds: int, selectors: int) -> None:
        self.parts = [bits] if bits <= 4 else [bits - 4, 4]
        self.counts: dict[tuple[int, int, int, int], list[np.float32]] = {}
        self.weights = [[[98304 // kinds] * kinds for _ in range(selectors)] for _ in self.parts]

    def block(self, decoder: RangeDecoder, contexts: list[list[int]], selectors: list[int]) -> list[int]:
        """The tokens of a block."""
        tokens = [0] * len(contexts)
        for part, bits in enumerate(self.parts):
            weights, seen = self.weights[part], []
            for context, selector, before in zip(contexts, selectors, tokens, strict=True):
                fresh = [np.float32(2)] * (1 << bits)
                rows = [self.counts.setdefault((part, k, c, before), [*fresh]) for k, c in enumerate(context)]
                logs = [[logarithm(c) for c in row] for row in rows]
                sums = [
                    sum((w >> 4) * v for w, v in zip(weights[selector], column, strict=True))
                    for column in zip(*logs, strict=True)
                ]
                mixed = [s + (1 << 11) >> 12 for s in sums]
                frequencies = [power(max(m - max(mixed), -4096)) for m in mixed]
                scale = np.float32(65536) / np.float32(sum(frequencies))
                seen.append((rows, logs, frequencies, [int(np.float32(f) * scale) for f in frequencies]))
            values = [int(decoder.decode(np.array([frequencies]))[0]) for _, _, frequencies, _ in seen]
            taught = [i for i, (*_, shares) in enumerate(seen) if shares[values[i]] < 64000 or i % 4 == 0]
            for selector in range(len(weights)):
                members = [i for i in taught if selectors[i] == selector]
                for kind in range(len(weights[selector])):
                    gradient = 0
                    for i in members:
                        _, logs, _, shares = seen[i]
                        for a, (share, log) in enumerate(zip(shares, logs[kind], strict=True)):
                            gradient += (65536 * (a == values[i]) - share) * log >> 10
                    weight = weights[selector][kind] + (gradient >> 5 + len(members).bit_length() // 2)
                    weights[selector][kind] = max(min(weight, (1 << 19) - 1), 1 - (1 << 19))
            told = [(seen[i][0], values[i]) for i in taught]
            for rows, value in told:
                for row in rows:
                    for a in range(max(value - 1, 0), min(value + 2, len(row))):
                        row[a] += np.float32(32 if a == value else 1)
            for rows, value in told:
                for row in rows:
                    while row[value] > 1000:
                        row[:] = [c / np.float32(2) + np.float32(1) for c in row]
            tokens = [(token << bits) + value for token, value in zip(tokens, values, strict=True)]
        return tokens


def logarithm(count: np.float32) -> int:
    mantissa, exponent = math.frexp(count)
    return math.floor(256 * (exponent - 1 + 2 * mantissa - 1))


def power(number: int) -> int:
    whole, part = divmod(number, 256)
    return 1 + math.floor(2.0 ** (16 + whole) * (1 + part / 256))


def mean(values: list[int], shares: tuple[int, int]) -> int:
    return values[0] + (sum(w * (v - values[0]) for v, w in zip(values[1:3], shares, strict=True)) + 128) // 256


def median(values: list[int]) -> int:
    return sorted(values)[2]


def zigzag(number: int) -> int:
    number = wrap(number)
    return 2 * number if number >= 0 else -2 * number - 1


def unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def token_of(number: int) -> int:
    if number < 16:
        return number
    octave = number.bit_length() - 5
    return 16 + 4 * octave + (number >> octave + 2) - 4


def coarse(token: int) -> int:
    return token // 4 if token < 48 else 12 + token // 64


class Bits:
    """Integers of any number of bits."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data)

    def take(self, count: int) -> int:
        taken, self.bits = self.bits[:count], self.bits[count:]
        assert len(taken) == count
        return int(taken or "0", 2)


def channel(payload: bytes, points: list[Point], reference: list[int] | None = None) -> tuple[np.ndarray, list[int]]:
    """Integers and tokens."""
    reader = Reader(payload)
    (kind, low), count = struct.unpack("<Bq", reader.take(9)), len(points)
    rests = Bits(reader.take(reader.varint()))
    decoder = RangeDecoder(reader.rest())
    values, tokens = [0] * count, [0] * count
    direct = kind <= 8
    bits = kind if direct else 8
    mixer = Mixer(bits, 4, 8) if direct else Mixer(bits, 4, 16)
    for rows in blocks(count) if kind else ():
        if direct:
            described = [direct_contexts(i, points, tokens, kind) for i in rows]
        else:
            described = [residual_contexts(i, points, values, tokens, kind, reference) for i in rows]
        read = mixer.block(decoder, [contexts for contexts, _, _ in described], [s for _, s, _ in described])
        for row, token, (_, _, prediction) in zip(rows, read, described, strict=True):
            if direct:
                value = low + token
            elif token < 16:
                value = prediction + unzigzag(token)
            else:
                octave = (token - 16) // 4
                value = prediction + unzigzag((4 + token % 4 << octave + 2) + rests.take(octave + 2))
            values[row], tokens[row] = wrap(value), token
    assert len(rests.bits) < 8
    assert "1" not in rests.bits
    assert decoder.exhausted()
    return np.array(values if kind else [low] * count, np.int64), tokens


def direct_contexts(i: int, points: list[Point], tokens: list[int], bits: int) -> tuple[list[int], int, int]:
    point = points[i]
    t = [tokens[other] for other in point.nearest]
    spread = min(math.isqrt(max(t) - min(t)), 7)
    contexts = [
        8 * mean(t, point.shares) + spread,
        16 * t[0] + point.reach,
        32 * (i >> max((len(points) - 1).bit_length() - 6, 0)) + (median(t) >> max(bits - 5, 0)),
        16 * point.elevation + point.reach,
    ]
    return contexts, spread, 0


def residual_contexts(
    i: int, points: list[Point], values: list[int], tokens: list[int], kind: int, reference: list[int] | None
) -> tuple[list[int], int, int]:
    point = points[i]
    x, t = [values[other] for other in point.nearest], [tokens[other] for other in point.nearest]
    d = [max(min(wrap(v - x[0]), 1 << 40), -(1 << 40)) for v in x]
    ahead = median(d) if kind == 254 else mean(d, point.shares)
    narrow, wide = (token_of(max(some) - min(some)) for some in (d[:3], d))
    contexts = [
        16 * narrow + point.distance,
        16 * t[0] + coarse(t[1]),
        16 * (reference[i] if reference else 0) + coarse(sum(t) // 5),
        16 * token_of(zigzag(ahead)) + coarse(wide),
    ]
    return contexts, coarse(min(sum(t) // 2, 255)), 0 if kind == 253 else wrap(x[0] + ahead)


# -- Tracks ------------------------------------------------------------------------------------------------------------


@dataclass
class Curve:
    rows: int
    key: int = 0
    descending: bool = False
    cut: int = 0


def curve_of(reader: Reader) -> Curve:
    rows = reader.varint()
    if rows in (0, 3):
        return Curve(rows)
    key = reader.varint()
    return Curve(rows, key // 2, bool(key % 2), int.from_bytes(reader.take(4), "little"))


def track_of(curve: Curve, grid: np.ndarray, fields: list[np.ndarray], coded: np.ndarray | None = None) -> list[int]:
    """The points in the order of the curve; ``fields``: integers of those before."""
    keys = []
    for i, position in enumerate(grid.tolist()):
        row = int(fields[curve.rows - 4][i]) if curve.rows >= 4 else 0 if coded is None else int(coded[i])
        keys.append((row, int(fields[curve.key - 3][i]) if curve.key >= 3 else angle_of(curve, position)))
    return sorted(range(len(keys)), key=lambda i: keys[i])


def angle_of(curve: Curve, position: list[int]) -> int:
    u, v = (max(min(position[axis], CLAMP), -CLAMP) for axis in ((0, 1), (1, 2), (2, 0))[curve.key])
    quarter = (0 if u >= 0 else 1) if v >= 0 else (2 if u < 0 else 3)
    angle = (quarter << 30) + (abs(u if quarter % 2 else v) << 30) // max(abs(u) + abs(v), 1) - curve.cut
    return (-angle if curve.descending else angle) % (1 << 32)


# -- ATTR --------------------------------------------------------------------------------------------------------------


def sized(reader: Reader) -> bytes:
    return reader.take(reader.varint())


@dataclass
class Scan:
    """Column and turn of each point; how many there are."""

    columns: np.ndarray
    turns: np.ndarray
    sizes: tuple[int, int] = (0, 0)

    def track(self, points: int) -> list[int]:
        return sorted(range(points), key=lambda i: (self.columns[i], self.turns[i]))


def scan_of(payload: bytes, grid: np.ndarray, around: list[Point], fields: list[np.ndarray]) -> Scan | None:
    """None as long as the field of the rings is not known."""
    reader = Reader(payload)
    field, first, size, cut = reader.varint(), reader.signed(), reader.varint(), reader.signed()
    if field >= len(fields):
        return None
    turns, offsets = (channel(sized(reader), row_of(size // 2))[0] for _ in range(2))
    columns = reader.varint()
    assert columns <= len(grid)
    azimuths = np.cumsum(channel(sized(reader), row_of(columns))[0]).tolist()
    beside, _ = channel(sized(reader), around)
    assert not reader.rest()
    found = []
    for (x, y, _), ring, d in zip(grid.tolist(), (fields[field] - first).tolist(), beside.tolist(), strict=True):
        alpha = angle(*(max(min(v, 1 << 24), -(1 << 24)) for v in (x, y)))
        along = ((-alpha if size % 2 else alpha) - 4096 * (int(offsets[ring]) + cut)) % 2**32
        found.append((sum(2048 * (a + b) < along for a, b in pairwise(azimuths)) + d) % columns)
    return Scan(np.array(found), turns[fields[field] - first], (columns, size // 2))


def attributes(
    payload: bytes, layout: Layout, grid: np.ndarray, scan_chunk: bytes = b""
) -> tuple[dict[str, np.ndarray], Scan | None]:
    """The values of all fields that were not dropped, in the codec's order; ``grid`` (N, 3): of all points; and their scan."""
    reader, around, scan = Reader(payload), surroundings(grid), None
    fields: dict[str, np.ndarray] = {}
    for field in layout.fields:
        if field.policy == 2:
            continue
        before = [integers_of(values) if values.ndim == 1 else np.zeros(0) for values in fields.values()]
        part = Reader(reader.take(field.size))
        shape = (len(grid),) if field.count == 1 else (len(grid), field.count)
        columns: list[np.ndarray] = []
        while len(grid) and len(columns) < field.count:
            columns += part_of(part, field, grid, around, before, scan)
        assert not part.rest()
        fields[field.name] = np.array(columns, field.dtype).T.reshape(shape)
        if scan_chunk and scan is None:
            scan = scan_of(scan_chunk, grid, around, [*before, integers_of(fields[field.name])])
    assert not reader.rest()
    return fields, scan


def part_of(
    reader: Reader, field: Field, grid: np.ndarray, around: list[Point], before: list[np.ndarray], scan: Scan | None = None
) -> list[np.ndarray]:
    kind, factor = struct.unpack("<Bd", reader.take(9))
    listed, marker = np.zeros(0, np.int64), None
    if size := reader.varint():
        (marker,) = struct.unpack("<q", reader.take(8))
        listed, _ = channel(sized(reader), row_of(size))
        listed = np.cumsum(listed) if kind == 4 else listed
    curve = curve_of(reader)
    channels: list[np.ndarray] = []
    if curve.rows == 3:
        assert scan
        columns, turns = (channel(sized(reader), row_of(size))[0] for size in scan.sizes)
        channels.append(channel(sized(reader), around)[0] + np.cumsum(columns)[scan.columns] + turns[scan.turns])
    elif curve.rows:
        track = track_of(curve, grid, before)
        values = np.zeros(len(grid), np.int64)
        values[track], _ = channel(sized(reader), row_of(len(grid)))
        channels.append(values)
    else:
        tokens: list[int] | None = None
        for _ in range((4 if field.count == 1 else field.count) if kind == 6 else 1):
            values, tokens = channel(sized(reader), around, tokens)
            channels.append(values)
    return values_from(kind, factor, channels, listed, marker, field)


def values_from(
    kind: int, factor: float, channels: list[np.ndarray], listed: np.ndarray, marker: int | None, field: Field
) -> list[np.ndarray]:
    k, dtype = channels[0], np.dtype(field.dtype)
    if kind in (0, 1):
        return [values_of(k, field.dtype)]
    if kind in (2, 3):
        values = (k / factor if kind == 2 else k * factor).astype(dtype)
        if marker is not None:
            values[k == marker] = values_of(listed, field.dtype)
        return [values]
    if kind == 4:
        return [values_of(listed[k], field.dtype)]
    part = np.dtype("u1") if kind == 6 and field.count == 1 else dtype
    low, high = max(np.iinfo(part).min, -(1 << 52)), min(np.iinfo(part).max, 1 << 52)
    if kind == 5:
        return [np.clip(k * int(factor), low, high).astype(dtype)]
    green, red, blue, *others = channels
    red, green, blue, *others = (np.clip(p * int(factor), low, high) for p in (red + green, green, blue + green, *others))
    if field.count > 1:
        return [p.astype(dtype) for p in (red, green, blue, *others)]
    return [(others[0] << 24 | red << 16 | green << 8 | blue).astype(np.uint32).view(dtype)]


# -- IMAG --------------------------------------------------------------------------------------------------------------


def image(payload: bytes, count: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In the codec's order: coordinates (N, 3), columns and rows with a 0 behind (N, 3), and numbers of so many pixels."""
    reader = Reader(payload)
    axis, width = reader.byte() & 3, reader.varint()
    assert count % width == 0
    places = [[i % width, i // width, 0] for i in range(count)]
    numbers = np.array(sorted(range(count), key=lambda i: morton(places[i])))
    pixels = np.array(places)[numbers]
    around = surroundings(pixels)
    depths = part_of(reader, Field("", dtype, 1, 0, 0), pixels, around, [])[0]
    xyz = np.zeros((count, 3), dtype)
    xyz[:, axis] = depths
    for other in sorted({0, 1, 2} - {axis}):
        along = reader.byte()
        centre, scale, factor = reader.floats(3)
        rest, _ = channel(sized(reader), around)
        finite = np.isfinite(depths)
        z = np.where(finite, depths, 0).astype(float)
        once = ((pixels[:, along] - centre) * (np.rint(z * factor) if factor else z)).astype(dtype)
        product = (once.astype(float) * scale).astype(dtype)
        xyz[:, other] = values_of(np.where(finite, integers_of(product), integers_of(depths)) + rest, dtype)
    assert not reader.rest()
    return xyz, pixels, numbers


# -- OFFG, REST, ORDR --------------------------------------------------------------------------------------------------


def off_grid(payload: bytes, points: int, dtype: str) -> np.ndarray:
    reader, row = Reader(payload), row_of(points)
    columns = [values_of(channel(sized(reader), row)[0], dtype) for _ in range(3)]
    assert not reader.rest()
    return np.stack(columns, axis=1)


def remainders(payload: bytes, grid: np.ndarray, positions: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Coordinates (N, 3); ``upper`` and ``lower``: positions half a step further and nearer."""
    reader, around = Reader(payload), surroundings(grid)
    columns = []
    for axis in range(3):
        widths = integers_of(upper[:, axis].copy()) - integers_of(lower[:, axis].copy())
        rest, _ = channel(sized(reader), around, [token_of(int(w)) for w in widths])
        columns.append(values_of(integers_of(positions[:, axis].copy()) + rest, positions.dtype.str))
    assert not reader.rest()
    return np.stack(columns, axis=1)


def order(payload: bytes, points: int, grid: np.ndarray, fields: dict[str, np.ndarray], scan: Scan | None) -> np.ndarray:
    """For each place the point that stands there, numbered in the codec's order; ``grid``: of those on the grid."""
    reader, around = Reader(payload), surroundings(grid)
    curve = curve_of(reader)
    before = [integers_of(values) if values.ndim == 1 else np.zeros(0) for values in fields.values()]
    coded = channel(sized(reader), around)[0] if curve.rows == 1 else None
    if curve.rows:
        values, _ = channel(sized(reader), row_of(len(grid)))
        places = np.zeros(len(grid), np.int64)
        track = scan.track(len(grid)) if scan and curve.rows == 3 else track_of(curve, grid, before, coded)
        places[track] = values + np.arange(len(grid))
    else:
        places, _ = channel(sized(reader), around)
    assert not reader.rest()
    rows = np.full(points, -1)
    rows[places] = np.arange(len(grid))
    rows[rows < 0] = np.arange(len(grid), points)
    assert len(set(rows.tolist())) == points
    return rows
