"""The tracer against known contracts, against the spread of NaN, and against tiles of real networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import exact_axis
from chunkinfer.networks.trace.dependence import Flags, Reach
from chunkinfer.networks.trace.patches import Cut, Place, check_patches
from chunkinfer.networks.trace.probe import nan_probe
from chunkinfer.networks.trace.subject import subjects
from chunkinfer.networks.trace.tracing import Trace, at_lengths, trace
from tests.lib.nets import EXACT, REFUSED, Entry, PadsToMultiple, UNet, ValidUNet

random_nets = settings(deadline=None, suppress_health_check=list(HealthCheck))


def same(period: int, low: int, high: int | None = None, stride: Fraction = Fraction(1)) -> AxisContract:
    """The contract of a same-padded axis."""
    return AxisContract(period, stride, low, low if high is None else high, (0, 0), (0,), period)


KNOWN = [
    # (network, contract per axis, why)
    ("plain conv", [same(1, 3), same(1, 4), same(1, 4)], "1 + 2 and, in y and x, + 1"),
    ("pointwise", [same(1, 0)] * 3, "reads itself"),
    ("valid conv", [AxisContract(1, Fraction(1), 0, 2, (1, 1), (0,), 3)], "k - 1 is lost, anchored at the low end"),
    ("dilated", [same(1, 15)] * 2, "1 + 2 + 4 + 8"),
    ("even kernels, same", [same(1, 1, 3), same(1, 3, 4)], "torch pads total // 2 at the low end"),
    ("even kernels, valid", [AxisContract(1, Fraction(1), 0, 4, (2, 2), (0,), 5)] * 2, "k4 and k2 lose 3 + 1"),
    ("downsampling", [same(1, 2), same(2, 3, stride=Fraction(2))], "1 fine voxel and 1 coarse one of 2"),
    ("super-resolution", [same(1, 2, stride=Fraction(1, 2))] * 2, "a fine voxel's neighbour may lie in the next"),
    ("space to depth", [same(2, 2)] * 3, "one coarse voxel of 2"),
    ("pixel shuffle", [same(2, 4)] * 2, "1 coarse voxel of 2, and a fine one that reaches into the next"),
    ("window attention", [same(4, 1)] * 2, "the window is the block"),
    ("LayerNorm over channels", [same(1, 3)] * 2, "only the convolution k7"),
    ("ASPP", [same(1, 6)] * 2, "the largest dilation"),
    ("reflect and replicate", [AxisContract(1, Fraction(1), 3, 3, (0, 0), (0,), 3)] * 2, "reflection needs 3 voxels"),
    ("U-Net, valid", [AxisContract(4, Fraction(1), 0, 40, (20, 20), (0,), 44)] * 2, "the recurrence of U-Nets"),
]


@pytest.mark.parametrize(("name", "axes", "why"), KNOWN, ids=[row[0] for row in KNOWN])
def test_known_contracts(name: str, axes: list[AxisContract], why: str) -> None:
    entry = EXACT[name]
    found = trace(entry.make(), entry.channels, entry.ndim)
    assert found.exact, found.reasons
    assert list(found.axes[: len(axes)]) == axes, why


def test_the_first_unet_maps_572_voxels_to_388() -> None:
    entry = EXACT["U-Net, valid, depth 4"]
    found = trace(entry.make(), 1, 2)
    axis = found.axes[0]
    assert (axis.period, axis.crop, axis.residues, axis.smallest) == (16, (92, 92), (12,), 188)
    assert axis.accepts(572)
    assert axis.output_size(572) == 388


@pytest.mark.parametrize(("levels", "n", "k"), [(1, 2, 3), (2, 2, 3), (3, 1, 3), (2, 1, 5), (2, 2, 1)])
def test_context_of_a_unet_follows_the_recurrence(levels: int, n: int, k: int) -> None:
    """On the way down each level adds its convolutions, and pooling then rounds up to whole coarse voxels."""
    context = 0
    for level in range(levels):
        coarse = 2 ** (level + 1)
        context = ceil((context + n * (k // 2) * 2**level) / coarse) * coarse
    context += n * (k // 2) * 2**levels + sum(n * (k // 2) * 2**level for level in range(levels))
    found = trace(UNet(2, ((2, 2),) * levels, n=n, k=k).eval(), 1, 2)
    assert found.axes == (same(2**levels, context),) * 2


# --- against the spread of NaN ----------------------------------------------------------------------------------------

LOOSE = {
    "space to depth": "the position inside a cell is not told apart once it is a channel",
    "pixel shuffle": "as above",
    "window attention": "as above",
}


def reach_at(module: nn.Module, channels: int, shape: tuple[int, ...], axis: int) -> Reach:
    reach = next(subjects(module, channels, torch.float32)).follow(shape).reach(axis)
    assert reach is not None
    return reach


def assert_covers(reach: Reach, probed: tuple[Flags, Flags], cut: int, tight: bool) -> None:
    """What is followed must cover what NaN shows, and, where tight, be no larger."""
    below, above = probed
    assert not (below & ~(reach.low < cut)).any(), "an output reads lower voxels than was followed"
    assert not (above & ~(reach.high >= cut)).any(), "an output reads higher voxels than was followed"
    if tight:
        np.testing.assert_array_equal(below, reach.low < cut)
        np.testing.assert_array_equal(above, reach.high >= cut)


def probe_everywhere(name: str, entry: Entry, cuts: int) -> None:
    net = entry.make()
    found = trace(net, entry.channels, entry.ndim)
    for axis, contract in enumerate(found.axes):
        size = contract.accepted_at_least(contract.low + contract.high + 3 * contract.period + 1)
        shape = tuple(size if a == axis else other.smallest for a, other in enumerate(found.axes))
        reach = reach_at(net, entry.channels, shape, axis)
        for cut in range(size // 2, size // 2 + min(cuts, contract.period)):
            assert_covers(reach, nan_probe(net, entry.channels, shape, axis, cut), cut, name not in LOOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_what_is_followed_covers_the_spread_of_nan(name: str) -> None:
    probe_everywhere(name, EXACT[name], cuts=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_what_is_followed_covers_the_spread_of_nan_at_every_phase(name: str) -> None:
    probe_everywhere(name, EXACT[name], cuts=99)


# --- against tiles ----------------------------------------------------------------------------------------------------


def worst_error(net: nn.Module, channels: int, found: Trace, less: int = 0) -> float:
    """The largest error of an interior patch, cut along the first axis with its context less some periods."""
    axis = found.axes[0]
    p = axis.period
    low = ceil(axis.low / p) * p - less * p
    patch = axis.accepted_at_least(low + axis.high + 2 * p - less * p)
    zone = 2 * p
    # The patch lies two periods inside the margin, so that nothing in its zone reads the volume's own padding.
    margin = (ceil(max(axis.low, axis.high) / p) + 2) * p
    size = axis.accepted_at_least(2 * margin + patch)
    shape = [size, *(other.accepted_at_least(min(other.low + other.high, 24) + 1) for other in found.axes[1:])]
    x = torch.randn(1, channels, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    y0 = margin + p
    with torch.no_grad():
        first = lambda y: next(iter(y.values())) if isinstance(y, dict) else y  # noqa: E731
        whole = first(net(x))
        part = first(net(x[:, :, y0 - low : y0 - low + patch]))
    start, stop = int(y0 / axis.stride), int((y0 + zone) / axis.stride)
    skip = int(low / axis.stride)
    return float((whole[:, :, start:stop] - part[:, :, skip : skip + stop - start]).abs().max())


@pytest.mark.parametrize("name", [name for name in EXACT if name != "U-Net, valid, depth 4"])
def test_a_patch_with_its_context_gives_the_whole_result(name: str) -> None:
    entry = EXACT[name]
    found = trace(entry.make(), entry.channels, entry.ndim)
    assert worst_error(entry.make().double(), entry.channels, found) < 1e-12


@pytest.mark.parametrize("name", ["plain conv", "U-Net, transposed", "strided"])
def test_a_patch_with_less_context_does_not(name: str) -> None:
    entry = EXACT[name]
    found = trace(entry.make(), entry.channels, entry.ndim)
    assert worst_error(entry.make().double(), entry.channels, found, less=1) > 1e-9


# --- random networks --------------------------------------------------------------------------------------------------


class Up(nn.Module):
    """Resamples the first axis."""

    def __init__(self, factor: int, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: Tensor) -> Tensor:
        corners = {"align_corners": False} if self.mode == "bilinear" else {}
        return F.interpolate(x, scale_factor=(float(self.factor), 1.0), mode=self.mode, **corners)


class Sum(nn.Module):
    """Two branches."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


