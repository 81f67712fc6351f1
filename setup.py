"""`pip install .`: the Python package, plus whatever CMakeLists.txt builds on this machine.

With the ROS 2 wheels in the environment (requirements/ros-jazzy.txt) that is the message, its type support and the
native kernels; without them the native kernels alone; without a C++ compiler nothing, and the codec then runs its
torch implementation. What is built, and with which options, is decided here; how, only in CMakeLists.txt.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "anypcc_ros"
COMPILERS = ("c++", "g++", "clang++")


def version() -> str:
    """The version that package.xml states, the one place it is written."""
    found = xml.etree.ElementTree.parse(ROOT / "package.xml").findtext("version")
    if found is None:
        raise RuntimeError("package.xml has no <version>")
    return found


def compiler_found() -> bool:
    named = os.environ.get("CXX")
    return any(map(shutil.which, [named.split()[0]] if named else COMPILERS))


def ros_prefix() -> Path | None:
    """Where the ROS 2 wheels are installed, or None. (An ordinary ROS 2 install builds with colcon instead.)"""
    prefix = Path(sys.prefix)
    return prefix if (prefix / "share" / "rosidl_default_generators").is_dir() else None


class BuildPython(build_py):
    """Starts from an empty build/lib: a module deleted since the last build must not be installed again. Nor must a wheel
    that was interrupted half-way be in the way of this one."""

    def run(self) -> None:
        for left in (Path(self.build_lib) / PACKAGE, *(ROOT / "build").glob("bdist.*")):
            shutil.rmtree(left, ignore_errors=True)
        super().run()
        # The bag tool embeds the message's definition in bags, also where there is no ROS.
        shutil.copy2(ROOT / "msg" / "CompressedCloud.msg", Path(self.build_lib) / PACKAGE / "bags")


class BuildWithCMake(build_ext):
    """Runs CMakeLists.txt and moves what it installs to where the wheel wants it."""

    def run(self) -> None:
        prefix = ros_prefix()
        if not compiler_found():
            if prefix:
                raise SystemExit("ROS 2 is installed here, and building the message needs a C++ compiler (apt install g++)")
            self.warn(f"no C++ compiler ({', '.join(COMPILERS)}): installing WITHOUT the native kernels; the codec is slower")
            return
        # One build folder for each environment that builds here: a second build of the same one is incremental.
        digest = hashlib.sha256(f"{sys.prefix} {sys.version} {prefix}".encode()).hexdigest()[:8]
        build, staged = ROOT / "build" / f"cmake-{digest}", ROOT / "build" / f"staged-{digest}"
        shutil.rmtree(staged, ignore_errors=True)
        package = Path(self.build_lib) / PACKAGE
        if prefix:
            self._cmake(build, staged, self._ros_options(prefix))
            self._take_ros(staged, package)
        else:
            self._cmake(build, staged, ["-DANYPCC_WITH_ROS=OFF"])
            kernels = Path(PACKAGE, "codec", "kernels")
            _copy_new(staged / kernels, package / "codec" / "kernels")

    def _cmake(self, build: Path, staged: Path, options: list[str]) -> None:
        # pip puts its isolated build requirements on PYTHONPATH, which would hide the environment's own packages
        # (empy, lark, the rosidl generators) from the Python processes that CMake starts.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        cmake, generator = _build_tools()
        environment["PATH"] = os.pathsep.join([str(Path(sys.prefix, "bin")), environment.get("PATH", os.defpath)])
        environment["AMENT_PREFIX_PATH"] = sys.prefix  # where rosidl looks up the type supports that are installed
        commands = (
            [cmake, "-S", ROOT, "-B", build, *generator, f"-DCMAKE_INSTALL_PREFIX={staged}", "-Wno-dev", *options],
            [cmake, "--build", build, "--parallel"],
            [cmake, "--install", build],
        )
        for command in commands:
            subprocess.run(list(map(str, command)), check=True, env=environment)

    @staticmethod
    def _ros_options(prefix: Path) -> list[str]:
        return [
            f"-DCMAKE_PREFIX_PATH={prefix}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DPYTHON_EXECUTABLE={sys.executable}",
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'ros_wheels.cmake'}",
            "-DBUILD_TESTING=OFF",
        ]

    def _take_ros(self, staged: Path, package: Path) -> None:
        """Generated Python into the package; libraries, launch files and package index into the environment's prefix."""
        (installed,) = staged.glob(f"**/*-packages/{PACKAGE}")
        _copy_new(installed, package)
        data: dict[str, list[str]] = {}
        for path in sorted(staged.rglob("*")):
            place = path.relative_to(staged)
            library = place.match("lib/*.so") or place.is_relative_to(f"lib/{PACKAGE}")
            if path.is_file() and (library or place.is_relative_to("share")):
                data.setdefault(str(place.parent), []).append(os.path.relpath(path, ROOT))
        self.distribution.data_files.extend(data.items())


def _build_tools() -> tuple[str, list[str]]:
    """CMake and its generator: the real programs of the Python packages (their start scripts need PYTHONPATH), or any."""
    cmake, ninja = _program("cmake", "CMAKE_BIN_DIR"), _program("ninja", "BIN_DIR")
    if cmake is None:
        raise SystemExit("cmake is not installed (pip install cmake)")
    return cmake, ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


def _program(name: str, folder_name: str) -> str | None:
    try:
        folder = getattr(importlib.import_module(name), folder_name)
    except (ImportError, AttributeError):
        folder = None
    return (folder and shutil.which(name, path=folder)) or shutil.which(name)


def _copy_new(source: Path, target: Path) -> None:
    """Copy a tree, leaving files that are already there: setuptools has put our own modules in place."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file() and path.suffix != ".c" and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


setup(
    version=version(),
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["models/*.safetensors", "models/*.md", "py.typed"]},
    include_package_data=False,
    data_files=[],
    # What CMake builds makes the wheel specific to this platform and Python; the name stands for all of it.
    ext_modules=[Extension(f"{PACKAGE}._built_by_cmake", sources=[])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildWithCMake},
)
