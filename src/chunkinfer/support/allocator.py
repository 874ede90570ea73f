"""The C library's memory: what it should keep between patches, and what it should give back."""

from __future__ import annotations

import ctypes
import sys

ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""For processes that run kernels, read by glibc when they start: one heap that keeps its memory between patches.

By default every large tensor is fresh memory from the system, a page fault for each 4 KiB of every layer's output,
which took a third of the time of torch's networks. Other C libraries ignore it.
"""


def give_back() -> None:
    """Return freed memory to the system, where the C library is glibc; elsewhere nothing happens.

    glibc keeps what each thread freed, in pieces. After every block this takes milliseconds, and without it a process
    comes to hold more than twice what its kernels need, the more threads the worse.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
