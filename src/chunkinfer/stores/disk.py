"""Whole files on a local disk, large ones written past the system's cache.

A copy into the cache takes longer than the disk does, in the system, and pushes out what others read; and what is
written here is larger than memory anyway.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache

import numpy as np
from numpy.typing import NDArray

from chunkinfer.stores.store import LOCK

AT_A_TIME = min(max(8, 2 * (os.cpu_count() or 1)), 32)
"""Files that a process writes at a time: disks keep many at once."""

ALIGNMENT = 4096
"""Bytes: what goes past the cache is written in multiples of a disk's blocks, from such addresses."""

LARGE = 1 << 17
"""Bytes from which on a file goes past the cache: for a small one the system does more around it than a copy takes."""

Bytes = NDArray[np.uint8]


def write_files(folder: str, files: Iterable[tuple[str, NDArray[np.generic]]]) -> None:
    """Write files, each as a whole or not at all, durable when this returns.

    Parameters
    ----------
    folder
        Made where it is not there.
    files
        Names and contents: what an array holds in C order.

    Raises
    ------
    OSError
        The disk is full, or the file system does not allow it.
    """
    os.makedirs(folder, exist_ok=True)
    pending = deque[Future[None]]()
    try:
        for name, content in files:
            pending.append(_pool().submit(_write, os.path.join(folder, name), content))
            if len(pending) > 2 * AT_A_TIME:
                pending.popleft().result()
        for future in pending:
            future.result()
    finally:
        wait(pending)
    if os.name == "posix":  # the names
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads of this process, for all blocks: new ones cost more than a small file."""
    return ThreadPoolExecutor(AT_A_TIME, "chunkinfer-disk")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not inherited


def _write(path: str, content: NDArray[np.generic]) -> None:
    unfinished = f"{path}.{uuid.uuid4().hex}{LOCK}"
    try:
        opened = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _pour(opened, content)
            os.fsync(opened)
        finally:
            os.close(opened)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def _pour(opened: int, content: NDArray[np.generic]) -> None:
    """Write the content of a new file, a large one past the cache where the file system can."""
    if content.nbytes < LARGE:
        _pour_on(opened, np.ascontiguousarray(content).reshape(-1).view(np.uint8), 0)
        return
    room = _aligned(-(-content.nbytes // ALIGNMENT) * ALIGNMENT)
    room[content.nbytes :] = 0  # memory of before stays in memory
    np.copyto(room[: content.nbytes].view(content.dtype).reshape(content.shape), content)
    _pour_on(opened, room[: content.nbytes], _past_the_cache(opened, room))
    if os.fstat(opened).st_size > content.nbytes:
        os.ftruncate(opened, content.nbytes)


def _pour_on(opened: int, content: Bytes, done: int) -> None:
    while done < len(content):
        done += os.write(opened, content[done:].data)


def _past_the_cache(opened: int, room: Bytes) -> int:
    """Write what is possible; bytes that were written."""
    if not hasattr(os, "O_DIRECT"):
        return 0
    import fcntl

    done, usual = 0, fcntl.fcntl(opened, fcntl.F_GETFL)
    try:
        fcntl.fcntl(opened, fcntl.F_SETFL, usual | os.O_DIRECT)
        while done < len(room) and done % ALIGNMENT == 0:
            done += os.write(opened, room[done:].data)
    except OSError:  # some file systems refuse it, others take it and want other blocks; what is wrong is met again
        pass
    fcntl.fcntl(opened, fcntl.F_SETFL, usual)
    return done


def _aligned(size: int) -> Bytes:
    """Room at an address that disks take."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
