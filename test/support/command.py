"""The anypcc command, run as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anypcc_ros

PACKAGE = Path(anypcc_ros.__file__).parents[1]
"""Where the package under test is: installed or in the checkout, as in this process."""


def anypcc(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What ``anypcc ARGUMENTS`` said and returned, run in the folder ``cwd``."""
    command = [sys.executable, "-m", "anypcc_ros.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)
