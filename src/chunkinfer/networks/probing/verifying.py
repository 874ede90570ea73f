"""Check contracts against real runs: how far NaN or a finite change spreads, and whether tiles equal the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.network import ROUND_OFF, Array, Flags, Network, largest_error
from chunkinfer.networks.probing.patterns import whole_inputs

Spread = Callable[[Sequence[int], int, int], tuple[Flags, Flags]]
"""From a spatial shape, an axis and a cut to two flags per output voxel along the axis: whether it reads any input
voxel below the cut, and any from the cut on."""


@dataclass(frozen=True)
class Seen:
    """How far one axis was seen to be read, in the coordinates of `AxisContract`."""

    low: int
    """The most input voxels below a block of whole periods that its output was seen to read."""
    high: int
    """The same above."""
    cuts: int
    """Cuts tried."""

    def reaches(self, contract: AxisContract) -> bool:
        """Whether all of a contract's context was seen to be read, at both ends."""
        return (self.low, self.high) == (contract.low, contract.high)


def seen_at(contract: AxisContract, below: Flags, above: Flags, cut: int) -> Seen:
    """What the flags of one cut say of the context.

    Parameters
    ----------
    contract
        Its period and stride.
    below, above
        Per output voxel, whether it reads input voxels below the cut, and from it on.
    cut
        The first input voxel of the upper side.
    """
    p, stride = contract.period, contract.stride
    at = np.arange(len(below)) * stride.numerator // (stride.denominator * p) * p
    return Seen(
        low=int((at[below] - (cut - 1)).max(initial=0)),
        high=int((cut - (at[above] + p - 1)).max(initial=0)),
        cuts=1,
    )


