"""What subscribes to a run's events: a log of JSON lines, and an endpoint for Prometheus."""

from __future__ import annotations

import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import DestinationError, MissingExtra, SourceError
from chunkinfer.runs import events
from chunkinfer.runs.events import Event, Events
from chunkinfer.runs.exporters import prometheus
from chunkinfer.runs.exporters.jsonlines import JsonLines, read_events
from chunkinfer.runs.exporters.prometheus import Metrics
from chunkinfer.support.redacting import redacted

SECRET = "wJalrXUtn/FEMI+K7MDENG"


def tell(stream: Events) -> None:
    """A run of three blocks: one is stored at once, one at the second try, one never."""
    stream.tell(events.RUN_STARTED, blocks=5, todo=3, voxels=3000, url="s3://bucket/out.zarr")
    stream.tell(events.WORKER_CAME, worker="tcp://127.0.0.1:0")
    stream.tell(events.WORKER_CAME, worker="tcp://127.0.0.1:1")
    stream.tell(events.WINDOW_SENT, blocks=3)
    done = {"voxels": 1000, "bytes": np.int64(2000), "engine": "torch"}
    stream.tell(events.BLOCK_DONE, block=np.int64(4), seconds={"read": 0.5, "compute": np.float32(2)}, **done)
    stream.tell(events.WORKER_LOST, worker="tcp://127.0.0.1:1")
    stream.tell(events.RETRY, block=7, tries=1, why="OSError: the disk")
    stream.tell(events.BLOCK_SLOW, block=7, seconds=60.0)
    done |= {"engine": "openvino"}
    stream.tell(events.BLOCK_DONE, block=7, seconds={"read": 0.5, "compute": 1.0}, **done)
    stream.tell(events.BLOCK_FAILED, block=9, tries=3, error="OutputError: NaN")
    stream.tell(events.RUN_ENDED, seconds=8.5, computed=2, failed=1, paused=False)


# ---- the log ------------------------------------------------------------------------------------------------------


def test_a_log_holds_every_event_as_it_was_told(tmp_path: Path) -> None:
    told: list[Event] = []
    tell(Events(told.append, JsonLines(tmp_path / "run.jsonl")))
    found = list(read_events(tmp_path / "run.jsonl"))
    assert [e.kind for e in found] == [e.kind for e in told]
    assert [e.at for e in found] == [e.at for e in told]
    for read, original in zip(found, told, strict=True):
        assert {k: v for k, v in read.facts.items() if k != "run"} == dict(original.facts)
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        assert set(json.loads(line)) >= {"at", "kind", "run"}


def test_runs_share_a_file_and_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for log in (JsonLines(path), JsonLines(path)):
        tell(Events(log))
        tell(Events(log))
    runs = list(dict.fromkeys(e.facts["run"] for e in read_events(path)))
    assert len(runs) == 4
    assert [e.facts["run"] for e in read_events(path, runs[2])] == [runs[2]] * 11


def test_a_line_is_on_disk_when_the_event_is_told(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "run.jsonl")
    for number in range(3):
        log(Event(events.WINDOW_SENT, {"blocks": number}))
        assert [e.facts["blocks"] for e in read_events(tmp_path / "run.jsonl")] == list(range(number + 1))


def test_a_torn_last_line_is_left_out_and_a_foreign_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    tell(Events(JsonLines(path)))
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(list(read_events(path))) == 10
    for foreign in ("not json\n", "[1]\n", '{"kind": "block done"}\n'):
        path.write_text(whole + foreign)
        with pytest.raises(SourceError, match="line 12 is no event"):
            list(read_events(path))


def test_an_open_file_is_written_and_left_open() -> None:
    file = io.StringIO()
    tell(Events(JsonLines(file)))
    assert len(file.getvalue().splitlines()) == 11


def test_a_log_that_cannot_be_written_is_known_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"cannot be written: No such file[^$]*mkdir -p"):
        JsonLines(tmp_path / "absent" / "run.jsonl")
    with pytest.raises(SourceError, match="No such file"):
        list(read_events(tmp_path / "absent.jsonl"))


