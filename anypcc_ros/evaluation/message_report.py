"""What was measured of whole messages: a line each, and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anypcc_ros.codec.errors import AnypccError
from anypcc_ros.evaluation import document
from anypcc_ros.evaluation.message_peers import CLOUDINI, DRACO, ZSTD_LEVELS
from anypcc_ros.evaluation.messages import EXACT, EXACT_ORDERED, GRID, ORDERED, OURS, MessageRow


def summary(row: MessageRow) -> str:
    """One line on a measurement."""
    step = f" at {row.step:g}" if row.step else ""
    how = f"{row.codec} {row.setting}{step}".strip()
    lost = f", lost: {row.lost}" if row.lost else ""
    parts = f" ({row.parts})" if row.parts else ""
    return (
        f"{row.message}: {how}: {row.message_bytes} bytes to {row.bytes}, {row.ratio:.2f} times smaller, "
        f"{row.bpp:.2f} bits per point{parts}{lost}, {'as promised' if row.kept else 'NOT as promised'}"
    )


def check(rows: Sequence[MessageRow]) -> None:
    """Raises AnypccError where this codec did not give a message back as promised."""
    wrong = [row for row in rows if row.codec == OURS and not row.kept]
    if wrong:
        raise AnypccError(f"{len(wrong)} of {len(rows)} did not come back as promised: {wrong[0].message}, {wrong[0].codec}")


def markdown(rows: Sequence[MessageRow], command: str) -> str:
    """The tables of docs/results.md: all messages of a group together, each on a grid, and each kept to the last bit.

    Without what did not come back.
    """
    rows = [row for row in rows if row.kept]
    return "\n\n".join([f"    {command}", _group_table(rows), _grid_table(rows), _exact_table(rows)])


GRIDDED = [CLOUDINI, DRACO]
PACKERS = [*(f"zstd -{level}" for level in ZSTD_LEVELS), "lz4"]
OTHERS = [f">{name}" for name in (*GRIDDED, *PACKERS)]


def _group_table(rows: Sequence[MessageRow]) -> str:
    """Bytes of all messages of a group before and after."""
    columns = ["messages", ">", ">step", f">**{OURS}**", ">in order", *OTHERS]
    lines = []
    steps = dict.fromkeys(row.step for row in rows if row.codec == OURS and row.setting == GRID)
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        count = str(len({row.message for row in members}))
        for step in steps:
            ratio = _ratio_of_all(members)
            others = [ratio(OURS, ORDERED, step), *(ratio(name, GRID, step) for name in GRIDDED)]
            others += [ratio(name, "", None) for name in PACKERS]
            lines.append([group, count, f"{step:g}", f"**{ratio(OURS, GRID, step)}**", *others])
        exact = _ratio_of_all(members)
        lines.append(
            [
                group,
                count,
                "exact",
                f"**{exact(OURS, EXACT, None)}**",
                exact(OURS, EXACT_ORDERED, None),
                *("" for _ in GRIDDED),
                *(exact(name, "", None) for name in PACKERS),
            ]
        )
    return document.table(columns, lines)


def _ratio_of_all(rows: Sequence[MessageRow]) -> Callable[[str, str, float | None], str]:
    """What a codec makes of all these messages together, or nothing where it did not run on each of them."""
    messages = {row.message for row in rows}

    def ratio(codec: str, setting: str, step: float | None) -> str:
        found = [r for r in rows if (r.codec, r.setting) == (codec, setting) and step in (r.step, None)]
        if {row.message for row in found} != messages:
            return ""
        return f"{sum(row.message_bytes for row in found) / sum(row.bytes for row in found):.2f}"

    return ratio


def _grid_table(rows: Sequence[MessageRow]) -> str:
    columns = [
        "message", ">points", ">step", f">**{OURS}**", ">in order", *OTHERS, ">bits per point", "of which", "largest error",
    ]  # fmt: skip
    lines = []
    for row in (row for row in rows if row.codec == OURS and row.setting == GRID):
        found = _beside(rows, row)
        others = [found(OURS, ORDERED, row.step), *(found(name, GRID, row.step) for name in GRIDDED)]
        others += [found(name, "", None) for name in PACKERS]
        mine = [row.message, f"{row.points}", f"{row.step:g}", f"**{row.ratio:.2f}**"]
        lines.append([*mine, *others, f"{row.bpp:.2f}", row.parts, _errors(row)])
    return document.table(columns, lines)


def _exact_table(rows: Sequence[MessageRow]) -> str:
    columns = ["message", ">bytes", f">**{OURS} exact**", ">in order", *(f">{name}" for name in PACKERS), "bits per point"]
    lines = []
    for row in (row for row in rows if row.codec == OURS and row.setting == EXACT):
        found = _beside(rows, row)
        others = [found(OURS, EXACT_ORDERED, row.step), *(found(name, "", None) for name in PACKERS)]
        lines.append([row.message, f"{row.message_bytes}", f"**{row.ratio:.2f}**", *others, row.parts])
    return document.table(columns, lines)


def _beside(rows: Sequence[MessageRow], row: MessageRow) -> Callable[[str, str, float | None], str]:
    """The ratio of another codec or setting on the same message, or nothing."""
    found = {(r.codec, r.setting, r.step): f"{r.ratio:.2f}" for r in rows if r.message == row.message}
    return lambda codec, setting, step: found.get((codec, setting, step), "")


def _errors(row: MessageRow) -> str:
    """Those that are not zero."""
    errors = [text for text in row.errors.split("; ") if text and not text.endswith(" 0")]
    return "; ".join([*errors, *([row.lost] if row.lost else [])]) or "none"
