"""segment as users call it: any cut, any workers, lazy affinities, resumed, other thresholds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import chunkinfer as ci
from chunkinfer.errors import PlanError, SettingsDiffer, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.edges import Edges
from tests.lib.probes import without_voxels

SHARED = Path(__file__).parents[4] / "shared"
QUIET: dict[str, Any] = {"progress": False}


def smooth(*shape: int, seed: int = 0, levels: int = 0) -> np.ndarray:
    """Affinities (3, *shape) with objects of some voxels; of few levels where ties are wanted."""
    noise = np.random.default_rng(seed).random((3, *shape))
    field = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    field = (field - field.min()) / (field.max() - field.min())
    return (np.rint(field * levels) / levels if levels else field).astype("f4")


# The same for every cut


@settings(max_examples=12)
@given(
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    block=st.tuples(*[st.integers(3, 9)] * 3),
    levels=st.sampled_from([0, 15, 255]),
    dtype=st.sampled_from(["f4", "u1"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_do_not_depend_on_blocks(
    threads: Client, shape: Any, block: Any, levels: int, dtype: str, seed: int
) -> None:
    affinities = smooth(*shape, seed=seed, levels=levels)
    affinities = np.rint(affinities * 255).astype("u1") if dtype == "u1" else affinities
    how: dict[str, Any] = {"low": 0.2, "merge_size": 9, "dust_size": 4, "agglomerate": 0.5, "client": threads, **QUIET}
    whole = ci.segment(affinities, block=shape, **how)
    cut = ci.segment(affinities, block=block, **how)
    assert np.array_equal(cut.labels.values, whole.labels.values)
    assert cut.graph.equals(whole.graph)
    assert cut.dendrogram.equals(whole.dendrogram)
    assert cut.objects.equals(whole.objects)
    labels, sizes = np.unique(whole.labels.values, return_counts=True)
    kept = labels > 0
    assert np.array_equal(whole.objects["label"], labels[kept])
    assert np.array_equal(whole.objects["size"], sizes[kept])
    for label in labels[kept]:  # 1 + the least index of what it was before dust and agglomeration
        assert 0 < label <= 1 + np.flatnonzero(whole.labels.values == label)[0]
    order = np.concatenate([[0], np.cumsum(kept)[kept]])
    found = np.searchsorted(labels[kept], cut.labels.values, "right")
    assert np.array_equal(cut.consecutive().values, np.where(cut.labels.values > 0, order[found], 0))


@pytest.mark.parametrize("seed", [1, 2])
def test_uint8_is_segmented_like_its_quotients(seed: int) -> None:
    """Also where the mean of a contact is exactly the threshold, as it often is among random bytes."""
    stored = np.random.default_rng(seed).integers(0, 255, (3, 14, 15, 16), np.uint8)
    bytes_, quotients = (
        ci.segment(affinities, merge_size=5, merge_threshold=153 / 255, block=(14, 15, 16), **QUIET)
        for affinities in (stored, stored / np.float32(255))
    )
    assert bytes_.graph.equals(quotients.graph)
    assert np.array_equal(bytes_.labels, quotients.labels)


@pytest.mark.slow
@pytest.mark.smoke
def test_many_blocks_in_a_tree_of_several_levels(threads: Client) -> None:
    affinities = smooth(40, 20, 20)
    how: dict[str, Any] = {"merge_size": 20, "dust_size": 10, "agglomerate": 0.5, "client": threads, **QUIET}
    cut = ci.segment(affinities, block=(4, 4, 4), **how)
    assert [name[:4] for name in cut.reports if name.startswith("up")] == ["up-1", "up-2"]
    assert np.array_equal(cut.labels.values, ci.segment(affinities, **how).labels.values)


@pytest.mark.slow
def test_real_affinities_cut_in_twenty_ways_on_workers_of_their_own(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("needs ../shared: real microscopy and a network")
    image = np.load(SHARED / "data" / "fib25" / "sample2_image.npy")[:96, :160, :160]
    affinities = ci.infer(image, str(SHARED / "models" / "fib25_affinity.pt"), normalize=(0, 255)).compute()
    affinities = np.asarray(affinities, "f4")
    rng, shape = np.random.default_rng(0), affinities.shape[1:]
    for kind in (affinities, np.rint(affinities * 255).astype("u1"), np.rint(affinities * 15).astype("f4") / 15):
        whole = ci.segment(kind, block=shape, **QUIET)
        expected = whole.labels.values
        assert len(whole.objects) > 20
        stored = tmp_path / f"{kind.dtype}-{len(np.unique(kind))}.zarr"
        ci.save(xr.DataArray(kind, dims=("c", "z", "y", "x")), stored, **QUIET)
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0"
        ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
            for i in range(7):
                block = tuple(int(rng.integers(20, n + 1)) for n in shape)
                cut = ci.segment(str(stored), f"{stored}-{i}", block=block, client=client, **QUIET)
                assert np.array_equal(cut.labels.values, expected), block


# What it takes


def naive(edges: Edges, voxels: np.ndarray) -> np.ndarray:
    """Affinities of a whole volume, voxel by voxel."""
    shape = voxels.shape[1:]
    made = np.zeros((3, *shape), voxels.dtype)
    one = 255 if voxels.dtype == np.uint8 else voxels.dtype.type(1)
    for d in range(3):
        channel = d if edges.order == "zyx" else 2 - d
        for v in np.ndindex(shape):
            u = tuple(i - (axis == d) for axis, i in enumerate(v))
            if u[d] < 0:
                if edges.kind == "affinity" and edges.sign == -1:
                    made[d][v] = voxels[channel][v]  # no edge: the watershed ignores it
                continue
            if edges.kind == "boundary":
                made[d][v] = one - max(voxels[0][v], voxels[0][u])
            else:
                made[d][v] = voxels[channel][v if edges.sign == -1 else u]
    return made


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    kind=st.sampled_from(["affinity", "boundary"]),
    order=st.sampled_from(["zyx", "xyz"]),
    sign=st.sampled_from([-1, 1]),
    dtype=st.sampled_from(["f4", "u1"]),
    data=st.data(),
)
def test_edges_are_turned_in_every_box(
    shape: Any, kind: str, order: str, sign: int, dtype: str, data: st.DataObject
) -> None:
    edges = Edges(kind, order, sign)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    voxels = (rng.random((3 if kind == "affinity" else 1, *shape)) * (255 if dtype == "u1" else 1)).astype(dtype)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    seen = Box(start, stop)
    covered = edges.covered(seen)
    if covered.size == 0:
        return
    turned = edges.turned(voxels[(slice(None), *seen.slices)], start)
    assert np.array_equal(turned, naive(edges, voxels)[(slice(None), *covered.slices)])


def test_conventions_give_the_same_objects(threads: Client) -> None:
    affinities = smooth(12, 13, 14)
    how: dict[str, Any] = {"block": (6, 7, 8), "client": threads, **QUIET}
    expected = ci.segment(affinities, **how).labels.values
    assert np.array_equal(ci.segment(affinities[::-1], order="xyz", **how).labels.values, expected)
    behind = np.zeros_like(affinities)  # at v the edge to v + e_d
    behind[0, :-1], behind[1, :, :-1], behind[2, :, :, :-1] = (
        affinities[0, 1:], affinities[1, :, 1:], affinities[2, :, :, 1:]
    )  # fmt: skip
    assert np.array_equal(ci.segment(behind, sign=1, **how).labels.values, expected)


def test_a_boundary_map(threads: Client) -> None:
    boundaries = np.zeros((8, 8, 12), "f4")
    boundaries[:, :, 6] = 1
    found = ci.segment(boundaries, block=(4, 8, 5), dust_size=0, merge_size=0, client=threads, **QUIET).consecutive()
    expected = np.ones(boundaries.shape)
    expected[:, :, 6], expected[:, :, 7:] = 0, 2
    assert np.array_equal(found.values, expected)


class Channels(torch.nn.Module):
    """An image becomes three affinities; every call is counted in a file."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = str(log)
        self.conv = torch.nn.Conv3d(1, 3, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.conv.weight, 1 / 27)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not without_voxels(x):
            with open(self.log, "a") as log:
                log.write("x")
        return self.conv(x)


