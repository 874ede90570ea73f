"""Sources beside the arrays that they were written from."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from hypothesis import strategies as st

from chunkinfer.volumes.arrays.source import Source


def keys(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[slice | int, ...]]:
    """Numpy keys of an array: slices, some empty, some with steps, and integers."""
    axes = [st.one_of(st.slices(n), st.integers(0, n - 1)) for n in shape]
    return st.tuples(*axes)


def assert_same(source: Source, array: np.ndarray[Any, Any], *some: tuple[slice | int, ...]) -> None:
    """The source, as it travels, holds the array; ``some`` are keys that are compared too."""
    source = pickle.loads(pickle.dumps(source))
    assert (source.shape, source.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(source[...], array)
    for key in some:
        np.testing.assert_array_equal(source[key], array[key])
