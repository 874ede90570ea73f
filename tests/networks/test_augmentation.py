"""Test-time augmentation: the algebra of edges against plain loops, tiles against the whole, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import permutations, product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import ModelError, PlanError
from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, exact_axis
from chunkinfer.networks.augment import Augmentation, Offset, Variant, augment
from chunkinfer.networks.model import open_model
from tests.lib import nets

NEAREST: tuple[Offset, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
FAR: tuple[Offset | None, ...] = (*NEAREST, (0, -3, 0), (0, 0, 2), (-1, -1, 0), (-1, 1, 0), None)
FLAT: tuple[Offset | None, ...] = ((-1, 0), (0, -1), (0, 3), (-2, 1), None)

Run = Callable[[Tensor], Tensor]


def toy(offsets: Sequence[Offset | None], directed: int = 0) -> Run:
    """Affinities by a function of the two voxels that an edge joins, NaN where one of them is outside.

    ``directed`` adds that many times the edge's start, which makes the function one that flips change. Whole numbers,
    so that every mean of equal values is exact.
    """

    def channel(x: Tensor, offset: Offset | None) -> Tensor:
        if offset is None:
            return 3 * x
        joined = torch.full_like(x, torch.nan)
        for v in product(*(range(size) for size in x.shape[1:])):
            w = tuple(a + d for a, d in zip(v, offset, strict=True))
            if all(0 <= a < size for a, size in zip(w, x.shape[1:], strict=True)):
                one, other = x[(slice(None), *v)], x[(slice(None), *w)]
                joined[(slice(None), *v)] = (one - other).abs() + one * other + directed * one
        return joined

    return lambda x: torch.stack([channel(x[:, 0], offset) for offset in offsets], 1)


def numbers(shape: Sequence[int], n: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Whole numbers from 0 to 9, (n, 1, *space)."""
    return torch.from_numpy(np.random.default_rng(prod(shape)).integers(0, 10, (n, 1, *shape))).to(dtype)


# --- the algebra of edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flips", "transpose", "count"),
    [
        ("zyx", "", 8),
        ("zyx", "yx", 16),
        ("zyx", "zyx", 48),
        ("", "zyx", 6),
        ("x", "", 2),
        ("z", "zy", 4),  # no group: a flip of y is missing; a mean all the same
    ],
)
def test_a_network_that_flips_do_not_change_stays_as_it_is(flips: str, transpose: str, count: int) -> None:
    augmentation, x = Augmentation(flips, transpose, FAR), numbers((4, 5, 3), n=2)
    assert len(set(augmentation.variants)) == len(augmentation.variants) == count
    # Also shows that no undefined edge reaches a defined one: NaN stays where it was.
    np.testing.assert_array_equal(augmentation.wrap(toy(FAR))(x), toy(FAR)(x))


@pytest.mark.parametrize(("flips", "transpose"), [("yx", ""), ("yx", "yx"), ("y", "yx"), ("", "yx")])
def test_images_too(flips: str, transpose: str) -> None:
    x = numbers((5, 4))
    np.testing.assert_array_equal(Augmentation(flips, transpose, FLAT).wrap(toy(FLAT))(x), toy(FLAT)(x))


def plain_variants(flips: str, transpose: str, ndim: int) -> list[np.ndarray]:
    """Signed permutation matrices, from the volume to what the network sees."""
    names, found = "zyx"[-ndim:], []
    for order in permutations(range(ndim)):
        if any(a != b and not {names[a], names[b]} <= set(transpose) for a, b in enumerate(order)):
            continue
        for signs in product((1, -1), repeat=ndim):
            if all(sign == 1 or name in flips for sign, name in zip(signs, names, strict=True)):
                matrix = np.zeros((ndim, ndim), int)
                for new, old in enumerate(order):
                    matrix[new, old] = signs[old]
                found.append(matrix)
    return found


