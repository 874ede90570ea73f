"""Blocks that fail: tried again, reported with their box, and alone in being computed when the cause is mended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import chunkinfer as ci
from chunkinfer.errors import OutputError, RunError
from tests.lib.probes import Sensitive, convolution, failing

Stored = Callable[..., str]

BOX = "[0:1, 16:32, 16:32, 0:16]"
"""Of the one block whose patch holds the value 255, which becomes 1.0."""


@pytest.fixture
def volume(stored: Stored) -> Any:
    path = stored(48, 48, 32)
    zarr.open_array(path)[24, 24, 8] = 255
    return ci.open_volume(path)


def report_of(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((path / ".chunkinfer" / "run.json").read_text())
    return table


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [False, True], ids=["reading", "exchanging"])
def test_a_failing_block_is_reported_and_the_others_are_stored(
    client: Client, volume: Any, tmp_path: Path, exchange: bool
) -> None:
    output = tmp_path / "out.zarr"
    with failing(tmp_path / "failures", "always") as folder:
        result = ci.infer(volume, Sensitive(folder, 1.0), patch=18, block=16, exchange=exchange)
        with pytest.raises(RunError, match="1 of 18 blocks failed") as caught:
            ci.save(result, output, progress=False)
    assert BOX in str(caught.value)
    assert "the device fell over (always)" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    report = report_of(output)
    assert (report["computed"], report["retried"], report["failed"]) == (17, 2, [BOX])

    again = ci.save(result, output, progress=False)
    assert (again.computed, again.skipped, again.failed) == (1, 17, [])
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="synchronous").values)


@pytest.mark.parametrize(
    "exchange",
    [
        pytest.param(False, marks=pytest.mark.slow),
        pytest.param(True, marks=[pytest.mark.slow, pytest.mark.smoke]),
    ],
    ids=["reading", "exchanging"],
)
def test_a_block_that_fails_for_a_while_is_tried_again(
    client: Client, volume: Any, tmp_path: Path, exchange: bool
) -> None:
    output = tmp_path / "out.zarr"
    with failing(tmp_path / "failures", "first", "second") as folder:
        result = ci.infer(volume, Sensitive(folder, 1.0), patch=18, block=16, exchange=exchange)
        report = ci.save(result, output, progress=False)
        assert not list(folder.iterdir())
    assert (report.computed, report.retried, report.failed) == (18, 2, [])
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="synchronous").values)


def test_what_would_fail_again_is_not_tried_again(client: Client, volume: Any, tmp_path: Path) -> None:
    """Logits do not fit into uint8, on any worker and at any time; and with no success the run ends early."""
    result = ci.infer(volume, convolution(), patch=18, block=16, dtype="uint8")
    with pytest.raises(RunError, match=r"OutputError.*\n.*dtype='uint8' stores") as caught:
        ci.save(result, tmp_path / "out.zarr", progress=False)
    assert isinstance(caught.value.__cause__, OutputError)
    report = report_of(tmp_path / "out.zarr")
    assert (report["computed"], report["retried"]) == (0, 0)
    assert len(report["failed"]) < report["blocks"]


def test_a_failing_block_logs_no_traceback_of_dask(
    volume: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a run without a cluster: its error says which block failed, and why."""
    log = logging.getLogger("distributed.worker")
    log.addHandler(caplog.handler)
    try:
        with failing(tmp_path / "failures", "always") as folder:
            result = ci.infer(volume, Sensitive(folder, 1.0), patch=18, block=16)
            with pytest.raises(RunError, match="the device fell over"):
                ci.save(result, tmp_path / "out.zarr", progress=False)
    finally:
        log.removeHandler(caplog.handler)
    assert "Compute Failed" not in caplog.text
