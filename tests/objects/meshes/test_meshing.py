"""`mesh`: what is stored, where, and that other programs read it; crashes; what is refused."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner

import chunkinfer as ci
from chunkinfer.errors import DestinationError, MissingExtra, PlanError, SettingsDiffer, VolumeError
from chunkinfer.objects.meshes.meshing import mesh
from chunkinfer.stores.store import kvstore
from tests.objects.meshes.conftest import OFFSET, VOXEL, balanced, blobs, enclosed, legacy, volume_of, watertight

pytest.importorskip("zmesh", reason="the extra mesh is not installed")

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def labels():
    return blobs((32, 40, 48), 4)


@pytest.fixture
def several(monkeypatch):
    """Several buckets, shards and levels of detail, of volumes that are small."""
    monkeypatch.setattr("chunkinfer.objects.meshes.stitching.BUCKET", 20_000)
    monkeypatch.setattr("chunkinfer.objects.meshes.stitching.SHARD", 40_000)
    monkeypatch.setattr("chunkinfer.objects.meshes.stitching.MINISHARD", 4)
    monkeypatch.setattr("chunkinfer.objects.meshes.octree.TRIANGLES", 200)


def contents(folder):
    """Every object of a folder of meshes."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_meshes_in_a_segmentation(labels, segmentation, several):
    url = segmentation(labels)
    before = ci.open_volume(url)
    report = mesh(url, url, simplify=20, block=(17, 40, 29), **QUIET)
    voxels = np.bincount(labels.ravel())
    table = report.frame().set_index("label")
    assert table.index.tolist() == np.flatnonzero(voxels)[1:].tolist()
    assert report.buckets.blocks > 1
    assert report.blocks.blocks == 4
    size = np.prod(VOXEL)
    for label in table.index:
        vertices, faces = legacy(Path(url) / "mesh", label)
        assert watertight(faces)
        assert len(faces) == table.triangles[label]
        assert enclosed(vertices, faces) == pytest.approx(table.volume[label], rel=1e-3)
        if voxels[label] > 10**4:
            assert table.volume[label] == pytest.approx(voxels[label] * size, rel=0.02)
    assert (voxels > 10**4).sum() > 1
    largest = int(voxels[1:].argmax()) + 1
    vertices, _ = legacy(Path(url) / "mesh", largest)
    where = np.argwhere(labels == largest)
    low, high = (where.min(0) + OFFSET) * VOXEL, (where.max(0) + 1 + OFFSET) * VOXEL
    assert np.abs(vertices.min(0)[::-1] - low).max() < 20
    assert np.abs(vertices.max(0)[::-1] - high).max() < 20
    info = json.loads((Path(url) / "info").read_bytes())
    assert info["mesh"] == "mesh"
    assert json.loads((Path(url) / "mesh" / "info").read_bytes()) == {"@type": "neuroglancer_legacy_mesh"}
    assert not list(Path(url).glob(".chunkinfer/mesh-surfaces/*"))
    after = ci.open_volume(url)
    assert after.data.name == before.data.name  # the labels are what they were
    assert np.array_equal(after, labels)
    again = mesh(url, url, simplify=20, block=(17, 40, 29), **QUIET)
    assert (again.blocks.computed, again.buckets.computed) == (0, 0)
    assert again.frame().equals(report.frame())


def test_the_cut_does_not_matter(labels, tmp_path, several):
    volume = volume_of(labels)
    for number, block in enumerate([None, 21, (32, 11, 48)]):
        mesh(volume, tmp_path / str(number), simplify=10, block=block, **QUIET)
    first, *others = (contents(tmp_path / str(number)) for number in range(3))
    assert len(first) > 20
    assert all(other == first for other in others)


@pytest.mark.parametrize("sharded", [False, True])
def test_other_programs_read_them(labels, segmentation, several, sharded):
    cloudvolume = pytest.importorskip("cloudvolume")
    pytest.importorskip("DracoPy")
    url = segmentation(labels)
    report = mesh(url, url, format="multires", simplify=5, sharded=sharded, block=24, **QUIET)
    assert len(list(Path(url, "mesh").glob("*.shard"))) == (report.buckets.blocks if sharded else 0)
    assert report.buckets.blocks > 1
    volume = cloudvolume.CloudVolume(f"file://{url}", progress=False)
    levels = []
    for label, expected in zip(report.objects["label"].tolist(), report.objects["volume"], strict=True):
        manifest = volume.mesh.get_manifest(label)
        levels.append(manifest.num_lods)
        for lod in range(manifest.num_lods):
            found = volume.mesh.get(label, lod=lod)[label]
            vertices, number = np.unique(found.vertices.round(2), axis=0, return_inverse=True)
            faces = number.reshape(-1)[found.faces]
            faces = faces[(faces != np.roll(faces, 1, 1)).all(1)]
            assert balanced(faces)
            if lod == 0:
                assert enclosed(vertices, faces) == pytest.approx(expected, rel=0.01)
    assert max(levels) > 2


