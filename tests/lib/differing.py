"""Networks that differ in one thing, which no repr and no state_dict need show; and functions of arrays likewise.

PYTHONHASHSEED=7 python tests/lib/differing.py     # their digests, as JSON, in a process of its own
"""

from __future__ import annotations

import enum
import functools
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Kind:
    """A thing in which networks differ."""

    build: Callable[[Any], Any]
    """Makes one with a value; always with the same weights."""
    values: tuple[Any, ...] = (1.0, 2.0, -3.0, 0.5, 7.0, 1.0000001)
    """Each gives another network."""

    def many(self, count: int) -> tuple[Any, ...]:
        """So many values, or all there are where they are no numbers."""
        if not isinstance(self.values[0], float):
            return self.values
        more = np.random.default_rng(0).uniform(-10, 10, max(count - len(self.values), 0)).tolist()
        return (*self.values[:count], *more)


class Base(nn.Module):
    """Two convolutions, and one number between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))

    def between(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.1)


class Times(Base):
    """Multiplies by what `factor` finds."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def between(self, x: Tensor) -> Tensor:
        return x * self.factor()

    def factor(self) -> Any:
        return self.value


class Way(enum.Enum):
    """A choice, as an attribute."""

    RELU = "relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"


def written(source: str, value: Any, name: str = "made") -> Any:
    """What a module of this source text defines as ``made``; ``VALUE`` in it stands for the value."""
    module = types.ModuleType("users")
    module.__dict__["Base"] = Base
    exec(compile(source.replace("VALUE", repr(value)), "users.py", "exec"), module.__dict__)
    return module.__dict__[name]


def _module(source: str) -> Callable[[Any], nn.Module]:
    head = "import torch\nfrom torch import nn\n"
    return lambda value: written(head + source, value)().eval()


def _hooked(register: str) -> Callable[[Any], nn.Module]:
    def build(value: float) -> nn.Module:
        net = Base()
        if register == "register_forward_pre_hook":
            net.a.register_forward_pre_hook(lambda _, inputs: (inputs[0] * value,))
        else:
            net.a.register_forward_hook(lambda _, __, output: output * value)
        return net

    return build


def _patched(value: float) -> nn.Module:
    net = Base()
    net.forward = types.MethodType(lambda self, x: Base.forward(self, x) * value, net)  # type: ignore[method-assign]
    return net


def _buffer(persistent: bool) -> Callable[[Any], nn.Module]:
    def build(value: float) -> nn.Module:
        net = Times()
        net.register_buffer("value", torch.full((1, 2, 1, 1, 1), value), persistent=persistent)
        return net

    return build


def _weights(value: float) -> nn.Module:
    net = Base()
    with torch.no_grad():
        net.a.weight[0, 0, 0, 0, 0] = value
    return net


def _parametrised(value: float) -> nn.Module:
    class Scaled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * value

    net = Base()
    torch.nn.utils.parametrize.register_parametrization(net.a, "weight", Scaled())
    return net


def _weight_norm(value: float) -> nn.Module:
    net = Base()
    nn.utils.parametrizations.weight_norm(net.a)
    with torch.no_grad():
        net.a.parametrizations.weight.original0.fill_(value)
    return net


def _ordered(names: tuple[str, ...]) -> nn.Module:
    layers = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}
    net = Base()
    net.b = nn.Sequential(OrderedDict((name, layers[name]) for name in names))
    return net


def _last(layer: Callable[[Any], nn.Module]) -> Callable[[Any], nn.Module]:
    def build(value: Any) -> nn.Module:
        net = Base()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            net.b = layer(value)
        return net.eval()

    return build


def _in_closure(value: float) -> nn.Module:
    inner = _weights(value)

    class Outer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x)

    return Outer().eval()


def _subclass(value: float) -> nn.Module:
    class Changed(Base):
        def between(self, x: Tensor) -> Tensor:
            return x * value

    return Changed()


def _compiled(value: float) -> Any:
    return torch.compile(_weights(value))


def _exported(value: float) -> Any:
    return torch.export.export(_subclass(value), (torch.zeros(1, 1, 8, 8, 8),), strict=False).module()


def _enumerated(value: Way) -> nn.Module:
    class Net(Base):
        def __init__(self) -> None:
            super().__init__()
            self.way = value

        def between(self, x: Tensor) -> Tensor:
            return getattr(torch, self.way.value)(x)  # type: ignore[no-any-return]

    return Net()


