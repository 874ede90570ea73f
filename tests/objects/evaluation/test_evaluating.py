"""The verbs on volumes: laid on each other by coordinates, in any blocks, resumed, refused with a way out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error, variation_of_information

import chunkinfer as ci
from chunkinfer import evaluation
from chunkinfer.errors import ChunkinferError, PlanError, SettingsDiffer, SourceError, SourceNotFound, VolumeError
from chunkinfer.objects.evaluation.contacts import contact_sites
from chunkinfer.objects.evaluation.evaluating import error_map, evaluate
from chunkinfer.objects.evaluation.objects import majority, statistics
from chunkinfer.objects.evaluation.report import Evaluation
from chunkinfer.objects.evaluation.skeletons import Skeletons
from chunkinfer.runs.events import BLOCK_DONE, Event
from chunkinfer.tools.cli import objects
from tests.lib.evaluation import oracles

SHAPE = (12, 20, 24)
RANDOM = np.random.default_rng(7)
TRUTH = (np.indices(SHAPE) // [[[[5]]], [[[7]]], [[[9]]]] * [[[[20]]], [[[4]]], [[[1]]]]).sum(0).astype(np.uint64)
SEGMENTS = np.where(RANDOM.random(SHAPE) < 0.1, 0, TRUTH // 2 + 1).astype(np.uint32)
IMAGE = RANDOM.integers(0, 256, SHAPE, np.uint8)
SIZE, OFFSET = (40.0, 4.0, 8.0), (3, 0, -5)


def placed(array: NDArray[Any], offset: tuple[int, ...] = OFFSET, size: tuple[float, ...] = SIZE) -> xr.DataArray:
    """With coordinates."""
    coords = {d: (o + np.arange(n)) * s for d, o, n, s in zip("zyx", offset, array.shape, size, strict=True)}
    return xr.DataArray(array, dims=tuple("zyx"), coords=coords, attrs={"unit": "nm"})


@pytest.fixture
def how(threads: Client) -> dict[str, Any]:
    """On the session's cluster."""
    return {"client": threads, "progress": False}


def same(a: Evaluation, b: Evaluation) -> bool:
    """Bit for bit."""
    return (
        json.dumps(a.as_dict()) == json.dumps(b.as_dict()) and a.splits.equals(b.splits) and a.merges.equals(b.merges)
    )


def test_every_cut_gives_the_same_bits(how: dict[str, Any]) -> None:
    nodes = RANDOM.integers(0, SHAPE, (40, 3)) + 0.5
    skeletons = {"nodes": nodes, "edges": [(i, i + 1) for i in range(39)], "skeletons": [3] * 40}
    whole = evaluate(SEGMENTS, TRUTH, skeletons=skeletons, **how)
    error, recall, precision = adapted_rand_error(TRUTH.astype(int), SEGMENTS)
    assert (whole.rand_error, whole.precision, whole.recall) == pytest.approx((error, precision, recall))
    voi = variation_of_information(TRUTH.astype(int), SEGMENTS, ignore_labels=(0,))
    assert (whole.voi_split, whole.voi_merge) == pytest.approx(tuple(voi))
    assert whole.whole
    for block in (5, (12, 20, 7), (4, 20, 24)):
        assert same(whole, evaluate(SEGMENTS, TRUTH, skeletons=skeletons, block=block, **how))
    lazy = da.from_array(SEGMENTS, (5, 6, 11)) + np.uint32(0)
    assert same(whole, evaluate(lazy, da.from_array(TRUTH, (7, 20, 3)), skeletons=skeletons, block=6, **how))


def test_what_both_cover_is_compared(how: dict[str, Any], tmp_path: Path) -> None:
    """Stored volumes that overlap in part; the segmentation has a channel axis."""
    moved = placed(SEGMENTS[:10, 4:], offset=(3, 4, -5)).expand_dims("c")
    ci.save(moved, tmp_path / "s.zarr", chunks=(1, 8, 8, 8), **how)
    told = placed(TRUTH[2:], offset=(5, 0, -5))
    ci.save(told, tmp_path / "t.precomputed", chunks=(8, 8, 8), **how)
    found = evaluate(str(tmp_path / "s.zarr"), str(tmp_path / "t.precomputed"), **how)
    assert found.box == {"z": (5, 13), "y": (4, 20), "x": (-5, 19)}
    assert not found.whole
    assert "z 5:13, y 4:20, x -5:19, where both are" in str(found)
    assert same_scores(found, evaluate(SEGMENTS[2:10, 4:], TRUTH[2:10, 4:], **how))
    assert same_scores(found, evaluate(moved, told.assign_attrs(unit="nanometer"), **how))
    errors = found.error_map()
    assert isinstance(errors, xr.DataArray)
    assert errors.z.values.tolist() == [40.0 * i for i in range(5, 13)]
    expected = error_map(SEGMENTS[2:10, 4:], TRUTH[2:10, 4:], **how)
    assert isinstance(expected, da.Array)
    assert errors.values.tolist() == expected.compute().tolist()
    assert set(np.unique(errors.values)) == {0, 1, 2}