def padded(k: int, dilation: int = 1) -> nn.Sequential:
    total = dilation * (k - 1)
    pad = nn.ZeroPad2d((0, 0, total // 2, total - total // 2))
    return nn.Sequential(pad, nn.Conv2d(2, 2, (k, 1), dilation=(dilation, 1)))


kernels = st.integers(1, 5)
factors = st.integers(2, 4)
simple = st.one_of(
    kernels.map(padded),
    kernels.map(lambda k: nn.Conv2d(2, 2, (k, 1))),
    st.integers(1, 4).map(lambda d: padded(3, d)),
    st.tuples(kernels, kernels).map(lambda ks: Sum(padded(ks[0]), padded(ks[1]))),
)


@st.composite
def levels(draw: st.DrawFn) -> nn.Module:
    """Down by a factor, a convolution, and up again, each in one of the usual ways."""
    f = draw(factors)
    downs = [
        nn.MaxPool2d((f, 1)),
        nn.AvgPool2d((f, 1)),
        nn.Conv2d(2, 2, (f, 1), stride=(f, 1)),
        nn.Conv2d(2, 2, (f + 1, 1), stride=(f, 1), padding=(f // 2, 0)),
    ]
    ups = [
        Up(f, "nearest"),
        Up(f, "bilinear"),
        nn.ConvTranspose2d(2, 2, (f, 1), stride=(f, 1)),
        nn.ConvTranspose2d(2, 2, (f + 2, 1), stride=(f, 1), padding=(1, 0)),
    ]
    return nn.Sequential(
        draw(st.sampled_from(downs)), nn.ReLU(), padded(draw(st.integers(1, 4))), draw(st.sampled_from(ups))
    )


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 99)))
        layers = draw(st.lists(st.one_of(simple, levels()), min_size=1, max_size=4))
        return nn.Sequential(
            nn.Conv2d(1, 2, 1), *(m for layer in layers for m in (layer, nn.ReLU())), nn.Conv2d(2, 1, 1)
        )


def rounds(net: nn.Module) -> bool:
    """Whether a sampling position may fall on either side of a voxel, so that one voxel of slack is followed."""
    return any(isinstance(m, Up) and m.mode == "bilinear" and m.factor == 3 for m in net.modules())


def check_random(net: nn.Module, phase: int) -> None:
    found = trace(net.eval(), 1, 2)
    assert found.exact, found.reasons
    axis = found.axes[0]
    size = axis.accepted_at_least(axis.low + axis.high + 4 * axis.period + 12)
    cut = size // 2 + phase
    assume(cut < size)
    probed = nan_probe(net, 1, (size, 2), 0, cut)
    assert_covers(reach_at(net, 1, (size, 2), 0), probed, cut, tight=not rounds(net))
    assert worst_error(copy.deepcopy(net).double(), 1, found) < 1e-12


@settings(random_nets, max_examples=15)
@given(networks(), st.integers(0, 11))
def test_random_networks(net: nn.Module, phase: int) -> None:
    check_random(net, phase)


@pytest.mark.slow
@settings(random_nets, max_examples=400)
@given(networks(), st.integers(0, 11))
def test_many_random_networks(net: nn.Module, phase: int) -> None:
    check_random(net, phase)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_refused_networks_name_the_layer(name: str) -> None:
    entry = REFUSED[name]
    found = trace(entry.make(), entry.channels, entry.ndim)
    assert not found.exact
    assert entry.layer in found.reasons[0].layer
    assert len(found.reasons[0].text) > 20
    # Needed to run it blended.
    assert len(found.axes) == entry.ndim
    assert all(a.residues and a.smallest and a.low == a.high == 0 for a in found.axes)


def test_refused_networks_keep_their_period_and_crop() -> None:
    entry = REFUSED["instance norm"]
    assert [a.period for a in trace(entry.make(), 1, 3).axes] == [2, 4, 4]


def test_a_network_of_one_size_says_which() -> None:
    entry = REFUSED["LayerNorm over space"]
    found = trace(entry.make(), 1, 2)
    assert [a.smallest for a in found.axes] == [48, 48]
    assert any("48 voxels" in reason.text for reason in found.reasons)


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, x[:, :1].movedim(1, -1).expand(-1, -1, -1, 2), align_corners=False)