def _own_gradient(value: float) -> nn.Module:
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * value

    class Net(Base):
        def between(self, x: Tensor) -> Tensor:
            return Scale.apply(x)

    return Net()


def _autocast(value: bool) -> nn.Module:
    class Net(Base):
        def between(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=value):
                return self.b(x).float()

    return Net()


NETWORKS = {
    "weights": Kind(_weights),
    "persistent buffer": Kind(_buffer(True)),
    "non-persistent buffer": Kind(_buffer(False)),
    "float attribute": Kind(lambda v: Times(value=v)),
    "numpy array as attribute": Kind(lambda v: Times(value=np.float32(v))),
    "tensor as attribute": Kind(lambda v: Times(value=torch.tensor(v))),
    "tensor read by item()": Kind(_module("class made(Base):\n  def __init__(s):\n    super().__init__(); s.v = "
                                          "torch.tensor(VALUE)\n  def between(s, x): return x * s.v.item()")),
    "tensor in a list": Kind(_module("class made(Base):\n  def __init__(s):\n    super().__init__(); s.v = [torch."
                                     "tensor(VALUE)]\n  def between(s, x): return x * s.v[0]")),
    "tensor in a dict": Kind(_module("class made(Base):\n  def __init__(s):\n    super().__init__(); s.v = {'k': torch."
                                     "tensor(VALUE)}\n  def between(s, x): return x * s.v['k']")),
    "tuple attribute": Kind(_module("class made(Base):\n  def __init__(s):\n    super().__init__(); s.v = (1, VALUE)\n"
                                    "  def between(s, x): return x * s.v[1]")),
    "string attribute": Kind(_module("class made(Base):\n  def __init__(s):\n    super().__init__(); s.v = VALUE\n"
                                     "  def between(s, x): return getattr(torch, s.v)(x)"), ("relu", "tanh", "abs")),
    "enum attribute": Kind(_enumerated, tuple(Way)),
    "code of forward": Kind(_module("class made(Base):\n  def forward(s, x): return s.b(torch.VALUE(s.a(x)))"
                                    .replace("VALUE", "__dict__[VALUE]")), ("relu", "tanh", "sigmoid", "sin", "abs")),
    "global": Kind(_module("SCALE = VALUE\nclass made(Base):\n  def between(s, x): return x * SCALE")),
    "default argument": Kind(_module("class made(Base):\n  def between(s, x, by=VALUE): return x * by")),
    "called function": Kind(_module("def scale(x): return x * VALUE\nclass made(Base):\n"
                                    "  def between(s, x): return scale(x)")),
    "forward hook": Kind(_hooked("register_forward_hook")),
    "forward pre-hook": Kind(_hooked("register_forward_pre_hook")),
    "patched method": Kind(_patched),
    "closure": Kind(_subclass),
    "module in a closure": Kind(_in_closure),
    "subclass override": Kind(lambda v: Base() if v == 1.0 else _subclass(v)),
    "custom autograd function": Kind(_own_gradient),
    "autocast inside": Kind(_autocast, (True, False)),
    "dtype": Kind(lambda v: Base().to(v), (torch.float32, torch.float64)),
    "parametrisation": Kind(_parametrised),
    "weight norm": Kind(_weight_norm),
    "order of layers": Kind(_ordered, (("relu", "tanh", "sigmoid"), ("tanh", "relu", "sigmoid"),
                                       ("sigmoid", "relu", "tanh"))),
    "activation's parameter": Kind(_last(nn.LeakyReLU)),
    "padding mode": Kind(_last(lambda v: nn.Conv3d(2, 2, 3, padding=1, padding_mode=v)),
                         ("zeros", "reflect", "replicate", "circular")),
    "dilation": Kind(_last(lambda v: nn.Conv3d(2, 2, 3, padding=v, dilation=v)), (1, 2, 3)),
    "eps of a normalisation": Kind(_last(lambda v: nn.BatchNorm3d(2, eps=v)), (1e-5, 1e-3, 0.1)),
    "interpolation": Kind(_last(lambda v: nn.Upsample(scale_factor=2, mode=v)), ("nearest", "trilinear")),
    "branch on the size": Kind(_module("class made(Base):\n  def between(s, x): return x * VALUE if x.shape[-1] < 20 "
                                       "else x")),
    "scripted submodule": Kind(_last(lambda v: torch.jit.script(nn.LeakyReLU(v)))),
    "compiled by torch.compile": Kind(_compiled),
    "torch.export's module": Kind(_exported, (1, 2, 3)),
    "train mode": Kind(lambda v: _last(lambda _: nn.BatchNorm3d(2))(0).train(v), (True, False)),
    "reads voxels in Python": Kind(_module("class made(Base):\n  def between(s, x): return x * (VALUE if x.max() > 0 "
                                           "else 1.5)")),
    "leaves torch": Kind(_module("import numpy as np\nclass made(Base):\n  def between(s, x): return torch.from_numpy("
                                 "np.clip(x.numpy(), -VALUE, 9))")),
    "leaves torch, called function": Kind(_module(
        "import numpy as np\ndef low(x): return np.maximum(x, VALUE)\nclass made(Base):\n"
        "  def between(s, x): return torch.from_numpy(low(x.numpy()))")),
}  # fmt: skip
"""What torch modules differ in -> how."""


