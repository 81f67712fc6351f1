"""Files to write: whole or not at all, and known before the work whether they can be written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from anypcc_ros.codec.errors import FileError


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises FileError where no file of that name can be put: better before the work than after it."""
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: not a regular file, refusing to replace it")
    if not target.parent.is_dir():
        raise FileError(f"{path}: cannot write: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise FileError(f"{path}: cannot write: no permission to write into {target.parent}")


_SHOWN = 50  # characters of a name: with what is added, and up to four bytes each, a file system still takes it


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes its place when the block ends well, and leaves nothing when it does not. Raises FileError."""
    check_output(path)
    target = Path(path).resolve()
    # Not the process's number alone, which a process in a container shares with the one that was killed there before.
    temporary = target.with_name(f".{target.name[:_SHOWN]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as out:
            yield out
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
