"""Curves have the points, rings and axes that they should."""

import sys

import numpy as np
import pytest

from chunkinfer.api.tiling_error.curves import HEIGHT, WIDTH, Point, pareto
from chunkinfer.errors import MissingExtra, VolumeError
from chunkinfer.support.drawing import DPI

image_module = pytest.importorskip("matplotlib.image")
ACCENT = np.array([0xF2, 0x54, 0x2D]) / 255
POINTS = [
    Point(0.2, 1e-2, "halo", "halo 0"),
    Point(0.5, 1e-4, "halo", "halo 8"),
    Point(1.0, 0.0, "halo", "exact 22"),
    Point(0.6, 1e-3, "blended", "overlap 8"),
]


def picture(points, path, **more):
    return image_module.imread(pareto(points, path, cost="time", error="rmse", **more))[..., :3]


def rings(image) -> int:
    """Pixels in the colour of the front, below the key."""
    return int((np.abs(image[round(0.7 * DPI) :] - ACCENT).max(-1) < 0.1).sum())


def test_size_and_rings(tmp_path):
    plain = picture(POINTS, tmp_path / "p.png", title="Title")
    assert plain.shape[:2] == (round(HEIGHT * DPI), round(WIDTH * DPI))
    assert rings(plain) == 0
    one, three = (
        rings(picture([p._replace(best=i < n) for i, p in enumerate(POINTS)], tmp_path / "p.png", title="Title"))
        for n in (1, 3)
    )
    assert 0 < 2.5 * one < three < 3.5 * one


@pytest.mark.parametrize("points", [POINTS[:1], [POINTS[0]] * 12, [p._replace(error=0.0) for p in POINTS]])
def test_few_equal_and_perfect_points(tmp_path, points):
    assert picture(points, tmp_path / "p.png", floor=1e-6).std() > 0.01


def test_more_curves_than_looks(tmp_path):
    assert picture([POINTS[0]._replace(curve=f"{k}") for k in range(9)], str(tmp_path / "p.png")).std() > 0.01


@pytest.mark.parametrize(
    ("points", "floor", "message"),
    [
        ([], 1e-6, "There are 0 points"),
        (POINTS, 0.0, "a floor of 0"),
        ([POINTS[0]._replace(error=float("nan"))], 1e-6, "'halo 0' has the cost 0.2 and the error nan"),
        ([POINTS[0]._replace(error=-1.0)], 1e-6, "the error -1.0"),
        ([POINTS[0]._replace(cost=float("inf"))], 1e-6, "the cost inf"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, points, floor, message):
    with pytest.raises(VolumeError, match=message):
        pareto(points, tmp_path / "p.png", cost="time", error="rmse", floor=floor)


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[demo\]"'):
        pareto(POINTS, tmp_path / "p.png", cost="time", error="rmse")
