"""Loops over voxels, compiled by numba: the first use on a machine takes seconds, later processes load what it left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function, compiled; kept on disk where there is a place for it.

    Modules that use it are imported where their loops are needed, not before. Nothing may be reassociated (no
    ``fastmath``): a voxel's bits must not depend on where in a row it lies.
    """
    from numba import njit

    # "numpy": a division by zero gives infinity, instead of a branch in every loop.
    result: Any
    try:
        result = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither this package's folder nor the user's cache can be written
        result = njit(nogil=True, error_model="numpy")(function)
    return cast(Function, result)