def plain_mean(run: Run, x: np.ndarray, offsets: Sequence[Offset | None], variants: Sequence[np.ndarray]) -> np.ndarray:
    """The mean, voxel by voxel: each variant's values are put on the edges of the volume, then edges are looked up."""
    total, count = np.zeros((len(offsets), *x.shape)), np.zeros((len(offsets), *x.shape))
    for g in variants:
        size = abs(g) @ x.shape
        start = np.where(g.sum(1) < 0, size - 1, 0)  # the voxel that the volume's origin becomes
        seen = np.empty(size)
        for v in np.ndindex(x.shape):
            seen[tuple(g @ v + start)] = x[v]
        found = run(torch.from_numpy(seen)[None, None])[0].numpy()
        edges: dict[tuple[object, ...], float] = {}
        for v in np.ndindex(x.shape):
            there = g @ v + start
            for k, offset in enumerate(offsets):
                value = float(found[(k, *there)])
                if offset is None:
                    edges[("voxel", k, v)] = value
                else:
                    edges[("edge", v, tuple(np.add(v, g.T @ offset)))] = value
        for c, offset in enumerate(offsets):
            for v in np.ndindex(x.shape):
                if offset is None:
                    value = edges[("voxel", c, v)]
                else:
                    w = tuple(np.add(v, offset))
                    one, other = edges.get(("edge", v, w)), edges.get(("edge", w, v))
                    if one is None and other is None:
                        continue
                    value = one if one is not None else other
                total[(c, *v)] += value
                count[(c, *v)] += 1
    return total / count


@st.composite
def augmentations(draw: st.DrawFn) -> tuple[Augmentation, tuple[int, ...]]:
    """Any augmentation of any few channels, and a volume that may be smaller than an offset."""
    ndim = draw(st.integers(2, 3))
    names = "zyx"[-ndim:]
    some = st.lists(st.sampled_from(names), unique=True).map("".join)
    flips, transpose = draw(some), draw(some.filter(lambda s: len(s) != 1))
    if not flips + transpose:
        flips = "x"
    step = st.tuples(*[st.integers(-2, 2)] * ndim).filter(any)
    offsets = draw(st.lists(st.one_of(st.none(), step), min_size=1, max_size=4))
    unique = [o for i, o in enumerate(offsets) if o is None or o not in offsets[:i]]
    shape = draw(st.tuples(*[st.integers(1, 4)] * ndim))
    return Augmentation(flips, transpose, tuple(unique)), shape


