"""The same call again: what the first run settled is adopted, and what differs is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import SettingsDiffer
from probes import Watched, convolution, events

Stored = Callable[..., str]


def test_settings_that_are_left_out_are_adopted(stored: Stored, tmp_path: Path) -> None:
    log, output = tmp_path / "log", tmp_path / "out.zarr"
    volume, net = ci.open_volume(stored(40, 40, 40)), Watched(log)
    first = ci.save(ci.infer(volume, net, patch=18, block=32), output, progress=False)
    assert first.computed == 8
    assert ci.plan(volume, net).settings()["patch"] != [18, 18, 18]
    ran, stored_values = len(events(log)), ci.open_volume(output).values

    second = ci.save(ci.infer(volume, net), output, progress=False)
    assert (second.computed, second.skipped) == (0, 8)
    assert len(events(log)) == ran
    part = ci.save(ci.infer(volume, net, patch=18), output, progress=False)
    assert (part.computed, part.skipped) == (0, 8)

    with pytest.raises(SettingsDiffer) as caught:
        ci.save(ci.infer(volume, net, patch=34), output, progress=False)
    assert "patch: stored [18, 18, 18], asked [34, 34, 34]" in str(caught.value)
    with pytest.raises(SettingsDiffer, match="dtype: stored float32, asked float16"):
        ci.save(ci.infer(volume, net, dtype="float16"), output, progress=False)
    assert np.array_equal(ci.open_volume(output).values, stored_values)

    anew = ci.save(ci.infer(volume, net, patch=34), output, overwrite=True, progress=False)
    assert anew.skipped == 0
    assert anew.computed == anew.blocks
    assert len(events(log)) > ran


def test_blocks_that_are_missing_are_computed_with_the_adopted_settings(stored: Stored, tmp_path: Path) -> None:
    log, output = tmp_path / "log", tmp_path / "out.zarr"
    volume, net = ci.open_volume(stored(40, 40, 40)), Watched(log)
    ci.save(ci.infer(volume, net, patch=18, block=16), output, progress=False)
    expected = ci.open_volume(output).values
    (ledger,) = (output / ".chunkinfer").glob("done-*")
    ledger.unlink()
    report = ci.save(ci.infer(volume, net), output, progress=False)
    assert (report.computed, report.skipped) == (27, 0)
    assert np.array_equal(ci.open_volume(output).values, expected)


def test_another_network_or_volume_is_another_run(stored: Stored, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    volume, other = ci.open_volume(stored(32, 32, 32)), ci.open_volume(stored(32, 32, 32, name="other.zarr"))
    ci.save(ci.infer(volume, convolution()), output, progress=False)
    changed = convolution()
    changed.weight.data.mul_(2)
    with pytest.raises(SettingsDiffer, match="digest: stored"):
        ci.save(ci.infer(volume, changed), output, progress=False)
    with pytest.raises(SettingsDiffer, match=r"url: stored .*volume.zarr, asked .*other.zarr"):
        ci.save(ci.infer(other, convolution()), output, progress=False)
