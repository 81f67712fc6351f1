"""Matplotlib's figures, without its windows: made for a file, and written whole or not at all."""

from __future__ import annotations

import os
from typing import Any

from anypcc_ros.files import atomic_write
from anypcc_ros.optional import optional


def new_figure(width: float, height: float, dpi: int = 110, **options: Any) -> Any:
    """An empty figure of so many inches. Raises MissingPackageError without matplotlib."""
    optional("matplotlib.backends.backend_agg", "eval")  # what draws it when it is saved
    return optional("matplotlib.figure", "eval").Figure(figsize=(width, height), dpi=dpi, **options)


def panels_of(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with a grid of axes, row by row; of each at least one."""
    figure = new_figure(width, height, layout="constrained")
    return figure, list(figure.subplots(max(rows, 1), max(columns, 1), squeeze=False).ravel())


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG. Raises FileError."""
    with atomic_write(path) as out:
        figure.savefig(out, format="png")
