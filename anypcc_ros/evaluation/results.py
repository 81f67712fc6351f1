"""What was measured, as rows: one codec on one cloud and grid each. Kept as CSV while a run goes on, and put side by side."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from anypcc_ros.codec.errors import FileError
from anypcc_ros.evaluation import peers
from anypcc_ros.evaluation.rows import read_csv, to_csv, write_csv

LIVE, TABLE = "live", "table"
"""What stands in place of a model's hash in the rows of other codecs: run here, or taken from a table."""

GPCC_OCTREE = "G-PCC octree"
"""Not its predictive geometry, which has to be told what lasers a sensor has."""

PEER_COLUMNS = {
    GPCC_OCTREE: (*peers.GPCC, peers.GPCC_STATIC),
    "RENO": (peers.RENO,),
    "Draco": (peers.DRACO,),
    "zstd": (peers.ZSTD,),
}
"""Columns of the tables, and the codecs of which the smallest result stands there."""


@dataclass(frozen=True)
class Result:
    """One codec on one cloud and grid; the names are the columns of the CSV file.

    ``file``: category/name. ``grid``: name of the grid, such as 16mm. ``step``: the step in the cloud's length unit, which is
    that of the grid times ``stretch``. ``codec``: name of a model or of another codec, ``version``: hash of the model's
    weights and a digest of the codec's code, or LIVE or TABLE. ``bpp``: 8 * bytes / points, of the whole stream per input
    point. Seconds are of one run.
    ``exact``: every cell of the grid came back. ``d1_psnr``, ``d2_psnr``: dB between what went in and what came out, with the
    largest extent for the peak; inf where nothing was lost. Empty where there is no figure.
    """

    file: str
    category: str
    grid: str
    step: float
    stretch: float
    drop_scales: int
    points: int
    voxels: int
    codec: str
    version: str
    bytes: int
    bpp: float
    encode_s: float | None = None
    decode_s: float | None = None
    exact: bool | None = None
    d1_psnr: float | None = None
    d2_psnr: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured: a row with the same key says the same."""
        return (*self.rate, self.codec, self.version)

    @property
    def rate(self) -> tuple[object, ...]:
        """Cloud, grid, and how much of it is kept: what the distortion follows from, whatever the codec."""
        return (self.file, self.grid, self.stretch, self.drop_scales)

    @property
    def on_grid(self) -> bool:
        """Whether the grid is kept as it is: no larger step, no dropped scales."""
        return self.stretch == 1 and self.drop_scales == 0

    @property
    def is_peer(self) -> bool:
        """Whether this is another codec than ours."""
        return self.version in (LIVE, TABLE)


@dataclass(frozen=True)
class Known:
    """What an earlier run measured: ``keys`` of rows, and D1 and D2 PSNR by ``Result.rate``."""

    keys: frozenset[tuple[object, ...]] = frozenset()
    psnr: Mapping[tuple[object, ...], tuple[float, float]] = field(default_factory=dict)


class Journal:
    """The rows of a run, on disk as soon as they are measured, so that an interrupted run can go on.

    While the run goes on they stand in ``path`` + ".part"; ``finish`` puts all of them, sorted, into ``path``.
    """

    def __init__(self, path: Path | None = None, resume: bool = False) -> None:
        """``resume``: begin with the rows of an earlier run, finished or not. Raises FileError."""
        self._rows: dict[tuple[object, ...], Result] = {}
        self._path = path
        self._part: IO[str] | None = None
        if path is None:
            return
        part = _part(path)
        if resume:
            self._rows = {row.key: row for row in earlier_results(path)}
        try:
            self._part = open(part, "w", newline="")  # noqa: SIM115 - open as long as the journal
            self._part.write(to_csv(self.rows, Result))
            self._part.flush()
        except OSError as error:
            raise FileError(f"{part}: cannot write: {error.strerror or error}") from error

    @property
    def rows(self) -> list[Result]:
        """All rows, sorted by file, rate, step and codec."""
        return sorted(self._rows.values(), key=lambda row: (row.file, row.drop_scales, row.stretch, row.step, row.codec))

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    @property
    def known(self) -> Known:
        """What need not be measured again."""
        psnr = {}
        for row in self._rows.values():
            # Of our own models only what came back right: a distortion is that of the rate, not of a mistake.
            if row.d1_psnr is not None and row.d2_psnr is not None and row.exact is not False:
                psnr[row.rate] = (row.d1_psnr, row.d2_psnr)
        return Known(frozenset(self._rows), psnr)

    def forget(self, stale: Callable[[Result], bool]) -> None:
        """Leave out the rows of which ``stale`` holds."""
        self._rows = {key: row for key, row in self._rows.items() if not stale(row)}

    def add(self, rows: Iterable[Result]) -> None:
        """Write further rows; those known already are replaced."""
        rows = list(rows)
        self._rows |= {row.key: row for row in rows}
        if self._part is not None:
            self._part.write(to_csv(rows, Result).partition("\n")[2])
            self._part.flush()

    def finish(self) -> None:
        """Put the rows in their place. Raises FileError."""
        if self._path is None or self._part is None:
            return
        write_csv(self._path, self.rows, Result)
        self._part.close()
        os.unlink(self._part.name)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def earlier_results(path: Path) -> list[Result]:
    """The rows of an earlier run, finished or not, or none. Raises FileError."""
    rows = [row for file in (path, _part(path)) for row in read_csv(file, Result, missing_ok=True)]
    return list({row.key: row for row in rows}.values())


# ---- side by side


@dataclass(frozen=True)
class Line:
    """One cloud on one grid, or the means of a category: the figures of all codecs side by side.

    ``ours``: bits per input point by model; ``peers``: the same by column of ``PEER_COLUMNS``. ``exact``: how many of the
    measurements of our models, of ``measured``, came back as they went in (to the grid).
    """

    name: str
    grid: str
    clouds: int
    points: int
    voxels: int
    ours: Mapping[str, float]
    peers: Mapping[str, float]
    d1_psnr: float | None
    d2_psnr: float | None
    measured: int
    exact: int
    category: str = ""
    seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def versus(self, model: str, peer: str = GPCC_OCTREE) -> float | None:
        """Percent by which a model's bits differ from a peer's, negative where it needs fewer."""
        if model not in self.ours or not self.peers.get(peer):
            return None
        return 100 * (self.ours[model] / self.peers[peer] - 1)


def models_of(results: Iterable[Result]) -> list[str]:
    """The models that were measured, in the order of their first rows."""
    return list(dict.fromkeys(row.codec for row in results if not row.is_peer))


def by_cloud(results: Iterable[Result]) -> list[Line]:
    """A line per cloud and grid, of the rows that keep the grid."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in results:
        if row.on_grid:
            groups.setdefault((row.file, row.grid), []).append(row)
    return [_line(rows) for rows in groups.values()]


