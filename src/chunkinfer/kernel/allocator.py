"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return freed memory to the system, where the C library is glibc; elsewhere nothing happens.

    glibc keeps what each thread freed, in pieces. After every block this takes milliseconds, and without it a process
    comes to hold more than twice what its kernels need, the more threads the worse.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
