"""Colours tell apart what differs, and stay the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import VolumeError
from chunkinfer.support.colours import coloured, kind_of, label_colours, limits


@given(st.integers(1, 2**64 - 2))
def test_a_label_has_one_colour_and_its_neighbour_another(label):
    ids = np.array([[0, label, label + 1, label]], np.uint64)
    colours = label_colours(ids)
    assert colours.shape == (1, 4, 3)
    assert (colours >= 0).all()
    assert (colours <= 1).all()
    assert (colours[0, 0] == 0).all()
    assert (colours[0, 1] == colours[0, 3]).all()
    assert np.abs(colours[0, 1] - colours[0, 2]).max() > 1e-3
    assert colours[0, 1].max() > 0.25


def test_colours_do_not_change_between_releases():
    known = [[0.745398, 0.207481, 0.862852], [0.267707, 0.847526, 0.493584], [0.183872, 0.199403, 0.772885]]
    assert label_colours(np.array([1, 2, 2**63], np.uint64)) == pytest.approx(np.array(known), abs=1e-5)


def test_types_of_ids_do_not_matter():
    ids = np.array([[0, 1, 200]])
    assert all((label_colours(ids.astype(t)) == label_colours(ids)).all() for t in ("uint8", "int32", "uint64"))


def test_many_labels_are_far_apart():
    colours = label_colours(np.arange(1, 65))
    apart = np.abs(colours[:, None] - colours[None]).max(-1)[~np.eye(64, dtype=bool)]
    assert (apart > 0.05).mean() > 0.99


def test_images_are_grey_and_clipped():
    plane = np.array([[[0, 50, 100, 200]]], np.uint8)
    assert coloured(plane, "image", 50, 100)[0] == pytest.approx(np.array([[0] * 3, [0] * 3, [1] * 3, [1] * 3]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_affinities_are_red_green_and_blue(dtype):
    top = np.iinfo(dtype).max if dtype != "float32" else 1
    plane = (np.eye(3)[:, None] * top).astype(dtype)
    assert limits([plane], "affinities") == (0, top)
    assert coloured(plane, "affinities", 0, top)[0] == pytest.approx(np.eye(3))
    assert coloured(plane[:2], "affinities", 0, top)[0, 0] == pytest.approx([1, 0, 0.5])
    heat = coloured(np.linspace(0, 1, 4, dtype="f4")[None, None], "affinities", 0, 1)[0]
    assert heat == pytest.approx(np.tril(np.ones((4, 3)), -1))  # black, red, yellow, white


def test_limits_leave_out_outliers_and_nan():
    plane = np.linspace(10, 20, 1000, dtype="f4")
    plane[0], plane[1], plane[2] = -1e9, 1e9, np.nan
    low, high = limits([plane], "image")
    assert 10 <= low < 10.2
    assert 19.8 < high <= 20
    assert limits([np.full(4, np.nan)], "image") == (0, 1)
    one = np.zeros(1000)
    one[7] = 3
    assert limits([one], "image") == (0, 3)
    assert coloured(np.full((1, 2, 2), np.nan), "image", 0, 1).max() == 0


@pytest.mark.parametrize(
    ("dtype", "channels", "kind"),
    [
        ("uint8", 1, "image"),
        ("uint16", 1, "image"),
        ("float32", 1, "image"),
        ("bool", 1, "image"),
        ("uint32", 1, "segmentation"),
        ("int64", 1, "segmentation"),
        ("uint8", 3, "affinities"),
        ("float32", 12, "affinities"),
    ],
)
def test_what_a_volume_is_shown_as(dtype, channels, kind):
    assert kind_of(dtype, channels) == kind
    assert kind_of(dtype, channels, "image") == "image"


@pytest.mark.parametrize(
    ("dtype", "channels", "kind", "message"),
    [
        ("uint8", 1, "labels", "not a way to show"),
        ("float32", 1, "segmentation", "float32 is no segmentation"),
        ("uint32", 2, "segmentation", "2 channel"),
    ],
)
def test_kinds_that_do_not_fit(dtype, channels, kind, message):
    with pytest.raises(VolumeError, match=message):
        kind_of(dtype, channels, kind)
