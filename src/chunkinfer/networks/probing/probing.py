"""Find the contract of a network that nobody can look into, by running it.

Random inputs only show what they show: a context found here is a lower bound, rounded up to whole periods, and checked
by tiles. What they do show is proof: an influence that does not end with distance, or a result that changes with where
a tile lies, refuses the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.field import ReceptiveField
from chunkinfer.networks.network import Array, Network, OtherAxes
from chunkinfer.networks.outputs import first_line
from chunkinfer.networks.probing.probed_axis import AxisProbe, Refused, uncut_at
from chunkinfer.networks.probing.verifying import Seen, check_tiles
from chunkinfer.networks.stated_contract import confirm

_STARTS = (8, 16, 24, 32, 48, 64, 12, 20, 40, 96, 128)
"""Sizes of all axes tried first, before every one up to `_LAST_START`."""
_LAST_START = 200
_QUICK = 100**3
"""Voxels up to which every size is tried; of larger ones only multiples of 16, which networks of a fixed size take."""


def probe(network: Network, size: tuple[int, ...] | None = None) -> ReceptiveField:
    """The receptive field of a network by running it, small sizes first.

    Parameters
    ----------
    network
        What is run.
    size
        A spatial shape that it takes; looked for if None.

    Raises
    ------
    ModelError
        It runs at none of many sizes.
    """
    base, y = _first_run(network, size)
    if any(not np.array_equal(y, network(network.noise(base)), equal_nan=True) for _ in range(4)):
        raise ModelError(
            f"{network.name} gives another result each time for the same input.",
            "It is in train mode, or draws random numbers for another reason.",
            ["model.eval()", "take the noise out, or fix its seed inside the function"],
        )
    reasons: list[str] = []
    axes, seen = [], []
    for axis in range(network.ndim):
        search = AxisProbe(network, base, axis, y.shape[2 + axis])
        try:
            contract, most = search.contract()
        except Refused as why:
            reasons.append(f"axis {axis}: {why}")
            contract, most = search.without_context(), Seen(0, 0, 0)
        axes.append(contract)
        seen.append(most)
    if not reasons and (wrong := _tiles(network, axes)):
        reasons.append(f"tiles: {wrong}")
    if reasons:
        axes = [replace(a, low=0, high=0) for a in axes]
    return ReceptiveField(
        network.name,
        tuple(axes),
        network.channels,
        int(y.shape[1]),
        str(y.dtype),
        "probed",
        tuple(reasons),
        None if reasons else tuple(seen),
    )


def probe_at(network: Network, axes: Sequence[AxisContract], volume: Sequence[int]) -> tuple[AxisContract, ...]:
    """The contracts of a probed network for a volume's own lengths.

    Lengths of the same residue are run: those that it refuses leave the axis as it is, for far padding; those that it
    takes are probed anew, and where tiles at them do not equal the whole, the axis cannot be cut.

    Parameters
    ----------
    network
        What is run.
    axes
        What `probe` found, without a reason against exactness.
    volume
        Spatial voxels of the volume.
    """
    base = tuple(c.accepted_at_least(max(32, c.smallest)) for c in axes)
    found = list(axes)
    for axis, (contract, size) in enumerate(zip(axes, volume, strict=True)):
        if not contract.accepts(size):
            found[axis] = AxisProbe(network, base, axis, contract.output_size(base[axis])).at(size, contract)
            if found[axis].uncut is None and found[axis] is not contract and (wrong := _tiles(network, found)):
                found[axis] = uncut_at(contract, found[axis], size, f"tiles: {wrong}")
    return tuple(found)


def declared_field(network: Network, contracts: tuple[AxisContract, ...], undo: str) -> ReceptiveField:
    """The receptive field that a caller or a network states, checked by real runs; ``undo`` takes it back.

    Raises
    ------
    ModelError
        A run contradicts it.
    """
    seen = confirm(network, contracts, undo)
    y = network(network.noise([c.smallest for c in contracts]))
    return ReceptiveField(network.name, contracts, network.channels, y.shape[1], str(y.dtype), "declared", (), seen)


def _tiles(network: Network, axes: list[AxisContract]) -> str:
    try:
        return check_tiles(network, axes)
    except Exception as error:  # a size that follows from the contract, and does not run
        return f"do not run at sizes that follow from what it takes: {first_line(error)}"


def _first_run(network: Network, size: tuple[int, ...] | None) -> tuple[tuple[int, ...], Array]:
    stated = network.shape or (None,) * network.ndim
    every = (n for n in range(1, _LAST_START) if n % 16 == 0 or n**network.ndim <= _QUICK)
    sizes = (*_STARTS, *every)
    shapes: Iterable[tuple[int, ...]] = (tuple(s or n for s in stated) for n in sizes)
    if size is not None or None not in stated:
        shapes = [size or tuple(s or 1 for s in stated)]
    failures: list[Exception] = []
    for shape in shapes:
        try:
            return shape, network(network.noise(shape))
        except ModelError:
            raise
        except Exception as error:  # whatever it raises on a size that it does not take
            failures.append(error)
    if isinstance(failures[0], OtherAxes):
        found = failures[0].found
        back = "[:, None]" if found[:1] == (1,) else "[None]"
        raise ModelError(
            f"{network.name} gives no map of its input: {failures[0]}.",
            "It leaves an axis out, stacks several results along one of their own, or gives one answer for all.",
            [
                f"of a function, put the axis back: infer(volume, lambda x: function(x){back})"
                if len(found) == 1 + network.ndim
                else "of a function, return (n, channels, *space)",
                "of a file, export it so that it gives (n, channels, *space); for classes, the channels",
            ],
        ) from failures[0]
    raise ModelError(
        f"{network.name} does not run on (1, {network.channels}, *space) with {network.ndim} spatial axes at "
        f"{size or f'any size up to {_LAST_START - 1}'}: {first_line(failures[0])}",
        "The number of channels or axes is another one, or it takes a size that was not tried.",
        [
            f"receptive_field(model, channels={network.channels}, ndim={network.ndim}, "
            f"size={(64, 256, 256)[-network.ndim :]}) for a size that it takes",
            f"receptive_field(model, {'channels=3, ndim=2' if network.ndim != 2 else 'channels=1, ndim=3'}) "
            "for another number of channels and axes",
        ],
    ) from failures[0]
