"""status: numbers, times and pictures of ledgers whose truth is known."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import DestinationError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.block_map import BlockMap
from chunkinfer.runs.record import ledger as module
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.segments import Entry
from chunkinfer.runs.status import duration
from chunkinfer.stores.files import Files
from chunkinfer.tools import cli
from tests.lib.headers import header_of

NOW = 1.7e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What everybody takes for the time; starts at `NOW`."""
    now = [NOW]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def header(counts: Iterable[int], block: int = 16) -> dict[str, Any]:
    counts = list(counts)
    shape = [3, *(n * block - 1 for n in counts)]
    return header_of([1, *counts], shape, [3, *(block for _ in counts)])


def lease(files: Files, at: float, **more: Any) -> None:
    about = {"run": "a1", "host": "node7", "pid": 123, "user": "ann", "every": 5.0, "at": at, **more}
    files.write("lease.json", json.dumps(about).encode())


def test_a_run_that_goes_on(tmp_path: Path, clock: list[float]) -> None:
    files = Files(str(tmp_path / "out.zarr"))
    ledger = Ledger(files)
    ledger.begin(header((4, 5, 5)))
    ledger.failed({99: "OutputError: the network returned NaN", 3: "was finished later"})
    for i in range(20):
        clock[0] += 10
        ledger.add([Entry(2 * i, 1, 16.0, "openvino"), Entry(2 * i + 1, 2, 18.0, "torch")])
    lease(files, at=clock[0] + 1, since=NOW)
    clock[0] += 4
    found = ci.status(tmp_path / "out.zarr")
    assert (found.blocks, found.done, found.failed, found.missing) == (100, 40, 1, 59)
    assert not found.complete
    assert found.running
    assert found.engines == {"openvino": 20, "torch": 20}
    assert found.since == NOW
    assert found.until == NOW + 200
    assert found.runs == 1
    assert found.speed == pytest.approx(40 / 204)
    assert found.left == pytest.approx(60 * 204 / 40)
    assert found.block_seconds == (17.0, 18.0)
    text = str(found)
    for part in ("40 of 100 blocks done (40 %), 1 failed, 59 missing", "node7", "process 123 of ann", "3 s ago",
                 "[0:3, 48:63, 64:79, 64:79]: OutputError: the network returned NaN", "about 5.1 minutes",
                 "a block takes 17 s"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines()[-8:])) <= 80
    stored = json.loads(json.dumps(found.as_dict()))
    assert stored["done"] == 40
    assert stored["lease"]["host"] == "node7"
    assert stored["failures"] == {"[0:3, 48:63, 64:79, 64:79]": "OutputError: the network returned NaN"}


def test_a_pause_does_not_count_as_work(tmp_path: Path, clock: list[float]) -> None:
    files = Files(str(tmp_path))
    Ledger(files).begin(header((10, 10)))
    for run in range(2):
        ledger = Ledger(files)
        ledger.done(100)
        for i in range(10):
            clock[0] += 10
            ledger.add([Entry(10 * run + i, 0)])
        clock[0] += 86400
    found = ci.status(tmp_path)
    assert found.runs == 2
    assert found.worked == 200
    assert found.speed == 0.1
    assert found.left is None
    assert "in 2 runs" in str(found)
    assert "the same save(...) goes on" in str(found)


def test_the_speed_is_that_of_the_last_minutes(tmp_path: Path, clock: list[float]) -> None:
    ledger = Ledger(Files(str(tmp_path)))
    ledger.begin(header((100, 100)))
    for i in range(110):
        clock[0] += 60 if i < 45 else 10
        ledger.add([Entry(i, 0)])
    assert ci.status(tmp_path).speed == pytest.approx(0.1, rel=0.02)


def test_a_run_without_heartbeat_is_over(tmp_path: Path, clock: list[float]) -> None:
    files = Files(str(tmp_path))
    Ledger(files).begin(header((2, 2)))
    lease(files, at=NOW - 31)
    found = ci.status(tmp_path)
    assert not found.running
    assert "takes over" in str(found)
    files.write("lease.json", b"{broken")
    assert ci.status(tmp_path).lease is None