def test_a_lazy_network_runs_once_and_is_not_stored(tmp_path: Path, threads: Client) -> None:
    image = smooth(24, 24, 24)[0]
    network = Channels(tmp_path / "log")
    lazy = ci.infer(xr.DataArray(image, dims=("z", "y", "x")), network, block=(12, 12, 12), patch=(14, 14, 14))
    stored = lazy.compute()
    (tmp_path / "log").unlink()
    found = ci.segment(lazy, tmp_path / "seg", client=threads, **QUIET)
    calls = (tmp_path / "log").read_text()
    expected = ci.segment(np.asarray(stored), client=threads, **QUIET)
    assert np.array_equal(found.labels.values, expected.labels.values)
    assert len(calls) == 8  # blocks; none for a halo
    assert (tmp_path / "log").read_text() == calls
    assert found.labels.dims == ("z", "y", "x")


def test_a_mask_of_another_resolution(threads: Client) -> None:
    affinities = np.ones((3, 8, 8, 8), "f4")
    mask = np.ones((4, 4, 4), "u1")
    mask[:, :, 2] = 0
    found = ci.segment(affinities, mask=mask, block=(8, 8, 3), dust_size=0, client=threads, **QUIET)
    expected = np.ones((8, 8, 8))
    expected[..., 4:6], expected[..., 6:] = 0, 2
    assert np.array_equal(found.consecutive().values, expected)


