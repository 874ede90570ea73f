"""Ranges: a stored object, local or in a bucket, as bytes and as the file that a library reads. None stays open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chunkinfer.errors import SourceNotFound
from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location

BUFFER = 2**16
"""Bytes that are read at least, where a library looks around in a file."""

LARGEST = 48
"""Objects are smaller than 2 to the power of this."""

PROBES = 32
"""Sizes that are tried at the same time."""


@dataclass(frozen=True)
class Stored:
    """An object that exists."""

    url: str
    kvstore: dict[str, Any]
    """tensorstore's spec, without credentials."""
    size: int
    """Bytes."""
    version: str
    """Modification time and size, or the generation that the store tells."""

    @property
    def spec(self) -> dict[str, Any]:
        """What `opened` takes."""
        return {"kvstore": self.kvstore, "size": self.size}

    def open(self) -> io.BufferedReader:
        """The object as a file."""
        return opened(self.spec)


def stored(location: Location) -> Stored:
    """What a place that is a single object holds.

    Raises
    ------
    SourceNotFound
        Nothing is there.
    SourceError
        The store does not answer.
    """
    spec = location.object
    try:
        if location.path is not None:
            stat = location.path.stat()
            return Stored(location.url, spec, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}")
        store = kvstore(spec)
        if (version := version_of(probe(store, ""))) is not None:
            return Stored(location.url, spec, size_of(store), version)
    except FileNotFoundError:
        pass
    except failures.FAILURES as error:
        raise failures.unreadable(location.url, error) from error
    raise SourceNotFound(
        f"Nothing is at {location.url}.",
        "There is no object of this name; it may be a folder that is called like a file.",
        [
            "check the spelling, and for object stores bucket, endpoint and credentials",
            f"if it is a folder of zarr: open_volume({f'zarr://{location.url}'!r})",
        ],
    )


def size_of(store: Any) -> int:
    """Bytes of an object, which a kvstore does not tell: single bytes are asked for, many at a time."""
    low, high = 0, 2**LARGEST
    tried: Sequence[int] = [2**power for power in range(LARGEST)]
    while high - low > 1:
        asked = [(size, store.read("", byte_range=slice(size - 1, size))) for size in tried]
        there = {size: _answers(future) for size, future in asked}
        low = max([low, *(size for size in tried if there[size])])
        high = min([high, *(size for size in tried if not there[size])])
        tried = range(low + 1, high, -(-(high - low) // PROBES))
    return low


def _answers(future: Any) -> bool:
    try:
        return bool(future.result().state == "value")
    except ValueError as error:
        if failures.status(error) != "OUT_OF_RANGE":
            raise
        return False


def probe(store: Any, name: str) -> Any:
    """Begin to ask whether an object exists, by its first byte: whoever may read it may do that."""
    return store.read(name, byte_range=slice(0, 1))


def version_of(probing: Any) -> str | None:
    """What `probe` found: the generation of the object where the store tells; None if there is none."""
    try:
        result = probing.result()
    except ValueError as error:
        # It is empty, or comes from a server without ranges, which sent all of it.
        if failures.status(error) not in ("OUT_OF_RANGE", "FAILED_PRECONDITION"):
            raise
        return ""
    return bytes(result.stamp.generation).hex() if result.state == "value" else None


def opened(spec: dict[str, Any]) -> io.BufferedReader:
    """The file of `Stored.spec`, in whichever process."""
    return io.BufferedReader(_Ranges(spec["kvstore"], spec["size"]), BUFFER)


class _Ranges(io.RawIOBase):
    """An object of a kvstore, read where it is asked for. It holds no handle, so it need not be closed."""

    def __init__(self, spec: dict[str, Any], size: int) -> None:
        self._store, self._size, self._at = kvstore(spec), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        content = part_of(self._store, self._at, stop)
        buffer[: len(content)] = content
        self._at = stop
        return len(content)


def part_of(store: Any, start: int, stop: int) -> bytes:
    """Bytes of an object."""
    return content_of(store.read("", byte_range=slice(start, stop)))


def content_of(reading: Any) -> bytes:
    """What a read of a kvstore that was begun gives.

    Raises
    ------
    FileNotFoundError
        The object is gone.
    """
    result = reading.result()
    if result.state != "value":
        raise FileNotFoundError("the object is gone")
    return bytes(result.value)
