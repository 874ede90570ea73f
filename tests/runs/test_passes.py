"""Passes over blocks: a table of each, by workers in other processes, resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from chunkinfer.errors import DestinationError, RunError, SettingsDiffer
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.runs.passes import Tables
from chunkinfer.runs.report import RunReport
from chunkinfer.runs.run import Where
from chunkinfer.runs.session import session

GRID = BlockGrid(((3, 4), (5,), (2, 2, 1)))


@dataclass(frozen=True)
class Sums:
    """The sum of the voxels of a block; a block that starts at ``broken`` cannot be read."""

    array: NDArray[np.int64]
    broken: tuple[int, ...] = ()

    def read(self, box: Box) -> dict[str, NDArray[np.int64]]:
        if box.start == self.broken:
            raise OSError("the block cannot be read")
        return {"sum": self.array[box.slices].sum(keepdims=True), "start": np.array(box.start)}


ARRAY = np.random.default_rng(0).integers(0, 9, GRID.shape)


def made(url: Path, step: Sums, client: Client, about: str = "a") -> tuple[Tables, RunReport]:
    with session(url, Where(client, progress=False)) as here:
        return here.tables("sums", GRID, step, {"about": about}), here.reports["sums"]


def test_what_fails_is_made_up_for_and_nothing_else_runs_again(tmp_path: Path, threads: Client) -> None:
    with pytest.raises(RunError, match="1 of 6 blocks failed"):
        made(tmp_path, Sums(ARRAY, (3, 0, 2)), threads)
    tables, report = made(tmp_path, Sums(ARRAY), threads)
    assert (report.computed, report.skipped, len(tables)) == (1, 5, 6)
    for position, table in enumerate(tables):
        box = GRID.box(GRID.unravel(position))
        assert table["sum"].item() == ARRAY[box.slices].sum()
        assert tuple(table["start"]) == box.start


def test_other_settings_are_refused_and_a_table_that_is_gone_is_named(tmp_path: Path, threads: Client) -> None:
    tables, _ = made(tmp_path, Sums(ARRAY), threads)
    with pytest.raises(SettingsDiffer, match="about: stored a, asked b"):
        made(tmp_path, Sums(ARRAY), threads, "b")
    tables.files.delete("4.npz")
    with pytest.raises(DestinationError, match=r"4\.npz"):
        tables[4]
    assert [t["sum"].item() for t in tables[:2]] == [
        ARRAY[GRID.box(GRID.unravel(i)).slices].sum() for i in range(2)
    ]  # fmt: skip