def test_objects_with_different_seeds_never_merge(threads: Client) -> None:
    affinities = np.ones((3, 4, 4, 30), "f4")
    affinities[2, :, :, [10, 20]] = 0.9
    how: dict[str, Any] = {"low": 0.1, "high": 0.99, "merge_size": 0, "dust_size": 0, "client": threads, **QUIET}
    assert len(ci.segment(affinities, agglomerate=0.5, **how).objects) == 1
    seeds = {7: [(0, 0, 2)], 9: [(3, 3, 25)]}
    found = ci.segment(affinities, agglomerate=0.5, seeds=seeds, block=(4, 4, 13), **how)
    labels = found.labels.values
    assert len(found.objects) == 2
    assert labels[0, 0, 2] != labels[3, 3, 25]
    merged = ci.segment(affinities, agglomerate=0.5, seeds={1: [(0, 0, 2), (3, 3, 25)], 2: [(0, 0, 15)]}, **how)
    assert len(merged.objects) == 3  # what lies between them keeps the two apart
    with pytest.raises(VolumeError, match="has two seeds"):
        ci.segment(affinities, seeds={1: [(0, 0, 0)], 2: [(0, 0, 1)]}, **how)
    with pytest.raises(VolumeError, match="not one of this volume"):
        ci.segment(affinities, seeds={1: [(0, 0, 30)]}, **how)


# What it gives


def test_another_threshold_computes_nothing(tmp_path: Path, threads: Client) -> None:
    affinities = smooth(16, 16, 16)
    how: dict[str, Any] = {"merge_size": 5, "dust_size": 3, "client": threads, **QUIET}
    found = ci.segment(affinities, tmp_path / "a", agglomerate=0.8, **how)
    before = sorted((tmp_path / "a").rglob("*"))
    for threshold in (None, 0.2, 0.5, 1.0):
        other = ci.segment(affinities, agglomerate=threshold, **how)
        assert np.array_equal(found.at(threshold).labels.values, other.labels.values)
    assert sorted((tmp_path / "a").rglob("*")) == before
    scores = found.dendrogram["score"]
    assert (np.diff(scores) <= 0).all()
    with pytest.raises(PlanError, match="no mean affinity"):
        found.at(3.0).labels.compute()


def test_other_merging_goes_on_from_the_same_watershed(tmp_path: Path, threads: Client) -> None:
    affinities = smooth(16, 16, 16)
    ci.segment(affinities, tmp_path / "a", merge_size=5, client=threads, **QUIET)
    again = ci.segment(affinities, tmp_path / "a", merge_size=50, client=threads, **QUIET)
    assert again.reports["fragments"].computed == 0
    assert np.array_equal(
        again.labels.values, ci.segment(affinities, merge_size=50, client=threads, **QUIET).labels.values
    )
    with pytest.raises(SettingsDiffer, match=r"low: stored 0\.05, asked 0\.2"):
        ci.segment(affinities, tmp_path / "a", low=0.2, client=threads, **QUIET)
    anew = ci.segment(affinities, tmp_path / "a", low=0.2, overwrite=True, client=threads, **QUIET)
    assert anew.reports["fragments"].computed == 1


