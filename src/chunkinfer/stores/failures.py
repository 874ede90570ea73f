"""What a failure of the store means: tensorstore's status codes as errors of this library."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from chunkinfer.errors import DestinationError, MissingChunk, SourceError

FAILURES = (ValueError, OSError, RuntimeError, NotImplementedError)
"""What tensorstore raises; the status code is the first word of the message."""

MEANINGS = {
    "PERMISSION_DENIED": "The file system or the store does not allow it: missing permissions or credentials.",
    "UNAUTHENTICATED": "The store wants credentials and got none, or wrong ones.",
    "UNAVAILABLE": "The store did not answer: a network failure, a wrong endpoint, or an overloaded server.",
    "ABORTED": "The store did not do it, though it was asked again and again: it is overloaded, or cannot be reached.",
    "DEADLINE_EXCEEDED": "The store did not answer in time.",
    "RESOURCE_EXHAUSTED": "The disk or the quota is full, or the store throttles.",
    "DATA_LOSS": "The stored bytes are truncated or damaged.",
    "FAILED_PRECONDITION": "The stored bytes are not what the metadata says: damaged, or written by something else.",
    "INVALID_ARGUMENT": "The stored bytes or the metadata are not what the format prescribes.",
    "NOT_FOUND": "The bucket or folder does not exist.",
}
"""Status code -> what it usually means."""

FILL = "A fill value is a number that the array's data type holds; it is read where chunks are absent."
CODEC = "Its chunks went through a compression or filter that tensorstore does not have."

MEMBERS = {
    "fill_value": (FILL, 'write "fill_value": 0 into its metadata'),
    "compressor": (CODEC, "write it anew, compressed by blosc, gzip or zstd"),
    "compression": (CODEC, "write it anew, compressed by gzip, blosc or zstd: in Fiji, or with z5py"),
    "codecs": (CODEC, "write it anew, compressed by blosc, gzip or zstd"),
    "zarr_format": ("It is of a version that is not known.", "write it as version 2 or 3"),
}
"""Member of an array's metadata -> what it means that tensorstore does not take it, and a way out."""

CODECS = ("compressor", "compression", "codecs")
"""Members that say how chunks are encoded, in which tools differ."""

COPY = "zarr.from_array('copy.zarr', data=a, filters='auto', compressors='auto', attributes=dict(a.attrs))"
"""What copies a zarr array ``a`` with zarr-python into chunks that every reader knows."""

REFUSALS = {
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.EROFS: "PERMISSION_DENIED",
    errno.ENOSPC: "RESOURCE_EXHAUSTED",
    errno.EDQUOT: "RESOURCE_EXHAUSTED",
}
"""An operating system's refusal as a status code."""


