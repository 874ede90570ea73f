"""Where patches meet: two implementations, the same bits, for every cut; memory that is reused and given back."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import OutputError, VolumeError
from chunkinfer.tiling.kernel import host_canvas as host_canvas_module
from chunkinfer.tiling.kernel.normalize import Affine
from chunkinfer.tiling.kernel.outputs import Output
from tests.lib.kernel.blocks import Array, Case, cases, cuts, job_of, lattice, restless

RNG = np.random.default_rng(0)
EXACT = lattice((9, 12, 14), (6, 8, 8), None)
BLENDED = lattice((9, 12, 14), (6, 8, 8), (2, 3, 4))
VOLUME = RNG.random((1, 9, 12, 14), dtype="f4")


@given(st.data())
def test_both_canvases_and_every_cut_give_the_same_bits(data: st.DataObject) -> None:
    case = data.draw(cases())
    whole = case.on_host(restless)
    assert whole.dtype == case.job.dtype
    assert np.array_equal(case.on_device(restless), whole)
    cut = data.draw(cuts(case))
    assert np.array_equal(case.cut(cut, lambda out: case.on_host(restless, out)), whole)
    assert np.array_equal(case.cut(cut, lambda out: case.on_device(restless, out)), whole)


@given(cases())
def test_a_network_of_single_voxels_gives_what_it_says(case: Case) -> None:
    """The weights of a voxel sum to one: what is blended is the value itself."""

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 1 - x, x * x], 1).abs().clamp(0, 1)

    job = replace(case.job, output=Output(), dtype=np.dtype("f4"))
    x = (case.volume.astype("f8") - job.normalize.offset) / job.normalize.scale  # type: ignore[union-attr]
    expected = np.abs(np.concatenate([x, 1 - x, x * x])).clip(0, 1)
    assert np.abs(Case(job, case.volume).on_host(network) - expected).max() < 1e-6
    stored = Case(replace(job, dtype=np.dtype("u1")), case.volume).on_host(network)
    assert np.abs(stored - expected * 255).max() <= 0.5 + 1e-3
    classes = replace(job, dtype=np.dtype("u1"), output=Output(argmax=True))
    ordered = np.sort(expected, 0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert np.array_equal(Case(classes, case.volume).on_host(network)[0][clear], expected.argmax(0)[clear])
    above = replace(job, dtype=np.dtype("u1"), output=Output(threshold=0.3))
    clear = np.abs(expected - 0.3) > 1e-5
    assert np.array_equal(Case(above, case.volume).on_host(network)[clear], (expected > 0.3)[clear])


STORED = ["?", "i1", "u1", "i2", "u2", ">u2", "i4", "u4", "i8", "f2", "f4", ">f4", "f8"]


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("lies", ["in order", "read-only", "reversed axes", "every second voxel"])
def test_every_stored_dtype_however_it_lies(dtype: str, lies: str) -> None:
    values = RNG.integers(0, 2 if dtype == "?" else 100, (1, 18, 12, 14)).astype(dtype)
    volume = {
        "in order": values[:, :9],
        "read-only": values[:, :9].copy(),
        "reversed axes": np.asfortranarray(values[:, :9]),
        "every second voxel": values[:, ::2],
    }[lies]
    volume.flags.writeable = lies != "read-only"
    for patches in (EXACT, BLENDED):
        job = job_of(patches, normalize=Affine(1.0, 7.0), channels_out=1)
        result = Case(job, volume).on_host(lambda x: x)
        assert np.array_equal(result, Case(job, volume).on_device(lambda x: x))
        np.testing.assert_allclose(result, (volume.astype("f8") - 1) / 7, rtol=1e-6, atol=1e-6)


def test_normalisation_is_a_division() -> None:
    """Not a product with the reciprocal, whose last bits differ."""
    volume = np.arange(256, dtype="u1").reshape(1, 4, 8, 8)
    job = job_of(lattice((4, 8, 8), (4, 8, 8), None), normalize=Affine(0.1, 255.0), channels_out=1)
    expected = (volume.astype("f4") - np.float32(0.1)) / np.float32(255)
    assert np.array_equal(Case(job, volume).on_host(lambda x: x), expected)
    assert np.array_equal(Case(job, volume).on_device(lambda x: x), expected)


@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
def test_a_callers_function_sees_whole_patches(patches: object) -> None:
    seen = []

    def normalize(array: Array) -> Array:
        seen.append((array.shape, array.flags.c_contiguous))
        array *= 2  # its own copy
        return array - 0.5

    job = job_of(patches, normalize=normalize, channels_out=1)
    before = VOLUME.copy()
    result = Case(job, VOLUME).on_host(lambda x: x)
    assert set(seen) == {((1, 6, 8, 8), True)}
    assert np.array_equal(VOLUME, before)
    np.testing.assert_allclose(result, VOLUME * 2 - 0.5, atol=1e-6)
    assert np.array_equal(Case(job, VOLUME).on_device(lambda x: x), result)


@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
def test_networks_in_double_precision(patches: object) -> None:
    volume = RNG.random((1, 9, 12, 14))
    job = job_of(patches, compute=np.dtype("f8"), dtype=np.dtype("f8"), channels_out=1)
    assert np.abs(Case(job, volume).on_host(lambda x: x) - volume).max() < 1e-15


FORMS = {
    "channels last": lambda y: y.to(memory_format=torch.channels_last_3d),
    "bfloat16": lambda y: y.bfloat16(),
    "float64": lambda y: y.double(),
    "a part of a larger tensor": lambda y: torch.cat([y, y], -1)[..., : y.shape[-1]],
}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
def test_a_network_may_return_any_tensor(patches: object, form: str) -> None:
    case = Case(job_of(patches, batch=2), VOLUME)
    result = case.on_host(lambda x: FORMS[form](restless(x)))
    expected = case.on_host(lambda x: FORMS[form](restless(x)).float().contiguous())
    assert np.array_equal(result, expected)
    assert np.array_equal(case.on_device(lambda x: FORMS[form](restless(x))), expected)


@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
@pytest.mark.parametrize("output", [Output(), Output(activation="sigmoid")], ids=["as it is", "activated"])
def test_a_network_may_reuse_its_memory(patches: object, output: Output) -> None:
    case = Case(job_of(patches, output=output), VOLUME)
    memory = torch.empty((1, 3, 6, 8, 8))

    def network(x: torch.Tensor) -> torch.Tensor:
        memory.fill_(torch.nan)
        return memory.copy_(restless(x))

    assert np.array_equal(case.on_host(network), case.on_host(restless))


@pytest.mark.parametrize("dtype", ["f4", "u1", "f2"])
@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
def test_a_result_is_the_callers_own(patches: object, dtype: str) -> None:
    case = Case(job_of(patches, dtype=np.dtype(dtype)), VOLUME)
    first = case.on_host(restless)
    kept = first.copy()
    second = case.on_host(lambda x: 1 - restless(x))
    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)


def test_memory_is_kept_for_one_job_and_given_back_for_the_next() -> None:
    mine = Case(job_of(BLENDED, dtype=np.dtype("u1")), VOLUME)
    mine.on_host(restless)
    held = host_canvas_module.buffers(mine.job)
    patches, total = held.patches, held.total((3, 9, 12, 14))
    mine.on_host(restless, replace(mine.whole, stop=(5, 12, 14)))
    assert host_canvas_module.buffers(replace(mine.job)) is held
    assert held.patches is patches
    assert np.shares_memory(held.total((3, 5, 12, 14)), total)
    gone = weakref.ref(held)
    del held, patches, total
    gc.disable()
    try:
        Case(job_of(EXACT), VOLUME).on_host(restless)
        assert gone() is None, "something refers to the buffers of the job before"
    finally:
        gc.enable()


def _holed(value: float) -> Array:
    volume = VOLUME.copy()
    volume[0, 8, 11, 13] = value
    return volume


RUNS = [Case.on_host, Case.on_device]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", ["f4", "u1"])
@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_told_with_its_patch(run: object, patches: object, dtype: str, value: float) -> None:
    job = job_of(patches, dtype=np.dtype(dtype))
    with pytest.raises(VolumeError, match=r"holds NaN or infinite voxels in patch \[3:9, 4:12, 6:14\]"):
        run(Case(job, _holed(value)), lambda x: x.expand(-1, 3, -1, -1, -1))  # type: ignore[operator]

    def network(x: torch.Tensor) -> torch.Tensor:
        y = restless(x)
        y[:, 2, -1, -1, -1] = torch.where(x[:, 0, -1, -1, -1] == x.max(), value, 0.5)
        return y

    volume = VOLUME.copy()
    volume[0, 8, 11, 13] = 2
    with pytest.raises(OutputError, match=r"NaN or infinite values for patch \[3:9, 4:12, 6:14\], whose input is fin"):
        run(Case(job, volume), network)  # type: ignore[operator]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_nan_is_told_where_an_earlier_patch_has_been(run: object, dtype: str) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        y = restless(x)
        y[:, 0, 0, 0, 0] = torch.where(x[:, 0, -1, -1, -1] == 2, torch.nan, 0.5)
        return y

    volume = VOLUME.copy()
    volume[0, 8, 11, 13] = 2
    with pytest.raises(OutputError, match=r"for patch \[3:9, 4:12, 6:14\], whose input is fin"):
        run(Case(job_of(BLENDED, dtype=np.dtype(dtype)), volume), network)  # type: ignore[operator]


def test_blended_zeros_have_no_sign() -> None:
    """Whether a voxel's first patch was added or written would show otherwise."""
    case = Case(job_of(BLENDED), VOLUME)
    keep = np.ones(case.whole.shape, np.bool_)
    keep[:2, :2, :2] = False
    for run in RUNS:
        for more in ({}, {"keep": keep}):
            assert not np.signbit(run(case, lambda x: -torch.zeros_like(x).expand(-1, 3, -1, -1, -1), **more)).any()


