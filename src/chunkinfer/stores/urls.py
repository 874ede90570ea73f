"""From a URL to a place: a tensorstore kvstore spec, without credentials.

::

    [precomputed:// | zarr:// | zarr2:// | zarr3:// | n5://]
    + [path | file://path | s3://bucket/key | gs://bucket/key | https://host/path]

Credentials come from the environment of the process that opens the place, never from a URL, so nothing that is stored,
shipped or printed holds any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from chunkinfer.errors import SourceError

FORMAT_PREFIXES = {"precomputed": "precomputed", "zarr": "zarr", "zarr2": "zarr2", "zarr3": "zarr3", "n5": "n5"}
"""URL prefix -> format asked for; ``zarr`` is either version when reading and zarr3 when creating."""


ARCHIVES = (".zip", ".ozx")
"""Suffixes of archives that are looked into: ``em.zarr.zip``, ``em.ozx``."""


@dataclass(frozen=True)
class Location:
    """Where a URL points."""

    url: str
    """The URL without format prefix and trailing slash; local paths are absolute."""
    kvstore: dict[str, Any]
    """tensorstore's spec of the place as a folder; the ``path`` ends with a slash."""
    format: str | None = None
    """The format named by the URL's prefix, if any."""
    path: Path | None = None
    """The place on a local file system."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, whoever asks."""
        return self.kvstore["driver"] in ("http", "zip")

    @property
    def object(self) -> dict[str, Any]:
        """tensorstore's spec of the place as a single object: a file instead of a folder."""
        return {**self.kvstore, "path": self.kvstore["path"].rstrip("/")}

    def parent(self, levels: int = 1) -> Location:
        """The place so many folders up."""
        names = self.kvstore["path"].rstrip("/").split("/")[:-levels]
        return replace(
            self,
            url=self.url.rsplit("/", levels)[0],
            kvstore={**self.kvstore, "path": f"{'/'.join(names)}/" if names else ""},
            path=self.path.parents[levels - 1] if self.path else None,
        )

    def file_in(self, suffixes: tuple[str, ...]) -> tuple[Location, str] | None:
        """The file that the place is, or leads into, by its suffix, and the rest: ``a.h5`` and ``raw`` of ``a.h5/raw``.

        On a local file system it must exist; in a store the name decides.
        """
        names = self.kvstore["path"].strip("/").split("/")
        for depth, name in enumerate(names, 1):
            if name.lower().endswith(suffixes):
                place = self.parent(len(names) - depth) if depth < len(names) else self
                if place.path is None or place.path.is_file():
                    return place, "/".join(names[depth:])
        return None

    def child(self, name: str) -> Location:
        """The place ``name`` (slashes allowed) below this one."""
        parts = safe_name(name).split("/")
        return replace(
            self,
            url=f"{self.url}/{'/'.join(parts)}",
            kvstore={**self.kvstore, "path": self.kvstore["path"] + "/".join(parts) + "/"},
            path=self.path.joinpath(*parts) if self.path else None,
        )


def safe_name(name: str) -> str:
    """A relative name without empty or dotted parts: what is read from metadata must not lead elsewhere."""
    name = name.strip("/")
    if not name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise SourceError(
            f"{name!r} is not the name of something below a URL.",
            "Names are relative and may not contain '..', '.' or empty parts.",
            ["name what lies below, such as 'raw' or 'volumes/raw'", "or give the URL of the array itself"],
        )
    return name


def locate(url: str | os.PathLike[str]) -> Location:
    """Parse a URL or path.

    Raises
    ------
    SourceError
        The scheme is unknown, or the URL carries credentials.
    """
    text = os.fspath(url)
    prefix, separator, rest = text.partition("://")
    if separator and prefix in FORMAT_PREFIXES:
        return replace(_place(rest), format=FORMAT_PREFIXES[prefix])
    return _place(text)


def holds(place: Location, kvstore: Mapping[str, Any]) -> bool:
    """Whether what a kvstore spec names lies at a place or below it, links followed."""
    if any(place.kvstore.get(name) != kvstore.get(name) for name in ("driver", "bucket", "base_url", "base")):
        return False
    outer, inner = str(place.kvstore["path"]), str(kvstore.get("path", ""))
    if place.path is not None:
        outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def _place(text: str) -> Location:
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("", "file"):
        path = Path(unquote(text[len("file://") :]) if scheme else text).expanduser().absolute()
        # The normalised form, without resolving links: the user's own name for the place.
        path = Path(os.path.normpath(path))
        if (
            archive := next((p for p in (path, *path.parents) if _is_archive(p.name) and p.is_file()), None)
        ) is not None:
            return _in_archive(str(path), {"driver": "file", "path": str(archive)}, str(path)[len(str(archive)) :])
        return Location(str(path), {"driver": "file", "path": f"{path}/".replace("//", "/")}, path=path)
    if scheme not in _REMOTE:
        raise SourceError(
            f"The scheme {scheme!r} of a URL is not known.",
            "A URL is a local path, file://, s3://, gs:// or https:// (reading only), with an optional "
            "precomputed://, zarr://, zarr2://, zarr3:// or n5:// before it.",
            ["for a local file give its path", "for another store copy the data, or mount it as a folder"],
        )
    parts = urlsplit(text)
    if parts.query or not (_BUCKET if scheme in ("s3", "gs") else _HOST).fullmatch(parts.netloc):
        raise SourceError(
            f"A URL of {scheme}:// carries credentials or a query, or names no bucket or host.",
            "URLs are stored next to outputs and shipped to workers, so they must not hold secrets.",
            [
                "put keys into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)",
                "or into the store's own configuration file, and leave them out of the URL",
            ],
        )
    path_in_store = unquote(parts.path).strip("/")
    url = f"{scheme}://{parts.netloc}/{path_in_store}".rstrip("/")
    names = path_in_store.split("/")
    if (depth := next((i for i, name in enumerate(names, 1) if _is_archive(name)), 0)) > 0:
        place = _REMOTE[scheme](parts.netloc, "/".join(names[:depth]))
        return _in_archive(url, place, "/".join(names[depth:]))
    return Location(url, _REMOTE[scheme](parts.netloc, f"{path_in_store}/".lstrip("/")))


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def _in_archive(url: str, archive: dict[str, Any], inside: str) -> Location:
    """A place in a zip archive: no path of the local file system, and only to be read."""
    return Location(url, {"driver": "zip", "base": archive, "path": f"{inside.strip('/')}/".lstrip("/")})


def _s3(bucket: str, path: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        # tensorstore does not read AWS_ENDPOINT_URL, and cannot ask a foreign endpoint for the region.
        spec |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
    elif region:
        spec["aws_region"] = region
    return spec


def _gs(bucket: str, path: str) -> dict[str, Any]:
    return {"driver": "gcs", "bucket": bucket, "path": path}


def _https(host: str, path: str) -> dict[str, Any]:
    return {"driver": "http", "base_url": f"https://{host}", "path": f"/{path}"}


def _http(host: str, path: str) -> dict[str, Any]:
    return {"driver": "http", "base_url": f"http://{host}", "path": f"/{path}"}


_REMOTE = {"s3": _s3, "gs": _gs, "https": _https, "http": _http}


_BUCKET = re.compile(r"[\w.-]+")
_HOST = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?")
"""What a URL names, and nothing else: of a secret with a slash in it, the first half would be taken for it."""
