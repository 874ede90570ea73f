"""`receptive_field`: the tracer against the spread of NaN on networks of two libraries, probes against the tracer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from chunkinfer.errors import MissingExtra, ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.field import sizes
from chunkinfer.networks.model import open_model
from chunkinfer.networks.probing.verifying import cuts_for, seen_at, shape_for
from chunkinfer.networks.receptive_field import check_trace, receptive_field
from chunkinfer.networks.stated_contract import contracts_of
from tests.lib import nets
from tests.lib.nets import Entry

Array = np.ndarray[Any, Any]

# --- the tracer against the spread of NaN -----------------------------------------------------------------------------


def assert_verified(entry: Entry) -> None:
    """NaN spreads as far as the traced context, and no further."""
    found = receptive_field(entry.make(), output=entry.output, channels=entry.channels, ndim=entry.ndim, verify=True)
    assert found.exact, found.reasons
    assert found.how == "traced"
    assert found.tight == (True,) * entry.ndim, found


def assert_refused(entry: Entry) -> None:
    found = receptive_field(entry.make(), output=entry.output, channels=entry.channels, ndim=entry.ndim, verify=True)
    assert not found.exact
    assert entry.layer in found.reasons[0]
    assert found.verified is found.tight is None


def every_fourth(names: Iterable[str]) -> list[Any]:
    """All names, and three of four only in the slow tier: test_trace.py looks at the same networks in the fast one."""
    return [name if i % 4 == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(names)]


@pytest.mark.parametrize("name", every_fourth(nets.EXACT))
def test_nan_spreads_as_far_as_the_traced_context(name: str) -> None:
    assert_verified(nets.EXACT[name])


@pytest.mark.parametrize("name", every_fourth(nets.REFUSED))
def test_refused_networks_say_why(name: str) -> None:
    assert_refused(nets.REFUSED[name])


MONAI_QUICK = [
    "UNet 2D, no residual units",
    "BasicUNet 2D",
    "DynUNet 2D",
    "AttentionUnet 2D, batch norm",
]
MONAI_SLOW = [
    "SegResNet 2D",
    "DynUNet 3D, anisotropic, residual",
    "HighResNet 2D",
    "AutoEncoder 2D",
    "VoxelMorphUNet 2D",
    "PatchDiscriminator 2D",
    "UNet 2D",
    "UNet 3D",
    "BasicUNet 3D",
    "BasicUNet++ 2D",
    "SegResNet 2D, transposed",
    "SegResNet 3D",
    "SegResNetDS 3D",
    "DynUNet 2D, deep supervision",
    "DynUNet 3D",
    "AttentionUnet 3D, batch norm",
    "VNet 2D",
    "FlexibleUNet 2D, ResNet-18",
    "DenseNet-121, features, 2D",
    "DenseNet, features, 3D",
    "HighResNet 3D",
]
MONAI_REFUSED_QUICK = ["UNet 3D, instance norm", "DynUNet 2D, instance norm", "AttentionUnet 2D", "AutoencoderKL 2D"]
MONAI_REFUSED_SLOW = [
    "BasicUNet 2D, instance norm",
    "BasicUNet 2D, align_corners",
    "SegResNet 3D, group norm",
    "SwinUNETR 3D, instance norm",
    "SwinUNETR 2D, batch norm",
    "UNETR 3D",
    "FlexibleUNet 2D, EfficientNet",
]
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def monai() -> Any:
    """The networks of MONAI, if it is installed; what it warns of while it is imported is its own."""
    pytest.importorskip("monai", exc_type=ImportError)
    from tests.lib import monai_nets

    return monai_nets


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MONAI_QUICK, *(pytest.param(name, marks=slow) for name in MONAI_SLOW)])
def test_monai(monai: Any, name: str) -> None:
    assert_verified(monai.EXACT[name])


@slow
def test_monai_vnet_is_in_3d_what_it_is_in_2d(monai: Any) -> None:
    """Sixteen channels at least, so NaN takes minutes in 3D (`benchmarks/tracing.py`)."""
    flat, solid = (receptive_field(monai.EXACT[name].make()).axes for name in ("VNet 2D", "VNet 3D"))
    assert solid == (flat[0],) * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*MONAI_REFUSED_QUICK, *(pytest.param(name, marks=slow) for name in MONAI_REFUSED_SLOW)]
)
def test_monai_refused(monai: Any, name: str) -> None:
    assert_refused(monai.REFUSED[name])


@pytest.mark.parametrize(
    "name", ["ResNet-10", *(pytest.param(name, marks=slow) for name in ("DenseNet-121", "SEResNet-50"))]
)
def test_monai_classifiers_name_the_pooling(monai: Any, name: str) -> None:
    entry = monai.CLASSIFIERS[name]
    with pytest.raises(ModelError, match="gives no map") as caught:
        receptive_field(entry.make())
    assert entry.layer in caught.value.what


@slow
def test_every_network_of_monai_is_in_a_list(monai: Any) -> None:
    assert {*MONAI_QUICK, *MONAI_SLOW, "VNet 3D"} == set(monai.EXACT)
    assert {*MONAI_REFUSED_QUICK, *MONAI_REFUSED_SLOW} == set(monai.REFUSED)


# --- the verifier catches what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("name", ["even kernels, same", "U-Net, transposed", "strided", "FC-DenseNet", "downsampling"])
def test_one_voxel_too_few_is_caught(name: str, end: str) -> None:
    entry = nets.EXACT[name]
    model = open_model(entry.make())
    found = model.trace(1, entry.ndim)
    last = found.axes[-1]
    less = dataclasses.replace(last, **{end: getattr(last, end) - 1})
    with pytest.raises(ModelError, match=rf"axis {entry.ndim - 1}, cut at voxel \d+ of \d+, NaN reaches"):
        check_trace(model, dataclasses.replace(found, axes=(*found.axes[:-1], less)))


@pytest.mark.parametrize("end", ["low", "high"])
def test_one_voxel_too_many_is_not_tight(end: str) -> None:
    model = open_model(nets.EXACT["strided"].make())
    found = model.trace(1, 3)
    more = dataclasses.replace(found.axes[0], **{end: getattr(found.axes[0], end) + 1})
    seen = check_trace(model, dataclasses.replace(found, axes=(more, *found.axes[1:])))
    assert not seen[0].reaches(more)
    assert seen[1].reaches(found.axes[1])


@given(
    period=st.integers(1, 12),
    low=st.integers(0, 40),
    high=st.integers(0, 40),
    phases=st.integers(0, 3),
    finer=st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2)]),
)
def test_what_cuts_show_is_the_context(period: int, low: int, high: int, phases: int, finer: Fraction) -> None:
    """A network that reads exactly [start - low, stop + high) around each block: its flags give low and high back."""
    c = AxisContract(period * 2, finer, low, high, (0, 0), (0,), period * 2)
    (size,) = shape_for([c], 0)
    block = np.arange(c.output_size(size)) * finer.numerator // (finer.denominator * c.period) * c.period
    # Only the first and the last voxel of a block read all of it; those between read less, as phases do.
    first, last = np.roll(block, 1) != block, np.roll(block, -1) != block
    starts, stops = block - low * first, block + c.period + high * last
    shown = [seen_at(c, starts < cut, stops > cut, cut) for cut in cuts_for(c, size)]
    assert (max(s.low for s in shown), max(s.high for s in shown)) == (low, high)


class Thresholded(nn.Module):
    """NaN does not come out: its output is made of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).argmax(1, keepdim=True)


