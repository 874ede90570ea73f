"""What a network is: other networks have other digests, the same network has the same one in every process, and each
has its own results."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import ModelError, SettingsDiffer
from chunkinfer.networks.identity import shippable
from chunkinfer.networks.identity.copying import full_copy
from chunkinfer.networks.model import open_model
from tests.lib import differing
from tests.lib.differing import FUNCTIONS, NETWORKS, Base, Called, Times, written

VOLUME = np.random.default_rng(0).random((18, 20, 17), np.float32)


def whole(net: nn.Module) -> Any:
    with torch.no_grad():
        return net(torch.from_numpy(VOLUME)[None, None])[0].numpy()


def of(net: Any) -> Any:
    return np.asarray(ci.infer(VOLUME, net, patch=14))


@pytest.mark.parametrize("name", [*NETWORKS, *FUNCTIONS])
def test_one_thing_makes_another_digest(name: str) -> None:
    kind = {**NETWORKS, **FUNCTIONS}[name]
    found = [open_model(kind.build(value)) for value in kind.values]
    assert len({model.digest for model in found}) == len(kind.values)
    assert [model.doubt for model in found] == [None] * len(found)
    assert [open_model(kind.build(value)).digest for value in kind.values[:2]] == [m.digest for m in found[:2]]


@pytest.mark.slow
@pytest.mark.smoke
def test_every_process_has_the_same_digests() -> None:
    paths = os.pathsep.join([str(Path(differing.__file__).parents[2]), *sys.path])
    for seed in ("1", "4242"):
        command = [sys.executable, "-W", "ignore", differing.__file__]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        said = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
        assert json.loads(said) == differing.digests()


@pytest.mark.parametrize("name", ["weights", "non-persistent buffer", "forward pre-hook", "patched method", "global"])
def test_each_network_has_its_own_result(name: str) -> None:
    build = NETWORKS[name].build
    for net in (build(1.0), build(-3.0), build(1.0)):
        np.testing.assert_allclose(of(net), whole(net), atol=1e-5)


def test_a_cast_or_a_pickle_is_the_same_network() -> None:
    net = Base()
    digest = open_model(net).digest
    assert open_model(copy.deepcopy(net)).digest == digest
    assert open_model(cloudpickle.loads(cloudpickle.dumps(net))).digest == digest
    assert (
        open_model(torch.jit.script(nn.Sequential(net.a, net.b))).digest
        == open_model(nn.Sequential(net.a, net.b).eval()).digest
    )


def test_a_module_is_left_as_it_was() -> None:
    class Keeps(Base):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []
            self.last: Tensor | None = None
            self.norm = nn.BatchNorm3d(2)  # in train mode it counts what it sees

        def between(self, x: Tensor) -> Tensor:
            self.seen.append(x)
            self.last = x
            self.a.weight.data.mul_(2)
            return self.norm(x)

    net = Keeps()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = open_model(net)
    model.program((1, 1, 14, 14, 14), "float32")
    for module in (net, model.module_on("cpu")):
        assert (module.seen, module.last) == ([], None)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# ---- a module is a value from infer on ------------------------------------------------------------------------------


def test_checkpoints_in_a_loop_into_one_module() -> None:
    net, lazy, expected = Base(), [], []
    for factor in (1.0, -2.0, 3.0):
        net.load_state_dict({name: tensor * factor for name, tensor in Base().state_dict().items()})
        lazy.append(ci.infer(VOLUME, net, patch=14))
        expected.append(whole(net))
    for result, values in zip(lazy, expected, strict=True):
        np.testing.assert_allclose(np.asarray(result), values, atol=1e-5)


@pytest.mark.parametrize("copied", [True, False])
def test_a_fresh_module_with_the_weights_of_one_that_was_trained_on(
    copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shippable, "COPIED", shippable.COPIED if copied else 0)
    net = Base()
    for _ in range(2):
        np.testing.assert_allclose(of(net), whole(net), atol=1e-5)
        with torch.no_grad():
            net.a.weight.mul_(3)
    fresh = Base()
    np.testing.assert_allclose(of(fresh), whole(fresh), atol=1e-5)


@pytest.mark.parametrize("computed_before", [False, True])
def test_a_large_module_is_refused_once_it_was_changed(computed_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shippable, "COPIED", 0)
    net = Base()
    result, kept = ci.infer(VOLUME, net, patch=14), ci.infer(VOLUME, copy.deepcopy(net), patch=14)
    expected = whole(net)
    if computed_before:
        np.testing.assert_allclose(np.asarray(result), expected, atol=1e-5)
    with torch.no_grad():
        net.b.bias.add_(1)
    with pytest.raises(ModelError, match="Base was changed since infer"):
        result.compute()
    np.testing.assert_allclose(np.asarray(kept), expected, atol=1e-5)  # the two ways out
    np.testing.assert_allclose(of(net), whole(net), atol=1e-5)


def test_what_cannot_be_copied_is_refused_once_it_was_changed() -> None:
    held = [2.0]

    class Net(Base):
        def between(self, x: Tensor) -> Tensor:
            return x * held[0]

    result = ci.infer(VOLUME, Net(), patch=14)
    function = ci.infer(VOLUME, lambda x: x * held[0], patch=14)
    held[0] = 5.0
    for lazy in (result, function):
        with pytest.raises(ModelError, match="was changed since infer"):
            lazy.compute()


def test_no_copy_outlives_its_results(tmp_path: Path) -> None:
    """A loop over checkpoints would fill the memory with them."""
    copies: list[weakref.ref[nn.Module]] = []

    def noted(given: nn.Module) -> nn.Module:
        made = full_copy(given)
        copies.append(weakref.ref(made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shippable, "full_copy", noted)
        for engine in ("torch", "torchscript"):
            net = Base()
            ci.plan(VOLUME, net, patch=14, engine=engine)
            of(net)
            ci.save(ci.infer(VOLUME, net, patch=14, engine=engine), tmp_path / engine, progress=False)
    del net
    gc.collect()
    assert len(copies) >= 6
    assert [copy() for copy in copies] == [None] * len(copies)


def test_another_version_of_the_source_in_a_worker_is_refused_by_name() -> None:
    source = "from torch import nn\nclass made(Base):\n  def between(s, x): return x * VALUE"
    for value in (1.0, 2.0):
        written(source, value)
    model = open_model(written(source, 1.0)())
    arrived = copy.copy(model)
    assert arrived.module is not None
    arrived.module.__setstate__(cloudpickle.dumps(written(source, 2.0)()))
    with pytest.raises(ModelError, match="made is another network in this process"):
        arrived.check()


# ---- finished blocks, compiled networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("complete", [True, False])
def test_the_output_of_another_network_is_not_taken_for_finished(complete: bool, tmp_path: Path) -> None:
    output, build = tmp_path / "out.zarr", NETWORKS["non-persistent buffer"].build
    ci.save(ci.infer(VOLUME, build(1.0), patch=14, block=10), output, progress=False)
    if not complete:
        (ledger,) = (output / ".chunkinfer").glob("done-*")
        ledger.unlink()
    with pytest.raises(SettingsDiffer) as caught:
        ci.save(ci.infer(VOLUME, build(7.0), patch=14, block=10), output, progress=False)
    digests = [open_model(build(value)).digest for value in (1.0, 7.0)]
    assert f"model.digest: stored {digests[0]}, asked {digests[1]}" in str(caught.value)
    report = ci.save(ci.infer(VOLUME, build(1.0), patch=14, block=10), output, progress=False)
    assert bool(report.computed) != complete
    np.testing.assert_allclose(ci.open_volume(output).values, whole(build(1.0)), atol=1e-5)


def test_networks_that_part_ways_only_at_the_patch_are_two_runs(tmp_path: Path) -> None:
    source = (
        "from torch import nn\nclass made(Base):\n  def between(s, x): return x * (VALUE if x.shape[-1] == 14 else 1)"
    )
    nets = [written(source, value)().eval() for value in (1.0, 2.0)]
    assert open_model(nets[0]).digest == open_model(nets[1]).digest  # at the sizes that tell a network from another
    results = [ci.infer(VOLUME, net, patch=14, overlap=4) for net in nets]  # exact, such networks are refused
    ci.save(results[0], tmp_path / "out.zarr", progress=False)
    with pytest.raises(SettingsDiffer, match="programs"):
        ci.save(results[1], tmp_path / "out.zarr", progress=False)
    assert not np.array_equal(*map(np.asarray, results))


def _edited(function: str) -> nn.Module:
    net: nn.Module = written(
        f"import torch\nclass made(Base):\n  def forward(s, x): return s.b(torch.{function}(s.a(x)))", 0
    )()
    return net.eval()


@pytest.mark.parametrize("engine", ["torchscript", "openvino", "onnxruntime"])
def test_a_compiled_network_is_not_taken_for_another(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chunkinfer.networks.engines import opening

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in ("relu", "tanh", "relu"):
        opening._open.clear()  # as in another process: only what is on disk is left
        net = _edited(function)
        np.testing.assert_allclose(
            np.asarray(ci.infer(VOLUME, net, patch=14, engine=engine)), whole(net), atol=1e-4, err_msg=function
        )
    kept = [path for path in (tmp_path / "chunkinfer" / "compiled" / engine).iterdir() if any(path.iterdir())]
    assert len(kept) == 2


def test_what_has_no_program_leaves_no_compiled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(Base):
        def between(self, x: Tensor) -> Tensor:
            return x * (1.0 if not x.is_meta and x.isnan().any() else 2.0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = Net()
    result = ci.infer(VOLUME, net, patch=14, engine="torchscript", overlap=4)
    assert result.compute().shape == (2, *VOLUME.shape)
    assert not list(tmp_path.rglob("network*"))


# ---- what cannot be told ---------------------------------------------------------------------------------------------


class Locked(Called):
    """A function whose state nobody can look into."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.lock = threading.Lock()


