"""The anypcc command, run as a user runs it, in a process of its own; or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import anypcc_ros
from anypcc_ros import cli

PACKAGE = Path(anypcc_ros.__file__).parents[1]
"""Where the package under test is: installed or in the checkout, as in this process."""


def anypcc(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What ``anypcc ARGUMENTS`` said and returned, run in the folder ``cwd``."""
    command = [sys.executable, "-m", "anypcc_ros.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)


def status_of(*arguments: object) -> int:
    """The exit status of ``anypcc ARGUMENTS`` in this process and its current folder, which takes a tenth of the time."""
    try:
        return cli.main(list(map(str, arguments)))
    except SystemExit as stopped:  # as argparse ends it
        return int(stopped.code or 0)


def check_failure(arguments: Sequence[object], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That ``anypcc ARGUMENTS`` in this process and its current folder ends so, says so and prints nothing else."""
    assert status_of(*arguments) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