def test_labels_are_stored_where_the_image_is(tmp_path: Path, threads: Client) -> None:
    affinities = xr.DataArray(
        smooth(20, 20, 20), dims=("c", "z", "y", "x"),
        coords={d: ((np.arange(20) + 5) * 8.0) for d in "zyx"}, attrs={"unit": "nm"},
    )  # fmt: skip
    found = ci.segment(affinities, block=(9, 9, 9), client=threads, **QUIET)
    ci.save(found.labels, tmp_path / "s", format="precomputed", client=threads, **QUIET)
    stored = ci.open_volume(tmp_path / "s")
    assert stored.attrs["type"] == "segmentation"
    assert np.array_equal(stored.values, found.labels.values)
    assert np.array_equal(stored.z, affinities.z)


@pytest.mark.parametrize(
    ("volume", "settings", "says"),
    [
        (np.zeros((2, 8, 8, 8), "f4"), {}, "2 channels"),
        (np.zeros((3, 8, 8, 8), "i4"), {}, "no affinities"),
        (np.zeros((8, 8), "f4"), {}, "has two axes"),
        (np.zeros((3, 8, 8, 8), "f4"), {"order": "yxz"}, "no affinities that are known"),
        (np.zeros((3, 8, 8, 8), "f4"), {"merge_size": -1}, "numbers of voxels"),
        (np.zeros((3, 8, 8, 8), "f4"), {"low": 0.9, "high": 0.1}, "0 <= low < high"),
    ],
)
def test_what_is_no_affinity_is_refused(threads: Client, volume: np.ndarray, settings: Any, says: str) -> None:
    with pytest.raises((VolumeError, PlanError), match=says) as caught:
        ci.segment(volume, client=threads, **settings, **QUIET)
    assert "  - " in str(caught.value)


def test_the_result_says_what_it_is(threads: Client) -> None:
    found = ci.watershed(smooth(12, 12, 12), client=threads, **QUIET)
    assert repr(found).startswith("segmentation")
    assert "no agglomeration" in repr(found)
    assert found._repr_html_().startswith("<table>")


@pytest.mark.slow
@pytest.mark.smoke
def test_a_bucket_holds_a_segmentation(s3_server: str, threads: Client) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/objects", method="PUT")).close()
    affinities = smooth(12, 12, 12)
    here = ci.segment(affinities, block=(6, 6, 6), client=threads, merge_size=20, **QUIET)
    how: dict[str, Any] = {"block": (6, 6, 6), "client": threads, "merge_size": 20, **QUIET}
    there = ci.segment(affinities, "s3://objects/seg", **how)
    assert np.array_equal(there.labels.values, here.labels.values)
    again = ci.segment(affinities, "s3://objects/seg", **how)
    assert sum(report.computed for report in again.reports.values()) == 0


# Crashes

KILLED = """
    import os, signal, sys
    import numpy as np
    import chunkinfer as ci
    from dataclasses import replace
    from chunkinfer.runs.events import BLOCK_DONE
    from chunkinfer.runs.session import Session

    stage, affinities = sys.argv[2], np.load(sys.argv[1] + "/affinities.npy")
    tables = Session.tables

    def killed(here, name, *args):
        if stage == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)

        def kill(event):
            if name.startswith(stage) and event.kind == BLOCK_DONE:
                os.kill(os.getpid(), signal.SIGKILL)
        here.where = replace(here.where, events=(kill,))
        return tables(here, name, *args)

    Session.tables = killed
    found = ci.segment(affinities, sys.argv[1] + "/seg", block=(5, 5, 5), merge_size=20, progress=False)
    np.save(sys.argv[1] + "/labels.npy", found.labels.values)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        "before fragments",
        "fragments",
        "up-1",
        "up-2",
        "down-2",
        "down-1",
        "agglomerated-1",
        "agglomerated-2",
        "objects",
    ],
)
def test_a_kill_in_each_stage_changes_nothing(tmp_path: Path, stage: str) -> None:
    affinities = smooth(24, 12, 12)
    np.save(tmp_path / "affinities.npy", affinities)
    (tmp_path / "run.py").write_text(textwrap.dedent(KILLED))

    def run(stage: str) -> int:
        command = [sys.executable, tmp_path / "run.py", tmp_path, stage]
        return subprocess.run(command, timeout=200, env={**os.environ, "PYTHONWARNINGS": "ignore"}).returncode

    assert run(stage) == -signal.SIGKILL
    assert run("none") == 0
    expected = ci.segment(affinities, merge_size=20, **QUIET).labels.values
    assert np.array_equal(np.load(tmp_path / "labels.npy"), expected)
