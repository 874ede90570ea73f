"""Contracts that a caller or a network states itself; believed only after a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.network import Network
from chunkinfer.networks.probing.verifying import Seen, check_spread, check_tiles, contradicted

ATTRIBUTE = "tiling_contract"
"""Of a module: its own contract, in a form that `contracts_of` takes."""

WITHDRAW = f"model.{ATTRIBUTE} = None"
"""The line after which a module or function states no contract."""

_KEYS = ("context", "period", "scale", "crop", "residues", "smallest")

Declared = AxisContract | Mapping[str, Any] | Sequence[AxisContract | Mapping[str, Any]]
"""One contract for all axes, or one each."""


def contracts_of(declared: Declared, ndim: int) -> tuple[AxisContract, ...]:
    """The declared form as one contract per axis.

    Parameters
    ----------
    declared
        An `AxisContract`, or a mapping of ``context`` (voxels, or low and high), ``period`` (1), ``scale`` (output
        voxels per input voxel, 1), ``crop`` (0), ``residues`` (0) and ``smallest``, which all mean what they mean in
        `AxisContract`; or a sequence with one of these per axis.
    ndim
        Spatial axes.

    Raises
    ------
    ModelError
        There is another number of them, or a value makes no sense.
    """
    each = list(declared) if isinstance(declared, Sequence) else [declared] * ndim
    if len(each) != ndim:
        raise _senseless(f"{len(each)} axes are declared, and the network has {ndim}", ndim)
    return tuple(one if isinstance(one, AxisContract) else _contract(one, ndim) for one in each)


def _contract(given: Mapping[str, Any], ndim: int) -> AxisContract:
    unknown = sorted(set(given) - set(_KEYS))
    if unknown or "context" not in given:
        what = f"{unknown[0]!r} is not one of {', '.join(_KEYS)}" if unknown else "it has no context"
        raise _senseless(what, ndim)
    try:
        low, high = _pair(given["context"])
        crop = _pair(given.get("crop", 0))
        period = int(given.get("period", 1))
        scale = Fraction(given.get("scale", 1))
        residues = tuple(int(r) for r in given.get("residues", (0,)))
    except (TypeError, ValueError) as error:
        raise _senseless(str(error), ndim) from error
    whole = period >= 1 and scale > 0 and (period * scale).denominator == 1
    if min(low, high) < 0 or not whole or not residues or not all(0 <= r < period for r in residues):
        raise _senseless(f"{dict(given)} is not possible: period x scale is whole, nothing is negative", ndim)
    smallest = int(given.get("smallest", max(period, sum(crop) + 1)))
    while smallest % period not in residues:
        smallest += 1
    return AxisContract(period, 1 / scale, low, high, crop, residues, smallest)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    low, high = value
    return int(low), int(high)


def _senseless(what: str, ndim: int) -> ModelError:
    each = ", ".join(['{"context": (44, 46)}', *['{"context": 44, "period": 8}'] * (ndim - 1)])
    return ModelError(
        f"The declared contract cannot be read: {what}.",
        "A contract states, per spatial axis, what AxisContract holds.",
        [
            'receptive_field(model, contract={"context": 44, "period": 8})',
            f"one for each axis: receptive_field(model, contract=[{each}])",
        ],
    )


def confirm(network: Network, contracts: Sequence[AxisContract], undo: str = WITHDRAW) -> tuple[Seen, ...]:
    """Believe a contract only after real runs: changes spread no further, and tiles equal the whole.

    Finite changes decide, not NaN: NaN also spreads through weights that are zero, such as a mask's. ``undo`` is the
    line that takes the contract back.

    Raises
    ------
    ModelError
        They say otherwise, or the network does not run at a size that the contract takes.
    """
    try:
        network(network.noise([c.smallest for c in contracts]))
        seen = check_spread(network.name, contracts, network.changes, "a change", undo)
        wrong = check_tiles(network, contracts)
    except ModelError:
        raise
    except Exception as error:  # whatever the network raises at a size that it was said to take
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise contradicted(network.name, f"it does not run at a size that it should take: {cause}", undo) from error
    if wrong:
        raise contradicted(network.name, wrong, undo)
    return seen


def declared_by(module: object) -> Declared | None:
    """The contract that a module states itself, or None."""
    return cast("Declared | None", getattr(module, ATTRIBUTE, None))
