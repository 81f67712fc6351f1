"""Memory that a process gets again and again: kept by the allocator instead of paged in anew for every message."""

from __future__ import annotations

import ctypes

KEPT = 1 << 28
"""Bytes of freed memory that stay with the process."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 1 << 25  # that glibc takes


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; other allocators do as they please.

    Without this the arrays of megabytes that every cloud needs go back to the system with each cloud, and paging them in again
    takes 5 % of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
