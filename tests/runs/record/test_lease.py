"""One run writes an output at a time: refusals, take-overs, and what a run does that lost its lease."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

import chunkinfer as ci
import chunkinfer.runs.session
from chunkinfer.errors import OutputInUse
from chunkinfer.runs.events import BLOCK_DONE, Event
from chunkinfer.runs.record import lease
from chunkinfer.runs.record.lease import Lease
from chunkinfer.stores.files import LEASE, Files
from tests.lib.storage.holding import EVERY, Holder


@pytest.mark.slow
@pytest.mark.smoke
def test_the_second_run_is_refused(tmp_path: Path) -> None:
    with Holder(tmp_path) as holder:
        with pytest.raises(OutputInUse, match=f"process {holder.process.pid} of") as caught, Lease(Files(tmp_path)):
            pass
        assert "chunkinfer status" in str(caught.value)
        with pytest.raises(OutputInUse):
            ci.save(np.zeros((4, 4, 4), "u1"), tmp_path, progress=False)
        assert holder.process.poll() is None


@pytest.mark.slow
@pytest.mark.smoke
def test_what_a_dead_process_of_this_machine_held_is_taken_at_once(tmp_path: Path) -> None:
    with Holder(tmp_path) as holder:
        holder.process.kill()
        holder.process.wait()
        start = time.monotonic()
        with Lease(Files(tmp_path), every=60):
            assert time.monotonic() - start < 5
    assert Files(tmp_path).read(LEASE) is None


@pytest.mark.slow
@pytest.mark.smoke
def test_a_stale_lease_is_taken_over_and_its_holder_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_machine", lambda: "")  # as from another machine: its processes cannot be looked at
    with Holder(tmp_path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with Lease(Files(tmp_path), every=EVERY) as mine:
            assert time.monotonic() - start >= lease.STALE * EVERY
            holder.process.send_signal(signal.SIGCONT)
            told, _ = holder.process.communicate(timeout=20)
            mine.check()
        assert "lost its lease" in told
        assert holder.process.returncode == 0


def test_a_lease_outlives_the_output_that_is_made_anew(tmp_path: Path) -> None:
    """``overwrite=True`` deletes the folder of the ledger."""
    with Lease(Files(tmp_path), every=EVERY) as mine:
        time.sleep(2 * EVERY)
        os.unlink(tmp_path / ".chunkinfer" / LEASE)
        time.sleep(3 * EVERY)
        mine.check()
        assert Files(tmp_path).read(LEASE) is not None
        with pytest.raises(OutputInUse), Lease(Files(tmp_path), every=EVERY):
            pass


def test_a_failed_run_leaves_no_lease(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease(Files(tmp_path)):
        raise ZeroDivisionError
    assert Files(tmp_path).read(LEASE) is None


def test_a_damaged_lease_is_stale(tmp_path: Path) -> None:
    Files(tmp_path).write(LEASE, b'{"every": 0.1, "pi')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "EVERY", 0.1)
        with Lease(Files(tmp_path), every=0.1) as mine:
            mine.check()


def test_a_run_that_lost_its_lease_ends_and_leaves_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunkinfer.runs.session, "Lease", partial(Lease, every=EVERY))
    files, theirs = Files(tmp_path / "out"), b'{"run": "another"}'

    def taken(event: Event) -> None:
        if event.kind == BLOCK_DONE and files.read(LEASE) != theirs:
            files.write(LEASE, theirs)
            time.sleep(4 * EVERY)

    volume = da.from_array(np.ones((32, 16, 16), "u1"), chunks=4)
    with pytest.raises(OutputInUse, match="lost its lease"):
        ci.save(volume, tmp_path / "out", chunks=(4,) * 3, shards=False, progress=False, events=[taken])
    assert files.read(LEASE) == theirs
    assert files.read("run.json") is None
    assert files.read("failed.json") is None
