"""Every operator equals numpy and scipy on the whole array, bit for bit, however it is chunked, read or stored."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.volumes.derived import Derived
from chunkinfer.volumes.lazy import must_exchange, origin_of
from chunkinfer.volumes.operators import OPERATORS
from tests.lib.operators.oracles import CASES, Array, Draw, a_box, equalised, same, voxels
from tests.lib.probes import convolution

EXAMPLES = settings().max_examples

KINDS = ("memory", "blocks")
"""A numpy array, which is read by boxes; blocks that lie in memory, as of a persisted volume: halos are exchanged."""


def test_every_operator_has_an_oracle() -> None:
    tested = {word for name in CASES for word in name.replace(" and ", ",").split(",")}
    assert set(OPERATORS) - tested == {"clahe"}  # which has a test of its own


def volume_of(draw: Draw, kind: str, values: Array) -> Any:
    """The array as a volume in chunks at random."""
    chunks = tuple(draw(st.integers(min(2, n), n)) for n in values.shape)
    with dask.config.set(scheduler="synchronous"):
        blocks = da.from_array(values, chunks).persist()
    return blocks if kind == "blocks" else values if draw(st.booleans()) else da.from_array(values, chunks)


def check(draw: Draw, result: Any, expected: Array) -> None:
    """The declared result, the whole of it, and a box of it."""
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    with dask.config.set(scheduler="synchronous"):
        same(np.asarray(result), expected)
        box = a_box(draw, expected.shape)
        same(np.asarray(result[box.slices]), expected[box.slices])
    if isinstance(derived := origin_of(result), Derived):
        same(derived[box.slices], expected[box.slices])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=EXAMPLES // 5)
@given(data=st.data())
def test_an_operator(name: str, kind: str, data: st.DataObject) -> None:
    case = CASES[name]
    lead = data.draw(st.sampled_from([(), (1,), (3,)]) if case.channels is None else st.sampled_from([(1,), (3,)]))
    shape = (*lead, *(data.draw(st.integers(1, 13)) for _ in range(3)))
    values = voxels(data.draw(st.sampled_from(case.types)), shape, data.draw(st.integers(0, 99)))
    function, expected = case.make(data.draw, values)
    with np.errstate(over="ignore"):
        check(data.draw, function(volume_of(data.draw, kind, values)), expected)


CHAINED = [name for name in CASES if name not in ("multiply and add", "combine")]
"""Sums of sums reach infinity, where comparing them says nothing."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_a_chain_of_three(kind: str, data: st.DataObject) -> None:
    lead = data.draw(st.sampled_from([(), (2,)]))
    shape = (*lead, *(data.draw(st.integers(1, 12)) for _ in range(3)))
    values = voxels(data.draw(st.sampled_from(["u1", "i2", "f4"])), shape, data.draw(st.integers(0, 99)))
    result = volume_of(data.draw, kind, values)
    for _ in range(3):
        case = CASES[data.draw(st.sampled_from([name for name in CHAINED if CASES[name].takes(values)]))]
        function, values = case.make(data.draw, values)
        result = function(result)
    check(data.draw, result, values)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=EXAMPLES // 4)
@given(data=st.data())
def test_clahe(kind: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(a, b)) for a, b in ((1, 2), (3, 20), (3, 20)))
    tile = (data.draw(st.integers(2, 7)), data.draw(st.integers(2, 7)))
    values = voxels("u1", shape, data.draw(st.integers(0, 99)))
    whole = np.stack([equalised(section, tile, 0.05) for section in values])
    result = op.clahe(volume_of(data.draw, kind, values), tile=tile, clip=0.05)
    with dask.config.set(scheduler="synchronous"):
        found = np.asarray(result)
        np.testing.assert_allclose(found, whole, atol=1e-5)
        same(found, np.asarray(op.clahe(values, tile=tile, clip=0.05)))  # in one piece
        box = a_box(data.draw, shape)
        same(np.asarray(result[box.slices]), found[box.slices])


@cache
def network_output() -> tuple[Any, Array]:
    """A lazy network's output of three channels in blocks, and the same in memory."""
    volume = np.random.default_rng(0).integers(0, 255, (11, 14, 13), np.uint8)
    lazy = ci.infer(volume, convolution(3), patch=8, block=6)
    assert must_exchange(lazy)
    with dask.config.set(scheduler="synchronous"):
        return lazy, lazy.compute()


@settings(max_examples=EXAMPLES // 4)
@given(data=st.data())
def test_chains_after_a_network(data: st.DataObject) -> None:
    result, values = network_output()
    for _ in range(2):
        names = [name for name in CHAINED if CASES[name].takes(values) and name not in PASSES]
        function, values = CASES[data.draw(st.sampled_from(names))].make(data.draw, values)
        result = function(result)
    assert not isinstance(origin_of(result), Derived)  # or every box would run the network
    check(data.draw, result, values)


PASSES = ("normalize, percentile", "normalize, sections")
"""Those that look at all voxels first, which is refused of a network's output."""


@settings(max_examples=EXAMPLES // 5)
@given(data=st.data())
def test_chains_of_what_is_stored_are_saved(data: st.DataObject, stored_volume: tuple[Path, Array]) -> None:
    """Store to store, in chunks at random."""
    folder, values = stored_volume
    result: Any = ci.open_volume(folder / "em.zarr")
    for _ in range(3):
        case = CASES[data.draw(st.sampled_from([name for name in CHAINED if CASES[name].takes(values)]))]
        function, values = case.make(data.draw, values)
        result = function(result)
    chunks = tuple(data.draw(st.integers(4, 20)) for _ in values.shape)
    out = folder / "out.zarr"
    ci.save(result, out, chunks=chunks, shards=False, progress=False, overwrite=True)
    same(ci.open_volume(out).values, values)


@pytest.fixture(scope="module")
def stored_volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array]:
    """A folder with a volume of small chunks, and the same in memory."""
    folder = tmp_path_factory.mktemp("stored")
    values = voxels("u1", (10, 17, 14), 0)
    ci.save(values, folder / "em.zarr", chunks=(6, 7, 8), shards=False, progress=False)
    return folder, values
