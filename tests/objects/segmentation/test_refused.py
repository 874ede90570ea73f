"""Volumes that are no affinities, no mask and no labels are refused, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.errors import SourceError, VolumeError
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def threads() -> Any:
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        yield client


def affinities(seed: int = 0, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, *(shape or (8, 8, 8)))).astype("f4")


def wrong(how: str) -> np.ndarray:
    found = affinities()
    if how == "NaN":
        found[1, 5, 6, 7] = np.nan
    return found * 10 - 5 if how == "logits" else found


@pytest.mark.parametrize("how", ["NaN", "logits"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_affinities_that_are_none_are_refused_where_they_are(
    tmp_path: Path, threads: Client, how: str, sign: int
) -> None:
    bad, how_long = wrong(how), {"block": (4, 4, 4), "client": threads, **QUIET}
    said = r"NaN: channel 1 of voxel \(5, 6, 7\)" if how == "NaN" else r"reach from -\d.*activation=\"sigmoid\""
    with pytest.raises(VolumeError, match=f"(?s){said}"):
        ci.segment(bad, tmp_path / "seg", sign=sign, **how_long)
    assert not (tmp_path / "seg").exists()
    mended = da.nan_to_num(da.from_array(bad)) if how == "NaN" else 1 / (1 + np.exp(-bad))
    ci.segment(mended, tmp_path / "seg", sign=sign, **how_long)  # the same place, which nothing was left in
    with pytest.raises(VolumeError):
        ci.region_graph(np.arange(512, dtype="u4").reshape(8, 8, 8), bad, client=threads, **QUIET)


def test_what_was_there_before_a_refusal_stays(tmp_path: Path, threads: Client) -> None:
    how: dict[str, Any] = {"client": threads, "block": (4, 4, 4), **QUIET}
    ci.segment(affinities(), tmp_path / "seg", **how)
    before = sorted(os.listdir(tmp_path / "seg"))
    with pytest.raises(ci.errors.SettingsDiffer):
        ci.segment(wrong("NaN"), tmp_path / "seg", **how)
    assert sorted(os.listdir(tmp_path / "seg")) == before
    assert ci.segment(affinities(), tmp_path / "seg", **how).reports["fragments"].computed == 0


def test_the_line_for_labelled_affinities_with_nan(threads: Client) -> None:
    labelled = xr.DataArray(da.from_array(wrong("NaN")), dims=("c", "z", "y", "x"))
    ci.segment(labelled.fillna(0), client=threads, **QUIET)


def test_a_map_of_probabilities_is_no_mask(threads: Client) -> None:
    map_ = affinities()[0]
    with pytest.raises(VolumeError, match=r"Voxel \(0, 0, 0\).* is 0\.637"):
        ci.connected_components(map_, client=threads, **QUIET)
    for mask in (map_ > 0.5, (map_ > 0.5).astype("f4")):
        assert ci.connected_components(mask, client=threads, **QUIET).labels.any()
    with pytest.raises(VolumeError, match="is nan"):
        ci.connected_components(np.where(map_ > 0.5, np.nan, 0), client=threads, **QUIET)


def test_a_picture_is_not_cut_into_objects(tmp_path: Path, threads: Client) -> None:
    grey = (255 * affinities()[0]).astype("u1")
    with pytest.raises(VolumeError, match=r"uint8 with one channel may be a picture"):
        ci.segment(grey, client=threads, **QUIET)
    ci.segment(op.dequantize(grey), client=threads, **QUIET)
    colours = xr.DataArray((255 * affinities()).astype("u1"), dims=("c", "z", "y", "x"))
    ci.segment(colours, client=threads, **QUIET)  # three channels that are called nothing
    with pytest.raises(VolumeError, match="channels red, green, blue"):
        ci.segment(colours.assign_coords(c=["red", "green", "blue"]), client=threads, **QUIET)


@pytest.mark.parametrize("name", ["b.zarr", "b.precomputed", "b.ome.zarr"])
def test_what_a_network_made_is_known_for_it_when_it_is_stored(tmp_path: Path, threads: Client, name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 3, padding=1), torch.nn.Sigmoid()).eval()
    image = xr.DataArray(affinities()[0], dims=("z", "y", "x"))
    url = tmp_path / name
    ci.save(ci.infer(image, model, dtype="uint8", block=(4, 8, 8)), url, client=threads, **QUIET)
    found = ci.segment(ci.open_volume(url), client=threads, **QUIET).labels.values

    Ledger(Files(url)).forget([0])
    with pytest.raises(SourceError, match=r"is not finished: 1 of 2 blocks") as refused:
        ci.segment(ci.open_volume(url), tmp_path / "seg", client=threads, **QUIET)
    assert not (tmp_path / "seg").exists()
    assert str(url) in refused.value.ways[0]
    ci.segment(ci.open_volume(url, missing="fill"), client=threads, **QUIET)
    ci.save(ci.infer(image, model, dtype="uint8", block=(4, 8, 8)), url, client=threads, **QUIET)
    assert np.array_equal(ci.segment(ci.open_volume(url), client=threads, **QUIET).labels.values, found)


@pytest.mark.parametrize("verb", [
    lambda volume, place, how: ci.mesh(volume, place, **how),
    lambda volume, place, how: ci.evaluate(volume, volume, **how),
    lambda volume, place, how: ci.statistics(volume, **how),
    lambda volume, place, how: ci.remove_dust(volume, 10, **how),
])  # fmt: skip
def test_a_picture_is_no_labels(tmp_path: Path, threads: Client, verb: Any) -> None:
    grey = (255 * affinities(1, 4, 32, 32)[0]).astype("u1")
    how: dict[str, Any] = {"client": threads, **QUIET}
    with pytest.raises(VolumeError, match=r"looks like a picture: uint8, \d+ different values"):
        verb(grey, tmp_path / "made", how)
    verb(np.repeat(np.repeat(grey[:, ::8, ::8], 8, 1), 8, 2), tmp_path / "made", how)  # alike in their neighbours
    verb(grey // 80, tmp_path / "few", how)
    verb(xr.DataArray(grey, dims=("z", "y", "x"), attrs={"type": "segmentation"}), tmp_path / "said", how)
    verb(op.cast(grey, "uint32"), tmp_path / "cast", how)


def test_one_section_is_told_how_to_be_a_volume(threads: Client) -> None:
    section = affinities()[0, 0] > 0.5
    with pytest.raises(VolumeError, match="has two axes") as refused:
        ci.connected_components(section, client=threads, **QUIET)
    ci.connected_components(eval(refused.value.ways[0], {"volume": section}), client=threads, **QUIET)


def test_what_a_pass_finds_wrong_with_labels_is_said_as_it_is(threads: Client) -> None:
    labels = np.full((4, 8, 8), -1, "i8")
    with pytest.raises(VolumeError, match="There is a label -1"):
        ci.statistics(labels, client=threads, **QUIET)
