"""The same call again: what the first run settled is adopted, and what differs is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import SettingsDiffer
from chunkinfer.runs.events import BLOCK_DONE, Event
from tests.lib.probes import Watched, convolution, events

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


@pytest.mark.parametrize("pyramid", [False, 1])
def test_a_call_that_overwrites_goes_on_with_what_it_began(
    stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture, pyramid: int
) -> None:
    """Killed before its end; once it ended, or with other settings, it starts anew."""
    output = tmp_path / "out.ome.zarr"
    volume, net = ci.open_volume(stored(64, 64, 64)), convolution()
    result = ci.infer(volume, net, patch=18, block=16)
    done: list[Event] = []

    def kill(event: Event) -> None:
        done.extend([event] * (event.kind == BLOCK_DONE))
        if len(done) == 5:
            raise KeyboardInterrupt

    def save(result: Any = result, **how: Any) -> Any:
        return ci.save(result, output, chunks=(1, 16, 16, 16), pyramid=pyramid, progress=False, **how)

    ci.save(volume, output, progress=False)
    with pytest.raises(KeyboardInterrupt):
        save(overwrite=True, events=[kill])
    caplog.clear()
    report = save(overwrite=True)
    assert report.skipped >= 1
    assert report.skipped + report.computed == report.blocks == 64
    assert f"chunkinfer delete {output}" in caplog.text
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="threads").values)
    if pyramid:
        assert ci.open_volume(output, level=1).shape == (1, 32, 32, 32)
    assert save(overwrite=True).skipped == 0
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        save(overwrite=True, events=[kill])
    other = ci.infer(volume, net, patch=18, block=16, fill=1, mask=volume > 100)
    assert save(other, overwrite=True).skipped == 0
    assert np.array_equal(ci.open_volume(output).values, other.compute(scheduler="threads").values)


LABELS = np.kron(np.arange(1, 65, dtype="u4").reshape(4, 4, 4), np.ones((8, 8, 8), "u4"))
SCORES = np.random.default_rng(0).random((3, 32, 32, 32)).astype("f4")
FURTHER: dict[str, Callable[..., Any]] = {
    "segment": lambda place, **how: ci.segment(SCORES, place / "work", block=(8, 32, 32), **how).labels.values,
    "components": lambda place, **how: (
        ci.connected_components(LABELS, place / "work", block=(8, 32, 32), **how).labels.values
    ),
    "region graph": lambda place, **how: ci.region_graph(LABELS, SCORES, place / "work", **how).frame().values,
    "evaluate": lambda place, **how: ci.evaluate(LABELS, LABELS, url=place / "work", block=16, **how).table["voxels"],
    "mesh": lambda place, **how: ci.mesh(LABELS, place / "meshes", block=16, **how).objects["label"],
    "pyramid": lambda place, **how: ci.pyramid(place / "em.ome.zarr", levels=2, **how).blocks,
}


@pytest.mark.parametrize("verb", FURTHER)
def test_every_verb_that_overwrites_goes_on_with_what_it_began(
    verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the middle; once it ended, it starts anew."""
    ci.save(LABELS, tmp_path / "em.ome.zarr", chunks=(8, 8, 8), progress=False)
    done: list[Event] = []

    def count(event: Event) -> None:
        done.extend([event] * (event.kind == BLOCK_DONE))

    def kill(event: Event) -> None:
        count(event)
        if len(done) == most:
            raise KeyboardInterrupt

    def call(*events: Callable[[Event], None], overwrite: bool = True) -> tuple[Any, int]:
        done.clear()
        return FURTHER[verb](tmp_path, progress=False, events=events, overwrite=overwrite), len(done)

    expected, blocks = call(count, overwrite=False)
    most = (blocks + 1) // 2
    with pytest.raises(KeyboardInterrupt):
        call(kill)
    caplog.clear()
    found, computed = call(count)
    assert computed <= blocks - most
    assert "begun by this same call" in caplog.text
    assert np.array_equal(found, expected)
    found, computed = call(count)
    assert computed == blocks
    assert np.array_equal(found, expected)


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
