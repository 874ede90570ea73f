"""Files: small objects next to an output, on the same store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from chunkinfer.storage import failures
from chunkinfer.storage.store import kvstore
from chunkinfer.storage.urls import locate, safe_name

FOLDER = ".chunkinfer"
"""Folder inside an output that belongs to it: overwriting the output deletes it too."""


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
        name = safe_name(name)
        try:
            result = kvstore(self.spec).read(name).result()
        except failures.FAILURES as error:
            raise failures.unreadable(self._url(name), error, "read") from error
        return bytes(result.value) if result.state == "value" else None

    def write(self, name: str, content: bytes) -> None:
        """Store an object: as a whole or not at all, and durable when this returns."""
        name = safe_name(name)
        try:
            kvstore(self.spec).write(name, bytes(content)).result()
        except failures.FAILURES as error:
            raise failures.unwritable(self._url(name), error) from error

    def list(self) -> list[str]:
        """Names of all objects, sorted."""
        try:
            return sorted(key.decode() for key in kvstore(self.spec).list().result())
        except failures.FAILURES as error:
            raise failures.unreadable(self._url(""), error, "listed") from error

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens if there is none."""
        name = safe_name(name)
        try:
            kvstore(self.spec).write(name, None).result()
        except failures.FAILURES as error:
            raise failures.unwritable(self._url(name), error, "deleted") from error

    def _url(self, name: str) -> str:
        return f"{os.fspath(self.url)}/{self.prefix}/{name}".rstrip("/")