def same_scores(a: Evaluation, b: Evaluation) -> bool:
    names = ("voxels", "rand_error", "precision", "recall", "voi_split", "voi_merge", "objects", "segments")
    return [getattr(a, name) for name in names] == [getattr(b, name) for name in names]


def test_a_folder_keeps_tables(how: dict[str, Any], tmp_path: Path) -> None:
    told: list[Event] = []
    given = {**how, "url": tmp_path / "scores", "block": 8, "events": [told.append]}
    first = evaluate(SEGMENTS, TRUTH, **given)
    blocks = [event for event in told if event.kind == BLOCK_DONE]
    assert len(blocks) == 2 * 3 * 3
    told.clear()
    assert same(first, evaluate(SEGMENTS, TRUTH, **given))
    assert not [event for event in told if event.kind == BLOCK_DONE]
    with pytest.raises(SettingsDiffer):
        evaluate(SEGMENTS, TRUTH + np.uint64(1), **given)
    other = evaluate(SEGMENTS, TRUTH + np.uint64(1), overwrite=True, **given)
    assert len([event for event in told if event.kind == BLOCK_DONE]) == len(blocks)
    assert other.objects == first.objects + 1  # label 0 became 1
    statistics(SEGMENTS, **given)  # beside it, under a name of its own


def test_an_interrupted_pass_goes_on(how: dict[str, Any], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    done: list[Event] = []

    def stop(event: Event) -> None:
        done.extend([event] if event.kind == BLOCK_DONE else [])
        if len(done) == 4:
            raise Stop

    given = {**how, "url": tmp_path / "scores", "block": 8}
    with pytest.raises(Stop):
        evaluate(SEGMENTS, TRUTH, events=[stop], **given)
    done.clear()
    assert same(evaluate(SEGMENTS, TRUTH, events=[done.append], **given), evaluate(SEGMENTS, TRUTH, **how))
    assert 0 < len([event for event in done if event.kind == BLOCK_DONE]) < 18


@pytest.mark.parametrize(
    ("segmentation", "truth", "words"),
    [
        (SEGMENTS, TRUTH[1:], "are of other shapes"),
        (placed(SEGMENTS), placed(TRUTH, offset=(100, 0, 0)), "have no voxel in common"),
        (placed(SEGMENTS), placed(TRUTH, size=(40, 8, 8)), "have voxels of other sizes"),
        (placed(SEGMENTS), placed(TRUTH).assign_attrs(unit="um"), "are in 'nm' and 'um'"),
        (placed(SEGMENTS), placed(TRUTH, offset=(3.5, 0, -5)), "lie between each other's voxels"),  # type: ignore[arg-type]
        (placed(SEGMENTS), placed(TRUTH)[0], "have other axes"),
        (SEGMENTS.astype("f4"), TRUTH, "segmentation is of float32"),
        (np.stack([SEGMENTS, SEGMENTS]), TRUTH, "segmentation has 2 channels"),
        (SEGMENTS, np.zeros_like(TRUTH), "All voxels of the truth"),
        (SEGMENTS, None, "nothing to compare"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_refused(how: dict[str, Any], segmentation: Any, truth: Any, words: str) -> None:
    with pytest.raises(VolumeError) as refused:
        evaluate(segmentation, truth, **how)
    assert words in str(refused.value)
    assert refused.value.ways


def test_negative_labels_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(VolumeError, match="There is a label -1"):
        evaluate(np.full(SHAPE, -1, np.int32), TRUTH, **how)
    with pytest.raises(VolumeError, match="are not labels"):
        evaluate(SEGMENTS, TRUTH, ignore=(-1,), **how)


def test_workers_elsewhere_need_a_folder() -> None:
    class Elsewhere:
        class scheduler:
            address = "tls://10.0.0.7:8786"

    with pytest.raises(PlanError, match=r"url="):
        evaluate(SEGMENTS, TRUTH, client=Elsewhere())


def test_volumes_that_blocks_cannot_read_are_refused(threads: Client) -> None:
    network = ci.infer(IMAGE, torch.nn.Conv3d(1, 2, 3, padding=1), argmax=True)
    with pytest.raises(VolumeError, match="a network's output"):
        statistics(network, client=threads)
    held = threads.persist(da.from_array(SEGMENTS, 8))
    with pytest.raises(VolumeError, match="in the memory of dask's workers"):
        evaluate(held, TRUTH, client=threads)


# Skeletons


LINE = {
    "nodes": [(z * 40.0 + 120, 4.0 * 9 + 1, 8.0 * (x - 5) + 4) for z, x in [(0, 1), (0, 6), (0, 11), (6, 11), (6, 23)]],
    "edges": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "skeletons": [0] * 5,
}
"""One neurite through the truth, in nm: voxels (0, 9, 1), (0, 9, 6), (0, 9, 11), (6, 9, 11) and (6, 9, 23)."""


def test_skeletons_in_every_form(how: dict[str, Any], tmp_path: Path) -> None:
    """A dict, .npz, SWC (x, y, z, with a comment) and voxels say the same; with and without a truth."""
    np.savez(tmp_path / "line.npz", **{name: np.array(value) for name, value in LINE.items()})
    (tmp_path / "swc").mkdir()
    rows = [f"{i + 1} 0 {x} {y} {z} 1 {i or -1}" for i, (z, y, x) in enumerate(LINE["nodes"])]  # type: ignore[misc]
    (tmp_path / "swc" / "line.swc").write_text("# traced\n" + "\n".join(rows) + "\n")
    voxels = {**LINE, "nodes": np.array(LINE["nodes"]) / SIZE}
    forms = [LINE, tmp_path / "line.npz", str(tmp_path / "swc"), tmp_path / "swc" / "line.swc",
             Skeletons.of(voxels, unit="voxels")]  # fmt: skip
    truth = placed(TRUTH)
    results = [evaluate(truth, skeletons=form, block=9, **how).as_dict() for form in forms]
    results.append(evaluate(truth, truth, skeletons=LINE, **how).as_dict())
    for found in results:
        run = found["run_length"]
        # Truth at the nodes: 4, 4, 5, 25, 26; edges of 40, 40, 240 and 96 nm.
        assert (run["correct"], run["split"], run["merged"], run["omitted"]) == (1, 3, 0, 0)
        assert run["length"] == pytest.approx(416)
        assert run["erl"] == pytest.approx(40 * 40 / 416)
        assert (run["longest"], found["unit"]) == (pytest.approx(416), "nm")
    text = str(evaluate(truth, skeletons=LINE, **how))
    assert "ERL:" in text
    assert "VOI" not in text


def test_only_skeletons(how: dict[str, Any]) -> None:
    found = evaluate(placed(TRUTH), skeletons=LINE, **how)
    assert found.table == {}
    assert np.isnan([found.rand_error, found.voi]).all()
    for ask in (lambda: found.splits, found.error_map, found.show):
        with pytest.raises(VolumeError, match="no truth"):
            ask()


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"nodes": [(0, 0, 0)]}, VolumeError, "nodes, edges and skeletons"),
        ({**LINE, "edges": [(0, 9)]}, VolumeError, "rows 0 to 9"),
        ({**LINE, "skeletons": [0, 0, 0, 0, 1]}, VolumeError, "joins nodes of two"),
        ({**LINE, "skeletons": [0]}, VolumeError, "5 nodes and 1 skeleton ids"),
        ({**LINE, "nodes": [(0, 0)] * 5}, VolumeError, r"no array \(n, 3\)"),
        ({**LINE, "nodes": [(9e9, 0, 0)] * 5}, VolumeError, "No node of the skeletons lies in the volume"),
        ("nowhere.npz", SourceNotFound, "There is no"),
    ],
)
def test_skeletons_that_do_not_fit(how: dict[str, Any], given: Any, kind: type[ChunkinferError], words: str) -> None:
    with pytest.raises(kind, match=words):
        evaluate(placed(TRUTH), skeletons=given, **how)