def test_tensorstore_finds_what_is_in_shards(labels, tmp_path, several):
    pytest.importorskip("DracoPy")
    for name, sharded in (("alone", False), ("together", True)):
        mesh(volume_of(labels), tmp_path / name, format="multires", sharded=sharded, **QUIET)
    info = json.loads((tmp_path / "together" / "info").read_bytes())
    base = {"driver": "file", "path": f"{tmp_path / 'together'}/"}
    store = kvstore({"driver": "neuroglancer_uint64_sharded", "base": base, "metadata": info["sharding"]})
    alone = contents(tmp_path / "alone")
    names = [name for name in alone if name.endswith(".index")]
    assert len(names) > 20
    for name in names:
        label = int(name.removesuffix(".index"))
        assert store[label.to_bytes(8, "big")] == alone[name]
    assert len(store.list().result()) == len(names)


def test_all_triangles_and_some_objects(labels, tmp_path):
    assert mesh(volume_of(labels == 3), tmp_path / "mask", **QUIET).objects["label"].tolist() == [1]
    report = mesh(volume_of(labels), tmp_path / "m", simplify=1, ids=[5, 3, 99999], **QUIET)
    assert report.objects["label"].tolist() == [3, 5]
    assert np.array_equal(report.objects["triangles"], report.objects["marched"])
    assert {"3:0", "5:0", "3.mesh", "5.mesh", "info"} == set(contents(tmp_path / "m"))


@pytest.mark.parametrize("sharded", [False, True])
def test_nothing_to_mesh(tmp_path, sharded):
    empty = volume_of(np.zeros((4, 5, 6), "uint8"))
    report = mesh(empty, tmp_path / "m", format="multires", sharded=sharded, **QUIET)
    assert len(report.objects["label"]) == 0
    assert "0 objects" in str(report)


def test_large_objects_in_parts(labels, tmp_path, monkeypatch):
    monkeypatch.setattr("chunkinfer.objects.meshes.stitching.WHOLE", 1000)
    report = mesh(volume_of(labels), tmp_path / "m", ids=range(1, 9), simplify=20, block=(20, 40, 30), **QUIET)
    voxels = np.bincount(labels.ravel()) * np.prod(VOXEL)
    for label, marched, inside in zip(*(report.objects[k] for k in ("label", "marched", "volume")), strict=True):
        faces = legacy(tmp_path / "m", label)[1]
        assert watertight(faces)
        if marched > 1000:
            assert inside == pytest.approx(voxels[label], rel=0.03)


# ---- crashes ----------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from importlib import import_module
import chunkinfer.objects.meshes.stitching as stitching
from chunkinfer.objects.meshes.meshing import mesh

def kill_at(module, name, number):
    owner = import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    inner, calls = getattr(owner, last), []
    def counted(*args, **more):
        calls.append(0)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **more)
    setattr(owner, last, counted)

if __name__ == "__main__":
    url, module, name, number, format = sys.argv[1:]
    stitching.BUCKET, stitching.SHARD = 20_000, 40_000
    if module:
        kill_at(module, name, int(number))
    mesh(url, url, format=format, sharded=format == "multires", simplify=20, block=(16, 20, 48), progress=False)
