"""Adaptations that many streams share: a delta with the model that it belongs to, known by its hash, in an .apad file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anypcc_ros.codec.errors import (
    CorruptStreamError,
    FileError,
    LimitExceededError,
    NotAStreamError,
    StreamError,
    UnsupportedVersionError,
)
from anypcc_ros.codec.model.delta import adapt, decode_delta
from anypcc_ros.codec.model.integer import IntegerModel

SUFFIX = ".apad"
MAGIC, VERSION = b"APAD", 1
HASH_SIZE = 8
SIZE_LIMIT = 1 << 24
"""Bytes that a file may have: more than any delta takes."""

_FORMAT = b"anypcc-adaptation/1"


@dataclass(frozen=True)
class Adaptation:
    """``base``: hash of the model, 16 hex digits; ``delta``: bytes, as of ``encode_delta``."""

    base: str
    delta: bytes

    @cached_property
    def hash(self) -> str:
        """Its identity: 16 hex digits of SHA-256 over the model's and the delta."""
        return hashlib.sha256(_FORMAT + bytes.fromhex(self.base) + self.delta).hexdigest()[: 2 * HASH_SIZE]

    def to_bytes(self) -> bytes:
        """The content of an .apad file."""
        return MAGIC + bytes([VERSION]) + bytes.fromhex(self.base) + bytes.fromhex(self.hash) + self.delta

    @classmethod
    def from_bytes(cls, data: bytes) -> Adaptation:
        """Inverse of ``to_bytes``. Raises StreamError subclasses, also where the hash does not agree."""
        if len(data) > SIZE_LIMIT:
            raise LimitExceededError(f"an adaptation of {len(data)} bytes, the limit is {SIZE_LIMIT}")
        start = len(MAGIC) + 1
        if not data.startswith(MAGIC):
            raise NotAStreamError(f"{len(data)} bytes that begin with {data[:4]!r}, not with {MAGIC!r}")
        if data[len(MAGIC) : start] != bytes([VERSION]):
            raise UnsupportedVersionError(f"adaptation version {data[len(MAGIC) : start].hex()}; this reader knows {VERSION}")
        stated = data[start + HASH_SIZE : start + 2 * HASH_SIZE].hex()
        found = cls(data[start : start + HASH_SIZE].hex(), data[start + 2 * HASH_SIZE :])
        if found.hash != stated:
            raise CorruptStreamError(f"an adaptation of {len(data)} bytes hashes to {found.hash}, it says {stated}")
        return found

    def applied(self, model: IntegerModel) -> IntegerModel:
        """The adapted model. Raises CorruptStreamError for another model than its own, and for a delta that does not fit."""
        if model.hash != self.base:
            raise CorruptStreamError(f"adaptation {self.hash} is of model {self.base}, not of {model.name} {model.hash}")
        return adapt(model, decode_delta(model, self.delta))


def load_adaptation(path: Path) -> Adaptation:
    """The adaptation of a file. Raises FileError, StreamError subclasses."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    try:
        return Adaptation.from_bytes(data)
    except StreamError as error:
        raise type(error)(f"{path}: {error}") from error


def adaptations_in(place: str) -> Iterator[Adaptation]:
    """Those of a file, or of all .apad files of a folder, none of "". Raises FileError, StreamError subclasses."""
    if place:
        path = Path(place)
        yield from map(load_adaptation, sorted(path.glob(f"*{SUFFIX}")) if os.path.isdir(path) else [path])