def test_an_unknown_operator_is_named() -> None:
    found = trace(Sampled(), 1, 2)
    assert not found.exact
    assert "grid_sampler_2d is not understood" in found.reasons[0].text


class Resized(nn.Module):
    """Pools and resizes to whatever size came in: only multiples of 2 are exact."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:], mode="bilinear")


def test_sizes_that_run_but_read_otherwise_do_not_count() -> None:
    assert [a.residues for a in trace(Resized(), 1, 2).axes] == [(0,), (0,)]
    # Padding by 3 at the end keeps the grid at the origin; by 1 or 2 at the beginning it does not.
    assert [a.residues for a in trace(PadsToMultiple().eval(), 1, 2).axes] == [(0, 3), (0, 3)]


# --- kinds of modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain conv", "U-Net, transposed", "super-resolution"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_traces_alike(name: str) -> None:
    entry = EXACT[name]
    net = entry.make()
    x = torch.zeros(1, entry.channels, *(16,) * entry.ndim)
    assert (
        trace(torch.jit.trace(net, x), entry.channels, entry.ndim).axes == trace(net, entry.channels, entry.ndim).axes
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_names_the_operator() -> None:
    net = torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)).eval())
    (reason,) = trace(net, 1, 2).reasons
    assert reason.layer == "operator native_batch_norm"
    assert "instance normalisation" in reason.text


class OnTheCpu(nn.Module):
    """Makes a constant on the CPU, so it cannot run without data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.full([1, 1, 1, 1], 2.0, device="cpu")


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_that_do_not_run_without_data_are_followed_on_small_tensors(script: bool) -> None:
    net = OnTheCpu()
    assert trace(torch.jit.script(net) if script else net, 1, 2).axes == (same(1, 2),) * 2


