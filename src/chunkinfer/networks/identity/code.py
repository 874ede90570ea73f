"""What a Python object does, as a digest: the code that it can reach, and the values that this code refers to.

Code of the user's own is read; libraries that are installed count by name and version. The digest is the same in every
process: nothing of it comes from an address, a file's place or the order of a set. What it cannot tell (compiled
extensions, objects with a state of their own kind) it names.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from chunkinfer.networks.identity.contents import Contents

_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice,
    torch.dtype, torch.layout, torch.memory_format, torch.Size, np.dtype, np.generic, PurePath, re.Pattern,
)  # fmt: skip
"""Types whose repr says all of a value."""

_DYNAMIC = frozenset(["eval", "exec", "compile", "open", "__import__", "import_module", "input", "globals", "vars"])
"""Builtins by which code reaches what reading it doesn't show."""

_INSTALLED = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)

_OF_CLASSES = frozenset(
    ["__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__", "_abc_impl",
     "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__",
     "__parameters__", "__orig_bases__", "__dataclass_params__", "__slotnames__"]
)  # fmt: skip
"""Attributes of classes that change nothing that they compute."""


@dataclass(frozen=True)
class Code:
    """The digest of an object, and what it leaves out."""

    digest: str
    unknown: tuple[str, ...]
    """What could not be told; empty if the digest says everything."""


def code_of(value: Any, contents: Contents | None = None) -> Code:
    """What an object does, from the code that it reaches and the values it refers to.

    Parameters
    ----------
    value
        A function, a class, a module of torch, or anything that these refer to.
    contents
        Gives digests of tensors.
    """
    reader = _Reader(contents or Contents())
    try:
        digest = reader.of(value)
    except RecursionError:
        digest = _digest("deep", type(value).__name__)
        reader.unknown.append(f"a {type(value).__name__} that is nested too deeply")
    return Code(digest, tuple(dict.fromkeys(reader.unknown)))


