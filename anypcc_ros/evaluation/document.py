"""Generated parts of hand-written documents: Markdown between two marks is replaced, everything around it stays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from anypcc_ros.codec.errors import FileError
from anypcc_ros.files import atomic_write


def write_section(path: str | os.PathLike[str], name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a Markdown file.

    A file without these marks is overwritten only if it does not exist or is empty; then it is ``text`` alone, with marks.
    Raises FileError: text by hand is never lost to a missing mark.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    body = text.strip("\n")
    section = f"{begin}\n\n{body}\n\n{end}"
    path = Path(path)
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot read: {error}") from error
    if old.strip():
        before, found, rest = old.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found or not found_end:
            raise FileError(f"{path}: has text, but not the marks {begin} and {end} between which the tables would go")
        section = before + section + after
    else:
        section += "\n"
    with atomic_write(path) as out:
        out.write(section.encode())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A column whose name begins with ``>`` is aligned to the right."""
    names = [name.removeprefix(">") for name in columns]
    rules = ["---:" if name.startswith(">") else "---" for name in columns]
    lines = [names, rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
