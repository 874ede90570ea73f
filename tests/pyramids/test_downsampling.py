"""The arithmetic of coarser levels against one cell at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chunkinfer.storage.downsampling import METHODS, downsample
from pyramids.oracle import coarser

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[str]) -> tuple[np.ndarray, list[int], list[int]]:
    """An array, factors, and a phase."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=7))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    some = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    if dtype.kind == "f":
        some = st.floats(-1e6, 1e6, width=dtype.itemsize * 8)
    values = draw(st.lists(some, min_size=1, max_size=5))
    picks = draw(hnp.arrays("i8", shape, elements=st.integers(0, len(values) - 1)))
    factors = [draw(st.integers(1, 3)) for _ in shape]
    return np.array(values, dtype)[picks], factors, [draw(st.integers(0, f - 1)) for f in factors]


@given(arrays(DTYPES), st.sampled_from(METHODS))
def test_every_method_equals_the_cells_one_by_one(case: tuple[np.ndarray, list[int], list[int]], method: str) -> None:
    array, factors, phase = case
    got = downsample(array, factors, method, phase)
    np.testing.assert_array_equal(got, coarser(array, factors, method, phase), strict=True)
    reordered = downsample(np.asfortranarray(array), factors, method, phase)
    np.testing.assert_array_equal(reordered, got, strict=True)


@given(arrays(DTYPES), st.sampled_from(METHODS), st.data())
def test_any_cut_along_cells_gives_the_same_bits(
    case: tuple[np.ndarray, list[int], list[int]], method: str, data: st.DataObject
) -> None:
    array, factors, phase = case
    whole = downsample(array, factors, method, phase)
    axis = data.draw(st.integers(0, array.ndim - 1))
    cell = data.draw(st.integers(0, whole.shape[axis]))
    at = min(array.shape[axis], max(0, cell * factors[axis] - phase[axis]))
    low, high = np.split(array, [at], axis)
    after = [0 if d == axis and at else p for d, p in enumerate(phase)]
    parts = [downsample(part, factors, method, p) for part, p in ((low, phase), (high, after)) if part.size]
    assert np.concatenate(parts, axis).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("values", "method", "expected", "why"),
    [
        ([0, 1, 1, 2, 2, 3], "mean", [0, 2, 2], "halves go to even numbers"),
        ([255, 255, 255, 254], "mean", [255, 254], "no sum overflows"),
        ([7, 3, 3, 9], "mode", [3, 3], "of several the smallest"),
        ([4, 5, 6], "mean", [4, 6], "the last cell holds what is there"),
    ],
)
def test_what_the_documentation_says(values: list[int], method: str, expected: list[int], why: str) -> None:
    assert downsample(np.array(values, "u1"), (2,), method).tolist() == expected, why