class _Reader:
    """Digests of objects, each from those of what it refers to."""

    def __init__(self, contents: Contents) -> None:
        self.unknown: list[str] = []
        self._contents = contents
        # Identities are only unique among living objects, so the objects are kept.
        self._known: dict[int, tuple[Any, str]] = {}
        self._open: dict[int, int] = {}

    def of(self, value: Any) -> str:
        """The digest of a value; of one that refers to itself, how far up it is."""
        if isinstance(value, _PLAIN) and type(value).__module__ in ("builtins", "torch", "numpy", "pathlib", "re"):
            return _digest(type(value).__name__, value.hex() if type(value) is float else repr(value))
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:
            return _digest("above", str(len(self._open) - self._open[id(value)]))
        self._open[id(value)] = len(self._open)
        try:
            found = _digest(*self._parts(value))
        finally:
            del self._open[id(value)]
        self._known[id(value)] = value, found
        return found

    def _parts(self, value: Any) -> Iterator[str]:
        """The digests that make up the value's own."""
        if isinstance(value, torch.Tensor):
            yield from ("tensor", self._contents.digest(value))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield from ("array", str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest())
        elif isinstance(value, enum.Enum):
            yield from ("enum", type(value).__qualname__, value.name, self.of(value.value))
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.ModuleType):
            yield from ("module", *self._named(value, value.__name__))
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            yield from self._operator(value)
        elif isinstance(
            value, types.BuiltinFunctionType | np.ufunc | types.MethodDescriptorType | types.WrapperDescriptorType
        ):
            yield from self._builtin(value)
        else:
            yield from self._object(value)

    # ---- functions and classes ----------------------------------------------------------------------------------

    def _function(self, function: Any) -> Iterator[str]:
        if installed(function.__globals__.get("__file__"), function.__module__):
            yield from ("function", function.__qualname__, *self._named(function, function.__module__))
            if function.__closure__ is None:
                return
        yield from (
            "function",
            self.of(function.__code__),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
        )
        yield self.of({k: v for k, v in vars(function).items() if k != "__wrapped__"})
        for cell in function.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # not filled yet
                yield "empty"
            else:
                yield self.of(held)
        yield from self._globals(function)

    def _globals(self, function: Any) -> Iterator[str]:
        """What the code refers to by name, as far as it leads to the user's own code."""
        used = _used(function.__code__)
        modules = []
        for name in used.names:
            if name in function.__globals__:
                value = function.__globals__[name]
                modules += [value] if isinstance(value, types.ModuleType) else []
                yield from (name, self.of(value))
            elif name in _DYNAMIC and hasattr(builtins, name):
                self.unknown.append(f"{function.__qualname__} calls {name}()")
        if torch in modules and "ops" in used.attributes:
            self.unknown.append(f"{function.__qualname__} takes an operator of torch.ops")
        for name in used.imports:
            found = _imported(name, function.__globals__.get("__package__") or "")
            modules += [found] if found is not None else []
            if found is None and not _installable(name):
                self.unknown.append(f"{function.__qualname__} imports {name}")
        for module in {id(m): m for m in modules}.values():
            if not installed(getattr(module, "__file__", None), module.__name__):
                for name in used.attributes:  # what is taken from the user's own modules is known by name too
                    if name in vars(module):
                        yield from (name, self.of(vars(module)[name]))

    def _code(self, code: types.CodeType) -> Iterator[str]:
        arguments = code.co_argcount + code.co_kwonlyargcount
        yield from ("code", code.co_code.hex(), " ".join(code.co_names), " ".join(code.co_varnames[:arguments]))
        yield f"{code.co_argcount} {code.co_kwonlyargcount} {code.co_posonlyargcount} {code.co_flags}"
        yield from map(self.of, code.co_consts)
        yield getattr(code, "co_exceptiontable", b"").hex()

    def _class(self, kind: type) -> Iterator[str]:
        if installed(getattr(sys.modules.get(kind.__module__), "__file__", None), kind.__module__):
            yield from ("class", kind.__qualname__, *self._named(kind, kind.__module__))
            return
        yield from ("class", kind.__name__)
        yield from map(self.of, kind.__bases__)
        yield self.of(type(kind)) if type(kind) is not type else "type"
        for name, value in sorted(vars(kind).items()):
            if name not in _OF_CLASSES and not isinstance(
                value, types.GetSetDescriptorType | types.MemberDescriptorType
            ):
                yield from (name, self.of(value))

    def _operator(self, value: Any) -> Iterator[str]:
        name = str(value)
        yield from ("operator", name, torch.__version__)
        if not name.startswith(("aten.", "prims.")):
            self.unknown.append(f"the operator {name}")

    def _builtin(self, value: Any) -> Iterator[str]:
        owner = getattr(value, "__self__", None)
        module = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
        yield from ("builtin", getattr(value, "__qualname__", value.__name__))
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            yield self.of(owner)
        elif isinstance(value, np.ufunc):
            yield f"numpy {np.__version__}"
        elif module is not None:
            yield from self._named(value, module)

    def _named(self, value: Any, module: str) -> Iterator[str]:
        """A thing by its name, with the version of what it is installed with."""
        found = sys.modules.get(module)
        if installed(getattr(found, "__file__", None), module):
            yield f"{module} {_version(module.partition('.')[0])}"
        elif not isinstance(value, types.ModuleType):
            self.unknown.append(f"{getattr(value, '__name__', module)} of the compiled module {module}")

    # ---- objects ------------------------------------------------------------------------------------------------

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        if isinstance(value, list | tuple) and kind in (list, tuple):
            yield from (kind.__name__, *map(self.of, value))
        elif kind in (set, frozenset):
            yield from (kind.__name__, *sorted(map(self.of, value)))
        elif kind is dict or isinstance(value, types.MappingProxyType):
            yield from ("dict", *self._items(value))
        elif isinstance(value, types.MethodType):
            yield from ("method", self.of(value.__func__), self.of(value.__self__))
        elif isinstance(value, functools.partial):
            yield from ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        elif isinstance(value, property | functools.cached_property | staticmethod | classmethod):
            names = ("fget", "fset", "fdel", "func", "__func__")
            yield from (kind.__name__, *(self.of(getattr(value, name, None)) for name in names))
        elif isinstance(value, torch.device):
            yield from ("device", "accelerator" if value.type != "cpu" else "cpu")
        elif isinstance(value, torch.nn.Module) and not isinstance(value, torch.jit.ScriptModule):
            yield from ("network", self.of(kind), *self._items(_state(value)))
        elif isinstance(value, torch.jit.ScriptModule):
            yield from self._script(value)
        elif isinstance(value, torch.ScriptObject) and hasattr(value, "__getstate__"):  # packed weights, quantised
            yield from ("packed", str(value._type()), self.of(value.__getstate__()))
        elif callable(inner := getattr(value, "py_func", None) or getattr(value, "__wrapped__", None)):
            yield from (kind.__name__, self.of(kind), self.of(inner))  # numba's functions, functools.cache's
        else:
            yield from self._reduced(value)

    def _script(self, value: torch.jit.ScriptModule) -> Iterator[str]:
        """TorchScript: its graph, and the attributes that this reads; names of classes count up in a process."""
        graph = re.sub(r"___torch_mangle_\d+\.?", "", value.inlined_graph.str(False))  # type: ignore[attr-defined]
        yield from ("script", graph)
        for name in sorted(set(re.findall(r'GetAttr\[name="(\w+)"\]', graph))):
            for path, part in value.named_modules():
                if part._c.hasattr(name) and not isinstance(held := part._c.getattr(name), torch._C.ScriptModule):
                    yield from (f"{path}.{name}", self.of(held))

    def _items(self, table: Mapping[Any, Any]) -> Iterator[str]:
        for key, value in table.items():  # in their order, which matters to layers
            yield from (self.of(key), self.of(value))

    def _reduced(self, value: Any) -> Iterator[str]:
        """As it would be pickled, taken apart."""
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # whatever a class raises that does not pickle
            parts = None
        if parts is None or (isinstance(parts, tuple) and parts[0] is None):
            self.unknown.append(f"the state of a {type(value).__name__}")
            yield from ("unknown", type(value).__qualname__)
            return
        if isinstance(parts, str):
            yield from ("global", parts, *self._named(value, getattr(value, "__module__", "")))
            return
        yield from ("object", self.of(type(value)))
        for part in parts:
            yield self.of(list(part) if isinstance(part, Iterator) else part)