def test_a_real_lease_is_understood(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    Ledger(files).begin(header((2, 2)))
    with Lease(files):
        found = ci.status(tmp_path)
        assert found.running
        assert f"process {os.getpid()} of" in str(found)
    assert ci.status(tmp_path).lease is None


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="no ledger") as caught:
        ci.status(tmp_path / "nothing")
    assert len(caught.value.ways) == 2


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ((1, 3, 3), ((3,), (16, 16, 1), (32, 32, 6))),
        ((1, 2, 3), ((3,), (16, 17), (32, 32, 6))),
        ((1, 2, 2), ((3,), (16, 17), (32, 38))),
    ],
)
def test_thin_last_blocks_that_were_joined_are_known(
    counts: tuple[int, ...], sizes: tuple[tuple[int, ...], ...]
) -> None:
    made = RunHeader.from_json(header_of(counts, (3, 33, 70), (3, 16, 32)))
    assert made.destination.grid == BlockGrid(sizes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.004 s"), (90, "90 s"), (150, "2.5 minutes"), (9000, "2.5 hours"), (1e6, "11.6 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- pictures --------------------------------------------------------------------------------------------------------


@given(
    counts=st.tuples(*(st.integers(1, 30) for _ in range(3))),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_cells_add_up_to_the_blocks(counts: tuple[int, ...], channels: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    flags = rng.random((channels, *counts)) < share
    failed = np.flatnonzero(~flags)[:2]
    found = BlockMap.of("czyx", (channels, *counts), flags.ravel(), failed)
    assert np.array_equal(found.done, flags.sum(axis=0))
    whole, some = found.cells(1, 1, 1)
    assert whole.item() == pytest.approx(flags.mean())
    assert some.item() == bool(len(failed))
    each, broken = found.cells(*counts)
    assert np.array_equal(each, flags.mean(axis=0))
    places = {tuple(map(int, np.unravel_index(int(i) % found.done.size, counts))) for i in failed}
    assert set(map(tuple, np.argwhere(broken).tolist())) == places
    lines = found.text().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 22
    body = "".join(lines[1:-1])
    assert ("!" in body) == bool(len(failed))
    if share in (0, 1):
        assert set(body) <= set(" !\N{FULL BLOCK}" if share else " !\N{MIDDLE DOT}")


def test_a_picture_shows_where_blocks_are() -> None:
    flags = np.zeros((2, 4, 4), bool)
    flags[0, :2] = True
    flags[1, 3, 3] = True
    found = BlockMap.of("zyx", (2, 4, 4), flags.ravel(), [5])
    assert found.text().splitlines() == [
        "z 0       z 1",
        "████████  ········",
        "██!!████  ········",
        "········  ········",
        "········  ······██",
        "█ done  ░▒▓ in part  · missing  ! failed",
    ]
    flat = BlockMap.of("yx", (1, 2), np.array([True, False]), [])
    assert flat.text().splitlines()[1] == "██··"


def test_a_notebook_shows_an_image_that_others_can_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    ledger = Ledger(Files(str(tmp_path)))
    ledger.begin(header((2, 3, 3)))
    ledger.add([Entry(i, 0) for i in range(9)])
    ledger.failed({17: "<b>bad</b>"})
    page = ci.status(tmp_path)._repr_html_()
    assert "<b>bad" not in page
    assert "9 of 18 blocks done (50 %)" in page
    (data,) = re.findall(r"base64,([^']+)", page)
    with image.open(io.BytesIO(base64.b64decode(data))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (96, 198, 3)
    assert pixels[50, 50].tolist() == [43, 92, 138]
    assert pixels[10, 110].tolist() == [236, 236, 236]
    assert pixels[90, 190].tolist() == [242, 84, 45]


def test_a_plot_has_a_panel_per_slab(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ledger = Ledger(Files(str(tmp_path / "out.zarr")))
    ledger.begin(header((6, 3, 3)))
    ledger.add([Entry(i, 0) for i in range(9)])
    figure = ci.status(tmp_path / "out.zarr").plot(tmp_path / "grid.png")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in drawn] == [f"z {i}" for i in range(6)]
    assert drawn[0].images[0].get_array()[0, 0].tolist() == [43, 92, 138]
    assert drawn[1].images[0].get_array()[0, 0].tolist() == [236, 236, 236]
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_ends_with_3_until_the_run_is_complete(tmp_path: Path) -> None:
    url = str(tmp_path / "out.zarr")
    ledger = Ledger(Files(url))
    ledger.begin(header((1, 1, 2)))
    ledger.add([Entry(0, 0)])
    result = CliRunner().invoke(cli.main, ["status", url])
    assert result.exit_code == 3
    assert "1 of 2 blocks done (50 %)" in result.output
    ledger.add([Entry(1, 0)])
    result = CliRunner().invoke(cli.main, ["status", url, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)["complete"] is True
    pytest.importorskip("matplotlib")
    assert CliRunner().invoke(cli.main, ["status", url, "--plot", str(tmp_path / "grid.png")]).exit_code == 0
    assert (tmp_path / "grid.png").exists()
    assert "with 3 if not" in " ".join(CliRunner().invoke(cli.main, ["status", "--help"]).output.split())


def test_a_hundred_thousand_blocks_are_drawn_in_under_two_seconds(tmp_path: Path) -> None:
    ledger = Ledger(Files(str(tmp_path)))
    ledger.begin(header((50, 50, 40)))
    for first in range(0, 10**5, 2000):
        ledger.add([Entry(i, i, 1.0, "torch") for i in range(first, first + 2000)])
    start = time.perf_counter()
    text = str(ci.status(tmp_path))
    assert time.perf_counter() - start < 2
    assert "100,000 of 100,000 blocks done (100 %)" in text