@pytest.mark.parametrize("run", RUNS)
def test_only_what_is_kept_is_looked_at(run: object) -> None:
    """A patch's rim is not the network's value for those voxels; another patch gives that."""

    def network(x: torch.Tensor) -> torch.Tensor:
        y = restless(x)
        if not x[..., 0].any():  # the second patch along x, whose first column is marked, reads it as context
            y[..., 0] = torch.nan
        return y

    volume = VOLUME[:, :6, :8].copy()
    patches = lattice((6, 8, 14), (6, 8, 8), None)
    volume[..., patches.axes[2].starts[1]] = 0
    result = run(Case(job_of(patches), volume), network)  # type: ignore[operator]
    assert np.isfinite(result).all()


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("patches", [EXACT, BLENDED], ids=["exact", "blended"])
@pytest.mark.parametrize(("value", "fits"), [(1.0009, True), (1.002, False), (-0.0009, True), (-0.002, False)])
def test_uint8_holds_zero_to_one(run: object, patches: object, value: float, fits: bool) -> None:
    case = Case(job_of(patches, dtype=np.dtype("u1"), channels_out=1), VOLUME)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, value)

    if fits:
        assert (run(case, network) == (255 if value > 0.5 else 0)).all()  # type: ignore[operator]
    else:
        with pytest.raises(OutputError, match=r"lies in \[.*dtype='uint8' stores \[0, 1\]"):
            run(case, network)  # type: ignore[operator]