"""

STAGES = {
    "legacy": [
        ("chunkinfer.objects.meshes.marching", "March.read", 3),
        ("chunkinfer.runs.passes", "Tables.write", 2),
        ("chunkinfer.objects.meshes.meshing", "to_npz", 2),
        ("chunkinfer.runs.passes", "Tables.write", 1),
        ("chunkinfer.objects.meshes.places", "Place.announce", 1),
        ("chunkinfer.stores.files", "Files.delete_many", 1),
    ],
    "multires": [
        ("chunkinfer.objects.meshes.marching", "packed", 20),
        ("chunkinfer.runs.record.ledger", "Ledger.add", 1),
        ("chunkinfer.objects.meshes.stitching", "Stitch.read", 2),
        ("chunkinfer.objects.meshes.formats", "shard", 2),
        ("chunkinfer.objects.meshes.places", "Place._announce", 1),
    ],
}
"""Where a process kills itself: the module, the function, and which call of it."""


def run_killed(url, format, module="", name="", number=0):
    """Mesh in a process that kills itself; its exit code."""
    command = [sys.executable, "-c", KILLED, url, module, name, str(number), format]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=100).returncode


@pytest.mark.slow
@pytest.mark.parametrize("format", ["legacy", "multires"])
def test_killed_in_every_stage(labels, segmentation, format):
    expected = segmentation(labels, "expected")
    assert run_killed(expected, format) == 0
    url = segmentation(labels, "killed")
    for module, name, number in STAGES[format]:
        assert run_killed(url, format, module, name, number) == -signal.SIGKILL, name
    assert run_killed(url, format) == 0
    assert contents(Path(url) / "mesh") == contents(Path(expected) / "mesh")
    assert json.loads((Path(url) / "info").read_bytes())["mesh"] == "mesh"


@pytest.mark.slow
def test_killed_among_the_objects(labels, segmentation, several):
    url, expected = segmentation(labels, "killed"), segmentation(labels, "expected")
    assert run_killed(url, "legacy", "chunkinfer.objects.meshes.stitching", "Stitch.read", 3) == -signal.SIGKILL
    assert "mesh" not in json.loads((Path(url) / "info").read_bytes())  # nothing is announced yet
    report = mesh(url, url, simplify=20, block=(16, 20, 48), **QUIET)
    assert report.blocks.computed == 0
    mesh(expected, expected, simplify=20, **QUIET)
    assert contents(Path(url) / "mesh") == contents(Path(expected) / "mesh")


# ---- places, and what is refused --------------------------------------------------------------------------------


def test_places(labels, segmentation, tmp_path):
    url = segmentation(labels)
    few = {"ids": [1, 2], **QUIET}
    mesh(url, url, **few)
    with pytest.raises(SettingsDiffer, match="simplify"):
        mesh(url, url, simplify=3, **few)
    with pytest.raises(SettingsDiffer, match="ids"):
        mesh(url, url, ids=[1], **QUIET)
    mesh(url, url, ids=[3], overwrite=True, **QUIET)
    assert set(contents(Path(url) / "mesh")) == {"3:0", "3.mesh", "info"}
    assert json.loads((Path(url) / "info").read_bytes())["mesh"] == "mesh"
    ci.save(ci.open_volume(url), tmp_path / "other", format="precomputed", progress=False)
    other = tmp_path / "other" / "mesh"
    other.mkdir()
    (other / "1:0").write_text("{}")
    with pytest.raises(DestinationError, match="meshes already"):
        mesh(url, tmp_path / "other", **few)
    ci.save(labels, tmp_path / "a.zarr", progress=False)
    with pytest.raises(DestinationError, match="no precomputed segmentation"):
        mesh(url, tmp_path / "a.zarr", **few)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(DestinationError, match=r"a\.txt, which belongs to no mesh"):
        mesh(url, tmp_path / "notes", **few)
    with pytest.raises(DestinationError, match="belongs to no mesh"):
        mesh(url, tmp_path / "notes", overwrite=True, **few)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_lazy_labels_are_known_by_their_computation(labels, tmp_path):
    lazy = da.from_array(labels, chunks=20)
    mesh(lazy, tmp_path / "m", ids=[1], **QUIET)
    assert mesh(lazy, tmp_path / "m", ids=[1], **QUIET).blocks.computed == 0
    with pytest.raises(SettingsDiffer, match=r"labels\.computed"):
        mesh(lazy + labels.dtype.type(1), tmp_path / "m", ids=[1], **QUIET)


@pytest.mark.parametrize(
    ("error", "says", "more"),
    [
        (PlanError, "no format 'obj'", {"format": "obj"}),
        (PlanError, "cannot be sharded", {"sharded": True}),
        (PlanError, "simplify=0.5", {"simplify": 0.5}),
        (PlanError, "max_error=-1", {"max_error": -1}),
    ],
)
def test_refused(labels, tmp_path, error, says, more):
    with pytest.raises(error, match=says):
        mesh(labels, tmp_path / "m", **more)
    assert not (tmp_path / "m").exists()


def test_no_labels(labels, tmp_path):
    for wrong in (labels.astype("f4"), labels.astype("i4"), labels[0], labels[None]):
        with pytest.raises(VolumeError, match="unsigned integers"):
            mesh(wrong, tmp_path / "m")


def test_draco_is_asked_for(labels, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    with pytest.raises(MissingExtra, match="DracoPy"):
        mesh(labels, tmp_path / "m", format="multires")
    mesh(labels, tmp_path / "m", ids=[1], **QUIET)  # legacy needs none


def test_command(labels, segmentation):
    shapes = import_module("chunkinfer.tools.cli.shapes")
    url = segmentation(labels)
    words = [url, url, "--id", "2", "--id", "7", "--simplify", "10", "--format", "multires", "--sharded"]
    result = CliRunner().invoke(shapes.mesh, words)
    assert result.exit_code == 0, result.output
    assert "2 objects" in result.output
    assert (Path(url) / "mesh" / "0.shard").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"format": "legacy"}, {"format": "multires"}, {"format": "multires", "sharded": True}])
def test_neuroglancer_draws_them(labels, segmentation, several, how):
    """A page of the real Neuroglancer shows an object of which nothing but its mesh is in sight."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("neuroglancer")
    url = segmentation(labels)
    report = mesh(url, url, simplify=10, **how, **QUIET)
    largest = int(report.objects["label"][report.objects["volume"].argmax()])
    pictures = []
    try:
        for segments in ([], [largest]):
            with ci.view(segmentation=url, layout="3d") as shown:
                with shown._viewer.txn() as state:
                    state.layers[0].layer.segments = segments
                    state.show_slices = state.show_axis_lines = False
                    state.show_default_annotations = False
                pictures.append(shown.screenshot(size=(300, 300), timeout=100).png)
    except MissingExtra:
        pytest.skip("no browser")
    import io

    empty, drawn = (np.asarray(image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in pictures)
    assert (np.ptp(empty, 2) > 60).sum() == 0
    coloured = (np.ptp(drawn, 2) > 40).mean()
    assert 0.01 < coloured < 0.9
