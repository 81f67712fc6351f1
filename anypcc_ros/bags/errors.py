"""What can be wrong with a bag, each with the exit status that a script can rely on."""

from __future__ import annotations

from pathlib import Path

from anypcc_ros.codec.errors import AnypccError

DAMAGED, DIFFERENT, NOT_WRITTEN, REPORTED = 3, 4, 5, 6
"""Exit statuses: the input is unreadable or damaged; verify found a difference; the output could not be written; finished
with --keep-going, with damage reported."""


class BagError(AnypccError):
    """Base of everything that can be wrong with a bag. The message names the file."""

    exit_status = 1


class BagUsageError(BagError):
    """The command does not fit this bag: a topic that is not there, an output that cannot hold it."""

    exit_status = 2


class DamagedBagError(BagError):
    """Base of what is wrong with the bytes of an input."""

    exit_status = DAMAGED


class NotABagError(DamagedBagError):
    """The file does not begin as any kind of bag does."""


class TruncatedBagError(DamagedBagError):
    """The file ends before it should; everything before that place is sound."""


class CorruptBagError(DamagedBagError):
    """A part of the file is not what its checksum, its length or its format says."""


class UnsupportedBagError(DamagedBagError):
    """A version, compression or encoding that this reader does not know."""


class DamagedMessageError(DamagedBagError):
    """One message is not what its type says; ``--keep-going`` passes it through."""


class CountMismatchError(DamagedBagError):
    """The bag's own index or metadata speaks of another number of messages than were read."""

    def __init__(self, path: Path, topic: str, stated: int, read: int, where: str) -> None:
        super().__init__(f"{path}: {read} messages of {topic} read, its {where} has {stated}")
        self.topic, self.stated, self.read = topic, stated, read


class OutputError(BagError):
    """The output exists already, or cannot be written; nothing of it is left behind."""

    exit_status = NOT_WRITTEN


class EngineError(BagError):
    """The workers are gone: a process was killed, a cluster cannot be reached."""
