"""What a run shows where there is no terminal, and what it warns of."""

from __future__ import annotations

import logging
import time

import pytest

from chunkinfer.runs import progress
from chunkinfer.runs.events import (
    BLOCK_DONE,
    BLOCK_FAILED,
    RUN_STARTED,
    WORKER_CAME,
    WORKER_LOST,
    WORKER_UNFIT,
    WORKERS_AWAITED,
    Event,
)
from chunkinfer.runs.progress import Progress


def started(progress: Progress) -> None:
    progress.told(Event(RUN_STARTED, {"url": "s3://name:secret-password@bucket/out.zarr", "blocks": 12, "todo": 8}))


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, after a while, twice as long after that, and at the end; without the credentials of a URL."""
    monkeypatch.setattr(progress, "FIRST", 0.2)
    shown = Progress(800, 8, None)
    started(shown)
    shown.told(Event(WORKER_CAME, {"worker": "tcp://a"}))
    shown.told(Event(BLOCK_DONE, {"voxels": 100}))
    shown.told(Event(BLOCK_FAILED, {}))
    time.sleep(0.9)  # lines after 0.2 and 0.6 s; the next would come after 1.4 s
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "chunkinfer: 8 of 12 blocks of s3://[hidden]@bucket/out.zarr to compute"
    assert len(lines) == 4
    for line in lines[1:3]:
        assert line.startswith("chunkinfer: 1 of 8 blocks, 1 failed, ")
        assert "left" in line
        assert line.endswith("workers: 1")
    assert lines[3] == "chunkinfer: 1 of 8 blocks, 1 failed in 1 s"


@pytest.mark.parametrize("show", [False, True])
def test_no_lines_where_told_so(capsys: pytest.CaptureFixture[str], show: bool) -> None:
    shown = Progress(800, 8, show)
    started(shown)
    shown.close()
    assert "chunkinfer" not in capsys.readouterr().err


@pytest.mark.parametrize("show", [None, False, True])
def test_what_hinders_a_run_is_a_warning(caplog: pytest.LogCaptureFixture, show: bool | None) -> None:
    """Also where no progress is shown."""
    shown = Progress(800, 8, show)
    started(shown)
    facts = {"awaited": "a worker", "seconds": 125.0, "last": "tcp://a", "lost": 3, "history": "It is gone.",
             "advice": "dask worker tcp://b"}  # fmt: skip
    shown.told(Event(WORKERS_AWAITED, facts))
    shown.told(Event(WORKER_UNFIT, {"worker": "tcp://c", "why": "it cannot import chunkinfer", "used": False}))
    shown.told(Event(WORKER_LOST, {"worker": "tcp://a", "why": ""}))
    shown.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.records[0].getMessage() == (
        "chunkinfer: the run has waited 2 min for a worker. It is gone. What to do: dask worker tcp://b. Ctrl-C "
        "pauses: the same call goes on."
    )
    assert "tcp://c: it cannot import chunkinfer. No block goes there." in caplog.text


def test_many_workers_give_few_warnings(caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress(800, 8, False)
    for i in range(100):
        shown.told(Event(WORKER_LOST, {"worker": f"tcp://{i}", "why": "dask ended it because it used 4 of 4 GiB"}))
    assert len(caplog.records) == 7
    assert "So it was with 64 by now." in caplog.text
