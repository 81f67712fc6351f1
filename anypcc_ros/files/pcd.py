"""The PCD format of the Point Cloud Library, versions 0.6 and 0.7: ascii, binary and binary_compressed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.files.columns import cloud_from_columns

_TYPES = {
    ("F", 4): "<f4",
    ("F", 8): "<f8",
    ("I", 1): "i1",
    ("I", 2): "<i2",
    ("I", 4): "<i4",
    ("I", 8): "<i8",
    ("U", 1): "u1",
    ("U", 2): "<u2",
    ("U", 4): "<u4",
    ("U", 8): "<u8",
}
_HEADER_LINES = 64  # a PCD header has eleven; more than this without DATA is another kind of file
_HEADER_BYTES = 65536


@dataclass(frozen=True)
class Header:
    """What stands before the points.

    ``names``, ``dtypes`` and ``counts``: one per field, in file order.
    ``height``: rows of an organised cloud, else 1. ``data``: ascii, binary or binary_compressed.
    """

    names: tuple[str, ...]
    dtypes: tuple[np.dtype, ...]
    counts: tuple[int, ...]
    points: int
    height: int
    data: str

    @property
    def point_size(self) -> int:
        """Bytes of one point in the binary encodings."""
        return sum(dtype.itemsize * count for dtype, count in zip(self.dtypes, self.counts, strict=True))


def read(path: Path) -> PointCloud:
    """The cloud of a PCD file, with all its fields and its rows. Raises FileError."""
    return cloud_from_columns(*_read_columns(path))


def write(out: IO[bytes], cloud: PointCloud) -> None:
    """Write a binary PCD, organised if the cloud is. Raises FileError."""
    columns = list(cloud.fields.items())
    columns[cloud.position : cloud.position] = zip("xyz", cloud.xyz.T, strict=True)
    if len({name for name, _ in columns}) < len(columns):
        raise FileError("a field is called x, y or z besides the coordinates")
    _write_columns(out, dict(columns), cloud.height)


def _read_columns(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """All fields of a PCD file, each (N,) or (N, count), as they stand there, packed colours too; and its rows (HEIGHT).

    Padding fields (named _) are left out. Raises FileError for a header or a length that does not fit.
    """
    with open(path, "rb") as file:
        header = _read_header(file)
        body = file.read()
    if header.data == "ascii":
        columns = _ascii(header, body)
    elif header.data == "binary":
        columns = _binary(header, body)
    else:
        columns = _binary_compressed(header, body)
    return columns, header.height


def _write_columns(out: IO[bytes], columns: Mapping[str, np.ndarray], height: int) -> None:
    """Write a binary PCD of ``height`` rows; an ``rgb`` of (N, 3) uint8 is packed as PCL does. Raises FileError."""
    points = len(columns["x"])
    names, arrays = [], []
    for name, values in columns.items():
        if name == "rgb" and values.dtype == np.uint8 and values.shape[1:] == (3,):
            packed = values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
            values = packed.view(np.float32)
        elif values.dtype == np.bool_:
            values = values.astype(np.uint8)
        elif values.dtype == np.float16:
            values = values.astype(np.float32)
        if values.dtype.kind.upper() not in "FIU" or (values.dtype.kind.upper(), values.dtype.itemsize) not in _TYPES:
            raise FileError(f"{name} has type {values.dtype}, which PCD does not have")
        if name in ("", "_") or len(name.split()) != 1:  # an underscore is what PCL calls padding
            raise FileError(f"field name {name!r} cannot stand in a PCD header")
        names.append(name)
        arrays.append(values.reshape(points, -1) if points else values.reshape(0, int(np.prod(values.shape[1:]))))
    kinds = [(a.dtype.kind.upper(), a.dtype.itemsize) for a in arrays]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(names)}",
        f"SIZE {' '.join(str(size) for _, size in kinds)}",
        f"TYPE {' '.join(kind for kind, _ in kinds)}",
        f"COUNT {' '.join(str(a.shape[1]) for a in arrays)}",
        f"WIDTH {points // height}",
        f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {points}",
        "DATA binary",
    ]
    out.write(("\n".join(lines) + "\n").encode())
    record = np.empty(
        points,
        [(f"f{i}", _TYPES[kind], (a.shape[1],)) for i, (kind, a) in enumerate(zip(kinds, arrays, strict=True))],
    )
    for i, values in enumerate(arrays):
        record[f"f{i}"] = values
    out.write(record.tobytes())


def _read_header(file: IO[bytes]) -> Header:
    entries: dict[str, list[str]] = {}
    for _ in range(_HEADER_LINES):
        line = file.readline(_HEADER_BYTES)
        try:
            words = line.decode().split()
        except UnicodeDecodeError as error:
            raise FileError("not a PCD file: its header is not text") from error
        if not line:
            break
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                return _parse_header(entries)
    raise FileError("not a PCD file: no DATA line in its header")


def _parse_header(entries: dict[str, list[str]]) -> Header:
    def numbers(key: str, default: list[int] | None = None) -> list[int]:
        if key not in entries and default is not None:
            return default
        try:
            values = [int(word) for word in entries.get(key, [])]
        except ValueError as error:
            raise FileError(f"PCD header {key} {' '.join(entries[key])}: whole numbers are needed") from error
        if not values or min(values) < 0:
            raise FileError(f"PCD header {key} {' '.join(entries.get(key, ['is missing']))}")
        return values

    names = entries.get("FIELDS", entries.get("COLUMNS", []))
    sizes, kinds = numbers("SIZE"), entries.get("TYPE", [])
    counts = numbers("COUNT", [1] * len(names))
    entry_counts = {"FIELDS": len(names), "SIZE": len(sizes), "TYPE": len(kinds), "COUNT": len(counts)}
    if len(set(entry_counts.values())) != 1:
        raise FileError(f"PCD header describes different numbers of fields: {entry_counts}")
    real = [name for name in names if name != "_"]
    if len(set(real)) != len(real):
        raise FileError(f"PCD header names a field twice: {' '.join(names)}")
    for kind, size in zip(kinds, sizes, strict=True):
        if (kind, size) not in _TYPES:
            raise FileError(f"PCD header has a field of TYPE {kind} SIZE {size}, which does not exist")
    height = numbers("HEIGHT", [1])[0]
    size = numbers("WIDTH")[0] * height
    points = numbers("POINTS", [size])[0]
    if points != size:
        raise FileError(f"PCD header has POINTS {points} but WIDTH x HEIGHT {size}")
    data = " ".join(entries["DATA"]).lower()
    if data not in ("ascii", "binary", "binary_compressed"):
        raise FileError(f"PCD header has DATA {data}; ascii, binary or binary_compressed can be read")
    dtypes = tuple(np.dtype(_TYPES[kind, size]) for kind, size in zip(kinds, sizes, strict=True))
    return Header(tuple(names), dtypes, tuple(counts), points, height if points else 1, data)


def _ascii(header: Header, body: bytes) -> dict[str, np.ndarray]:
    words = body.split()
    width = sum(header.counts)
    if len(words) != header.points * width:
        raise FileError(f"{len(words)} values where {header.points} points of {width} values are declared")
    table = np.array(words, dtype=np.bytes_).reshape(header.points, width)
    columns, first = {}, 0
    for name, dtype, count in zip(header.names, header.dtypes, header.counts, strict=True):
        if name != "_":
            try:
                values = table[:, first : first + count].astype(dtype)
            except (ValueError, OverflowError) as error:
                raise FileError(f"field {name}: {error}") from error
            columns[name] = values[:, 0] if count == 1 else values
        first += count
    return columns


def _binary(header: Header, body: bytes) -> dict[str, np.ndarray]:
    needed = header.points * header.point_size
    if len(body) < needed:
        raise FileError(f"{len(body)} bytes where {header.points} points of {header.point_size} bytes are declared")
    layout = [(f"f{i}", d, (c,)) for i, (d, c) in enumerate(zip(header.dtypes, header.counts, strict=True))]
    record = np.frombuffer(body, layout, count=header.points) if needed else np.empty(header.points, layout)
    columns = {}
    for i, (name, count) in enumerate(zip(header.names, header.counts, strict=True)):
        if name != "_":
            columns[name] = np.ascontiguousarray(record[f"f{i}"][:, 0] if count == 1 else record[f"f{i}"])
    return columns


def _binary_compressed(header: Header, body: bytes) -> dict[str, np.ndarray]:
    """One LZF block that holds the fields one after the other, each for all points."""
    if len(body) < 8:
        raise FileError(f"{len(body)} bytes after the header; the two sizes of binary_compressed take 8")
    compressed, size = struct.unpack("<II", body[:8])
    if size != header.points * header.point_size:
        raise FileError(
            f"declares {size} bytes where {header.points} points of {header.point_size} bytes need "
            f"{header.points * header.point_size}"
        )
    if len(body) - 8 < compressed:
        raise FileError(f"{len(body) - 8} compressed bytes where {compressed} are declared")
    raw = lzf_decompress(body[8 : 8 + compressed], size)
    columns, first = {}, 0
    for name, dtype, count in zip(header.names, header.dtypes, header.counts, strict=True):
        if name != "_":
            values = np.frombuffer(raw, dtype, header.points * count, first).copy()
            columns[name] = values if count == 1 else values.reshape(header.points, count)
        first += header.points * dtype.itemsize * count
    return columns


def lzf_decompress(data: bytes, size: int) -> bytes:
    """Undo Marc Lehmann's LZF. ``size``: the bytes that must come out. Raises FileError when they do not."""
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < 32:  # that many bytes and one more, as they are
                if at + control >= end:
                    raise IndexError
                out += data[at : at + control + 1]
                at += control + 1
            else:  # a copy of earlier output
                length = control >> 5
                if length == 7:
                    length += data[at]
                    at += 1
                distance = ((control & 31) << 8 | data[at]) + 1
                at += 1
                length += 2
                start = len(out) - distance
                if start < 0:
                    raise FileError(f"LZF data refers to {-start} bytes before its beginning")
                piece = out[start : start + length]
                while len(piece) < length:  # the copy overlaps itself: what it writes repeats
                    piece += piece[: length - len(piece)]
                out += piece
            if len(out) > size:
                raise FileError(f"LZF data is longer than the {size} bytes declared")
    except IndexError as error:
        raise FileError(f"LZF data ends early, after {len(out)} of {size} bytes") from error
    if len(out) != size:
        raise FileError(f"LZF data ends early, after {len(out)} of {size} bytes")
    return bytes(out)
