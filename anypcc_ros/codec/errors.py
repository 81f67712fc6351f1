"""Typed errors of the codec. Every message carries the numbers that a user needs to act."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class AnypccError(Exception):
    """Base of every error that anypcc_ros raises on purpose."""


class ConfigError(AnypccError, ValueError):
    """An option has a value outside its range or set."""

    def __init__(self, option: str, value: object, reason: str) -> None:
        super().__init__(f"{option}={value!r}: {reason}")
        self.option = option
        self.value = value
        self.reason = reason


class InputError(AnypccError, ValueError):
    """A cloud (or message) that cannot be encoded as it stands."""


class FileError(AnypccError):
    """A file that cannot be read or written as a point cloud; the message names it."""


class BackendError(AnypccError):
    """The requested backend (native, torch, cuda) cannot run on this machine."""


class ModelFileError(AnypccError):
    """A weight file is unreadable, inconsistent, or outside the exact integer range."""


class ModelNotFoundError(AnypccError):
    """The model that a stream or a configuration asks for is not installed.

    Attributes: ``wanted`` (name or 16 hex digits of the weight hash), ``installed`` (name to hash).
    """

    def __init__(self, wanted: str, installed: Mapping[str, str]) -> None:
        have = ", ".join(f"{name} {digest}" for name, digest in sorted(installed.items())) or "none"
        super().__init__(f"model {wanted} is not installed (installed: {have})")
        self.wanted = wanted
        self.installed = dict(installed)


class AdaptationNotFoundError(AnypccError):
    """The adaptation that a stream names is not at hand.

    Attributes: ``wanted`` (16 hex digits of its hash), ``known`` (the hashes of those that are).
    """

    def __init__(self, wanted: str, known: Collection[str]) -> None:
        have = ", ".join(sorted(known)) or "none"
        super().__init__(f"adaptation {wanted} is not at hand (known: {have}); give its .apad file, or a folder of them")
        self.wanted = wanted
        self.known = frozenset(known)


class CutError(AnypccError):
    """A stream that is whole but cannot be cut as asked."""


class StreamError(AnypccError):
    """Base of everything that can be wrong with compressed bytes."""


class NotAStreamError(StreamError):
    """The bytes do not begin with the magic of an anypcc stream."""


class UnsupportedVersionError(StreamError):
    """The stream has a major version, or a critical chunk, that this reader does not know."""


class TruncatedError(StreamError):
    """The stream ends before the length that it declares."""


class CorruptStreamError(StreamError):
    """A checksum or an internal count does not agree with what was decoded."""


class LimitExceededError(StreamError):
    """The stream declares more than the reader's limits allow; nothing was allocated for it."""
