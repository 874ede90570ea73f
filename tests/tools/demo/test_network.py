"""The bundled network is small, tileable, and good at what the demo shows."""

import numpy as np
import pytest
import torch

from chunkinfer.tools.demo.network import WEIGHTS, build, load
from chunkinfer.tools.demo.scores import adapted_rand_error, affinities_of, segment
from chunkinfer.tools.demo.synthetic import synthetic_em

pytest.importorskip("skimage")
CONTEXT = (8, 24, 24)
"""Upper bounds, each side, in voxels; multiples of the period."""


@pytest.fixture(scope="module")
def network():
    return load()


@pytest.fixture(scope="module")
def unseen():
    volume = synthetic_em((32, 128, 128), seed=9001)
    return torch.from_numpy(volume.image.astype(np.float32) / 255)[None, None], volume.labels


def test_weights_are_small_and_fit(network):
    assert WEIGHTS.stat().st_size <= 400_000
    assert not network.training
    assert build().training
    assert {k: v.shape for k, v in build().state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }


def test_affinities_of_an_unseen_volume(network, unseen):
    image, labels = unseen
    with torch.inference_mode():
        output = network(image)[0].numpy()
    assert output.shape == (3, *labels.shape)
    assert output.min() >= 0
    assert output.max() <= 1
    assert ((output > 0.5) == (affinities_of(labels) > 0.5)).mean() > 0.93
    assert adapted_rand_error(segment(output), labels) < 0.15


def test_a_patch_with_context_gives_the_whole_volumes_result(network, unseen):
    image, _ = unseen
    start, extent = (12, 48, 40), (8, 32, 40)
    inner = tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))
    outer = tuple(slice(a - c, a + n + c) for a, n, c in zip(start, extent, CONTEXT, strict=True))
    clean = tuple(slice(c, -c) for c in CONTEXT)
    with torch.inference_mode():
        whole, patch = network(image)[0], network(image[(..., *outer)])[0]
    torch.testing.assert_close(patch[(..., *clean)], whole[(..., *inner)], rtol=0, atol=1e-5)
