"""The torch adapter: nn.Module, TorchScript and torch.export files."""

from __future__ import annotations

import os
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from chunkinfer.errors import ModelError, UntrustedModel
from chunkinfer.networks.outputs import ITSELF, Pick, exporting

if TYPE_CHECKING:
    import torch


_loading = threading.RLock()
"""Kernels of one process start together, and only one of them opens the network."""


def as_module(model: object) -> torch.nn.Module:
    """The nn.Module of what the caller holds, or `ModelError`."""
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if isinstance(model, torch.nn.Module):
        _check_weights(model)
        return model
    raise ModelError(
        f"A {type(model).__name__} is no network.",
        "A model is a torch.nn.Module, the path of a file, or a function of arrays.",
        [
            "load these weights into their module: module.load_state_dict(model); infer(volume, module)"
            if isinstance(model, dict)
            else f'give the path of a file: {exporting(3)}; infer(volume, "model.pt2")',
            ITSELF,
        ],
    )


def _check_weights(module: torch.nn.Module) -> None:
    """Refuse a module some of whose weights are not there."""
    from torch.nn.parameter import is_lazy

    name = type(module).__name__
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"{path} of {name} has no shape yet: its layer is lazy, and never ran.",
                "A lazy layer takes its shape from its first input, or from the weights that are loaded into it.",
                [
                    'load its weights: model.load_state_dict(torch.load("weights.pt", weights_only=True))',
                    f"run it once on a dummy batch: model(torch.zeros(1, 1{_sizes(module)}))",
                ],
            )
        if tensor.is_meta:
            raise ModelError(
                f"{path} of {name} is on the meta device: it has a shape, and no values.",
                "The module was built without memory, and its weights were not loaded.",
                [
                    'load them: model.load_state_dict(torch.load("weights.pt", weights_only=True), assign=True)',
                    'give it memory first: model.to_empty(device="cpu").load_state_dict(torch.load("weights.pt", '
                    "weights_only=True))",
                ],
            )


def _sizes(module: torch.nn.Module) -> str:
    """Small sizes for the axes of a module's first convolution, as the end of a shape."""
    kernels = (getattr(layer, "kernel_size", None) for layer in module.modules())
    return ", 32" * len(next((k for k in kernels if isinstance(k, tuple)), (1, 1, 1)))


def is_script(module: object) -> bool:
    """Whether a module is compiled TorchScript."""
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def file_kind(path: str, file: IO[bytes]) -> str:
    """torchscript or export, from the archive's own members; everything else is refused unopened.

    Parameters
    ----------
    path
        Names the file in errors.
    file
        Open for reading, at its beginning.
    """
    ways = [
        f"save it as something that runs: {exporting(3)} for volumes",
        "build the module and load weights only: "
        'module.load_state_dict(torch.load("weights.pt", weights_only=True)); infer(volume, module)',
    ]
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, OSError) as error:
        file.seek(0)
        if file.read(1) == b"\x80":  # the first byte of every binary pickle
            raise UntrustedModel(
                f"{path} is a pickle.",
                "Opening a pickle executes whatever its author put in; chunkinfer never does.",
                ways,
            ) from error
        raise ModelError(
            f"{path} is neither a TorchScript nor a torch.export archive.",
            "The file is cut short, or of another framework.",
            ways,
        ) from error
    if any("/code/" in name for name in names):
        return "torchscript"
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return "export"
    if any(name.endswith("data.pkl") for name in names):
        raise UntrustedModel(
            f"{path} was written by torch.save: it holds a pickle, of a module or of weights.",
            "Opening a pickled module executes whatever its author put in; chunkinfer never does.",
            ways,
        )
    raise ModelError(f"{path} is a zip file that holds no network.", "It was written by something else.", ways)


