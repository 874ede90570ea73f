"""Ways out of errors about objects: their segmentation, its evaluation, and their meshes and skeletons."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.meshes.stitching import Stitch
from chunkinfer.objects.segmentation import basins, components
from chunkinfer.objects.segmentation.agglomerating import agglomerate
from chunkinfer.objects.segmentation.graph import positions
from chunkinfer.objects.skeletons import skeletonize as thin
from chunkinfer.stores.files import Files
from tests.lib.ways.advice import followed
from tests.lib.ways.rows import AFFINITIES, LABELS, NAMES, NET, QUIET, SHAPE, VOLUME, Row, each, refusals, row, save

EVALUATE, STATISTICS, SEGMENT, GRAPH = (NAMES[n] for n in ("evaluate", "statistics", "segment", "region_graph"))
POSITIONS, PAIRS, IDS = np.array([[1.0, 1, 1], [2, 2, 2]]), np.array([[0, 1]]), np.array([1, 1])
TRACED = {"positions": POSITIONS, "pairs_of_rows": PAIRS, "ids": IDS, "edges": PAIRS, "skeletons": IDS}
CLASSES = ci.infer(VOLUME, NET, argmax=True)[0]
SIGNED = LABELS.astype("i4") - 1
EMPTY = VOLUME.where(VOLUME > 0.5)
INFINITE = VOLUME.where(VOLUME > 0.5, np.inf)
SCALED = VOLUME * 1e30
COARSE = xr.DataArray(LABELS[:, ::2, ::2], dims=("z", "y", "x"))


def traced(what: str, lines: int, nodes: Any = POSITIONS, edges: Any = PAIRS, ids: Any = IDS, **more: Any) -> Row:
    """Skeletons that do not fit."""
    given = {"nodes": nodes, "edges": edges, "skeletons": ids}
    return row(what, lines, EVALUATE, {**TRACED, **more}, segmentation=LABELS, skeletons=given)


def without_truth() -> Any:
    return EVALUATE(LABELS, skeletons="skeletons").error_map()


EVALUATED = [
    row("No node of the skeletons lies in the volume", 2, EVALUATE, {"nodes": POSITIONS, "skeletons": {
        "nodes": POSITIONS, "edges": PAIRS, "skeletons": IDS}}, segmentation=xr.DataArray(
        LABELS, dims=("z", "y", "x"), coords={d: np.arange(n) / 10 for d, n in zip("zyx", SHAPE, strict=True)}),
        skeletons={"nodes": POSITIONS, "edges": PAIRS, "skeletons": IDS}),
    row("are of other shapes", 0, EVALUATE, segmentation=LABELS, truth=COARSE),
    row("There is a label -1", 2, STATISTICS, {"labels": SIGNED}, labels=SIGNED),
    row("is a network's output", 2, EVALUATE, {"segmentation": CLASSES}, segmentation=CLASSES, truth=LABELS),
    row("The image has values", 1, STATISTICS, {"image": EMPTY}, labels=LABELS, image=EMPTY),
    row("The image has values", 1, STATISTICS, {"image": INFINITE}, labels=LABELS, image=INFINITE),
    row("The image has values", 1, STATISTICS, {"image": SCALED}, labels=LABELS, image=SCALED),
    row("There is no truth", 1, without_truth, {"segmentation": LABELS, "truth": LABELS}),
    row("Skeletons have nodes, edges", 2, EVALUATE, TRACED, segmentation=LABELS, skeletons=[1]),
    traced("There are 2 nodes and 1 skeleton ids", 1, ids=IDS[:1]),
    traced("Edges name rows", 2, edges=PAIRS + 7, node_ids=np.array([7, 8])),
    traced("An edge joins nodes of two skeletons", 2, ids=np.array([1, 2])),
    traced("nodes of skeletons is no array", 2, nodes=POSITIONS[:, :2]),
    row("holds no .swc file", 1, EVALUATE, segmentation=LABELS, skeletons="nothing"),
    row("There is no traced.swc", 2, EVALUATE, TRACED, segmentation=LABELS, skeletons="traced.swc"),
    row("is no .npz file of arrays", 1, EVALUATE, segmentation=LABELS, skeletons="text.npz"),
    row("is no SWC file", 1, EVALUATE, TRACED, segmentation=LABELS, skeletons="text.swc"),
]  # fmt: skip

LABELLED = xr.DataArray(LABELS, dims=("z", "y", "x"))
FOUND = SEGMENT(AFFINITIES)
TABLE = GRAPH(LABELS, AFFINITIES)
NAMED = {"segmentation": FOUND, "graph": TABLE, "np": np}
OUTPUT = ci.infer(VOLUME, NET, channels=0)[0]
TWO = (LABELS / 1.0)[None]


class Huge:
    """As long as no graph that fits into memory."""

    def __len__(self) -> int:
        return 2**30


def found_at(agglomerate: float | None) -> Any:
    return FOUND.at(agglomerate).objects


def look(block: tuple[int, ...] = (1300, 1300, 1300)) -> None:
    """At the sizes of a block, as the watershed of a volume of that size does."""
    box = Box.of_shape(block)
    basins._check(np.broadcast_to(np.uint8(0), (3, *block)), box, box, block, 0.1, 0.9, None)


def stepped(affinities: Any, low: float = 0.1) -> Any:
    box = Box.of_shape(SHAPE)
    return basins.block_step(affinities, box, box, SHAPE, low, 0.05 if low > 0.05 else 1.0)


def labelled(voxels: Any, connectivity: int) -> Any:
    return components.components_step(voxels, Box.of_shape(SHAPE), SHAPE, connectivity, multilabel=True)


SEGMENTED = [
    row("fewer than 2**30", 1, agglomerate, {"agglomerate": agglomerate, "graph_of_region": TABLE, "floor": 0.1,
        "labels_that_touch_its_outside": np.array([1], "u8")}, graph=Huge()),
    row("A block's affinities are", 1, stepped, {"affinities": AFFINITIES}, affinities=AFFINITIES.values.astype("f8")),
    row("are not 0 <= low < high", 1, stepped, affinities=AFFINITIES.values),
    row("is too large for the watershed", 1, look),
    row("is not one of 6, 18 and 26", 2, labelled, {"volume": LABELS > 3}, voxels=LABELS, connectivity=4),
    row("Labels are integers, and these voxels are", 2, labelled, voxels=VOLUME.values, connectivity=6),
    row("not in the table of labels", 2, positions, {**NAMED, "old": np.array([1], "u8"), "new": np.array([2], "u8")},
        labels=np.array([1], "u8"), wanted=np.array([7], "u8")),
    row("has two seeds", 0, agglomerate, graph=TABLE, seeds=(np.array([1, 1], "u8"), np.array([1, 2]))),
    row("is no mean affinity", 2, found_at, NAMED, agglomerate=2.0),
    row("the volume is computed in blocks of its own", 1, NAMES["connected_components"],
        volume=ci.infer(VOLUME, NET, channels=0, threshold=0.5)[0], block=(4, 4, 4)),
    row("Labels have", 1, GRAPH, {"labels": LABELS}, labels=LABELS, affinities=AFFINITIES[:, :6]),
    row("are no labels", 2, GRAPH, {**NAMED, "labels": TWO}, labels=TWO, affinities=AFFINITIES),
    row("are no labels", 2, GRAPH, {**NAMED, "labels": LABELLED[0]}, labels=LABELLED[0], affinities=AFFINITIES),
]  # fmt: skip


@pytest.mark.parametrize("row", each({"evaluated": EVALUATED, "segmented": SEGMENTED}))
def test_lines_about_objects(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    for name in ("text.swc", "text.npz"):
        (tmp_path / name).write_text("text")
    np.savez(tmp_path / "traced.npz", nodes=POSITIONS, edges=PAIRS, skeletons=IDS)
    refusals(row, tmp_path, monkeypatch)


@pytest.mark.slow
def test_lines_about_labels_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Any) -> None:
    held = threads.persist(LABELLED.chunk(4).data)
    names = {"segmentation": held}
    held_row = row("in the memory of dask's workers", 2, EVALUATE, names, segmentation=held, truth=LABELS)
    with threads.as_current():
        refusals(held_row, tmp_path, monkeypatch)


@pytest.mark.slow
def test_lines_about_meshes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"mesh": ci.mesh, "copy": ci.copy, "labels": LABELS, "url": "meshes"}
    given = {"labels": LABELS, "url": "meshes", **QUIET}

    def refused(says: str, lines: int, **more: Any) -> None:
        with pytest.raises(ChunkinferError) as error:
            ci.mesh(**{**given, **more})
        assert says in str(error.value)
        assert len(list(followed(error.value, ci.mesh, given, names))) == lines

    ci.mesh(**given)
    shutil.rmtree("meshes/.chunkinfer")
    refused("has meshes already", 1)
    (Path("meshes") / "notes.txt").touch()
    refused("belongs to no mesh", 0, overwrite=True)
    shutil.rmtree("meshes")
    Path("meshes").mkdir()
    (Path("meshes") / "notes.txt").touch()
    refused("belongs to no mesh", 0)
    (Path("meshes") / "notes.txt").unlink()
    ci.mesh(**given)
    with pytest.raises(ChunkinferError, match="is gone") as error:
        Stitch.read(SimpleNamespace(buckets=Files("lists")), Box((0,), (1,)))  # type: ignore[arg-type]
    assert len(list(followed(error.value, ci.mesh, given, {**names, "mesh": partial(ci.mesh, **QUIET)}))) == 1
    save(LABELS, "labels.zarr")
    refused("is zarr3 and no precomputed segmentation", 2, url="labels.zarr")


@pytest.mark.slow
def test_lines_about_skeletons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"skeletonize": thin.skeletonize}

    def refused(says: str, lines: int, labels: Any, **more: Any) -> None:
        given = {"labels": labels, **more}
        with pytest.raises(ChunkinferError) as error:
            thin.skeletonize(**given)
        assert says in str(error.value)
        assert len(list(followed(error.value, thin.skeletonize, given, {**names, "labels": labels}))) == lines

    monkeypatch.setitem(sys.modules, "kimimaro", None)
    refused("Skeletons need kimimaro", 0, LABELS)
    monkeypatch.setitem(sys.modules, "kimimaro", SimpleNamespace(skeletonize=lambda *_, **__: {}))
    refused("Skeletons are made of labels", 1, SIGNED + 1)
    refused("Skeletons are made of labels", 1, LABELS[0])
    refused("Skeletons are made of labels", 1, LABELLED[0])
    refused("is none of skeletons", 2, LABELS, format="obj")
    monkeypatch.setattr(thin, "MOST", 300)
    refused("at most 300", 1, LABELS)
