"""Functions of other people, checked where they are called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import OutputError, VolumeError
from chunkinfer.support.tokens import keep_tokens


def applied(
    *arrays: NDArray[Any], function: Callable[..., Any], dtype: np.dtype[Any] | None = None, **parameters: Any
) -> NDArray[Any]:
    """What a function makes of arrays that are laid on each other: as many voxels, of the type that was declared.

    Raises
    ------
    OutputError
        It gives another shape, or a type whose values the declared one cannot hold.
    """
    found = np.asarray(function(*arrays, **parameters))
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    name = getattr(function, "__name__", repr(function))
    if found.shape != shape:
        raise OutputError(
            f"{name} gave {found.shape} for {shape}.",
            "An operator keeps the shape of the voxels that it is given.",
            ["downsample, crop and channels change shapes", "return as many voxels as come in"],
        )
    if dtype is None:
        return found
    if not np.can_cast(found.dtype, dtype, "same_kind"):
        raise OutputError(
            f"{name} gave {found.dtype}, and {dtype} was declared.",
            "Without dtype=, the result is declared to be of the volume's type.",
            [f'dtype="{found.dtype}"', f"let the function return {dtype}"],
        )
    return found.astype(dtype, copy=False)


def imported(name: str) -> Any:
    """The function that ``module:function`` names; importing runs the module, which is what was asked for.

    Raises
    ------
    VolumeError
        It cannot be imported, or is no function.
    """
    module, _, attribute = name.partition(":")
    try:
        found, why = getattr(import_module(module), attribute), "it is no function"
    except (ImportError, AttributeError, ValueError) as error:
        found, why = None, str(error)
    if not callable(found):
        raise VolumeError(
            f"{name!r} cannot be imported: {why}.",
            "It is module:function, importable by this process and by every worker.",
            ["PYTHONPATH=. chunkinfer ...", "install the module on the workers too"],
        )
    return found


keep_tokens(globals(), "chunkinfer.operators.applying")
