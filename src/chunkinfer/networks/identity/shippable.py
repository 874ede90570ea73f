"""A caller's own module or function, as a value: copied where it can change, and known again where it runs."""

from __future__ import annotations

import io
import threading
import weakref
from typing import Any

import cloudpickle
import torch
from torch import nn

from chunkinfer.errors import ModelError
from chunkinfer.networks.identity.contents import Contents
from chunkinfer.networks.identity.copying import full_copy, tensors_of
from chunkinfer.networks.identity.identity import Identity, identity_of, program_at
from chunkinfer.networks.outputs import exporting
from chunkinfer.support.lru import Lru

COPIED = 1 << 30
"""Bytes of weights up to which a module is copied. A larger one is looked at before it runs, and refused if it is
another by then."""

_opening = threading.RLock()
"""Kernels of one process start together, and only one of them opens the network."""


class Shippable:
    """A module, or a function, that is pickled only when it leaves the process: the caller's own object, so his own
    trust.

    Parameters
    ----------
    given
        What the caller may change as soon as he has it back.
    """

    def __init__(self, given: Any) -> None:
        self._module, self._own = _snapshot(given)
        self._caller = weakref.ref(given) if isinstance(given, nn.Module) else None
        self._data = b""
        self._forget()

    def _forget(self) -> None:
        """Nothing is known yet, in this process."""
        self._elsewhere: dict[str, nn.Module] = {}
        self._contents = Contents()
        self._programs: dict[Any, str | None] = {}
        self._seen: Any = None
        self.opened = Lru[Any, Any]()
        """What engines made of it that reads this very object."""

    def fresh(self) -> Shippable:
        """The same, to be looked at again before it runs."""
        made = object.__new__(Shippable)
        made.__dict__.update(self.__dict__)
        made._seen = None
        return made

    @property
    def copied(self) -> bool:
        """Whether it is a copy, and the caller's own module is in this process."""
        return self._own and self._caller is not None

    @property
    def caller(self) -> Any:
        """The caller's own object while it lives, otherwise ours."""
        caller = None if self._caller is None else self._caller()
        return self.get() if caller is None else caller

    # ---- what it is ---------------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """What it is now."""
        module = self.get()
        return identity_of(module, self._contents if self._own else None)

    def program(self, shape: tuple[int, ...], dtype: str) -> str | None:
        """Digest of what it calls on inputs of this shape and dtype; None where it is part Python, or no module."""
        with _opening:
            if (shape, dtype) not in self._programs:
                module, contents = self.get(), self._contents if self._own else Contents()
                is_module = isinstance(module, nn.Module)
                made = program_at(module, shape, getattr(torch, dtype), contents) if is_module else None
                self._programs[shape, dtype] = made
            return self._programs[shape, dtype]

    def check(self, digest: str, name: str) -> None:
        """Refuse to run what is no longer the network that `infer` was given.

        Looked at once by each process and result; what is not copied is looked at again when torch counts a change.

        Raises
        ------
        ModelError
            It was changed since, or this process has other code for it.
        """
        with _opening:
            if self._seen is not None and self._seen == self._versions():
                return
            if self.identity().digest != digest:
                raise self._changed(name)
            self._seen = self._versions()

    def _versions(self) -> Any:
        """What torch counts up when it changes a tensor in place, of a module that others may change."""
        if self._own or not isinstance(self._module, nn.Module):
            return ()
        return tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors_of(self._module))

    def _changed(self, name: str) -> ModelError:
        if self._data and self._own:
            kind = type(self._module)
            return ModelError(
                f"{name} is another network in this process than where infer() was called.",
                f"The code that it is made of ({kind.__module__}), or a library, has another version here.",
                [
                    "install the same versions on every machine" + _sent(kind.__module__),
                    f'give a file, which holds its code: {exporting(3)}; infer(volume, "model.pt2")',
                ],
            )
        return ModelError(
            f"{name} was changed since infer() was called.",
            "A result is of the network as it was then: its weights, its code or what it refers to are others now.",
            [
                "call infer again, for the network as it is now: infer(volume, model)",
                "give each result a network that nobody changes: infer(volume, copy.deepcopy(model))"
                if isinstance(self._module, nn.Module)
                else "let the function refer to nothing that is changed: to copy.deepcopy(network) for a network",
            ],
        )

    # ---- where it is --------------------------------------------------------------------------------------------

    def on(self, device: str) -> nn.Module:
        """The module on a device; a copy where it is on another, made once."""
        module: nn.Module = self.get()
        if all(t.device.type == device for t in (*module.parameters(), *module.buffers())):
            return module
        with _opening:
            if device not in self._elsewhere:
                self._elsewhere[device] = full_copy(module).to(device)
            return self._elsewhere[device]

    def get(self) -> Any:
        """The module or function; unpickled on first use."""
        with _opening:
            if self._module is None:
                if self._data.startswith(b"PK"):  # torch.jit.save writes a zip file
                    self._module = torch.jit.load(io.BytesIO(self._data))  # type: ignore[no-untyped-call]
                else:
                    self._module = cloudpickle.loads(self._data)
            return self._module

    def __getstate__(self) -> bytes:
        if self._data:
            return self._data
        if isinstance(self._module, torch.jit.ScriptModule):
            buffer = io.BytesIO()
            torch.jit.save(self._module, buffer)
            data = buffer.getvalue()
        else:
            data = cloudpickle.dumps(self._module)
        if self._own:
            self._data = data
        return data

    def __setstate__(self, data: bytes) -> None:
        self._module, self._data, self._own, self._caller = None, data, True, None
        self._forget()


def _sent(module: str) -> str:
    """The line that sends the file of a module to a cluster's workers; nothing for a module of a package."""
    return "" if "." in module else f", or send this file: import {module}; client.upload_file({module}.__file__)"


def _snapshot(given: Any) -> tuple[Any, bool]:
    """A copy that nobody else has, and True; or what was given, where it is too large or torch cannot copy it."""
    if not isinstance(given, nn.Module) or sum(t.nbytes for t in tensors_of(given)) > COPIED:
        return given, False
    try:
        return full_copy(given), True
    except Exception:  # torch and the layers raise all kinds on what does not copy
        return given, False
