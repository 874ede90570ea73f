"""Skeletons: by the real kimimaro where somebody installed it, and what is said where nobody did."""

import json
import sys

import numpy as np
import pytest

from chunkinfer.errors import MissingExtra, PlanError, VolumeError
from chunkinfer.objects.skeletons.skeletonize import skeletonize
from tests.objects.meshes.conftest import OFFSET, VOXEL, volume_of


def tube():
    """A straight process along x in the middle of a volume."""
    labels = np.zeros((21, 41, 200), "uint16")
    labels[9:12, 13:28, 10:190] = 7
    return labels


def test_kimimaro_is_asked_for_and_its_licence_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "kimimaro", None)
    with pytest.raises(MissingExtra, match="GPL"):
        skeletonize(tube())


def test_a_straight_process(tmp_path):
    pytest.importorskip("kimimaro", reason="under the GPL: no dependency")
    labels = volume_of(tube())
    for format in ("precomputed", "swc"):
        found = skeletonize(labels, tmp_path / format, ids=[7, 9], format=format)
    (skeleton,) = found.values()
    assert list(found) == [7]
    z, y, x = ((np.array((10, 20, 100)) + OFFSET + 0.5) * VOXEL).tolist()
    assert np.abs(skeleton.vertices[:, 1:].mean(0) - (y, z)).max() < VOXEL[0]
    assert skeleton.vertices[:, 0].min() < x - 70 * VOXEL[2]
    assert skeleton.vertices[:, 0].max() > x + 70 * VOXEL[2]
    content = (tmp_path / "precomputed" / "7").read_bytes()
    n, m = np.frombuffer(content, "<u4", 2)
    assert len(content) == 8 + 12 * n + 8 * m + 4 * n
    assert np.array_equal(np.frombuffer(content, "<f4", 3 * n, 8).reshape(-1, 3), skeleton.vertices)
    assert json.loads((tmp_path / "precomputed" / "info").read_bytes())["@type"] == "neuroglancer_skeletons"
    rows = [line for line in (tmp_path / "swc" / "7.swc").read_text().splitlines() if line[:1].isdigit()]
    assert len(rows) == n
    with pytest.raises(VolumeError, match="unsigned"):
        skeletonize(tube().astype("f4"))
    with pytest.raises(PlanError, match="obj"):
        skeletonize(tube(), format="obj")
