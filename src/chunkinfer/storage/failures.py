"""What a failure of the store means: tensorstore's status codes as errors of this library."""

from __future__ import annotations

import errno
import re

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
        ["check permissions, credentials and endpoint, and try the URL with another tool", "or copy the data anew"],
    )


def unwritable(url: str, error: BaseException, doing: str = "written") -> DestinationError:
    """The error for a destination that does not take data."""
    return DestinationError(
        f"{url} cannot be {doing}: {brief(error)}",
        MEANINGS.get(status(error), ""),
        ["create the bucket or folder and allow writing to it", "or choose another URL"],
    )


def unread_box(url: str, box: tuple[tuple[int, int], ...], error: BaseException) -> SourceError:
    """The error for a box that could not be read: a missing chunk, or a damaged one."""
    if status(error) == "NOT_FOUND":
        return missing_chunk(url, box, brief(error).removeprefix("NOT_FOUND: "))
    return SourceError(
        f"{url} cannot be read in the box {_text(box)}: {brief(error)}",
        MEANINGS.get(status(error), ""),
        [
            "write the chunk named above anew, or copy it from another replica",
            "delete the chunk, and open the source with missing='fill' to read fill values there",
        ],
    )


def missing_chunk(url: str, box: tuple[tuple[int, int], ...], chunk: str) -> MissingChunk:
    """The error for an absent chunk; ``chunk`` is a clause that names it and says that it is missing."""
    return MissingChunk(
        f"{url}: {chunk} (read in the box {_text(box)}).",
        "Either a write never finished, or the writer left out chunks equal to the fill value.",
        [
            "if absent chunks are meant to hold the fill value: open_volume(url, missing='fill')",
            "otherwise write the missing part again before reading it",
        ],
    )


def _text(box: tuple[tuple[int, int], ...]) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"