def test_files_that_are_no_skeletons(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "bad.swc").write_text("1 0 5 5 5 1 7\n")
    (tmp_path / "empty").mkdir()
    for name, kind in (("pickled.npy", SourceError), ("bad.swc", SourceError), ("empty", SourceNotFound)):
        with pytest.raises(kind):
            Skeletons.of(tmp_path / name)


# Pictures


def test_a_picture_of_errors(how: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    found = evaluate(placed(SEGMENTS), placed(TRUTH), **how)
    picture = found.show(tmp_path / "errors.png", position=(5, 10, 2))
    assert picture.path is not None
    pixels = np.asarray(Image.open(picture.path).convert("RGB")).reshape(-1, 3).astype(int)
    red, green, blue = pixels.T
    assert ((red > 150) & (green > 80) & (blue < 60)).mean() > 0.01  # orange: what was left out
    assert ((red > 130) & (green < 60) & (blue > 60)).mean() > 0.05  # magenta: every other object is merged
    with pytest.raises(VolumeError, match="not a place"):
        found.show(position=(500, 0, 0))
    html = found._repr_html_()
    assert "adapted Rand" in html
    assert html.count("<tr>") == len(str(found).splitlines())


def test_other_thresholds_read_nothing(how: dict[str, Any]) -> None:
    """Renamed segments have the scores, run length and errors of the volume that has these labels."""
    fine = evaluate(placed(SEGMENTS), placed(TRUTH), skeletons=LINE, **how)
    old = np.unique(SEGMENTS)[1:][::-1]
    new = np.where(old % 5 == 0, 0, old // 3 * 2 + 2)
    table = np.arange(int(SEGMENTS.max()) + 1)
    table[old] = new
    coarse = table[SEGMENTS]
    found = fine.renamed(old, new)
    wanted = evaluate(placed(coarse), placed(TRUTH), skeletons=LINE, **how)
    assert same(found, wanted)
    assert found.error_map().values.tolist() == wanted.error_map().values.tolist()
    assert same(fine.renamed([], []), fine)
    with pytest.raises(VolumeError, match="Each label becomes one other"):
        fine.renamed([3, 3], [1, 2])


# Objects


def test_statistics_of_placed_objects(how: dict[str, Any]) -> None:
    table = statistics(placed(TRUTH), placed(IMAGE), block=7, **how)
    assert table.attrs["unit"] == "nm"
    pd.testing.assert_frame_equal(table, statistics(placed(TRUTH), placed(IMAGE), **how))
    assert table.label.tolist() == np.unique(TRUTH[TRUTH > 0]).tolist()
    for row in table.to_dict("records"):
        inside = row["label"] == TRUTH
        at = np.argwhere(inside)
        assert row["voxels"] == len(at)
        assert row["size"] == len(at) * 40 * 4 * 8
        assert [(row[f"{d}_start"], row[f"{d}_stop"]) for d in "zyx"] == [
            (low + o, high + o + 1) for low, high, o in zip(at.min(0), at.max(0), OFFSET, strict=True)
        ]
        assert [row[d] for d in "zyx"] == pytest.approx(((at.mean(0) + 0.5 + OFFSET) * SIZE).tolist())
        values = IMAGE[inside].astype(float)
        assert [row[name] for name in ("mean", "std", "min", "max")] == pytest.approx(
            [values.mean(), values.std(), values.min(), values.max()]
        )


def test_statistics_of_floats_and_in_two_dimensions(how: dict[str, Any]) -> None:
    values = RANDOM.normal(size=SHAPE).astype("f4")
    table = statistics(TRUTH, values, block=9, ignore=(), **how)
    means = [values[label == TRUTH].mean(dtype=float) for label in np.unique(TRUTH)]
    assert table["mean"].tolist() == pytest.approx(means, abs=1e-5)
    flat = statistics(TRUTH[0], ignore=(), block=9, **how)
    assert [*flat] == ["label", "voxels", "size", "y_start", "y_stop", "x_start", "x_stop", "y", "x"]
    assert flat.voxels.sum() == TRUTH[0].size
    touching = contact_sites(TRUTH[0] + np.uint64(1), block=9, **how)
    assert touching.faces_y.sum() + touching.faces_x.sum() == touching.area.sum() == 2 * 24 + 2 * 20
    with pytest.raises(VolumeError, match="do not cover the same voxels"):
        statistics(placed(TRUTH), placed(IMAGE[1:]), **how)


def test_contacts_of_placed_objects(how: dict[str, Any]) -> None:
    table = contact_sites(placed(TRUTH), block=7, **how)
    expected = oracles.touching(TRUTH)
    assert [(row.label_a, row.label_b) for row in table.itertuples()] == [*expected]
    for row, (faces, low, high) in zip(table.to_dict("records"), expected.values(), strict=True):
        assert [row[f"faces_{d}"] for d in "zyx"] == faces
        assert row["area"] == faces[0] * 32 + faces[1] * 320 + faces[2] * 160
        assert [row[f"{d}_start"] for d in "zyx"] == [a + o for a, o in zip(low, OFFSET, strict=True)]
        assert [row[f"{d}_stop"] for d in "zyx"] == [b + o for b, o in zip(high, OFFSET, strict=True)]
    assert contact_sites(np.ones((3, 3, 3), np.uint8), **how).empty


def test_majority(how: dict[str, Any]) -> None:
    classes = RANDOM.integers(0, 3, SHAPE, np.uint8)
    table = majority(TRUTH, classes, block=7, **how)
    for row in table.to_dict("records"):
        counts = np.bincount(classes[row["label"] == TRUTH], minlength=3)
        assert row["majority"] == counts.argmax()
        assert (row["voxels"], row["share"]) == (counts.sum(), counts.max() / counts.sum())
    assert table.label.tolist() == np.unique(TRUTH[TRUTH > 0]).tolist()


# The command line


def do(command: Any, *words: str) -> str:
    result = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, array in (("s", SEGMENTS), ("t", TRUTH), ("i", IMAGE)):
        np.save(f"{name}.npy", array)
    np.savez("line.npz", nodes=[(0, 9, 1), (0, 9, 6)], edges=[(0, 1)], skeletons=[4, 4])
    with how["client"].as_current():
        found = evaluate(SEGMENTS, TRUTH, skeletons="line.npz", **how)
        words = ("s.npy", "t.npy", "--skeletons", "line.npz", "--unit", "voxels", "--block", "9", "--folder", "kept")
        assert json.loads(do(objects.evaluate, *words, "--json", "-o", "e.png", "--merges", "m.csv")) == found.as_dict()
        assert do(objects.evaluate, *words) == f"{found}\n"
        assert Path("e.png").read_bytes().startswith(b"\x89PNG")
        assert pd.read_csv("m.csv").label.tolist() == found.merges.label.tolist()
        rows = json.loads(do(objects.statistics, "t.npy", "i.npy", "--ignore", "-1", "--json"))["rows"]
        assert rows == statistics(TRUTH, IMAGE, ignore=(), **how).to_dict("records")
        do(objects.contacts, "t.npy", "-o", "c.csv")
        assert pd.read_csv("c.csv").area.tolist() == contact_sites(TRUTH, **how).area.tolist()
        assert do(objects.majority, "t.npy", "s.npy") == majority(TRUTH, SEGMENTS, **how).to_csv(index=False)


@pytest.mark.slow
@pytest.mark.smoke
def test_the_page_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Client, how: dict[str, Any]
) -> None:
    """Every command and every line of docs/evaluation.md, on volumes of the test."""
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name, array in (("segmentation", SEGMENTS), ("truth", TRUTH)):
        ci.save(placed(array), f"{name}.precomputed", **how)
    for name, array in (("em", IMAGE), ("classes", IMAGE // 100)):
        ci.save(placed(array), f"{name}.zarr", **how)
    Path("traced").mkdir()
    Path("traced/1.swc").write_text("1 0 4 40 300 1 -1\n2 0 40 40 300 1 1\n")
    monkeypatch.setattr(ci, "evaluation", evaluation, raising=False)
    for verb in (evaluate, statistics, contact_sites, majority):
        monkeypatch.setattr(ci, verb.__name__, verb, raising=False)
    with threads.as_current():
        commands = re.findall(r"^    chunkinfer (.*)$", text, re.MULTILINE)
        assert len(commands) == 6
        for words in commands:
            name, *rest = words.split()
            do(getattr(objects, name), *rest)
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert len(blocks) == 2
        names = {"ci": ci, "print": str}
        for block in blocks:
            exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} > {"errors.png", "splits.csv", "objects.csv", "contacts.csv"}


# Real data


@pytest.mark.slow
def test_real_labels_in_worker_processes(fib25: Path, tmp_path: Path) -> None:
    """Twenty cuts of real labels, moved against themselves, on two processes: the same bits, and scikit-image's."""
    with np.load(fib25 / "sample2_labels_z000_180.npz") as arrays:
        labels = arrays[arrays.files[0]][:96, :160, :160]
    moved = np.roll(labels, 7, axis=2) // 2
    for name, array in (("t", labels), ("s", moved)):
        ci.save(da.from_array(array, 80), tmp_path / f"{name}.zarr", chunks=(16, 40, 40), shards=False, progress=False)
    pair = str(tmp_path / "s.zarr"), str(tmp_path / "t.zarr")
    cuts = np.random.default_rng(1).integers(20, 170, (20, 3)).tolist()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        results = [evaluate(*pair, block=cut, client=client, progress=False) for cut in [None, *cuts]]
    assert all(same(results[0], other) for other in results[1:])
    found, voi = results[0], variation_of_information(labels, moved, ignore_labels=(0,))
    assert found.rand_error == pytest.approx(adapted_rand_error(labels, moved)[0])
    assert (found.voi_split, found.voi_merge) == pytest.approx(tuple(voi))