def cuts_for(contract: AxisContract, size: int) -> list[int]:
    """Cuts near the middle of an axis, at every alignment that can show a voxel too few or one too many.

    A block that starts at a multiple of the period reads down to ``start - low``. So only a cut there, modulo the
    period, shows whether it reads one voxel more, and only one above, whether it reads as far as that. One more lies a
    period further.
    """
    p, middle = contract.period, size // 2
    alignments = {0, p // 2, *(a % p for a in (-contract.low, 1 - contract.low, contract.high, contract.high - 1))}
    return sorted({middle - (middle - a) % p for a in alignments} | {middle + p})


def shape_for(contracts: Sequence[AxisContract], axis: int) -> tuple[int, ...]:
    """A spatial shape that is just long enough along one axis for its cuts to be out of reach of both borders."""
    c = contracts[axis]
    half = max(c.low, c.high) + max(0, int(sum(c.crop))) + 4 * c.period
    return tuple(c.accepted_at_least(2 * half if d == axis else 1) for d, c in enumerate(contracts))


def check_spread(
    name: str, contracts: Sequence[AxisContract], spread: Spread, how: str, undo: str = ""
) -> tuple[Seen, ...]:
    """Cut every axis at several places, and see that no output reads more than its context.

    Parameters
    ----------
    name
        Of the network.
    contracts
        One per spatial axis.
    spread
        Tells which outputs read which side of a cut.
    how
        Names the way in which it does, for the error.
    undo
        The line that takes the contract back, of one that was stated.

    Returns
    -------
    tuple of Seen
        How far each axis was seen to be read.

    Raises
    ------
    ModelError
        An output reads more; axis and voxels are named.
    """
    found = []
    for axis, c in enumerate(contracts):
        shape = shape_for(contracts, axis)
        cuts = cuts_for(c, shape[axis])
        all_seen = []
        for cut in cuts:
            below, above = spread(shape, axis, cut)
            if len(below) != c.output_size(shape[axis]):
                raise contradicted(
                    name,
                    f"along axis {axis}, {shape[axis]} voxels give {len(below)} output voxels instead of "
                    f"{c.output_size(shape[axis])}",
                    undo,
                )
            seen = seen_at(c, below, above, cut)
            if seen.low > c.low or seen.high > c.high:
                end, more, stated = ("below", seen.low, c.low) if seen.low > c.low else ("above", seen.high, c.high)
                raise contradicted(
                    name,
                    f"along axis {axis}, cut at voxel {cut} of {shape[axis]}, {how} reaches outputs {more} voxels "
                    f"{end} whose period they read, and the context is stated as {stated}",
                    undo,
                )
            all_seen.append(seen)
        found.append(Seen(max(s.low for s in all_seen), max(s.high for s in all_seen), len(cuts)))
    return tuple(found)


def check_tiles(network: Network, contracts: Sequence[AxisContract]) -> str:
    """Run tiles with their context, and compare their clean zones with the same voxels of a larger run.

    Tiles lie at both borders and between them, and two of one shape overlap. This sees what no spread of changes does:
    a result that depends on where a tile lies.

    Returns
    -------
    str
        What is wrong, with axis and voxels; empty if nothing is.
    """
    base = tuple(c.accepted_at_least(1) for c in contracts)
    for axis, c in enumerate(contracts):
        shape = [(*base[:axis], size, *base[axis + 1 :]) for size in _tile_sizes(c)]
        wrong = _against_whole(network, c, axis, *shape) or _against_shifted(network, c, axis, shape[1])
        if wrong:
            return f"along axis {axis}, {wrong}"
    return ""


def _tile_sizes(c: AxisContract) -> tuple[int, int]:
    """Voxels of a tile with a clean zone of two periods, and of a whole that holds two and their context."""
    low = _round_up(c.low, c.period)
    tile = c.accepted_at_least(low + 2 * c.period + c.high)
    return tile, tile + _round_up(low + tile, c.period) + c.period


def _against_whole(network: Network, c: AxisContract, axis: int, tile: tuple[int, ...], whole: tuple[int, ...]) -> str:
    """Tiles at both borders and between, against one run on all of it, for inputs of several kinds."""
    noise = network.noise(whole)
    for x in (noise, *whole_inputs(noise.shape, network.samples, network.dtype)):
        if wrong := _tiles_of(network, c, axis, tile[axis], x):
            return wrong
    return ""


def _tiles_of(network: Network, c: AxisContract, axis: int, size: int, whole: Array) -> str:
    n, low = whole.shape[2 + axis], _round_up(c.low, c.period)
    x = whole.swapaxes(0, 2 + axis)
    y = network(x.swapaxes(0, 2 + axis)).swapaxes(0, 2 + axis)
    middle = (n - size) // (2 * c.period) * c.period
    # Where a tile starts, and which voxels of it are kept; up to the border for the last.
    for start, first, stop in ((0, 0, low + 2 * c.period), (middle, low, low + 2 * c.period), (n - size, low, None)):
        part = network(x[start : start + size].swapaxes(0, 2 + axis)).swapaxes(0, 2 + axis)
        ours = part[_output(first, c.stride) : None if stop is None else _output(stop, c.stride)]
        there = _output(start, c.stride) + _output(first, c.stride)
        error = largest_error(y[there : there + len(ours)], ours)
        if not error <= ROUND_OFF:
            return (
                f"a tile of {size} voxels at {start} of {n} differs from the whole by {error:.1e} of the values there"
            )
    return ""


def _against_shifted(network: Network, c: AxisContract, axis: int, shape: tuple[int, ...]) -> str:
    """Two overlapping tiles of one shape, a period apart: the same kernels run, so less is put down to round-off."""
    size = shape[axis]
    longer = (*shape[:axis], size + c.period, *shape[axis + 1 :])
    x = network.uneven(longer, axis).swapaxes(0, 2 + axis)
    starts = (0, c.period)
    here, there = (network(x[s : s + size].swapaxes(0, 2 + axis)).swapaxes(0, 2 + axis) for s in starts)
    # Blocks of the second tile that have all of their context in both.
    first = _round_up(c.low, c.period)
    stop = (size - c.high) // c.period * c.period - c.period
    steps = _output(c.period, c.stride)
    zone = slice(_output(first, c.stride), _output(stop, c.stride))
    error = largest_error(here[zone.start + steps : zone.stop + steps], there[zone])
    if not error <= ROUND_OFF:
        return f"a shift by {c.period} voxels changes the output by {error:.1e} of the values there"
    return ""


def _round_up(size: int, period: int) -> int:
    return -(-size // period) * period


def _output(voxel: int, stride: Fraction) -> int:
    """The first output voxel that is anchored at an input voxel or above it."""
    return int(-(-voxel // stride))


def contradicted(name: str, what: str, undo: str) -> ModelError:
    """A real run says otherwise than a contract; ``undo`` takes one back that was stated."""
    if undo:
        meaning = "It was stated too small, or for another network."
        ways = [undo, "state a larger context, or another period"]
    else:
        meaning = "The tracer misreads a layer, which is a bug worth a report."
        ways = [
            "have it probed instead: infer(volume, lambda x: model(torch.from_numpy(x)))",
            "blend, which needs no context: infer(volume, model, overlap=32)",
        ]
    return ModelError(f"The contract of {name} does not hold: {what}.", meaning, ways)