def _line(rows: Sequence[Result]) -> Line:
    ours = [row for row in rows if not row.is_peer]
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.is_peer:
            found.setdefault(row.codec, []).append(row.bpp)
    columns = {name: [bpp for codec in codecs for bpp in found.get(codec, [])] for name, codecs in PEER_COLUMNS.items()}
    first = (ours or rows)[0]
    return Line(
        name=first.file,
        grid=first.grid,
        clouds=1,
        points=first.points,
        voxels=first.voxels,
        ours={row.codec: row.bpp for row in ours},
        peers={name: min(values) for name, values in columns.items() if values},
        d1_psnr=next((row.d1_psnr for row in rows if row.d1_psnr is not None), None),
        d2_psnr=next((row.d2_psnr for row in rows if row.d2_psnr is not None), None),
        measured=len(ours),
        exact=sum(bool(row.exact) for row in ours),
        category=first.category,
        seconds={row.codec: (row.encode_s or 0.0, row.decode_s or 0.0) for row in ours},
    )


def by_category(lines: Iterable[Line], groups: Mapping[str, str] | None = None) -> list[Line]:
    """Arithmetic means over the clouds of each category and grid; then of each of ``groups``, name to pattern of files.

    A codec's mean is given only where it has a figure for every cloud.
    """
    lines = list(lines)
    chosen = [((line.category, line.grid), line) for line in lines]
    for name, pattern in (groups or {}).items():
        chosen += [((name, line.grid), line) for line in lines if fnmatch.fnmatch(line.name, pattern)]
    members: dict[tuple[str, str], list[Line]] = {}
    for key, line in chosen:
        members.setdefault(key, []).append(line)
    return [_mean_line(name, grid, group) for (name, grid), group in members.items()]


def _mean_line(name: str, grid: str, group: Sequence[Line]) -> Line:
    def means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {
            codec: sum(of[codec] for of in figures) / len(figures) for codec in figures[0] if all(codec in of for of in figures)
        }

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values) or len(set(map(math.isinf, known))) > 1:
            return None  # with some lossless and others not there is no mean
        return sum(known) / len(known)

    encode = means([{model: times[0] for model, times in line.seconds.items()} for line in group])
    decode = means([{model: times[1] for model, times in line.seconds.items()} for line in group])
    return Line(
        name=name,
        grid=grid,
        clouds=len(group),
        points=sum(line.points for line in group),
        voxels=sum(line.voxels for line in group),
        ours=means([line.ours for line in group]),
        peers=means([line.peers for line in group]),
        d1_psnr=mean([line.d1_psnr for line in group]),
        d2_psnr=mean([line.d2_psnr for line in group]),
        measured=sum(line.measured for line in group),
        exact=sum(line.exact for line in group),
        category=name,
        seconds={model: (encode[model], decode[model]) for model in encode},
    )
