"""Files: small objects next to an output, on the same store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import locate, safe_name

FOLDER = ".chunkinfer"
"""Folder inside an output that belongs to it: overwriting the output deletes it too."""

LEASE = "lease.json"
"""Who writes the output; it outlives what is overwritten, because the one who overwrites holds it."""


@dataclass(frozen=True)
class Files:
    """A small key-value store below a URL, local or in a bucket.

    Parameters
    ----------
    url
        URL of the output.
    prefix
        Folder in it; the default is deleted together with the output when that is overwritten.
    """

    url: str | os.PathLike[str]
    prefix: str = FOLDER
    spec: dict[str, Any] = field(init=False, repr=False, compare=False)
    """tensorstore's kvstore spec, without credentials."""

    def __post_init__(self) -> None:
        # The spec is made once, where the environment names the endpoint; workers may lack that variable.
        object.__setattr__(self, "spec", locate(self.url).child(self.prefix).kvstore)

    def read(self, name: str) -> bytes | None:
        """Content of an object, or None if there is none."""
        return self.read_versioned(name)[0]

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents of objects, read at the same time; None for each that is not there."""
        store = self._store()
        reading = [(name, store.read(safe_name(name))) for name in names]
        return [self._content(name, future)[0] for name, future in reading]

    def read_versioned(self, name: str) -> tuple[bytes | None, bytes]:
        """Content of an object, None if there is none, and its version: what `write_if` compares."""
        name = safe_name(name)
        return self._content(name, self._store().read(name))

    def write(self, name: str, content: bytes) -> None:
        """Store an object: as a whole or not at all, and durable when this returns."""
        self._put(name, bytes(content))

    def write_if(self, name: str, content: bytes | None, version: bytes) -> bytes | None:
        """Store an object, or delete it (None), if its version is still the one that was read.

        Of several processes that try it with one version, one succeeds.

        Parameters
        ----------
        name
            Of the object.
        content
            What to store; None deletes.
        version
            As `read_versioned` gave it, also that of an object which is not there.

        Returns
        -------
        bytes or None
            The new version; None where another process was faster, and nothing was changed.
        """
        return self._put(name, None if content is None else bytes(content), if_equal=version) or None

    def list(self) -> list[str]:
        """Names of all objects, sorted."""
        store = self._store()
        try:
            return sorted(key.decode() for key in store.list().result())
        except failures.FAILURES as error:
            raise failures.unreadable(self._url(""), error, "listed") from error

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens if there is none."""
        self._put(name, None)

    def delete_many(self, names: Sequence[str]) -> None:
        """Delete objects at the same time, in no order."""
        store = self._store()
        for name, future in [(name, store.write(safe_name(name), None)) for name in names]:
            self._written(name, future, "deleted")

    def _store(self) -> Any:
        try:
            return kvstore(self.spec)
        except failures.FAILURES as error:
            raise failures.unreadable(os.fspath(self.url), error, "reached") from error

    def _put(self, name: str, content: bytes | None, **condition: bytes) -> bytes:
        """The new version; empty where a condition did not hold."""
        name = safe_name(name)
        future = self._store().write(name, content, **condition)
        return self._written(name, future, "deleted" if content is None else "written")

    def _content(self, name: str, future: Any) -> tuple[bytes | None, bytes]:
        try:
            result = future.result()
        except failures.FAILURES as error:
            raise failures.unreadable(self._url(name), error, "read") from error
        return (bytes(result.value) if result.state == "value" else None), bytes(result.stamp.generation)

    def _written(self, name: str, future: Any, doing: str) -> bytes:
        try:
            return bytes(future.result().generation)
        except failures.FAILURES as error:
            raise failures.unwritable(self._url(name), error, doing) from error

    def tidy(self) -> None:
        """Remove the folder, and that of the output, where they are empty: stores without folders have none."""
        if (place := locate(self.url).child(self.prefix).path) is not None:
            with suppress(OSError):
                place.rmdir()
                place.parent.rmdir()

    def _url(self, name: str) -> str:
        return f"{os.fspath(self.url)}/{self.prefix}/{name}".rstrip("/")
