"""Packages that only some uses need: imported when they are, with a message that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from anypcc_ros.codec.errors import AnypccError


class MissingPackageError(AnypccError):
    """A Python package of one of the extras is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'needs the Python package {package}: pip install "anypcc_ros[{extra}]"')
        self.package = package
        self.extra = extra


def optional(name: str, extra: str) -> Any:
    """The module of that name. Raises MissingPackageError, which names the ``extra`` that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise  # the package is there, and something that it needs is not
        raise MissingPackageError(error.name, extra) from error
