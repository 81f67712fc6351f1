"""The machine that measurements are made on, and the memory of this process there."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from anypcc_ros.codec.config import CodecConfig
from anypcc_ros.codec.kernels import native


def describe() -> str:
    """One line: processor, cores, system, Python, and the instructions that the native kernels use."""
    kernels = f"kernels {native.active_isa()}" if native.available() else "no native kernels"
    cores = os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' * (cores > 1)}, {_system()}, Python {platform.python_version()}, {kernels}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def resolved_backend(config: CodecConfig) -> str:
    """The backend that "auto" means here."""
    if config.backend != "auto":
        return config.backend
    return "native" if native.available() else "torch"


def resolved_threads(config: CodecConfig) -> int:
    """The number of threads that 0 means here."""
    return config.threads or ((os.cpu_count() or 1) if resolved_backend(config) == "native" else 1)


def current_memory() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0  # not Linux


def peak_memory() -> int | None:
    """Most bytes of memory this process has had so far; None where the system does not tell."""
    try:
        # Unlike ru_maxrss, this does not begin at the size of the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass  # not Linux
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