def exported(entry: Entry) -> nn.Module:
    size = torch.export.Dim.DYNAMIC
    x = torch.zeros(1, entry.channels, *(32,) * entry.ndim)
    return torch.export.export(entry.make(), (x,), dynamic_shapes=({2: size, 3: size},)).module()


def test_exported_programs_trace_alike() -> None:
    entry = EXACT["even kernels, valid"]
    assert trace(exported(entry), 1, 2).exact
    assert [a.high for a in trace(exported(entry), 1, 2).axes] == [a.high for a in trace(entry.make(), 1, 2).axes]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fib25_affinity.pt", "fib25_affinity.pt2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trained_network(name: str, real_models: Path) -> None:
    path = real_models / name
    net = torch.jit.load(path) if name.endswith(".pt") else torch.export.load(path).module()
    found = trace(net, 1, 3)
    assert found.exact
    assert found.channels_out == 3
    assert found.dtype == "float32"
    assert {(a.period, a.low, a.high, a.crop, a.residues) for a in found.axes} == {(4, 22, 22, (0, 0), (0,))}


def test_the_first_tensor_of_a_dict_counts_and_a_global_score_beside_it_does_not() -> None:
    found = trace(EXACT["dict of outputs"].make(), 1, 3)
    assert found.exact
    assert found.channels_out == 2


def test_the_dtype_is_the_outputs() -> None:
    class Labels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1, keepdim=True)

    assert trace(Labels(), 3, 2).dtype == "int64"
    assert trace(EXACT["pointwise"].make().half(), 1, 3, dtype=torch.float16).dtype == "float16"