def status(error: BaseException) -> str:
    """tensorstore's status code, also for an operating system's refusal, or '' where there is none."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return REFUSALS[error.errno]
    match = re.match(r"([A-Z_]{4,}):", str(error))
    return match[1] if match else ""


def brief(error: BaseException) -> str:
    """The message without the spec and response dumps that tensorstore appends."""
    return re.split(r" \[\w[\w-]*='", str(error), maxsplit=1)[0].replace("\x00", "")[:400]


def unreadable(url: str, error: BaseException, doing: str = "opened") -> SourceError:
    """The error for a place that exists and cannot be opened or read."""
    return SourceError(
        f"{url} cannot be {doing}: {brief(error)}",
        MEANINGS.get(status(error), ""),
        [
            "check credentials, bucket and endpoint, and try the URL with another tool"
            if "://" in url
            else "check the permissions of its folders, and whether another tool opens it",
            "or copy the data anew",
        ],
    )


def refused_metadata(url: str, format: str, meta: Mapping[str, Any], error: BaseException) -> SourceError:
    """The error for metadata that tensorstore does not take, by the member that it names."""
    if status(error) not in ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "DATA_LOSS", "UNIMPLEMENTED"):
        return unreadable(url, error)
    said = brief(error).replace('Error parsing object member "metadata": ', "")
    path, reason = _member(said)
    if not path:
        return SourceError(
            f"The metadata of {url} is not read: {reason}",
            f"It is damaged, or says more than {format} prescribes.",
            ["compare it with the format's specification and repair it", "or write the array anew"],
        )
    name = ".".join(map(str, path))
    try:
        value = reduce(lambda part, step: part[step], path, meta)
        stated = f"{name} = {json.dumps(value)[:200]}"
    except (LookupError, TypeError):
        stated = f"no {name}"
    means, way = MEMBERS.get(path[0], (f"It is not what {format} prescribes.", f"repair {path[0]} in its metadata"))
    # What is wrong in the metadata itself, no other tool reads either.
    other = _copied(url, format) if path[0] in CODECS else "or write the array anew"
    return SourceError(f"The metadata of {url} says {stated}, which is not read: {reason}", means, [way, other])


def _member(said: str) -> tuple[list[Any], str]:
    """The path to what tensorstore does not take, and why not."""
    path: list[Any] = []
    steps = re.compile(r'Error parsing (?:object member "([^"]+)"|value at position (\d+)): ')
    start = steps.search(said)
    rest = said[start.start() :] if start else said.rpartition(": ")[2]
    while step := steps.match(rest):
        path.append(step[1] or int(step[2]))
        rest = rest[step.end() :]
    return path, rest.replace("<discarded>", "nothing")


def _copied(url: str, format: str) -> str:
    if format in ("zarr2", "zarr3"):
        return f"or copy it, where zarr-python reads it: a = zarr.open_array({url!r}); {COPY}"
    return "or write it anew with another tool that reads it, as zarr or with another compression"


def unwritable(url: str, error: BaseException, doing: str = "written") -> DestinationError:
    """The error for a destination that does not take data."""
    code, said = status(error), brief(error)
    means, way = MEANINGS.get(code, ""), "create the bucket or folder and allow writing to it"
    if code == "RESOURCE_EXHAUSTED":
        way = "make room there, and make the same call again: what is stored stays"
    if code == "FAILED_PRECONDITION" and "directory" in said:
        means, way = "A part of its path is a file, and not a folder.", "move that file away"
    return DestinationError(f"{url} cannot be {doing}: {said}", means, [way, "or choose another URL"])


def unread_box(
    url: str, box: tuple[tuple[int, int], ...], error: BaseException, format: str = "", level: int = 0
) -> SourceError:
    """The error for a box that could not be read: a missing chunk, or a damaged one."""
    if status(error) == "NOT_FOUND":
        return missing_chunk(url, box, brief(error).removeprefix("NOT_FOUND: "), level)
    if "blosc" in str(error) and format.startswith("zarr"):
        return SourceError(
            f"{url} cannot be read in the box {_text(box)}: {brief(error)}",
            "The chunk is damaged, or has bytes behind its end, as z5py wrote them; these zarr-python passes over.",
            [f"copy it: a = zarr.open_array({url!r}); {COPY}", "or write the chunk named above anew"],
        )
    return SourceError(
        f"{url} cannot be read in the box {_text(box)}: {brief(error)}",
        MEANINGS.get(status(error), ""),
        [
            "write the chunk named above anew, or copy it from another replica",
            "or delete it, and open the volume with missing='fill': then fill values are read there",
        ],
    )


def filled(url: str, level: int = 0) -> str:
    """The line that opens a volume with fill values where chunks are absent."""
    return f"open_volume({url!r}, {f'level={level}, ' if level else ''}missing='fill')"


def missing_chunk(url: str, box: tuple[tuple[int, int], ...], chunk: str, level: int = 0) -> MissingChunk:
    """The error for an absent chunk; ``chunk`` is a clause that names it and says that it is missing."""
    return MissingChunk(
        f"{url}: {chunk} (read in the box {_text(box)}).",
        "Either a write never finished, or the writer left out chunks equal to the fill value.",
        [
            f"if absent chunks are meant to hold the fill value: {filled(url, level)}",
            "otherwise write the missing part again before reading it",
        ],
    )


def refuse_huge(url: str, shape: Sequence[int], itemsize: int) -> None:
    """Refuse a chunk that this machine cannot hold: tensorstore ends the process when memory is short.

    Raises
    ------
    SourceError
        One chunk is larger than the memory.
    """
    size, memory = math.prod(shape) * itemsize, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise SourceError(
            f"A chunk of {url} has the shape {tuple(shape)}: {size / 2**30:,.0f} GiB.",
            f"This machine has {memory / 2**30:,.0f} GiB of memory, and a chunk is read as a whole.",
            [
                "if that is not its true size: repair the shape of chunks in the metadata",
                "or write it in smaller chunks",
            ],
        )


def _text(box: tuple[tuple[int, int], ...]) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"
