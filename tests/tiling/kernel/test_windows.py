"""Blending weights: positive, and summing to one wherever patches lie."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import blended_axis
from chunkinfer.tiling.kernel.blend_weights import WINDOWS, axis_weights

PLAIN = AxisContract(1, Fraction(1), 0, 0, (0, 0), (0,), 1)


@given(st.sampled_from(sorted(WINDOWS)), st.integers(2, 40), st.data())
def test_weights_of_all_patches_sum_to_one(window: str, patch: int, data: st.DataObject) -> None:
    axis = blended_axis(PLAIN, data.draw(st.integers(1, 150)), patch, data.draw(st.integers(0, patch - 1)))
    total = np.zeros(axis.padded)
    for k, start in enumerate(axis.starts):
        weights = axis_weights(window, axis, k)
        assert (weights > 0).all()
        total[start : start + patch] += weights
    np.testing.assert_allclose(total, 1, atol=1e-12)


@given(st.sampled_from(["hann", "linear"]), st.integers(4, 64), st.data())
def test_ramps_need_no_normalising_on_a_regular_lattice(window: str, patch: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, patch // 2))
    axis = blended_axis(PLAIN, patch + 5 * (patch - overlap), patch, overlap)
    raw = WINDOWS[window](patch, overlap)
    np.testing.assert_allclose(axis_weights(window, axis, 2), raw, atol=1e-12)
