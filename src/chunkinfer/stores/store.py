"""Open tensorstores and kvstores, once per process.

Handles never travel between processes: only their specs do, and each process opens a spec the first time it meets it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

# Left alone, tensorstore waits for a request that a bucket never answers. Read when it is first imported.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")

CACHE_BYTES = 2**23
"""Memory per process for shard indices, mostly: small beside the blocks in flight, whose memory a plan promises."""

FILES = 32
"""Files that are read or written at a time: each waits for the disk to keep it, and disks keep many at once."""

LOCK = ".__lock"
"""What is appended to the name of a local file while it is written, by tensorstore too; a process that is killed leaves
it."""


ANSWER = 30.0
"""Seconds in which a store must answer the first request of a process. Later ones are tried again for longer: a store
that has been there comes back, and a run waits for it."""

TRIES = {"max_retries": 4, "initial_delay": "1s", "max_delay": "8s"}
"""Of the first request: about 15 seconds where every connection is refused."""


def canonical(spec: Any) -> str:
    """The one text of a JSON value, for keys and tokens."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"))


@cache
def context(cached: bool = True) -> Any:
    """A tensorstore context of this process: one cache for all that is read, none for what is written.

    A cache would give back what was written, not what is stored, which differs where the encoding is lossy.
    """
    import tensorstore as ts

    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES if cached else 0},
            "file_io_concurrency": {"limit": FILES},
        }
    )


def _reach(spec: Mapping[str, Any]) -> None:
    """See that the store of a kvstore spec answers, whatever it answers: once per process.

    Raises
    ------
    OSError
        Nothing answers; its text says what was tried.
    """
    place = {k: v for k, v in spec.items() if k in ("driver", "bucket", "endpoint", "aws_region", "base_url")}
    if place.get("driver") in ("s3", "gcs", "http"):
        _reached(canonical(place))


@cache
def _reached(place: str) -> None:
    import tensorstore as ts

    spec = json.loads(place)
    where = spec.get("base_url") or f"{spec.get('endpoint') or spec['driver']}, bucket {spec['bucket']}"
    begun = time.monotonic()
    retries = {f"{driver}_request_retries": TRIES for driver in ("s3", "gcs", "http")}
    try:
        store = ts.KvStore.open(spec, context=ts.Context(retries)).result()
        store.read("chunkinfer", byte_range=slice(0, 1)).result(timeout=ANSWER)
    except TimeoutError as error:
        raise OSError(f"UNAVAILABLE: {where} took a request and did not answer within {ANSWER:.0f} s.") from error
    except ValueError as error:
        if "CURL error" not in str(error):  # it answered
            return
        seconds = time.monotonic() - begun
        why = re.split(r" \[\w+='", str(error).partition("CURL error ")[2], maxsplit=1)[0]
        raise OSError(
            f"UNAVAILABLE: {where} cannot be reached: {why} ({TRIES['max_retries']} tries in {seconds:.0f} s)."
        ) from error


@lru_cache(maxsize=64)
def _opened(spec: str, version: str, cached: bool) -> Any:
    import tensorstore as ts

    _reach(json.loads(spec).get("kvstore", {}))
    return ts.open(json.loads(spec), context=context(cached)).result()


def opened(spec: dict[str, Any], version: str, cached: bool = True) -> Any:
    """The tensorstore of a spec; ``version`` keeps handles to an array and to its successor at the same URL apart."""
    return _opened(canonical(spec), version, cached)


@lru_cache(maxsize=64)
def _kvstore(spec: str) -> Any:
    import tensorstore as ts

    _reach(json.loads(spec))
    return ts.KvStore.open(json.loads(spec), context=context()).result()


def kvstore(spec: dict[str, Any]) -> Any:
    """The kvstore of a spec."""
    return _kvstore(canonical(spec))