def test_what_cannot_be_told_is_resumed_under_a_version_only(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    function = Locked(2.0)
    assert "not resumable: " in str(ci.plan(VOLUME, function, patch=14))
    assert "the state of a lock" in str(ci.plan(VOLUME, function, patch=14))
    ci.save(ci.infer(VOLUME, function, patch=14), output, progress=False)
    with pytest.raises(SettingsDiffer, match="cannot be told: its code leads to the state of a lock") as caught:
        ci.save(ci.infer(VOLUME, function, patch=14), output, progress=False)
    assert 'infer(volume, model, version="v1"), url, overwrite=True' in str(caught.value)
    assert "not resumable" not in str(ci.plan(VOLUME, function, patch=14, version="v1"))
    ci.save(ci.infer(VOLUME, function, patch=14, version="v1"), output, overwrite=True, progress=False)
    again = ci.save(ci.infer(VOLUME, function, patch=14, version="v1"), output, progress=False)
    assert again.computed == 0
    for other, version in ((function, "v2"), (Locked(3.0), "v1")):
        with pytest.raises(SettingsDiffer, match="digest"):
            ci.save(ci.infer(VOLUME, other, patch=14, version=version), output, progress=False)
    with pytest.raises(ModelError, match="no name of a version"):
        ci.infer(VOLUME, function, patch=14, version=3)  # type: ignore[call-overload]


def test_a_version_is_kept_with_the_output(tmp_path: Path) -> None:
    source, output = str(tmp_path / "em.zarr"), tmp_path / "out.zarr"
    ci.save(VOLUME, source, progress=False)
    function = Locked(2.0)
    ci.save(ci.infer(ci.open_volume(source), function, patch=14, version="v1"), output, progress=False)
    (ledger,) = (output / ".chunkinfer").glob("done-*")
    ledger.unlink()
    report = ci.save(ci.infer(ci.open_volume(source), function, patch=14, version="v1"), output, progress=False)
    assert report.computed > 0
    assert not ci.audit(output, ci.open_volume(source), function).findings
    assert [f.kind for f in ci.audit(output, ci.open_volume(source), Locked(3.0)).findings][:1] == ["model"]


def test_operators_of_ones_own_cannot_be_told() -> None:
    library = torch.library.Library("ownops", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")

    class Net(Base):
        def between(self, x: Tensor) -> Tensor:
            return torch.ops.ownops.twice(x)

    doubt = open_model(Net()).doubt
    assert doubt is not None
    assert "the operator ownops::twice" in doubt
    library._destroy()


@pytest.mark.parametrize(
    ("net", "says"),
    [(nn.LazyConv3d(2, 3), "is lazy, and never ran"), (nn.Conv3d(1, 1, 3, device="meta"), "meta device")],
)
def test_a_network_without_values_is_refused(net: nn.Module, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        open_model(net)


def test_activations_and_scalings_are_known_by_what_they_refer_to() -> None:
    settings = []
    for value in (1.0, 2.0):
        scale = written("def f(x): return x * VALUE\ndef made(x): return f(x)", value)
        for name in ("activation", "normalize"):
            plan = ci.plan(VOLUME, Times(value=1.0), patch=14, **{name: scale})
            settings.append(json.dumps(plan.settings()))
    assert len(set(settings)) == 4