def test_where_nan_does_not_come_out_finite_changes_verify() -> None:
    found = receptive_field(Thresholded(), verify=True)
    assert found.context == ((2, 2), (2, 2))
    assert found.tight == (True, True)


def test_double_precision_is_verified_too() -> None:
    assert receptive_field(nets.EXACT["dilated"].make().double(), verify=True).tight == (True, True)


# --- kinds of networks ------------------------------------------------------------------------------------------------


@pytest.fixture
def unet() -> nn.Module:
    return nets.UNet(2, ((2, 2),)).eval()


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_torch_are_traced_and_verified(unet: nn.Module, tmp_path: Path) -> None:
    x, any_size = torch.zeros(1, 1, 16, 16), torch.export.Dim.DYNAMIC
    torch.jit.save(torch.jit.trace(unet, x), tmp_path / "net.pt")
    torch.export.save(torch.export.export(unet, (x,), dynamic_shapes=({2: any_size, 3: any_size},)), tmp_path / "n.pt2")
    whole = receptive_field(unet, verify=True)
    for path in (tmp_path / "net.pt", tmp_path / "n.pt2"):
        found = receptive_field(path, verify=True)
        assert found.context == whole.context
        assert found.period == whole.period
        assert found.tight == (True, True)


def test_channels_and_axes_come_from_the_first_convolution() -> None:
    found = receptive_field(nn.Sequential(nn.Conv2d(5, 4, 3, groups=1), nn.ReLU(), nn.Conv2d(4, 7, 1)))
    assert (found.channels_in, found.channels_out, len(found.axes)) == (5, 7, 2)
    with pytest.raises(ModelError, match="not known") as caught:
        receptive_field(nn.ReLU())
    assert len(caught.value.ways) == 2
    assert receptive_field(nn.ReLU(), channels=2, ndim=3).context == ((0, 0),) * 3