def test_operations_tell_networks_apart() -> None:
    one, two = trace(UNet(2, ((2, 2),)).eval(), 1, 2), trace(UNet(2, ((2, 2),), up="nearest").eval(), 1, 2)
    assert one.operations == trace(UNet(2, ((2, 2),)).eval(), 1, 2).operations
    assert one.operations != two.operations


class InPlace(nn.Module):
    def __init__(self, aliased: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.aliased = aliased

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        flat = y.flatten() if self.aliased else y
        y += self.other(y)
        return flat.view(x.shape).relu_()


def test_writing_in_place_is_followed_unless_another_tensor_sees_it() -> None:
    assert trace(InPlace(False), 1, 2).axes == (same(1, 2),) * 2
    (reason,) = trace(InPlace(True), 1, 2).reasons
    assert "writes into a part" in reason.text


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y[..., :2].zero_(),
        lambda y: y[:, :, 1::2].mul_(2),
        lambda y: y[:, 0].relu_(),
        lambda y: y[..., :1].copy_(y[..., -1:]),
        lambda y: torch.relu_(y.view(-1)[:7]),
    ],
)
def test_writing_into_a_part_is_refused(write: Callable[[Tensor], Tensor]) -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            write(y)
            return y

    assert not trace(Writes(), 2, 2).exact


class Remembers(nn.Module):
    """Keeps its last map in a buffer, and reads it there."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 1, 96, 96))

    def forward(self, x: Tensor) -> Tensor:
        self.last[...] = x
        return self.last + 1


def test_a_buffer_that_is_written_is_refused() -> None:
    assert "writes into a part" in str(trace(Remembers(), 1, 2).reasons)


def test_exported_programs_name_the_layer() -> None:
    net = Entry(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)), ndim=2)
    assert trace(exported(net), 1, 2).reasons[0].layer == "1 (InstanceNorm2d)"


def test_half_a_voxel_is_lost() -> None:
    axis = trace(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 2)), 1, 2).axes[0]
    assert axis.output_size(10) == 19


@pytest.mark.parametrize("train", [False, True])
def test_the_callers_module_stays_as_it_is(train: bool) -> None:
    net = EXACT["U-Net, transposed"].make().train(train)
    before = copy.deepcopy(net.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    trace(net, 1, 3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(m.training == train for m in net.modules())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


# --- errors -----------------------------------------------------------------------------------------------------------


def test_wrong_channels_say_what_the_first_convolution_expects() -> None:
    with pytest.raises(ModelError, match="expects 1 channels, and 4 were given"):
        trace(EXACT["U-Net, transposed"].make(), 4, 3)


def test_wrong_axes_say_how_many_the_first_convolution_has() -> None:
    with pytest.raises(ModelError, match="works on 3 spatial axes, and 2 were asked for"):
        trace(nn.Conv3d(1, 4, 3, padding=1), 1, 2)


def test_a_network_that_never_runs_is_an_error_with_ways_out() -> None:
    with pytest.raises(ModelError, match="does not run") as caught:
        trace(nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), 1, 2)
    assert caught.value.means
    assert caught.value.ways


def test_a_size_can_be_given() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LayerNorm([2, 20, 34]))
    assert [a.smallest for a in trace(net, 1, 2, size=(20, 34)).axes] == [20, 34]


# --- patches ----------------------------------------------------------------------------------------------------------


def cut(contract: AxisContract, size: int, patch: int, less: int = 0) -> Cut:
    """An axis as a lattice cuts it, with so many voxels less of context below each clean zone."""
    axis = exact_axis(contract, size, patch)
    places = [Place(start, *axis.owned(k)) for k, start in enumerate(axis.starts)]
    if less:
        places[1] = Place(places[1].start, places[1].first - less, places[1].stop)
    return Cut(axis.padded, axis.patch, tuple(places))


def test_patches_with_enough_context_pass_and_one_voxel_less_does_not() -> None:
    net = EXACT["plain conv"].make()
    found = trace(net, 1, 3)
    cuts = [cut(axis, 61, 20) for axis in found.axes]
    assert check_patches(net, found, cuts) == ()
    for axis in range(3):
        worse = [*cuts[:axis], cut(found.axes[axis], 61, 20, less=1), *cuts[axis + 1 :]]
        (reason,) = check_patches(net, found, worse)
        assert reason.layer == f"axis {axis}"
        assert "1 of the output voxels" in reason.text


@pytest.mark.parametrize("name", ["U-Net, transposed", "U-Net, linear", "strided", "downsampling", "valid conv"])
def test_patches_made_from_the_contract_pass(name: str) -> None:
    entry = EXACT[name]
    net = entry.make()
    found = trace(net, 1, entry.ndim)
    cuts = []
    for a in found.axes:
        size = a.accepted_at_least(ceil(a.low / a.period) * a.period + a.high + 2 * a.period)
        cuts.append(cut(a, size + 5 * a.period, size))
    assert check_patches(net, found, cuts) == ()


def test_a_patch_of_a_size_that_does_not_run() -> None:
    net = EXACT["U-Net, transposed"].make()
    cuts = [Cut(32, 16, ()), Cut(33, 17, ()), Cut(32, 16, ())]
    (reason,) = check_patches(net, trace(net, 1, 3), cuts)
    assert "does not run" in reason.text


def test_an_output_of_one_voxel() -> None:
    net = ValidUNet(2, 1).eval()
    found = trace(net, 1, 2)
    size = found.axes[0].smallest
    at = at_lengths(net, found, (size + 1, size + 1), torch.float32)
    assert [a.output_size(size + 1) for a in at.axes] == [a.output_size(size) + 1 for a in found.axes] or at == found
    one = nn.Conv2d(1, 1, 3)
    contract = trace(one, 1, 2)
    assert check_patches(one, contract, [cut(a, 9, 3) for a in contract.axes]) == ()


# --- lengths of a volume ----------------------------------------------------------------------------------------------


class Looks(nn.Module):
    """A network whose forward looks at the size."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.conv, x)