def test_no_credential_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "token-" + SECRET)
    log = JsonLines(tmp_path / "run.jsonl")
    for text in (
        f"403 for s3://AKIA:{SECRET}@bucket/out",
        f"GET https://bucket.host/out?X-Amz-Signature={SECRET[::-1]}&x=1 failed",
        f"refused {SECRET}",
        f"refused token-{SECRET}",
    ):
        log(Event(events.RETRY, {"error": text, "more": {"list": [text]}, text: 1}))
    written = (tmp_path / "run.jsonl").read_text()
    assert SECRET not in written
    assert SECRET[::-1] not in written
    assert "bucket/out" in written
    assert "refused [hidden]" in written


@given(st.text(alphabet="abc/+:?=@ ", min_size=8), st.text(alphabet="xyz/ "))
def test_no_value_of_a_secret_variable_survives(secret: str, around: str) -> None:
    environment = {"MY_SECRET": secret, "HOME": "/home/someone"}
    assert secret not in json.dumps(redacted({"error": around + secret + around}, environment))


def test_what_is_no_secret_is_kept() -> None:
    environment = {"HOME": "/home/someone", "MY_TOKEN": "true", "KEYBOARD": "qwertyuiop"}
    text = "true, qwertyuiop in /home/someone of https://host/path and s3://bucket/a@b"
    assert redacted(text, environment) == text


def test_a_run_is_named_as_it_names_itself(tmp_path: Path) -> None:
    stream = Events(JsonLines(tmp_path / "run.jsonl"))
    stream.tell(events.RUN_STARTED, run="host-1234", blocks=5, todo=3)
    stream.tell(events.RUN_ENDED, seconds=1.0)
    assert [e.facts["run"] for e in read_events(tmp_path / "run.jsonl")] == ["host-1234"] * 2


# ---- the endpoint -------------------------------------------------------------------------------------------------


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    pytest.importorskip("prometheus_client")
    with Metrics() as found:
        yield found


def scraped(metrics: Metrics) -> dict[str, float]:
    """What Prometheus would see, by name and labels."""
    with urllib.request.urlopen(metrics.url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_the_endpoint_shows_what_happened(metrics: Metrics) -> None:
    before = scraped(metrics)
    assert (before["chunkinfer_running"], before["chunkinfer_runs_total"]) == (0, 0)
    told: list[Event] = []
    tell(Events(told.append, metrics))
    found = scraped(metrics)
    counted = {k: v for k, v in found.items() if "timestamp" not in k and "_created" not in k}
    assert {k.removeprefix("chunkinfer_"): v for k, v in counted.items()} == {
        "blocks": 5, "blocks_todo": 0, "workers": 1, "running": 0, "runs_total": 1,
        'blocks_done_total{engine="torch"}': 1, 'blocks_done_total{engine="openvino"}': 1,
        "blocks_failed_total": 1, "blocks_slow_total": 1, "retries_total": 1, "voxels_total": 2000, "bytes_total": 4000,
        'stage_seconds_total{stage="read"}': 1, 'stage_seconds_total{stage="compute"}': 3, "workers_lost_total": 1,
    }  # fmt: skip
    assert found["chunkinfer_last_event_timestamp_seconds"] == told[-1].at
    assert found["chunkinfer_run_started_timestamp_seconds"] == told[0].at


def test_counters_go_on_in_the_next_run(metrics: Metrics) -> None:
    tell(Events(metrics))
    tell(Events(metrics))
    found = scraped(metrics)
    assert found["chunkinfer_voxels_total"] == 4000
    assert found["chunkinfer_blocks_todo"] == 0
    metrics(Event(events.RUN_STARTED, {"blocks": 5, "todo": 3}))
    assert (scraped(metrics)["chunkinfer_blocks_todo"], scraped(metrics)["chunkinfer_running"]) == (3, 1)


def test_only_this_machine_reaches_the_endpoint_unless_told(metrics: Metrics) -> None:
    assert metrics._server.server_address[0] == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", metrics.port))


def test_an_endpoint_ends_and_its_port_is_free(metrics: Metrics) -> None:
    with Metrics() as other:
        url = other.url
        with pytest.raises(DestinationError, match=r"cannot be shown[^$]*port=0"):
            Metrics(other.port)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)


def test_without_prometheus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(prometheus, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"chunkinfer\[metrics\]"):
        Metrics()


def test_every_metric_is_documented() -> None:
    pytest.importorskip("prometheus_client")
    text = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    for name in prometheus.COUNTERS:
        assert f"`chunkinfer_{name}_total" in text
    for name in prometheus.GAUGES:
        assert f"`chunkinfer_{name}`" in text