def test_a_first_convolution_that_misleads_says_what_to_state() -> None:
    net = nets.EXACT["pixel shuffle"].make()  # its convolution sees four channels, made of one
    with pytest.raises(ModelError, match="channels=1"):
        receptive_field(net)
    assert receptive_field(net, channels=1).exact


def test_a_size_can_be_given() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LayerNorm([2, 20, 34]))
    assert [a.smallest for a in receptive_field(net, size=(20, 34)).axes] == [20, 34]


# --- the answer -------------------------------------------------------------------------------------------------------


def test_the_answer_reads_well(unet: nn.Module) -> None:
    text = str(receptive_field(unet, verify=True))
    assert " ".join(text.splitlines()[1].split()) == "y 8 + 8 2 1 0 + 0 multiples of 2, from 2 8 + 8"
    assert "exact: tiles" in text
    assert "all of it is" in text
    assert "<td>8 + 8</td>" in receptive_field(unet)._repr_html_()
    refused = str(receptive_field(nets.REFUSED["instance norm"].make()))
    assert "unknown" in refused
    assert "encoders.0.1 (InstanceNorm3d)" in refused
    assert "more" in refused


@pytest.mark.parametrize(
    ("period", "residues", "words"),
    [
        (1, (0,), "from 9"),
        (2, (0, 1), "from 9"),
        (4, (0,), "multiples of 4, from 9"),
        (16, (12,), "from 9, 16 k + 12"),
        (4, (0, 3), "from 9, 4 k or 4 k + 3"),
        (32, tuple(range(0, 32, 2)), "from 9, 16 of 32 residues"),
    ],
)
def test_sizes_in_words(period: int, residues: tuple[int, ...], words: str) -> None:
    assert sizes(AxisContract(period, Fraction(1), 0, 0, (0, 0), residues, 9)) == words


def test_scale_and_crop() -> None:
    found = receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2.0)))
    assert found.scale == (2, 2)
    assert found.crop == ((1, 1), (1, 1))
    assert found.channels_in == found.channels_out == 1


# --- probing ----------------------------------------------------------------------------------------------------------


