"""Measurements as rows of CSV files, and back: dataclass instances, whose fields are the columns."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from anypcc_ros.codec.errors import FileError
from anypcc_ros.files import atomic_write

Row = TypeVar("Row")


def columns_of(row_type: type) -> list[str]:
    return [item.name for item in fields(row_type)]


def to_csv(rows: Sequence[object], row_type: type) -> str:
    """Instances of ``row_type`` as CSV, with nine significant digits and empty cells for None."""
    return csv_text(columns_of(row_type), [asdict(row) for row in rows])  # type: ignore[call-overload]


def csv_text(columns: Sequence[str], records: Iterable[Mapping[str, object]]) -> str:
    """Records as CSV; columns that a record lacks are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(record.get(name)) for name in columns])
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else value


def write_csv(path: str | os.PathLike[str], rows: Sequence[object], row_type: type) -> None:
    """Write instances of ``row_type`` as a CSV file, whole or not at all. Raises FileError."""
    with atomic_write(path) as out:
        out.write(to_csv(rows, row_type).encode())


def read_csv(path: Path, row_type: type[Row], missing_ok: bool = False) -> list[Row]:
    """The instances of ``row_type``, whose fields are of the types bool, str, int and float or None, that ``write_csv`` wrote.

    An incomplete last line is left out; with ``missing_ok`` a file that is not there has no rows. Raises FileError.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError as error:
        if missing_ok:
            return []
        raise FileError(f"{path}: not found") from error
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    reader = csv.DictReader(line for line in lines if line.endswith("\n"))
    if reader.fieldnames != columns_of(row_type):
        raise FileError(f"{path}: not rows of {row_type.__name__}: its columns are {reader.fieldnames}")
    try:
        return [_parse(row, row_type) for row in reader]
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(f"{path}: not rows of {row_type.__name__}: {error}") from error


def _parse(record: Mapping[str, str], row_type: type[Row]) -> Row:
    values: dict[str, Any] = {}
    for item in fields(row_type):  # type: ignore[arg-type]
        text, kind = record[item.name], str(item.type)
        if text == "" and "None" in kind:
            values[item.name] = None
        elif kind.startswith("bool"):
            values[item.name] = {"True": True, "False": False}[text]
        else:
            values[item.name] = {"str": str, "int": int, "flo": float}[kind[:3]](text)
    return row_type(**values)
