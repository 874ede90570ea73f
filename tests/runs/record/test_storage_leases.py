"""One run writes an output in a bucket at a time: conditions on writes hold there, and leases rest on them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import OutputInUse
from chunkinfer.runs.record import lease
from chunkinfer.runs.record.lease import Lease
from chunkinfer.stores.files import LEASE, Files
from tests.lib.clusters import PATIENCE, Cluster
from tests.lib.probes import Watched
from tests.lib.storage.buckets import BLOCKS, CHUNKS, Job
from tests.lib.storage.holding import EVERY, Holder

COUNTER = """
import sys
from chunkinfer.stores.files import Files
files, won = Files(sys.argv[1]), 0
while won < int(sys.argv[2]):
    content, version = files.read_versioned("counter")
    won += files.write_if("counter", str(int(content or 0) + 1).encode(), version) is not None
"""


@pytest.fixture(params=["s3", "gs"])
def url(request: pytest.FixtureRequest, bucket: str, gcs: str, tmp_path: Path) -> str:
    """A folder of its own in a bucket."""
    return f"{request.param}://{bucket}/leases/{tmp_path.name}"


def test_a_write_with_an_old_version_is_refused(url: str) -> None:
    files, others = Files(url), Files(url)
    content, absent = files.read_versioned("x")
    assert content is None
    first = files.write_if("x", b"mine", absent)
    assert first is not None
    assert others.write_if("x", b"theirs", absent) is None
    second = others.write_if("x", b"theirs", first)
    assert second is not None
    assert files.write_if("x", b"mine", first) is None
    assert files.write_if("x", None, first) is None
    assert files.read_versioned("x") == (b"theirs", second)
    assert others.write_if("x", None, second) is not None
    assert files.write_if("x", b"mine", second) is None
    assert files.read("x") is None


def test_the_emulator_keeps_googles_conditions(gcs: str) -> None:
    """Asked without any library, so that what is proven with it is proven."""
    upload = f"{gcs}/upload/storage/v1/b/volumes/o?uploadType=media&name=conditions/x"
    thing = f"{gcs}/storage/v1/b/volumes/o/conditions%2Fx"

    def ask(method: str, url: str, content: bytes | None = None) -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, content, method=method), timeout=60) as answer:
                return answer.status, answer.headers.get("x-goog-generation", ""), answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, "", b""

    def generation() -> int:
        return int(ask("GET", f"{thing}?alt=media")[1])

    assert ask("DELETE", f"{thing}?ifGenerationMatch=1")[0] == 404
    assert ask("POST", f"{upload}&ifGenerationMatch=1", b"never")[0] == 412
    assert ask("POST", f"{upload}&ifGenerationMatch=0", b"first")[0] == 200
    first = generation()
    assert ask("POST", f"{upload}&ifGenerationMatch=0", b"never")[0] == 412
    assert ask("POST", f"{upload}&ifGenerationMatch={first}", b"second")[0] == 200
    second = generation()
    assert second > first
    for method, target in (("POST", f"{upload}&"), ("DELETE", f"{thing}?"), ("GET", f"{thing}?alt=media&")):
        content = b"never" if method == "POST" else None
        assert ask(method, f"{target}ifGenerationMatch={first}", content)[0] == 412
        refused = 304 if method == "GET" else 412
        assert ask(method, f"{target}ifGenerationNotMatch={second}", content)[0] == refused
    assert ask("GET", f"{thing}?alt=media&ifGenerationMatch={second}") == (200, str(second), b"second")
    assert ask("DELETE", f"{thing}?ifGenerationMatch={second}")[0] == 200
    assert ask("GET", f"{thing}?alt=media")[0] == 404


@pytest.mark.slow
def test_no_increment_of_a_counter_is_lost(gcs: str) -> None:
    """Not on S3: moto looks at a condition and stores in two steps: two threads may both find that it holds."""
    url = "gs://volumes/leases/counter"
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, url, "100"]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert Files(url).read("counter") == b"200"


@pytest.mark.slow
def test_a_lease_passes_from_who_is_stopped_and_from_who_is_dead(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Holder(url) as holder:
        with pytest.raises(OutputInUse, match=f"process {holder.process.pid} of"), Lease(Files(url)):
            pass
        holder.process.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_machine", lambda: "")  # as from another machine, which cannot look at processes
            start = time.monotonic()
            with Lease(Files(url), every=EVERY) as mine:
                assert time.monotonic() - start >= lease.STALE * EVERY
                holder.process.send_signal(signal.SIGCONT)
                told, _ = holder.process.communicate(timeout=PATIENCE)
                mine.check()
        assert "lost its lease" in told
    with Holder(url) as holder:
        holder.process.kill()
        holder.process.wait()
        left = json.loads(Files(url).read(LEASE) or b"{}")
        Files(url).write(LEASE, json.dumps({**left, "every": 1000}).encode())
        with Lease(Files(url)) as mine:  # in much less than the 1000 seconds until it is stale
            mine.check()
    assert Files(url).read(LEASE) is None


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_dead(url: str, cluster: Cluster, tmp_path: Path) -> None:
    job = Job(tmp_path, url, cluster, {"chunks": CHUNKS}, seconds=1.5)
    files = Files(job.output)
    with job.start() as first:
        limit = time.monotonic() + PATIENCE
        while files.read(LEASE) is None and first.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        same = ci.infer(ci.open_volume(job.volume), Watched(job.log, seconds=1.5), patch=18, block=16)
        with pytest.raises(OutputInUse, match=f"process {first.pid} of"):
            ci.save(same, job.output, chunks=CHUNKS, progress=False)
        while not job.done() and first.poll() is None:
            time.sleep(0.05)
        assert first.poll() is None, first.communicate()[1]
        first.kill()
    # As if it had run on another machine: nobody can see that it is dead, but that its heart stopped.
    left = json.loads(files.read(LEASE) or b"{}")
    files.write(LEASE, json.dumps({**left, "machine": "another", "every": EVERY}).encode())
    done = job.done()
    computed, skipped = job.finish()
    assert computed + skipped == BLOCKS
    assert skipped >= done >= 1
    assert files.read(LEASE) is None
    assert np.array_equal(ci.open_volume(job.output).values, job.expected)