def _state(module: torch.nn.Module) -> dict[str, Any]:
    """What a module holds; hooks are known by numbers that count up in a process."""
    state = {k: v for k, v in vars(module).items() if k not in ("__weakref__", "_compiled_call_impl")}
    for name, value in state.items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(value, dict):
            state[name] = list(value.values())
    return state


@dataclass(frozen=True)
class _Used:
    """Names that code uses, each kind in order."""

    names: list[str]
    """Globals and builtins."""
    attributes: list[str]
    """Of whatever."""
    imports: list[str]
    """Modules that it imports when it runs."""


def _used(code: types.CodeType) -> _Used:
    found: dict[str, set[str]] = {"LOAD_GLOBAL": set(), "LOAD_ATTR": set(), "IMPORT_NAME": set()}
    alike = {"LOAD_NAME": "LOAD_GLOBAL", "LOAD_METHOD": "LOAD_ATTR", "IMPORT_FROM": "LOAD_ATTR"}
    for each in _codes(code):
        for step in dis.get_instructions(each):
            if (kind := alike.get(step.opname, step.opname)) in found:
                found[kind].add(str(step.argval))
    return _Used(*(sorted(names) for names in found.values()))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions and classes that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imported(name: str, package: str) -> types.ModuleType | None:
    """The module of an import statement, where it was imported already."""
    return sys.modules.get(name) or sys.modules.get(f"{package}.{name}".rstrip("."))


def _installable(name: str) -> bool:
    """Whether a module that nobody imported yet is of an installed package."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0]) if name else None
    except (ImportError, ValueError):
        spec = None
    return spec is not None and installed(spec.origin, name)


@functools.cache
def installed(path: str | None, name: str | None) -> bool:
    """Whether a module came with Python or a package, and not from the user's own folders."""
    top = (name or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return top != "__main__"
    if path is None:
        return False
    place = str(Path(path).resolve())
    return any(place.startswith(f"{folder}/") for folder in _INSTALLED) or "/site-packages/" in place


@functools.cache
def _version(package: str) -> str:
    """Of an installed package; of Python for its own."""
    if package in sys.stdlib_module_names or package == "builtins":
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    found = getattr(sys.modules.get(package), "__version__", None)
    if found is None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"
    return str(found)


def _digest(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
