"""The log of a training run: a CSV file with a line per validation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from anypcc_ros.codec.errors import FileError
from anypcc_ros.files import atomic_write

NAME = "log.csv"
STEP, SECONDS, TRAIN = "step", "seconds", "train_bits_per_node"
"""Columns of every log. The others are the categories of the validation clouds, in bits per point."""


def append(path: Path, record: Mapping[str, float]) -> None:
    """Add a line, in place of one that was cut short. Raises FileError where the log has other columns."""
    records = [*(read(path) if path.exists() else []), record]
    if list(records[0]) != list(record):
        raise FileError(f"{path}: has the columns {', '.join(records[0])}, and this run {', '.join(record)}")
    lines = [",".join(record), *(",".join(f"{round(value, 5):.10g}" for value in each.values()) for each in records)]
    with atomic_write(path) as out:
        out.write("".join(f"{line}\n" for line in lines).encode())


def read(path: Path) -> list[dict[str, float]]:
    """Every line's columns by name, one line at least. Raises FileError."""
    try:
        with path.open(newline="") as file:
            lines = csv.DictReader(line for line in file if line.endswith("\n"))  # not one that was cut short
            records = [{name: float(value) for name, value in line.items()} for line in lines]
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    except (TypeError, ValueError, csv.Error) as error:
        raise FileError(f"{path}: not a training log: {error}") from error
    if not records or not {STEP, SECONDS, TRAIN} <= set(records[0]):
        columns = ", ".join(map(repr, records[0])) if records else "none"
        raise FileError(f"{path}: not a training log: {len(records)} lines of the columns {columns}")
    return records


def by_category(record: Mapping[str, float]) -> dict[str, float]:
    """Bits per point of the validation clouds."""
    return {name: value for name, value in record.items() if name not in (STEP, SECONDS, TRAIN)}
