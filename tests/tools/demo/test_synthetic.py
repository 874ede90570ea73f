"""Synthetic volumes are reproducible, and their labels are what the image shows; scores agree with both."""

import numpy as np
import pytest

from chunkinfer.errors import MissingExtra
from chunkinfer.tools.demo.scores import adapted_rand_error, affinities_of, segment
from chunkinfer.tools.demo.synthetic import SyntheticEM, synthetic_em

ndimage = pytest.importorskip("scipy.ndimage")
SHAPE = (20, 96, 112)


@pytest.fixture(scope="module")
def volume() -> SyntheticEM:
    return synthetic_em(SHAPE, seed=7)


def test_axes_and_types(volume):
    assert volume.image.shape == volume.labels.shape == SHAPE
    assert (volume.image.dtype, volume.labels.dtype) == (np.uint8, np.uint32)
    assert volume.voxel_size == (20.0, 8.0, 8.0)


def test_a_seed_is_a_volume(volume):
    again, other = synthetic_em(SHAPE, seed=7), synthetic_em(SHAPE, seed=8)
    np.testing.assert_array_equal(again.image, volume.image)
    np.testing.assert_array_equal(again.labels, volume.labels)
    assert (other.labels != volume.labels).mean() > 0.5


def test_membranes_are_dark_and_thin(volume):
    membrane = volume.labels == 0
    assert 0.1 < membrane.mean() < 0.45
    assert volume.image[membrane].mean() < volume.image[~membrane].mean() - 50


def test_membrane_separates_every_pair_of_neurites(volume):
    for axis in range(3):
        rows = np.moveaxis(volume.labels, axis, 0)
        here, there = rows[1:], rows[:-1]
        assert not ((here != there) & (here > 0) & (there > 0)).any()


def test_a_neurite_is_one_component_and_ids_have_no_gaps(volume):
    ids = np.unique(volume.labels)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert len(ids) > 10
    assert ndimage.label(volume.labels > 0)[1] == len(ids) - 1


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_perfect_affinities_segment_back(volume, dtype):
    affinities = affinities_of(volume.labels)
    if dtype == np.uint8:
        affinities = (affinities * 255).astype(dtype)
    segmentation = segment(affinities)
    assert segmentation.shape == SHAPE
    assert adapted_rand_error(segmentation, volume.labels) < 0.01


def test_affinities_look_back_along_their_axis():
    labels = np.array([[1, 1, 2], [1, 0, 2]])
    np.testing.assert_array_equal(affinities_of(labels), [[[1, 1, 1], [1, 0, 1]], [[1, 1, 0], [1, 0, 0]]])


def test_error_knows_merges_and_splits(volume):
    assert adapted_rand_error(volume.labels, volume.labels) == pytest.approx(0)
    assert adapted_rand_error(np.ones_like(volume.labels), volume.labels) > 0.5
    assert adapted_rand_error(np.arange(volume.labels.size).reshape(SHAPE) // 4, volume.labels) > 0.9


@pytest.mark.parametrize(
    ("absent", "call"),
    [
        ("skimage.segmentation", lambda: segment(np.ones((3, 2, 4, 4)))),
        ("skimage.metrics", lambda: adapted_rand_error(np.ones((2, 2), int), np.ones((2, 2), int))),
    ],
)
def test_a_missing_extra_answers_with_its_pip_line(monkeypatch, absent, call):
    monkeypatch.setitem(__import__("sys").modules, absent, None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[demo\]"'):
        call()