def load_file(path: str, kind: str, device: str) -> torch.nn.Module:
    """Open an executable file on a device.

    Both formats are code, and the caller's trust: torch evaluates expressions of a torch.export archive when it opens
    it. What no network needs is refused all the same: pickles of more than tensors and plain values, machine code.

    Raises
    ------
    UntrustedModel
        Opening it would execute a pickle or machine code.
    ModelError
        torch cannot open it.
    """
    import torch

    try:
        # Weights that are made in a caller's inference mode can never again be exported.
        with torch.inference_mode(False):
            if kind == "torchscript":
                script: torch.nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
                return script.eval()
            _refuse_code(path)
            with _weights_only():
                return torch.export.load(path).module().to(device)
    except UntrustedModel:
        raise
    except pickle.UnpicklingError as error:
        raise _executes(path, "a pickle of more than tensors") from error
    except Exception as error:
        raise ModelError(
            f"{path} looks like a file of {WRITERS[kind]}, and torch cannot open it: {error}",
            "It was written by another version of torch, or cut short.",
            [
                'write it again with this version of torch: torch.jit.save(torch.jit.trace(module, x), "model.pt")'
                if kind == "torchscript"
                else f"write it again with this version of torch: {exporting(3)} for volumes",
                ITSELF,
            ],
        ) from error


WRITERS = {"torchscript": "TorchScript", "export": "torch.export"}
"""What writes files of a kind."""

CODE = {
    "data/aotinductor/": "compiled machine code",
    "data/constants/opaque_obj_": "a pickle of Python objects",
}
"""Members of a torch.export archive, by the beginning of their names, that torch executes when it opens the archive."""


def _refuse_code(path: str) -> None:
    """Refuse a torch.export archive whose opening executes what it holds."""
    import torch

    try:
        names = torch._C.PyTorchFileReader(path).get_all_records()  # as torch itself will find them
    except RuntimeError:
        return  # of an older torch, whose archives hold none of these; or none, which opening it will tell
    for start, what in CODE.items():
        if any(name.startswith(start) for name in names):
            raise _executes(path, what)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load refuse pickles that execute anything: torch.export opens them where they hold more than weights.

    torch reads this from the environment at each call; one thread at a time changes it.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with _loading:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _executes(path: str, what: str) -> UntrustedModel:
    return UntrustedModel(
        f"{path} holds {what}, which would be executed when the file is opened.",
        "No network that torch.export wrote for this library needs it; somebody may have put it there.",
        [
            f"export the network anew: {exporting(3)} for volumes",
            "build the module and load weights only: "
            'module.load_state_dict(torch.load("weights.pt", weights_only=True)); infer(volume, module)',
        ],
    )


def compute_dtype(module: torch.nn.Module, name: str, of_file: bool) -> str:
    """float32 or float64, as the weights are.

    Raises
    ------
    ModelError
        They are of another type, or of several; what is told differs where the network is of a file.
    """
    import torch

    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(kinds) > 1 or kinds - {torch.float32, torch.float64}:
        raise ModelError(
            f"The weights of {name} are {', '.join(sorted(map(str, kinds)))}.",
            "Networks run in float32, or float64 throughout; reduced precision is a setting of the run.",
            [f"write the file anew: {exporting(3, 'module.float()')} for volumes", "infer(volume, module.float())"]
            if of_file
            else ["model.float()", 'infer(volume, model.float(), precision="bf16")'],
        )
    return "float64" if torch.float64 in kinds else "float32"


def callable_of(module: torch.nn.Module, pick: Pick) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module as a function of one tensor that gives the output that counts."""
    import torch

    def run(patches: torch.Tensor) -> torch.Tensor:
        # TorchScript's profiling executor may fuse after the first calls, and fused kernels differ in the last bits.
        # Without it, TorchScript also runs past autocast.
        settled = torch.is_autocast_enabled(patches.device.type)
        with torch.jit.optimized_execution(settled):  # type: ignore[attr-defined]
            return picked(pick, module(patches))

    return run


def picked(pick: Pick, value: Any) -> torch.Tensor:
    """The tensor that counts, of what a module returned.

    Raises
    ------
    ModelError
        As for `Pick`, or it is no tensor of torch.
    """
    import torch

    found = pick(value)
    if isinstance(found, torch.Tensor):
        return found
    raise ModelError(
        f"{pick.network} returns a {type(found).__module__.partition('.')[0]} array: its forward leaves torch.",
        "What is no operator of torch can neither be followed nor compiled.",
        [
            "return the tensor: leave out .numpy() at the end of forward",
            "give it as a function of arrays, which is probed: "
            "infer(volume, lambda x: model(torch.from_numpy(x).float()))",
        ],
    )
