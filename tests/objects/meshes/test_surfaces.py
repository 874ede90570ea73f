"""Surfaces of blocks and pieces put together: closed, right, and the same for every cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkinfer.errors import MissingExtra
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.meshes.marching import March, packed, unpacked
from chunkinfer.objects.meshes.surfaces import require
from chunkinfer.objects.meshes.welding import borders, volume, welded
from chunkinfer.stores.files import Files
from chunkinfer.volumes.lazy import Reader
from tests.objects.meshes.conftest import blobs, enclosed, watertight

pytest.importorskip("zmesh", reason="the extra mesh is not installed")


def marched(labels, sizes, ids=None):
    """The pieces of each object, by label, for a cut into blocks."""
    grid = BlockGrid(sizes)
    step = March(Reader(labels, channels=False), grid, ids, Files("unused"))
    pieces = {}
    for index in grid.indices():
        for label, vertices, faces in step.surfaces(grid.box(index)):
            pieces.setdefault(label, []).append(unpacked(packed(vertices, faces)))
    return pieces


def whole(labels):
    """The meshes of a volume that is one block."""
    return {label: welded(pieces) for label, pieces in marched(labels, [(n,) for n in labels.shape]).items()}


@st.composite
def cut(draw, size):
    """Any sizes of blocks along an axis."""
    at = draw(st.sets(st.integers(1, size - 1), max_size=4)) if size > 1 else set()
    edges = [0, *sorted(at), size]
    return tuple(b - a for a, b in pairwise(edges))


@st.composite
def volumes_and_cuts(draw):
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    kind = draw(st.sampled_from(["uint8", "uint16", "uint32", "uint64"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.integers(1, 4))
    labels = rng.integers(0, top + 1, shape).astype(kind)
    labels[labels == top] = np.iinfo(kind).max  # the largest label there is
    if draw(st.booleans()):  # coarse: faces and corners, and less noise
        labels = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]]
    return labels, tuple(draw(cut(n)) for n in shape)


@given(volumes_and_cuts())
@settings(max_examples=50, deadline=None)
def test_any_cut_gives_the_same_closed_surface(case):
    labels, sizes = case
    expected = whole(labels)
    found = marched(labels, sizes)
    assert set(found) == set(expected) == set(np.unique(labels).tolist()) - {0}
    for label, pieces in found.items():
        vertices, faces = welded(pieces)
        assert np.array_equal(vertices, expected[label][0])  # every bit
        assert np.array_equal(faces, expected[label][1])
        assert watertight(faces)
        assert volume(vertices, faces) > 0  # outward
        assert len(faces) == sum(len(part) for _, part in pieces)  # no triangle twice


def test_pieces_meet_in_equal_vertices():
    labels = blobs((20, 24, 28), 3)
    for label, pieces in marched(labels, ((7, 13), (24,), (28,))).items():
        if len(pieces) < 2:
            continue
        (a, of_a), (b, of_b) = pieces
        open_a, open_b = a[borders(len(a), of_a)], b[borders(len(b), of_b)]
        assert {*map(tuple, open_a)} == {*map(tuple, open_b)}, label
        assert (open_a[:, 0] == 2 * 7).all()  # on the plane between the blocks: through centres of voxels


def test_a_box_is_where_its_voxels_are():
    labels = np.zeros((12, 14, 16), "uint8")
    labels[3:7, 2:12, 0:16] = 5  # reaches both faces along x
    ((label, (vertices, faces)),) = whole(labels).items()
    assert label == 5
    assert vertices.min(0).tolist() == [5, 3, -1]  # half a voxel before the first centre
    assert vertices.max(0).tolist() == [13, 23, 31]
    assert watertight(faces)
    assert enclosed(vertices[:, ::-1] / 2, faces) == pytest.approx(4 * 10 * 16, rel=0.06)  # its edges are cut


@pytest.mark.parametrize("sigma", [4, 6])
def test_objects_enclose_their_voxels(sigma):
    labels = blobs((64, 96, 96), sigma)
    voxels = np.bincount(labels.ravel())
    large = {label: mesh for label, mesh in whole(labels).items() if voxels[label] > 10**4}
    assert len(large) > 3
    for label, (vertices, faces) in large.items():
        assert volume(vertices, faces) / 8 == pytest.approx(voxels[label], rel=0.02)


def test_only_what_is_wanted():
    labels = blobs((12, 16, 16), 2)
    some = np.unique(labels)[[2, 4]].astype("uint64")
    found = marched(labels, [(n,) for n in labels.shape], some)
    assert set(found) == set(some.tolist())
    everything = whole(labels)
    assert np.array_equal(welded(found[int(some[0])])[1], everything[int(some[0])][1])


def test_zmesh_is_asked_for(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "zmesh", None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[mesh\]"'):
        require()