@settings(max_examples=40, deadline=None)
@given(augmentations())
def test_the_mean_is_that_of_plain_loops(drawn: tuple[Augmentation, tuple[int, ...]]) -> None:
    augmentation, shape = drawn
    assert augmentation.offsets is not None
    weights = torch.arange(1, prod(shape) + 1, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        """Values that belong to the place in what the network sees, and to the channel: nothing is symmetric."""
        place = (x.reshape(-1) * weights).reshape(x.shape)
        return torch.cat([place + 1000 * k for k in range(len(augmentation.offsets or ()))], 1)

    x = numbers(shape, dtype=torch.float64)
    expected = plain_mean(
        run,
        x[0, 0].numpy(),
        augmentation.offsets,
        plain_variants(augmentation.flips, augmentation.transpose, len(shape)),
    )
    np.testing.assert_allclose(augmentation.wrap(run)(x)[0].numpy(), expected, rtol=1e-12)


def test_flipping_back_alone_would_be_wrong() -> None:
    x = numbers((4, 5, 3))
    naive = Augmentation("zyx", offsets=None).wrap(toy(NEAREST))(x)
    inside = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    assert (naive[inside] != toy(NEAREST)(x)[inside]).all(0).any()


def test_augmentation_changes_a_network_that_flips_change() -> None:
    x, run = numbers((4, 5, 3)), toy(NEAREST, directed=1)
    changed = Augmentation("zyx", "yx", NEAREST).wrap(run)(x)
    inside = (..., slice(1, None), slice(1, None), slice(1, None))
    assert (changed[inside] != run(x)[inside]).any()


def test_channels_that_no_other_variant_holds_are_the_networks_own() -> None:
    only_z: tuple[Offset | None, ...] = ((-1, 0, 0), (0, -1, 1))
    x, run = numbers((3, 4, 5)), toy(only_z, directed=1)
    found, own = Augmentation("", "zyx", only_z).wrap(run)(x), run(x)
    assert torch.equal(found[:, 0].nan_to_num(-1), Augmentation("", "yx", only_z).wrap(run)(x)[:, 0].nan_to_num(-1))
    flipped = Augmentation("y", offsets=only_z).wrap(run)(x)  # (0, -1, 1) becomes (0, 1, 1), which nobody predicts
    np.testing.assert_array_equal(flipped[:, 1], own[:, 1])


def test_every_variant_is_undone() -> None:
    x = numbers((2, 3, 4), n=2)
    for variant in Augmentation("zyx", "zyx").variants:
        seen = variant.apply(x)
        assert seen.is_contiguous()
        assert tuple(seen.shape[2:]) == variant.shape((2, 3, 4))
        assert torch.equal(variant.undo(seen), x)
    assert Augmentation("zyx", "zyx").variants[0] == Variant((-3, -2, -1), ())


def test_a_result_in_memory_that_is_used_again() -> None:
    x, memory = numbers((4, 4, 4)), torch.empty(1, 3, 4, 4, 4)
    run = toy(NEAREST, directed=1)
    expected = Augmentation("zyx", "zyx", NEAREST).wrap(run)(x)
    again = Augmentation("zyx", "zyx", NEAREST).wrap(lambda seen: memory.copy_(run(seen)))(x)
    memory.zero_()
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize(
    ("given_", "returned"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_means_are_float32_or_double(given_: torch.dtype, returned: torch.dtype) -> None:
    x = numbers((3, 3, 3), dtype=given_)
    assert Augmentation("zyx").wrap(lambda seen: seen)(x).dtype == returned


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_shapes_that_a_network_sees() -> None:
    assert Augmentation("zyx").shapes((4, 5, 6)) == ((4, 5, 6),)
    assert Augmentation("zyx", "yx").shapes((1, 2, 4, 5, 6)) == ((1, 2, 4, 5, 6), (1, 2, 4, 6, 5))
    assert len(Augmentation("", "zyx").shapes((4, 5, 6))) == 6
    assert Augmentation("yx", "yx").shapes((1, 3, 7, 8)) == ((1, 3, 7, 8), (1, 3, 8, 7))
    assert Augmentation("yx", "yx").shapes((7, 8)) == ((7, 8), (8, 7))


def test_a_network_for_each_shape() -> None:
    x, augmentation = numbers((3, 4, 5)), Augmentation("zyx", "zyx", NEAREST)

    def only(shape: tuple[int, ...]) -> Run:
        def run(seen: Tensor) -> Tensor:
            assert tuple(seen.shape) == shape
            return toy(NEAREST, directed=1)(seen)

        return run

    runs = {shape: only(shape) for shape in augmentation.shapes((1, 1, 3, 4, 5))}
    np.testing.assert_array_equal(augmentation.wrap(runs)(x), augmentation.wrap(toy(NEAREST, directed=1))(x))


# --- tiles ----------------------------------------------------------------------------------------------------------


def tiled(run: Run, lattice: PatchLattice, volume: np.ndarray) -> np.ndarray:
    """Clean zones of patches, by hand; beyond the volume's end its last voxel is repeated."""
    parts = []
    for index in lattice.touching(Box((0,) * volume.ndim, lattice.output)):
        box = lattice.patch_box(index)
        missing = [max(0, stop - size) for stop, size in zip(box.stop, volume.shape, strict=True)]
        patch = np.pad(volume, [(0, m) for m in missing], mode="edge")[box.slices]
        parts.append((index, run(torch.from_numpy(patch.copy())[None, None])[0].numpy()))
    result = np.full((parts[0][1].shape[0], *lattice.output), np.nan, parts[0][1].dtype)
    for index, part in parts:
        owned = lattice.owned_box(index)
        result[(slice(None), *owned.slices)] = part[(slice(None), *owned.relative_to(lattice.origin(index)).slices)]
    return result


WHOLE = 100
"""Periods of a clean zone that no volume of these tests has."""


def lattice_of(contracts: Sequence[AxisContract], shape: Sequence[int], zones: Sequence[int]) -> PatchLattice:
    """Patches with clean zones of so many periods."""
    axes = []
    for c, size, zone in zip(contracts, shape, zones, strict=True):
        patch = -(-c.low // c.period) * c.period + zone * c.period + c.high
        while not c.accepts(patch) or (c.accepted_at_least(size) - patch) % c.period:
            patch += 1
        axes.append(exact_axis(c, size, patch))
    return PatchLattice(tuple(axes))


def assert_tiles(
    net: nn.Module, augmentation: Augmentation, shape: tuple[int, ...], zones: tuple[int, ...]
) -> PatchLattice:
    """Tiles of the augmented network are the augmented network on the whole, to round-off in double precision."""
    net = net.double()
    contracts = augmentation.contracts(open_model(net).trace(1, len(shape)).axes)
    volume = np.random.default_rng(0).standard_normal(shape)

    def plain(x: Tensor) -> Tensor:
        return net(x).detach()

    run, lattice = augmentation.wrap(plain), lattice_of(contracts, shape, zones)
    assert all(len(a.starts) > 1 for a, zone in zip(lattice.axes, zones, strict=True) if zone < WHOLE)
    one = lattice_of(contracts, shape, (WHOLE,) * len(shape))
    whole = tiled(run, one, volume)
    np.testing.assert_allclose(tiled(run, lattice, volume), whole, rtol=0, atol=1e-11)
    assert np.abs(tiled(plain, one, volume) - whole).max() > 1e-4
    return lattice


def test_a_unet_of_period_4_tiles() -> None:
    net = nets.UNet(2, ((2, 2), (2, 2)), n=1).eval()
    lattice = assert_tiles(net, Augmentation("yx", "yx", ((-1, 0), (0, -1), None)), (61, 70), (3, 5))
    assert all(a.contract.period == 4 and a.contract.residues == (0,) for a in lattice.axes)
    assert lattice.patch[0] != lattice.patch[1]


@pytest.mark.slow
def test_a_unet_of_period_4_tiles_in_3d() -> None:
    net = nets.UNet(3, ((2, 2, 2), (2, 2, 2)), n=1).eval()
    assert_tiles(net, Augmentation("zyx", "yx", NEAREST), (8, 41, 47), (WHOLE, 1, 2))


def test_all_48_variants_tile() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, (1, 3, 5), padding=(0, 1, 2)), nn.Tanh())
    lattice = assert_tiles(net, Augmentation("zyx", "zyx", (*NEAREST[:2], (0, 2, 0))), (9, 10, 12), (2, 2, 4))
    assert [(a.contract.low, a.contract.high) for a in lattice.axes] == [(3, 2), (3, 4), (2, 2)]


@pytest.mark.slow
def test_all_48_variants_of_an_anisotropic_unet_tile() -> None:
    net = nets.UNet(3, ((1, 2, 2),), n=1).double().eval()
    own = open_model(net).trace(1, 3).axes
    assert own[0].period != own[1].period
    assert own[0].low < own[1].low
    lattice = assert_tiles(net, Augmentation("zyx", "zyx", (*NEAREST[:2], None)), (20, 23, 9), (2, 3, WHOLE))
    assert len({(a.contract.low, a.contract.high, a.contract.period) for a in lattice.axes}) > 1


@pytest.mark.parametrize(("flips", "transpose"), [("yx", "yx"), ("x", ""), ("", "yx")])
def test_a_network_without_padding_tiles(flips: str, transpose: str) -> None:
    assert_tiles(nets.ValidUNet(2, 2).eval(), Augmentation(flips, transpose, ((0, -1), (-1, 0))), (90, 75), (3, 2))


def test_a_network_whose_output_is_no_whole_number_of_periods_tiles() -> None:
    net = nets.ValidUNet(2, 3).eval()
    contract = open_model(net).trace(1, 2).axes[0]
    assert (contract.residues[0] - sum(contract.crop)) % contract.period
    assert_tiles(net, Augmentation("yx", offsets=((0, -1), (-1, 0))), (125, 150), (1, 3))


class OddSizes(nn.Module):
    """Takes odd sizes only: pools pairs of voxels, and drops the last one."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if any(size % 2 == 0 for size in x.shape[2:]):
            raise RuntimeError("even")
        coarse = nn.functional.interpolate(nn.functional.max_pool2d(self.conv(x)[..., :-1, :-1], 2), scale_factor=2)
        return nn.functional.pad(coarse, (0, 1, 0, 1))


def test_sizes_that_leave_a_rest() -> None:
    """Periods that start at the other end of an odd volume lie across those that start at its origin."""
    contract = AxisContract(2, Fraction(1), 1, 1, (0, 0), (1,), 3)
    flipped, _ = Augmentation("yx").contracts((contract, contract))
    assert (flipped.low, flipped.high) == (2, 2)
    net = OddSizes().double()
    x = np.random.default_rng(0).standard_normal((31, 41))
    lattice = lattice_of((flipped, flipped), x.shape, (3, 2))
    whole = PatchLattice(tuple(exact_axis(flipped, n, n) for n in x.shape))
    run = Augmentation("yx").wrap(lambda seen: net(seen).detach())
    np.testing.assert_allclose(tiled(run, lattice, x), tiled(run, whole, x), rtol=0, atol=1e-12)


def test_networks_of_other_sampling_tile() -> None:
    assert_tiles(nets.Upsampled(), Augmentation("yx", "yx"), (20, 26), (6, 5))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))
    assert_tiles(pooled, Augmentation("yx", offsets=((0, -3), (-1, 1))), (26, 40), (4, 5))


def test_less_context_would_not_do() -> None:
    """The shift needs the voxel that it adds: without it, faces of patches differ from the whole."""
    torch.manual_seed(0)
    net, augmentation = nn.Conv2d(1, 2, 3, padding=1).double(), Augmentation("yx", offsets=((-1, 0), (0, -1)))
    own = open_model(net).trace(1, 2).axes
    assert [(c.low, c.high) for c in augmentation.contracts(own)] == [(2, 1), (2, 1)]
    volume = np.random.default_rng(0).standard_normal((20, 20))
    run = augmentation.wrap(lambda x: net(x).detach())
    whole = run(torch.from_numpy(volume)[None, None])[0].numpy()
    wrong = tiled(run, lattice_of(own, volume.shape, (5, 5)), volume)
    assert np.abs(wrong - whole).max() > 1e-3


def test_infer_gives_the_same_bits_for_every_cut() -> None:
    net = nets.UNet(2, ((2, 2),), n=1).eval()
    model = augment(net, flips="yx", transpose="yx", offsets=[(-1, 0), (0, -1), None])
    volume = np.random.default_rng(0).standard_normal((50, 60)).astype("f4")
    zone = [a.zone for a in ci.plan(volume, model, patch=(32, 40)).lattice.axes]
    cuts = [zone, [2 * zone[0], 3 * zone[1]]]
    first, other = (
        ci.infer(volume, model, patch=(32, 40), block=tuple(cut), threads=1).compute(scheduler="synchronous")
        for cut in cuts
    )
    assert np.array_equal(first, other)
    assert model.augmentation is not None
    whole = model.augmentation.wrap(lambda x: net(x).detach())(torch.from_numpy(volume)[None, None])[0].numpy()
    np.testing.assert_allclose(first, whole, rtol=0, atol=2e-6)


# --- contracts ------------------------------------------------------------------------------------------------------

UNET = AxisContract(4, Fraction(1), 22, 20, (0, 0), (0,), 4)
FLAT_AXIS = AxisContract(1, Fraction(1), 3, 3, (0, 0), (0,), 1)


def test_contracts_of_flips_and_transpositions() -> None:
    z, y, x = Augmentation("zyx", offsets=NEAREST).contracts((FLAT_AXIS, UNET, UNET))
    assert (z.low, z.high, z.period) == (4, 3, 1)
    assert (y.low, y.high, y.period) == (26, 22, 4) == (x.low, x.high, x.period)
    z, y, x = Augmentation("", "zy").contracts((FLAT_AXIS, UNET, UNET))
    assert z == y == UNET
    assert x == UNET
    far = Augmentation("x", offsets=((0, 0, 9), (0, 0, -2), (0, 5, 0))).contracts((UNET,) * 3)
    assert [(c.low, c.high) for c in far] == [(22, 20), (22, 20), (22 + 4, 22 + 12)]
    both = replace(UNET, residues=(0, 1))
    assert Augmentation("", "yx").contracts((both, UNET))[0].residues == (0,)
    assert Augmentation("y").contracts((both, both))[0].residues == (0,)
    assert Augmentation("y").contracts((both, both))[1].residues == (0, 1)


@given(st.integers(1, 6), *[st.integers(0, 9)] * 3, st.integers(0, 5))
def test_a_mirrored_context_is_what_blocks_read(period: int, low: int, high: int, crop: int, rest: int) -> None:
    """Every output of a flipped axis is followed to what it reads, and grouped into periods from the volume's start."""
    residue, high = rest % period, high + 2 * crop
    contract = AxisContract(period, Fraction(1), low, high, (crop, crop), (residue,), 1)
    size = 20 * period + residue + 2 * crop // period * period
    reads: dict[int, tuple[int, int]] = {}
    outputs = size - 2 * crop
    for flipped in range(outputs):
        start = flipped // period * period
        first, last = size - 1 - (start + period - 1 + high), size - 1 - (start - low)
        block = (outputs - 1 - flipped) // period * period
        before = reads.get(block, (first, last))
        reads[block] = (min(first, before[0]), max(last, before[1]))
    inside = list(reads.items())[2:-2]
    found = Augmentation("x").contracts((contract,) * 2)[1]
    assert found.low == max(low, *(block - first for block, (first, _) in inside))
    assert found.high == max(high, *(last - (block + period - 1) for block, (_, last) in inside))


@pytest.mark.parametrize(
    ("axes", "augmentation", "said"),
    [
        ((replace(UNET, crop=(1, 2)),) * 2, Augmentation("yx"), "crops 1 voxels at the low end of axis y"),
        ((UNET, replace(UNET, stride=Fraction(2))), Augmentation("", "yx"), "strides of"),
        ((UNET, replace(UNET, crop=(2, 2))), Augmentation("yx", "yx"), "crop of 2 [+] 2"),
        ((UNET, replace(UNET, residues=(1,))), Augmentation("", "yx"), "No size suits axis y"),
        ((UNET, UNET), Augmentation("zyx"), "do not suit a network of 2 axes"),
        ((UNET, UNET), Augmentation("yx", offsets=((-1, 0, 0),)), "of 3 axes, and the network has 2"),
        ((UNET,) * 4, Augmentation("zyx"), "of 4 axes"),
    ],
)
def test_networks_that_do_not_suit(axes: tuple[AxisContract, ...], augmentation: Augmentation, said: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        augmentation.contracts(axes)
    assert len(raised.value.ways) == 2


def test_an_uneven_crop_matters_only_where_the_axis_is_flipped() -> None:
    uneven = replace(UNET, crop=(1, 2))
    assert Augmentation("x", "").contracts((uneven, UNET))[0] == uneven


def test_offsets_of_other_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="3 offsets were given for a network with 1 output channels"):
        Augmentation("zyx", offsets=NEAREST).wrap(lambda x: x)(numbers((2, 2, 2)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flips": "zyc"}, "flips='zyc' names no axes"),
        ({"flips": "zz"}, "flips='zz'"),
        ({"flips": 3}, "flips=3"),
        ({"transpose": "yyx"}, "transpose='yyx'"),
        ({"transpose": "y"}, "transpose='y'"),
        ({"flips": ""}, "do not say what changes"),
        ({"offsets": (0, -1, 0)}, "are no offsets"),
        ({"offsets": ((0.5, 0, 0),)}, "are no offsets"),
        ({"offsets": ((0, 0, 0),)}, "from a voxel to itself"),
        ({"offsets": ((0, -1), (0, 0, -1))}, "different numbers of axes"),
        ({"offsets": ((0, 0, -1), (0, 0, -1))}, "belongs to two channels"),
    ],
)
def test_arguments_that_are_none(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError) as raised:
        Augmentation(**arguments)  # type: ignore[arg-type]
    assert said in str(raised.value)
    assert len(raised.value.ways) == 2


# --- the value ------------------------------------------------------------------------------------------------------


def test_a_value_that_travels() -> None:
    one = Augmentation("xzy", "xy", [[-1, 0, 0], None])  # type: ignore[arg-type, list-item]
    assert one == Augmentation("zyx", "yx", ((-1, 0, 0), None))
    assert len(one.variants) == 16
    again = pickle.loads(pickle.dumps(one))
    assert (again, hash(again), again.variants) == (one, hash(one), one.variants)
    token = {"flips": "zyx", "transpose": "yx", "offsets": [[-1, 0, 0], None]}
    assert json.loads(json.dumps(one.token())) == token
    assert one.describe() == "mean of 16 variants (z, y, x flipped and y, x transposed) sorted by edge"
    few = Augmentation("", "yx", (*NEAREST[:2], None))
    assert few.describe() == "mean of 2 variants (y, x transposed) sorted by edge, 2, 1, 2 of them by channel"
    assert Augmentation("x").describe() == "mean of 2 variants (x flipped)"


def test_augment_a_model() -> None:
    net = nets.UNet(2, ((2, 2),), n=1).eval()
    plain = open_model(net)
    model = augment(net, flips="yx", offsets=[(-1, 0), (0, -1), None])
    assert model.augmentation == Augmentation("yx", offsets=((-1, 0), (0, -1), None))
    assert model == augment(plain, flips="xy", offsets=[[-1, 0], [0, -1], None])
    assert len({plain.digest, model.digest, augment(plain, flips="yx").digest, augment(plain, flips="y").digest}) == 4
    with pytest.raises(ModelError, match="augmented already"):
        augment(model)
