"""The native kernels, also built for aarch64 and run under qemu-user, where cross compiler and qemu are installed.

Debian packages: g++-aarch64-linux-gnu, qemu-user-static. The same program runs on this machine too.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "anypcc_ros" / "codec" / "kernels"


def build_equality(build: Path, *configuration: str) -> Path:
    """Build the kernels with their test program in a folder of their own; returns the program."""
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    options = ("-DANYPCC_KERNELS_TEST=ON", f"-DANYPCC_KERNELS_OUTPUT={build}")
    subprocess.run(["cmake", "-S", KERNELS, "-B", build, *generator, *options, *configuration], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "equality"


def check_equality(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* passed, 0 failed$", done.stdout, re.MULTILINE)


needs_source = pytest.mark.skipif(
    not (shutil.which("cmake") and (KERNELS / "CMakeLists.txt").is_file()),
    reason="needs CMake and a source checkout",
)


@needs_source
@pytest.mark.skipif(not shutil.which("c++"), reason="no compiler")
def test_equality_on_this_machine(tmp_path: Path) -> None:
    check_equality(build_equality(tmp_path))


@pytest.fixture(scope="module")
def aarch64_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_equality(
        tmp_path_factory.mktemp("aarch64"),
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )


@needs_source
@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is one")
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static")),
    reason="needs g++-aarch64-linux-gnu and qemu-user-static",
)
@pytest.mark.parametrize("processor", ["cortex-a72", "max"])  # without and with dot products
def test_equality_on_aarch64(aarch64_program: Path, processor: str) -> None:
    check_equality("qemu-aarch64-static", "-cpu", processor, aarch64_program)
