"""The arithmetic of coarser levels against one cell at a time."""

from __future__ import annotations

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chunkinfer.volumes.arrays import downsampling
from chunkinfer.volumes.arrays.downsampling import COMPILED, METHODS, downsample
from tests.lib.pyramids.oracle import coarser

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


@pytest.fixture(params=[0, 1 << 60], ids=["compiled", "tensorstore's"])
def _loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large arrays are downsampled by loops of our own, small ones by tensorstore's: both are tried on small ones."""
    monkeypatch.setattr(downsampling, "WORTH_COMPILING", request.param)


@pytest.mark.usefixtures("_loops")
@given(arrays(DTYPES), st.sampled_from(METHODS))
def test_every_method_equals_the_cells_one_by_one(case: tuple[np.ndarray, list[int], list[int]], method: str) -> None:
    array, factors, phase = case
    got = downsample(array, factors, method, phase)
    np.testing.assert_array_equal(got, coarser(array, factors, method, phase), strict=True)
    reordered = downsample(np.asfortranarray(array), factors, method, phase)
    np.testing.assert_array_equal(reordered, got, strict=True)


@pytest.mark.usefixtures("_loops")
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


def test_both_loops_give_the_same_bits_where_the_compiled_ones_are_used() -> None:
    """Sizes at which they are, with values that round: one block of each type."""
    rng = np.random.default_rng(0)
    for method, types in COMPILED.items():
        for dtype in map(np.dtype, types):
            values = rng.normal(0, 1e3, (3, 64, 96, 65)).astype(dtype) if dtype.kind == "f" else None
            if values is None:
                values = rng.integers(np.iinfo(dtype).max // 2, np.iinfo(dtype).max, (3, 64, 96, 65), dtype)
            array = values if method == "mean" else values // dtype.type(np.iinfo(dtype).max // 9)
            for factors, phase in (((1, 2, 2, 2), (0, 0, 0, 0)), ((1, 1, 3, 2), (0, 0, 2, 1))):
                got = downsample(array, factors, method, phase)
                assert array.size >= downsampling.WORTH_COMPILING
                assert downsampling._is_compiled(array, list(factors), method)
                small = [downsample(array[c : c + 1, :, :, :], factors, method, phase) for c in range(3)]
                want = ts.downsample(ts.array(array)[ts.d[:].translate_to[phase]], factors, method).read().result()
                assert got.tobytes() == want.tobytes() == np.concatenate(small).tobytes(), (method, dtype, factors)


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