class Called:
    """An object that is called with arrays."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, x: Any) -> Any:
        return x * self.value

    def method(self, x: Any) -> Any:
        return self(x)


def _function(source: str) -> Callable[[Any], Any]:
    return lambda value: written("import functools\nimport numpy as np\n" + source, value)


def _enclosing(value: Any) -> Callable[[Any], Any]:
    return lambda x: x * value


def _scaled(x: Any, by: Any) -> Any:
    return x * by


FUNCTIONS = {
    "constant": Kind(_function("def made(x): return x * VALUE")),
    "operator": Kind(lambda v: written(f"def made(x): return x {v} 2", 0), ("+", "-", "*", "/")),
    "global of a function": Kind(_function("K = VALUE\ndef made(x): return x * K")),
    "array as global": Kind(_function("K = np.full(3, VALUE)\ndef made(x): return x * K[0]")),
    "set constant": Kind(_function("def made(x): return x * (VALUE if len(str(x)) in {1, 2, 3} else 1)")),
    "default": Kind(_function("def made(x, k=VALUE): return x * k")),
    "keyword default": Kind(_function("def made(x, *, k=VALUE): return x * k")),
    "callee": Kind(_function("def f(x): return x * VALUE\ndef made(x): return f(x)")),
    "callee's callee, by mutual recursion": Kind(_function(
        "def f(x, n): return g(x, n - 1) if n else x * VALUE\ndef g(x, n): return f(x, n)\n"
        "def made(x): return f(x, 2)")),
    "function inside": Kind(_function("def made(x):\n  def f(y): return y * VALUE\n  return f(x)")),
    "closure of a function": Kind(_enclosing),
    "array in a closure": Kind(lambda v: _enclosing(np.full((2, 2), v))),
    "tensor in a closure": Kind(lambda v: _enclosing(torch.full((2, 2), v))),
    "module in a closure of a function": Kind(lambda v: _enclosing(_weights(v))),
    "partial": Kind(lambda v: functools.partial(_scaled, by=v)),
    "callable object": Kind(Called),
    "bound method": Kind(lambda v: Called(v).method),
    "decorated": Kind(_function("def by(k):\n  def wrap(f):\n    @functools.wraps(f)\n    def inner(x): return f(x) * k"
                                "\n    return inner\n  return wrap\n@by(VALUE)\ndef made(x): return x")),
    "class in it": Kind(_function("class C:\n  k = VALUE\n  def f(self, x): return x * self.k\n"
                                  "def made(x): return C().f(x)")),
    "inherited": Kind(_function("class B:\n  def __call__(self, x): return x * VALUE\nclass C(B): pass\nmade = C()")),
    "property": Kind(_function("class C:\n  @property\n  def k(self): return VALUE\n  def __call__(self, x): "
                               "return x * self.k\nmade = C()")),
    "dict in a default": Kind(_function("def made(x, k={'a': VALUE, 'b': {'c', 'd'}}): return x * k['a']")),
    "cached": Kind(_function("@functools.cache\ndef k(): return VALUE\ndef made(x): return x * k()")),
}  # fmt: skip
"""What functions of arrays differ in -> how."""


def digests(count: int = 6) -> dict[str, list[str]]:
    """The digests of so many of each kind."""
    from chunkinfer.networks.model import open_model

    return {
        name: [open_model(kind.build(value)).digest for value in kind.many(count)]
        for name, kind in {**NETWORKS, **FUNCTIONS}.items()
    }


if __name__ == "__main__":
    json.dump(digests(*map(int, sys.argv[1:])), sys.stdout)
