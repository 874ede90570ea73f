"""Simplified meshes, and levels of detail cut into cubes: closed, and where they were."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from chunkinfer.objects.meshes.octree import MIDDLE, STEPS, cut, octree
from chunkinfer.objects.meshes.simplifying import simplified
from chunkinfer.objects.meshes.stitching import _welded_in_parts
from chunkinfer.objects.meshes.welding import welded
from tests.objects.meshes.conftest import balanced, blobs, enclosed, watertight
from tests.objects.meshes.test_surfaces import marched, whole


@pytest.fixture(scope="module")
def objects():
    """Meshes of objects, in voxels."""
    labels = blobs((48, 64, 64), 4)
    voxels = np.bincount(labels.ravel())
    return {label: (v / 2, f) for label, (v, f) in whole(labels).items() if voxels[label] > 2000}


@pytest.mark.parametrize(("share", "error"), [(4, 10.0), (10, 1.0), (1000, 0.5), (1000, 2.0)])
def test_closed_and_of_the_same_volume(objects, share, error):
    for vertices, faces in objects.values():
        points, left = simplified(vertices, faces, len(faces) // share, error)
        assert watertight(left)
        assert len(left) >= len(faces) // share - 2
        assert len(left) < len(faces) / 3
        assert len(points) == len(np.unique(left))
        assert enclosed(points[:, ::-1], left) == pytest.approx(enclosed(vertices[:, ::-1], faces), rel=1e-6)
        away = cKDTree(vertices).query(points)[0]
        assert away.mean() < 0.5 + error
        assert away.max() < 1 + 4 * error


def test_a_target_is_reached(objects):
    vertices, faces = max(objects.values(), key=lambda mesh: len(mesh[1]))
    _, left = simplified(vertices, faces, 1000, 1e6)
    assert 998 <= len(left) <= 1000


def test_flat_faces_cost_nothing():
    labels = np.zeros((20, 20, 20), "uint8")
    labels[2:18, 2:18, 2:18] = 1
    vertices, faces = whole(labels)[1]
    points, left = simplified(vertices / 2, faces, 0, 1e-3)
    assert watertight(left)
    assert len(left) < len(faces) / 10
    assert enclosed(points[:, ::-1], left) == pytest.approx(enclosed(vertices[:, ::-1] / 2, faces), rel=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 3), st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_noise_stays_closed(seed, top, error):
    labels = np.random.default_rng(seed).integers(0, top + 1, (8, 9, 7)).astype("uint8")
    for vertices, faces in whole(labels).values():
        _, left = simplified(vertices / 2, faces, 0, error)
        assert watertight(left)


def test_locked_borders_leave_no_crack():
    labels = blobs((40, 48, 48), 5)
    pieces = max(marched(labels, ((13, 27), (20, 28), (48,))).values(), key=lambda p: sum(len(f) for _, f in p))
    assert len(pieces) > 2
    vertices, faces = _welded_in_parts(pieces, np.array([0.5, 0.5, 0.5]), 10, 1.0)
    joined, all_faces = welded(pieces)
    assert watertight(faces)
    assert len(faces) < len(all_faces) / 2
    assert enclosed(vertices[:, ::-1], faces) == pytest.approx(enclosed(joined[:, ::-1] / 2, all_faces), rel=1e-3)


def test_cuts_are_shared(objects):
    vertices, faces = max(objects.values(), key=lambda mesh: len(mesh[1]))
    lattice = np.rint(vertices[:, ::-1] * 100).astype(np.int64)
    made, parts = lattice, faces
    for axis, plane in [(0, 1500), (1, 2222), (2, 1777), (0, 1501), (1, 3000), (1, int(lattice[7, 1]))]:
        made, parts = cut(made, parts, axis, plane)
        side = made[parts, axis]
        assert ((side.min(1) >= plane) | (side.max(1) <= plane)).all()
        assert balanced(parts)
    assert enclosed(made, parts) == pytest.approx(enclosed(lattice, faces), rel=1e-4)


def test_octree(objects, monkeypatch):
    monkeypatch.setattr("chunkinfer.objects.meshes.octree.TRIANGLES", 300)
    vertices, faces = max(objects.values(), key=lambda mesh: len(mesh[1]))
    tree = octree(vertices * (40, 8, 8), faces, 4.0)
    assert len(tree.levels) >= 3
    counts, scales = [], []
    for number, level in enumerate(tree.levels):
        size = float(tree.edge) * 2**number
        placed = []
        for cube, (points, triangles) in zip(level.cubes, level.pieces, strict=True):
            assert points.size == 0 or (points.min() >= 0 and points.max() <= STEPS)
            if number:  # no triangle crosses the middle
                sides = points[triangles]
                assert ((sides.min(1) >= MIDDLE) | (sides.max(1) <= MIDDLE)).all()
            placed.append((points + np.array(cube) * STEPS, triangles))
        together, joined = welded([piece for piece in placed if len(piece[1])])
        assert balanced(joined)  # no crack between cubes
        inside = enclosed(together * (size / STEPS) + tree.origin, joined)
        assert inside == pytest.approx(enclosed(vertices[:, ::-1] * (8, 8, 40), faces), rel=1e-3)
        counts.append(len(joined))
        scales.append(level.scale)
    assert counts == sorted(counts, reverse=True)
    assert scales == sorted(scales)
    for level, above in pairwise(tree.levels):
        assert {(x // 2, y // 2, z // 2) for x, y, z in level.cubes} <= set(above.cubes)
    assert tree.levels[-1].cubes == [(0, 0, 0)]