def test_halves_are_rounded_to_even_on_both() -> None:
    volume = ((np.arange(6 * 8 * 8) % 255 + 0.5) / 255).astype("f4").reshape(1, 6, 8, 8)
    case = Case(job_of(lattice((6, 8, 8), (6, 8, 8), None), dtype=np.dtype("u1"), channels_out=1), volume)
    expected = np.rint(volume * np.float32(255)).astype("u1")
    assert np.array_equal(case.on_host(lambda x: x), expected)
    assert np.array_equal(case.on_device(lambda x: x), expected)


def test_another_shape_is_refused() -> None:
    case = Case(job_of(EXACT), VOLUME)
    with pytest.raises(OutputError, match=r"returned \(1, 1, 6, 8, 8\) for patch \[0:6, 0:8, 0:8\]; .* was traced"):
        case.on_host(lambda x: x)


def test_loops_compile_where_nothing_can_be_kept() -> None:
    from chunkinfer.support.jit import compiled

    scope: dict[str, object] = {}
    exec("def double(x):\n    return 2 * x", scope)  # numba finds no file beside which it could keep the result
    assert compiled(scope["double"])(3) == 6  # type: ignore[type-var, operator]


def test_the_compiler_is_loaded_where_a_kernel_runs() -> None:
    code = "import sys, chunkinfer, chunkinfer.tiling.kernel.block; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