def as_function(net: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """The network with nothing to be seen of it."""

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            y = net(torch.from_numpy(x))
        return (next(iter(y.values())) if isinstance(y, dict) else y).numpy()

    return run


def assert_alike(probed: Any, traced: Any, more: int = 0) -> None:
    """A probe finds the traced contract, with its context rounded up to whole periods, and at most ``more`` added."""
    assert probed.how == "probed"
    assert probed.exact, probed.reasons
    for found, axis in zip(probed.axes, traced.axes, strict=True):
        assert dataclasses.replace(found, low=axis.low, high=axis.high) == axis
        for had, stated in ((found.low, axis.low), (found.high, axis.high)):
            rounded = -(-stated // axis.period) * axis.period
            assert rounded <= had <= rounded + more


PROBED_QUICK = ["even kernels, valid", "U-Net, valid", "super-resolution", "downsampling"]


@pytest.mark.parametrize(
    "name", [name if name in PROBED_QUICK else pytest.param(name, marks=slow) for name in nets.EXACT]
)
def test_probing_finds_what_tracing_finds(name: str) -> None:
    entry = nets.EXACT[name]
    probed = receptive_field(as_function(entry.make()), channels=entry.channels, ndim=entry.ndim)
    assert_alike(probed, receptive_field(entry.make(), channels=entry.channels, ndim=entry.ndim))
    assert "a read that none of them showed would be missed" in str(probed)


REFUSED_BECAUSE = {
    "instance norm": "every distance",
    "group norm": "every distance",
    "squeeze-excite": "every distance",
    "ASPP with image pooling": "every distance",
    "BatchNorm in train mode": "every distance",
    "circular padding": "every distance",
    "value read in Python": "every distance",
    "halves added": "every distance",
    "position embedding": "does not follow shifts",
    "align_corners": "does not follow shifts",
    "LayerNorm over space": "only at the size of 48 voxels",
    "slice assignment": "differs from the whole",
}
"""But for dropout, which is an error, and for attention, which costs a minute."""

REFUSED_QUICK = ["circular padding", "position embedding", "LayerNorm over space", "slice assignment"]


@pytest.mark.parametrize(
    "name",
    [name if name in REFUSED_QUICK else pytest.param(name, marks=slow) for name in REFUSED_BECAUSE],
)
def test_probing_refuses_what_is_not_exact(name: str) -> None:
    entry = nets.REFUSED[name]
    probed = receptive_field(as_function(entry.make()), channels=1, ndim=entry.ndim)
    assert not probed.exact
    assert REFUSED_BECAUSE[name] in probed.reasons[0]
    assert probed.context == ((0, 0),) * entry.ndim
    if name == "instance norm":
        assert probed.period == (2, 4, 4), "needed to run it blended"


def test_probing_refuses_what_is_random() -> None:
    with pytest.raises(ModelError, match="another result each time"):
        receptive_field(as_function(nn.Dropout(0.5)), channels=1, ndim=2)


def test_probing_says_at_which_sizes_nothing_runs() -> None:
    with pytest.raises(ModelError, match=r"does not run on .* at any size up to 199: mat1 and mat2"):
        receptive_field(as_function(nn.Sequential(nn.Flatten(), nn.Linear(7, 3))), channels=1, ndim=2)
    with pytest.raises(ModelError, match="not known"):
        receptive_field(as_function(nn.Conv2d(1, 1, 3)))


def test_a_constant_function_is_not_believed_to_read_nothing() -> None:
    found = receptive_field(lambda x: np.zeros_like(x), channels=1, ndim=2)
    assert "no change of the input changed the output" in found.reasons[0]


def test_a_function_that_writes_into_its_last_result_is_probed_rightly() -> None:
    net, held = nn.Conv2d(1, 1, 5, padding=2), {}

    def run(x: np.ndarray) -> np.ndarray:
        y = as_function(net)(x)
        held.setdefault(y.shape, y)[...] = y
        return held[y.shape]

    assert receptive_field(run, channels=1, ndim=2).context == ((2, 2), (2, 2))


# --- files of other frameworks ----------------------------------------------------------------------------------------


def exported(net: nn.Module, path: Path, ndim: int, fixed: int | None = None) -> Path:
    """A .onnx file of any size, or of a fixed one."""
    pytest.importorskip("onnx")
    axes = {i + 2: f"size{i}" for i in range(ndim)}
    torch.onnx.export(
        net, (torch.zeros(1, 1, *(fixed or 64,) * ndim),), path, dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes=None if fixed else {"x": axes},
    )  # fmt: skip
    return path


def converted(onnx: Path) -> Path:
    """The .xml file of a .onnx file."""
    openvino = pytest.importorskip("openvino")
    path = onnx.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    return path


quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.onnx")


@quiet
@pytest.mark.parametrize(
    "name", ["even kernels, valid", *(pytest.param(name, marks=slow) for name in ("strided", "U-Net, linear"))]
)
def test_onnx_files_are_probed(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    entry = nets.EXACT[name]
    path = exported(entry.make(), tmp_path / "net.onnx", entry.ndim)
    assert_alike(receptive_field(path), receptive_field(entry.make()))


@pytest.mark.slow
@quiet
@pytest.mark.parametrize(
    "name", ["even kernels, valid", *(pytest.param(name, marks=slow) for name in ("strided", "U-Net, linear"))]
)
def test_openvino_files_are_probed(name: str, tmp_path: Path) -> None:
    entry = nets.EXACT[name]
    path = converted(exported(entry.make(), tmp_path / "net.onnx", entry.ndim))
    assert_alike(receptive_field(path), receptive_field(entry.make()))


@quiet
def test_a_file_of_one_size_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = exported(nn.Conv2d(1, 2, 3, padding=1), tmp_path / "net.onnx", 2, fixed=20)
    found = receptive_field(path)
    assert "only at the size of 20 voxels" in found.reasons[0]
    assert [a.smallest for a in found.axes] == [20, 20]
    with pytest.raises(ModelError, match="takes 1 channels on 2 spatial axes, and 3 on 2"):
        receptive_field(path, channels=3)
    with pytest.raises(ModelError, match="cannot be read"):
        receptive_field(tmp_path / "none.onnx")


@pytest.mark.parametrize(("suffix", "module"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_missing_extra_says_what_to_install(
    suffix: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"")
    with pytest.raises(MissingExtra, match=f"pip install {module}"):
        receptive_field(path, channels=1, ndim=3)


@pytest.mark.parametrize(("suffix", "module"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_broken_file_is_an_error_with_ways_out(suffix: str, module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be opened") as caught:
        receptive_field(path, channels=1, ndim=3)
    assert len(caught.value.ways) == 2


# --- declared contracts -----------------------------------------------------------------------------------------------


class Unfolded(nn.Module):
    """A convolution k3 by an operator that the tracer has no rule for, at every second voxel's sampling and back."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fine = nn.Conv2d(9, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(x, 2)
        y = self.mix(F.unfold(y, 3, padding=1).reshape(1, 9, *y.shape[2:]))
        return self.fine(F.interpolate(y, scale_factor=2.0))


RIGHT = {"context": 2, "period": 2}


def test_a_declared_contract_is_believed_after_a_check() -> None:
    assert "im2col is not understood" in receptive_field(Unfolded(), channels=1).reasons[0]
    found = receptive_field(Unfolded(), channels=1, contract=RIGHT)
    assert (found.how, found.exact, found.context, found.period) == ("declared", True, ((2, 2), (2, 2)), (2, 2))
    assert found.tight == (True, True)
    assert "declared, and checked" in str(found)


@pytest.mark.parametrize(
    ("contract", "where"),
    [
        ({"context": (1, 2), "period": 2}, r"along axis 0, cut at voxel \d+ of \d+, a change reaches outputs 2 voxels"),
        ([RIGHT, {"context": (2, 1), "period": 2}], "along axis 1, cut at voxel"),
        ({"context": 4, "period": 1, "smallest": 8}, r"along axis 0, a tile of \d+ voxels at \d+ of \d+ differs"),
        ({"context": 2, "period": 2, "crop": 1}, "along axis 0, 24 voxels give 24 output voxels instead of 22"),
    ],
)
def test_a_declared_contract_that_real_runs_contradict_is_refused(contract: Any, where: str) -> None:
    with pytest.raises(ModelError, match=where):
        receptive_field(Unfolded(), channels=1, contract=contract)


def test_a_contract_that_promises_sizes_that_do_not_run(unet: nn.Module) -> None:
    with pytest.raises(ModelError, match="does not run at a size that it should take: Sizes of tensors must match"):
        receptive_field(unet, contract={"context": 8, "smallest": 9})


def test_a_contract_cannot_hide_that_the_result_depends_on_where_a_tile_lies() -> None:
    with pytest.raises(ModelError, match="along axis 1, a tile of"):
        receptive_field(nets.REFUSED["position embedding"].make(), contract={"context": 1})


def test_a_contract_cannot_hide_random_numbers() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ModelError, match="does not hold"):
        receptive_field(nets.REFUSED["channel dropout in train mode"].make(), contract={"context": 1})
    assert torch.equal(state, torch.get_rng_state())


def test_functions_can_declare_too() -> None:
    run = as_function(Unfolded())
    assert receptive_field(run, channels=1, ndim=2, contract=RIGHT).context == ((2, 2), (2, 2))
    with pytest.raises(ModelError, match="reaches outputs 2 voxels"):
        receptive_field(run, channels=1, ndim=2, contract={"context": 0, "period": 2})


@pytest.mark.parametrize(
    ("contract", "what"),
    [
        ({"contxt": 1}, "'contxt' is not one of context, period, scale, crop, residues, smallest"),
        ({"period": 2}, "it has no context"),
        ([{"context": 1}] * 3, "3 axes are declared, and the network has 2"),
        ({"context": -1}, "not possible"),
        ({"context": 1, "period": 2, "scale": "1/4"}, "not possible"),
        ({"context": "many"}, "cannot be read"),
    ],
)
def test_a_senseless_contract_says_what_is_wrong(contract: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        contracts_of(contract, 2)
    assert len(caught.value.ways) == 2


@given(
    st.integers(1, 9), st.integers(0, 30), st.integers(0, 30), st.integers(1, 3), st.tuples(*[st.integers(0, 5)] * 2)
)
def test_declared_forms_agree(period: int, low: int, high: int, scale: int, crop: tuple[int, int]) -> None:
    mapping = {"context": (low, high), "period": period, "scale": scale, "crop": crop}
    one, other = contracts_of(mapping, 2)
    assert one == other
    assert contracts_of(one, 1) == contracts_of([mapping], 1) == (one,)
    assert (one.low, one.high, one.period, one.stride, one.crop) == (low, high, period, Fraction(1, scale), crop)
    assert one.accepts(one.smallest)
    assert one.smallest > sum(crop)


def declaring(contract: Any) -> nn.Module:
    net = Unfolded().eval()
    net.tiling_contract = contract
    return net


def test_a_module_states_its_own_contract() -> None:
    found = receptive_field(declaring(RIGHT), channels=1)
    assert (found.how, found.exact, found.context) == ("declared", True, ((2, 2), (2, 2)))
    with pytest.raises(ModelError, match="does not hold"):
        receptive_field(declaring({"context": 1, "period": 2}), channels=1)


def test_a_module_that_the_tracer_follows_needs_no_word_of_its_own() -> None:
    net = nn.Conv2d(1, 1, 3, padding=1)
    net.tiling_contract = {"context": 40}
    found = receptive_field(net)
    assert (found.how, found.context) == ("traced", ((1, 1), (1, 1)))


def test_a_module_with_a_contract_of_its_own_is_run_exactly() -> None:
    import chunkinfer as ci

    net = declaring(RIGHT)
    image = np.random.default_rng(0).standard_normal((1, 64, 48)).astype(np.float32)
    lazy = ci.infer(image, net, patch=(16, 16), block=(24, 24))
    whole = as_function(net)(image[None])[0]
    np.testing.assert_allclose(lazy.compute(), whole, atol=1e-6)


# --- what noise does not show -----------------------------------------------------------------------------------------


def per_volume(run: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: np.stack([[run(channel) for channel in one] for one in x]).astype("f4")


def test_an_opening_reads_as_far_as_it_is_wide() -> None:
    from scipy import ndimage

    def opening(width: int) -> Callable[[Array], Array]:
        return per_volume(lambda c: ndimage.binary_opening(c > 0.2, np.ones((width, width))))

    for width in (3, 5):  # noise almost never holds a block so large, and looks as if nothing were read
        found = receptive_field(opening(width), channels=1, ndim=2)
        assert found.context == ((width - 1, width - 1),) * 2, found
        assert "exact, as far as probing shows" in str(found)


def test_a_distance_transform_is_refused() -> None:
    from scipy import ndimage

    found = receptive_field(per_volume(lambda c: ndimage.distance_transform_edt(c > 0.02)), channels=1, ndim=2)
    assert "at every distance" in found.reasons[0]


def test_running_sums_are_no_statistics_of_the_patch() -> None:
    from scipy import ndimage

    def unsharp(x: Array) -> Array:
        return x.astype("f8") * 2 - ndimage.uniform_filter(x.astype("f8"), (1, 1, 3, 3))

    assert receptive_field(unsharp, channels=1, ndim=2).context == ((1, 1), (1, 1))


def test_what_is_undefined_in_even_regions_is_no_influence() -> None:
    from scipy import ndimage

    def contrast(c: Array) -> Array:
        with np.errstate(all="ignore"):
            c = np.round(c * 8)  # whole numbers, whose sums are exact: even regions give 0 / 0
            mean = ndimage.correlate(c, np.ones((3, 3))) / 9
            return (c - mean) / np.abs(c - mean)

    assert receptive_field(per_volume(contrast), channels=1, ndim=2).context == ((1, 1), (1, 1))


def test_probes_are_drawn_from_the_volume_too() -> None:
    from scipy import ndimage

    import chunkinfer as ci

    # The threshold lies far from what any probe of its own would cross.
    far = per_volume(lambda c: ndimage.binary_erosion(c > 1000.5, np.ones((5, 5))))
    assert not receptive_field(far, channels=1, ndim=2).exact
    image = 1000 + np.random.default_rng(0).random((1, 60, 70)).astype("f4")
    volume = xr.DataArray(image, dims=("c", "y", "x"))
    made = ci.plan(volume, far, patch=(20, 20))
    assert made.context == ((2, 2), (2, 2))
    assert made.verdict.startswith("exact, as far as probing shows: equal to the network")
    np.testing.assert_array_equal(ci.infer(volume, far, patch=(20, 20)).values, far(image[None])[0])