def test_a_strided_layer_takes_odd_lengths_and_gives_what_it_gives_there() -> None:
    net = nn.Conv2d(1, 2, 3, stride=2, padding=1)
    found = trace(net, 1, 2)
    odd = at_lengths(net, found, (29, 30), torch.float32)
    assert [(a.residues, a.crop, a.output_size(n)) for a, n in zip(odd.axes, (29, 30), strict=True)] == [
        ((1,), (0, -1), 15),
        ((0,), (0, 0), 15),
    ]


def test_a_resize_to_the_skip_is_uncut_at_lengths_where_its_ratio_is_no_whole_number() -> None:
    net = Looks(lambda conv, x: F.interpolate(F.max_pool2d(conv(x), 2), size=x.shape[2:]))
    found = trace(net, 1, 2)
    odd, even = at_lengths(net, found, (29, 30), torch.float32).axes
    assert odd.uncut is not None
    assert (odd.uncut.shorter, odd.uncut.longer) == (28, 30)
    assert "resizes by a ratio" in odd.uncut.reason
    assert even.uncut is None


@pytest.mark.parametrize(
    ("forward", "line"),
    [
        (lambda conv, x: conv(x) * (2 if x.shape[2] < 20 else 1), None),
        (lambda conv, x: conv(x) * float(x.numel()), "conv(x) * float(x.numel())"),
        (lambda conv, x: conv(x) / x.shape[2], "conv(x) / x.shape[2]"),
    ],
)
def test_a_forward_that_looks_at_the_size_is_told_with_its_line(forward: Any, line: str | None) -> None:
    found = trace(Looks(forward), 1, 2)
    if line is None:  # another network below 20, which patches never are
        assert [a.smallest for a in found.axes] == [20, 1]
        return
    assert any(line in reason.text and "test_trace.py" in reason.text for reason in found.reasons)


def test_a_volume_on_which_it_is_another_network_than_on_its_patches() -> None:
    net = Looks(lambda conv, x: conv(x) * (2 if x.shape[2] > 300 else 1))
    found = trace(net, 1, 2)
    assert found.exact
    cuts = [cut(a, 400, 64) for a in found.axes]
    (reason,) = check_patches(net, found, cuts)
    assert "forward looks at the size" in reason.text
    assert check_patches(net, found, [cut(a, 200, 64) for a in found.axes]) == ()
