"""Files of a model for processes that do not have them: fetched from a URL, or carried along.

::

    infer(volume, "unet.pt2")                a path: every worker sees the same file under it
    infer(volume, "s3://nets/unet.pt2")      a URL: each worker process that lacks the file fetches it
    infer(volume, deliver("unet.pt2"))       the file's bytes travel, once to each worker process

Either way a process keeps the files in the user's cache, under the digest that the run was planned with, and opens
nothing that has another one.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from chunkinfer.errors import ModelError, UntrustedModel
from chunkinfer.networks.outputs import ITSELF
from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location, locate, safe_name

_PIN = re.compile(r"sha256=([0-9a-fA-F]{64})")


class Origin(Protocol):
    """Where a process gets a model's files from."""

    def files(self) -> Mapping[str, bytes]:
        """Name -> content; the model's own file first."""


@dataclass(frozen=True)
class Carried:
    """Files that travel themselves."""

    content: Mapping[str, bytes] = field(repr=False)

    def files(self) -> Mapping[str, bytes]:
        return self.content


@dataclass(frozen=True)
class Remote:
    """A file at a URL, and what belongs to it."""

    url: str
    """Without credentials, as `locate` makes it."""
    name: str
    spec: Mapping[str, Any] = field(repr=False)
    """tensorstore's spec of the folder, without credentials: made where the environment names the endpoint."""

    @classmethod
    def at(cls, place: Location) -> Remote:
        """The file at a place."""
        path = place.kvstore["path"].rstrip("/")
        name = safe_name(path.rpartition("/")[2])
        return cls(place.url, name, {**place.kvstore, "path": path.removesuffix(name)})

    def files(self) -> dict[str, bytes]:
        """Fetched now.

        Raises
        ------
        ModelError
            There is no such file, or the store does not give it.
        """
        data = self._read(self.name)
        if data is None:
            raise ModelError(
                f"There is no model file at {self.url}.",
                "The name is misspelt, or it was never uploaded.",
                ["list what is there with the store's own tool", 'give a local file: infer(volume, "unet.pt2")'],
            )
        stem, suffix = os.path.splitext(self.name)
        weights = self._read(f"{stem}.bin") if suffix == ".xml" else None  # OpenVINO's second file
        return {self.name: data} if weights is None else {self.name: data, f"{stem}.bin": weights}

    def _read(self, name: str) -> bytes | None:
        try:
            result = kvstore(dict(self.spec)).read(name).result()
        except failures.FAILURES as error:
            raise ModelError(
                f"The model file {self.url} cannot be fetched: {failures.brief(error)}",
                failures.MEANINGS.get(failures.status(error), ""),
                [
                    "check permissions, credentials and endpoint, here and where workers are started",
                    "send the file along: infer(volume, deliver(path))",
                ],
            ) from error
        return bytes(result.value) if result.state == "value" else None


def place_of(url: str) -> tuple[Location, str]:
    """The place that a model's URL names, and the sha256 that its file must have; '' where none is given.

    Raises
    ------
    UntrustedModel
        Anyone on the way could exchange the file: http without TLS, and no digest.
    ModelError
        What follows a ``#`` is no digest.
    SourceError
        The URL carries credentials, or its scheme is not known.
    """
    url, _, stated = url.partition("#")
    place = locate(url)
    match = _PIN.fullmatch(stated)
    if stated and match is None:
        raise ModelError(
            f"What follows # in the URL of the model {place.url} is no digest.",
            "It is the word sha256, an equals sign and 64 hexadecimal digits, as the command sha256sum prints them.",
            [
                f'infer(volume, "{place.url}#sha256=...")',
                f'without one: infer(volume, "{place.url.replace("http://", "https://", 1)}")',
            ],
        )
    if match is None and place.url.startswith("http://"):
        raise UntrustedModel(
            f"{place.url} would come without TLS, and its digest is not given.",
            "A model can be code, and anyone on the way could exchange it.",
            [
                f'state the digest that sha256sum gave: infer(volume, "{place.url}#sha256=...")',
                f'infer(volume, "https://{place.url.removeprefix("http://")}")',
            ],
        )
    return place, match[1].lower() if match else ""


def check_pin(name: str, content: Iterable[bytes], pin: str) -> None:
    """Refuse files, one after another, whose sha256 is not the one that the caller stated; '' is any."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    if pin and digest.hexdigest() != pin:
        raise ModelError(
            f"{name} has the sha256 {digest.hexdigest()}, and {pin} was stated.",
            "The file was replaced, or damaged on the way; or the digest is another file's.",
            [
                "ask whoever made the model for both",
                f'if the file is right, state its digest: infer(volume, "{_url(name)}#sha256={digest.hexdigest()}")',
            ],
        )


def _url(place: str) -> str:
    return place if "://" in place else Path(place).absolute().as_uri()


def digest_of(content: Iterable[bytes]) -> str:
    """blake2b of a model's files, one after another."""
    digest = hashlib.blake2b(digest_size=16)
    for part in content:
        digest.update(part)
    return digest.hexdigest()


def files_of(path: str) -> tuple[str, ...]:
    """The files of a model: OpenVINO keeps the weights in a second one."""
    weights = f"{path.removesuffix('.xml')}.bin"
    return (path, weights) if path.endswith(".xml") and os.path.exists(weights) else (path,)


def file_digest(path: str) -> str:
    """`digest_of` a model's files on disk, or `ModelError` where they can't be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for part in files_of(path):
            with open(part, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()
    except OSError as error:
        raise ModelError(
            f"The model file {path} cannot be read: {error.strerror or error}.",
            "The path is relative to where Python was started, or the file is elsewhere.",
            [f"see what is there: os.listdir({str(_folder(path))!r})", ITSELF],
        ) from error


def _folder(path: str) -> Path:
    """The lowest folder of a path that there is."""
    return next(p for p in Path(path).absolute().parents if p.is_dir())


def kept(digest: str, name: str, origin: Origin) -> str:
    """The path of a model's file in the user's cache, put there from its origin where it is not.

    Several processes may do so at a time: a file appears whole, and equal files replace each other.

    Raises
    ------
    ModelError
        The origin has another file now, or none.
    """
    folder = writable(user_cache() / "models") / digest
    path = folder / name
    if path.exists() and file_digest(str(path)) == digest:
        return str(path)
    files = origin.files()
    if digest_of(files.values()) != digest:
        raise ModelError(
            f"The model file {name} is not the one that this run was planned with: {origin} gives another one.",
            "It was replaced in between.",
            ["restore the file", "plan anew: infer(volume, model) reads the new one"],
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    for part, content in reversed([*files.items()]):  # the model's own file last: where it is, all are
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:  # readable by this user only
            file.write(content)
        os.replace(file.name, folder / part)
    return str(path)


def user_cache() -> Path:
    """The folder of this library in the user's cache: ``$XDG_CACHE_HOME/chunkinfer``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chunkinfer"


@cache
def writable(folder: Path) -> Path:
    """The folder, closed to other users; where it cannot be written, such as a home that is read-only, one that ends
    with this process."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    place = tempfile.mkdtemp(prefix="chunkinfer-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)
