"""Components, and the stages by themselves, against plain numpy and scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import chunkinfer as ci
from chunkinfer.errors import DestinationError, PlanError, SettingsDiffer, VolumeError

QUIET: dict[str, Any] = {"progress": False}


@settings(max_examples=10)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    block=st.tuples(*[st.integers(1, 7)] * 3),
    connectivity=st.sampled_from([6, 18, 26]),
    share=st.sampled_from([0.2, 0.5, 0.8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_components_are_scipys(
    threads: Client, shape: Any, block: Any, connectivity: int, share: float, seed: int
) -> None:
    volume = np.random.default_rng(seed).random(shape) < share
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected, n = ndimage.label(volume, structure)
    found = ci.connected_components(volume, connectivity=connectivity, block=block, client=threads, **QUIET)
    assert len(found.objects) == n
    assert np.array_equal(found.consecutive().values, expected)
    assert found.labels.dtype == np.uint64


def test_components_of_labels(threads: Client) -> None:
    labels = np.kron(np.random.default_rng(1).integers(0, 3, (4, 4, 4)), np.ones((3, 3, 3), int)).astype("u2")
    found = ci.connected_components(labels, multilabel=True, block=(5, 5, 5), client=threads, **QUIET).labels.values
    count = 0
    for value in np.unique(labels[labels > 0]):
        parts, n = ndimage.label(labels == value)
        count += n
        for part in range(1, n + 1):
            inside = found[parts == part]
            assert (inside == 1 + np.flatnonzero(parts == part)[0]).all()
    assert len(np.unique(found[found > 0])) == count
    stated = xr.DataArray(labels, dims=("z", "y", "x"), attrs={"type": "segmentation"})
    assert np.array_equal(ci.connected_components(stated, client=threads, **QUIET).labels.values, found)


def rows(labels: np.ndarray, affinities: np.ndarray) -> dict[tuple[int, int], list[float]]:
    """Contacts by a loop over voxels."""
    found: dict[tuple[int, int], list[float]] = {}
    for v in np.ndindex(labels.shape):
        for d in range(3):
            u = tuple(i - (axis == d) for axis, i in enumerate(v))
            if u[d] >= 0 and labels[u] != labels[v] and labels[u] and labels[v]:
                pair = tuple(sorted((int(labels[u]), int(labels[v]))))
                found.setdefault(pair, []).append(float(affinities[(d, *v)]))
    return found


@settings(max_examples=8)
@given(shape=st.tuples(*[st.integers(1, 8)] * 3), seed=st.integers(0, 2**32 - 1))
def test_the_region_graph_of_any_labels(threads: Client, shape: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, shape)
    affinities = (rng.integers(0, 16, (3, *shape)) / 16).astype("f4")
    graph = ci.region_graph(labels, affinities, client=threads, **QUIET).frame()
    expected = rows(labels, affinities)
    assert list(zip(graph["label_a"], graph["label_b"], strict=True)) == sorted(expected)
    for row in graph.itertuples():
        contacts = expected[row.label_a, row.label_b]
        assert (row.max, row.size) == (max(contacts), len(contacts))
        assert row.mean == pytest.approx(np.mean(contacts))


def test_agglomeration_of_labels_is_the_segmentations(threads: Client) -> None:
    affinities = ndimage.gaussian_filter(np.random.default_rng(3).random((3, 14, 14, 14)), (0, 1, 1, 1)).astype("f4")
    affinities = (affinities - affinities.min()) / (affinities.max() - affinities.min())
    basins = ci.watershed(affinities, low=0.2, client=threads, **QUIET)
    merged = ci.agglomerate(basins.labels, affinities, 0.5, client=threads, **QUIET)
    assert len(np.unique(merged.values)) < len(np.unique(basins.labels.values))
    assert np.array_equal(merged.values, basins.at(0.5).labels.values)


def test_relabel_dust_and_consecutive_numbers(threads: Client) -> None:
    labels = np.zeros((3, 4, 5), "i4")
    labels[0], labels[1, :2], labels[2, 0, 0] = 70, 9, 11
    assert np.array_equal(ci.relabel(labels, {70: 9, 11: 0}).compute(), np.isin(labels, (70, 9)) * 9)
    clean = ci.remove_dust(labels, 2, client=threads, **QUIET).compute()
    assert np.array_equal(clean, np.where(labels == 11, 0, labels))
    numbered = ci.consecutive(labels, client=threads, **QUIET).compute()
    assert np.array_equal(numbered, np.searchsorted([0, 9, 11, 70], labels))


def test_what_is_no_volume_of_labels_is_refused() -> None:
    with pytest.raises(PlanError, match="not 6, 18 or 26"):
        ci.connected_components(np.ones((2, 2, 2)), connectivity=8)
    with pytest.raises(VolumeError, match="is not one volume"):
        ci.connected_components(np.ones((2, 2, 2, 2)))
    with pytest.raises(VolumeError, match="are no labels"):
        ci.relabel(np.ones((2, 2, 2)), {1: 2})
    with pytest.raises(VolumeError, match="Labels have"):
        ci.region_graph(np.ones((2, 2, 2), int), np.ones((3, 2, 2, 3)))


def test_tables_of_other_labels_are_refused(tmp_path: Path, threads: Client) -> None:
    labels = np.arange(8).reshape(2, 2, 2)
    affinities = np.full((3, 2, 2, 2), 0.5, "f4")
    how: dict[str, Any] = {"client": threads, **QUIET}
    ci.remove_dust(labels, 1, tmp_path / "a", **how)
    ci.region_graph(labels, affinities, tmp_path / "a", **how)
    with pytest.raises(SettingsDiffer, match="labels"):
        ci.remove_dust(labels + 1, 1, tmp_path / "a", **how)
    with pytest.raises(SettingsDiffer, match="affinities"):
        ci.region_graph(labels, affinities / 2, tmp_path / "a", **how)


def test_an_array_of_the_same_name_is_not_deleted(tmp_path: Path, threads: Client) -> None:
    mine = np.arange(64.0).reshape(4, 4, 4)
    ci.save(mine, tmp_path / "components", format="zarr3", client=threads, **QUIET)
    with pytest.raises(DestinationError):
        ci.connected_components(mine, tmp_path, client=threads, **QUIET)
    assert np.array_equal(ci.open_volume(tmp_path / "components").values, mine)
