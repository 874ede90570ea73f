"""Test-time augmentation: the mean of a network over flipped and transposed volumes, as a network of its own.

An affinity joins two voxels, v and v + offset. In a flipped volume the network gives the same edge from its other end,
in a transposed one in the channel of another axis. So what comes back is sorted by edge, here for the offset -1::

    volume          0   1   2   3       channel at v joins v - 1 and v
    flipped         3   2   1   0       channel there joins v + 1 and v: it is found at the edge's lower voxel
    edge (1, 2)         1<--2           plain channel, read at 2
                        1-->2           flipped channel, read at 2 - 1

Flipping the result back without that is wrong for every directed channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations, permutations
from math import ceil, lcm
from operator import index
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import ModelError, PlanError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import round_up
from chunkinfer.networks.model import Model, open_model

if TYPE_CHECKING:
    import torch

AXES = "zyx"
"""Names of the last three axes; counted from the end, so that y and x are those of an image."""

Run = Callable[["torch.Tensor"], "torch.Tensor"]
"""(n, c, *space) to (n, c, *space); the result may be memory that the next call writes into."""

At = Callable[[Sequence[int]], Sequence[AxisContract]]
"""From the shape of a volume to a network's contracts for it."""

Offset = tuple[int, ...]
"""Voxels of the output from one end of an edge to the other, for each spatial axis."""


@dataclass(frozen=True)
class Source:
    """Where a variant holds the edges of a channel."""

    channel: int
    """The network's channel, after its axes were put back."""
    shifted: bool
    """Whether it holds the edge at its other end, so that it is read one offset further."""


@dataclass(frozen=True)
class Variant:
    """One way to see a volume: some axes backwards, then the axes in another order. Axes count from the end."""

    order: tuple[int, int, int]
    """For z, y and x of what the network sees, the volume's axis that is put there."""
    flips: tuple[int, ...]
    """The volume's axes that run backwards."""

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """What the network sees: contiguous, (n, c, *space)."""
        flipped = volume.flip(self.flips) if self.flips else volume
        return flipped.permute(_dims(self.order, volume.ndim)).contiguous()

    def undo(self, result: torch.Tensor) -> torch.Tensor:
        """What the network gave, with its axes put back; the channels stay in their places."""
        back = result.permute(_dims(self._inverse, result.ndim))
        return back.flip(self.flips) if self.flips else back

    def shape(self, volume: Sequence[int]) -> tuple[int, ...]:
        """The shape that the network sees, for the shape of a volume."""
        return tuple(volume[d] for d in _dims(self.order, len(volume)))

    def seen_as(self, axis: int) -> int:
        """The network's axis for an axis of the volume."""
        return self._inverse[axis]

    def undone(self, offset: Offset) -> Offset:
        """An offset of the network's output in the axes of the volume."""
        axes = range(-len(offset), 0)
        return tuple(-offset[self.seen_as(a)] if a in self.flips else offset[self.seen_as(a)] for a in axes)

    @property
    def _inverse(self) -> tuple[int, ...]:
        return tuple(self.order.index(a) - 3 for a in (-3, -2, -1))


def _dims(order: Sequence[int], ndim: int) -> list[int]:
    """The last three axes of a tensor in an order; of a 2D network's, z is the channels' axis and stays."""
    last = min(ndim, 3)
    return [*range(ndim - last), *(ndim + a for a in order[-last:])]


@dataclass(frozen=True)
class Augmentation:
    """The mean of a network over flips and transpositions of its input, sorted by edge for affinities.

    Raises
    ------
    PlanError
        An axis that does not exist, or offsets that are none.
    """

    flips: str = "zyx"
    """Axes that run forwards and backwards; every subset of them is seen."""
    transpose: str = ""
    """Axes that change places; every order of them is seen."""
    offsets: tuple[Offset | None, ...] | None = None
    """For each output channel the edge that it holds: (-1, 0, 0) joins voxel v of the output with v - (1, 0, 0). None
    for a channel without direction, such as a membrane's probability, and for a network with no others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flips", _axes("flips", self.flips))
        object.__setattr__(self, "transpose", _axes("transpose", self.transpose))
        object.__setattr__(self, "offsets", _offsets(self.offsets))
        if len(self.transpose) == 1 or not self.flips + self.transpose:
            raise PlanError(
                f"flips={self.flips!r} and transpose={self.transpose!r} do not say what changes.",
                "An augmentation flips at least one axis, or lets at least two change places.",
                ['flips="zyx", transpose=""', 'transpose="yx"'],
            )

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """Every subset of the flips with every order of the transposed axes; the volume as it is comes first."""
        flips, moving = _numbers(self.flips), _numbers(self.transpose)
        subsets = tuple(chain.from_iterable(combinations(flips, k) for k in range(len(flips) + 1)))
        orders = []
        for moved in permutations(moving):
            places = dict(zip(moving, moved, strict=True))
            orders.append((places.get(-3, -3), places.get(-2, -2), places.get(-1, -1)))
        return tuple(Variant(order, subset) for order in orders for subset in subsets)

    def sources(self, variant: Variant, channels: int) -> tuple[Source | None, ...]:
        """For each of the network's channels, where a variant holds the same edges; None where it does not."""
        offsets = self.offsets or (None,) * channels
        held = {variant.undone(o): k for k, o in enumerate(offsets) if o is not None}

        def source(channel: int, offset: Offset | None) -> Source | None:
            if offset is None:
                return Source(channel, shifted=False)
            if offset in held:
                return Source(held[offset], shifted=False)
            turned = tuple(-step for step in offset)
            return Source(held[turned], shifted=True) if turned in held else None

        return tuple(source(c, o) for c, o in enumerate(offsets))

    def shapes(self, patch: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Shapes that the network sees for a patch, each once, the patch's own first.

        Parameters
        ----------
        patch
            Spatial, or of the whole tensor, (n, c, *space).
        """
        return tuple(dict.fromkeys(variant.shape(patch) for variant in self.variants))

    def wrap(self, run: Run | Mapping[tuple[int, ...], Run]) -> Run:
        """The augmented network, as a function of the same form.

        Parameters
        ----------
        run
            The network, or one for each of `shapes` of the (n, c, *space) that it will be called with.

        Returns
        -------
        Run
            The mean over the variants: float32, float64 for a network in double precision. A voxel whose edge a variant
            holds outside its result goes without that variant. Adds up in the order of the variants.

        Raises
        ------
        ModelError
            When called: the network's axes or channels are not those of the augmentation.
        """

        def augmented(volume: torch.Tensor) -> torch.Tensor:
            return self._mean(volume, lambda seen: (run if callable(run) else run[tuple(seen.shape)])(seen))

        return augmented

    def _mean(self, volume: torch.Tensor, run: Run) -> torch.Tensor:
        import torch

        first, *others = self.variants
        found = run(first.apply(volume))
        channels, space = found.shape[1], tuple(found.shape[2:])
        self.check(channels, len(space))
        # The network may write into the same memory again, so every result is added before the next call.
        total = found.to(torch.float64 if found.dtype == torch.float64 else torch.float32, copy=True)
        plain, shifted = [1] * channels, [0] * channels
        for variant in others:
            found = variant.undo(run(variant.apply(volume)))
            for c, source in enumerate(self.sources(variant, channels)):
                if source is None:
                    continue
                here, there = self._edges(c, space) if source.shifted else (..., ...)
                total[:, c][here] += found[:, source.channel][there]
                plain[c] += not source.shifted
                shifted[c] += source.shifted
        for c in range(channels):
            counts = total.new_full((1, *space), plain[c])
            counts[self._edges(c, space)[0]] += shifted[c]
            total[:, c] /= counts
        return total

    def _edges(self, channel: int, space: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The voxels of a channel, of (n, *space), whose other end lies inside too; and these other ends."""
        steps = tuple(zip(space, (self.offsets and self.offsets[channel]) or (0,) * len(space), strict=True))
        here = [slice(max(0, -step), max(0, size - max(0, step))) for size, step in steps]
        there = [slice(max(0, step), max(0, size - max(0, -step))) for size, step in steps]
        return (slice(None), *here), (slice(None), *there)

    def contracts(
        self, axes: Sequence[AxisContract], volume: Sequence[int] | None = None, at: At | None = None
    ) -> tuple[AxisContract, ...]:
        """How the augmented network maps each axis.

        A flip mirrors the context. The network's periods then start at the volume's other end, so a flipped axis keeps
        one size modulo the period: the volume's own where the network takes it, else the one that needs least context.
        Then the patches of a lattice, flipped, lie at whole periods of the flipped volume. A transposed axis has to
        suit all that change places with it. Edges that are read from their other end add their offset to the context.

        Parameters
        ----------
        axes
            How the network maps each axis.
        volume
            Spatial voxels of the volume, where the contracts for its own lengths are wanted.
        at
            Gives the network's contracts for a volume of a shape.

        Raises
        ------
        ModelError
            A flipped or transposed network gives other voxels than the network: no mean of them makes sense.
        """
        self._check_axes(len(axes))
        self._check_flips(axes)
        seen = [axes if volume is None or at is None else at(v.shape(volume)) for v in self.variants]
        size = (lambda axis: None) if volume is None else (lambda axis: volume[axis])
        return tuple(self._contract(seen, axis, size(axis)) for axis in range(-len(axes), 0))

    def _contract(self, seen: Sequence[Sequence[AxisContract]], axis: int, size: int | None) -> AxisContract:
        name = AXES[axis]
        roles = dict.fromkeys(
            (axes[v.seen_as(axis)], axis in v.flips) for v, axes in zip(self.variants, seen, strict=True)
        )
        together = _together(list(dict.fromkeys(contract for contract, _ in roles)), name, self._unmoved(seen[0]))
        residues = together.residues
        if any(flipped for _, flipped in roles):
            own = size is not None and together.accepts(size)
            residues = (
                (size % together.period,)
                if size is not None and own
                else (min(residues, key=lambda residue: (sum(_context(roles, residue)), residue)),)
            )
        contexts = [_context(roles, residue) for residue in residues]
        below, above = self.shifts(axis)
        period = together.period
        merged = replace(
            together,
            low=max(low for low, _ in contexts) + round_up(ceil(below * together.stride), period),
            high=max(high for _, high in contexts) + round_up(ceil(above * together.stride), period),
            residues=residues,
        )
        return replace(merged, smallest=merged.accepted_at_least(merged.smallest))

    def shifts(self, axis: int) -> tuple[int, int]:
        """The most output voxels, down and up an axis, by which an edge lies from where a variant holds it."""
        if self.offsets is None:
            return 0, 0
        sources = [self.sources(variant, len(self.offsets)) for variant in self.variants]
        shifted = (any(source and source.shifted for source in held) for held in zip(*sources, strict=True))
        steps = [o[axis] for o, moved in zip(self.offsets, shifted, strict=True) if o is not None and moved]
        return max([0, *(-step for step in steps)]), max([0, *steps])

    def check(self, channels: int, ndim: int) -> None:
        """Refuse a network with other channels or axes.

        Parameters
        ----------
        channels
            Output channels.
        ndim
            Spatial axes.
        """
        self._check_axes(ndim)
        if self.offsets is not None and len(self.offsets) != channels:
            raise ModelError(
                f"{len(self.offsets)} offsets were given for a network with {channels} output channels.",
                "Each channel has one, in the order of the channels; None for a channel without direction.",
                [
                    f"offsets={[*self.offsets, *[None] * channels][:channels]}",
                    "leave offsets= out, if no channel has a direction",
                ],
            )

    def _check_axes(self, ndim: int) -> None:
        there = AXES[-ndim:]
        if ndim > len(AXES) or set(self.flips + self.transpose) - set(there):
            flips, moving = ("".join(a for a in axes if a in there) for axes in (self.flips, self.transpose))
            moving = moving if len(moving) > 1 else ""
            raise ModelError(
                f"flips={self.flips!r} and transpose={self.transpose!r} do not suit a network of {ndim} axes.",
                f"Axes count from the end: one of {len(there)} axes has {', '.join(there)}.",
                [
                    f"flips={flips if flips or moving else there!r}, transpose={moving!r}",
                    "leave the network as it is: infer(volume, model)",
                ],
            )
        wrong = next((o for o in self.offsets or () if o is not None and len(o) != ndim), None)
        if wrong is not None:
            raise ModelError(
                f"The offset {wrong} is of {len(wrong)} axes, and the network has {ndim}.",
                "An offset has one number for each spatial axis, in the order of the axes.",
                [f"offsets={_neighbours(ndim, len(self.offsets or ()))}", "leave offsets= out"],
            )

    def _check_flips(self, axes: Sequence[AxisContract]) -> None:
        uneven = {AXES[a]: axes[a].crop for a in range(-len(axes), 0) if len(set(axes[a].crop)) > 1}
        name = next((a for a in self.flips if a in uneven), None)
        if name is not None:
            low, high = uneven[name]
            kept = "".join(a for a in self.flips if a not in uneven)
            raise ModelError(
                f"The network crops {low} voxels at the low end of axis {name} and {high} at its high end.",
                "Even kernels without padding do so: the result of a flipped volume lies between the voxels of the "
                "result.",
                [
                    f"flip no such axis: flips={kept!r}"
                    if kept or self.transpose
                    else "leave the network as it is: infer(volume, model)",
                    "take a network with odd kernels",
                ],
            )

    def _unmoved(self, axes: Sequence[AxisContract]) -> list[str]:
        """Ways out where axes that change places are not alike."""
        groups: dict[Any, str] = {}
        for name in self.transpose:
            c = axes[AXES.index(name) - len(AXES)]
            kind = (c.stride, c.crop, c.period, c.residues)
            groups[kind] = groups.get(kind, "") + name
        alike = max(groups.values(), key=len, default="")
        flips = self.flips or AXES[-len(axes) :]
        return [
            *([f"transpose only axes that the network treats alike: transpose={alike!r}"] if len(alike) > 1 else []),
            f"transpose none: flips={flips!r}, transpose=''",
            *([] if len(alike) > 1 else ["leave the network as it is: infer(volume, model)"]),
        ]

    def token(self) -> dict[str, Any]:
        """What it is, of plain values that go into JSON."""
        offsets = None if self.offsets is None else [None if o is None else list(o) for o in self.offsets]
        return {"flips": self.flips, "transpose": self.transpose, "offsets": offsets}

    def describe(self) -> str:
        """In words, on one line."""
        ways = {"flipped": self.flips, "transposed": self.transpose}
        done = " and ".join(f"{', '.join(axes)} {way}" for way, axes in ways.items() if axes)
        text = f"mean of {len(self.variants)} variants ({done})"
        if self.offsets is None:
            return text
        held = zip(*(self.sources(v, len(self.offsets)) for v in self.variants), strict=True)
        counts = [len(sources) - sources.count(None) for sources in held]
        few = "" if set(counts) == {len(self.variants)} else f", {', '.join(map(str, counts))} of them by channel"
        return f"{text} sorted by edge{few}"


def augment(
    model: object,
    *,
    flips: str = "zyx",
    transpose: str = "",
    offsets: Sequence[Sequence[int] | None] | None = None,
) -> Model:
    """A network that returns the mean of what a network gives for flipped and transposed volumes.

    It costs as many runs as there are variants: 8 for ``flips="zyx"``, 16 with ``transpose="yx"``, 48 with
    ``transpose="zyx"``. It tiles exactly where the network does.

    Parameters
    ----------
    model
        What `open_model` takes.
    flips
        Axes that run forwards and backwards.
    transpose
        Axes that change places: only those along which voxels are of the same size.
    offsets
        For each output channel the offset of its affinity, in voxels of the output, or None for a channel without
        direction: ``[(-1, 0, 0), (0, -1, 0), (0, 0, -1)]`` joins each voxel with its predecessors. Without it no
        channel has a direction; affinities would be averaged with those of other edges. Channels that hold vectors
        (flows, local shape descriptors) turn with the axes in their values too, which this does not do.

    Raises
    ------
    PlanError
        Axes or offsets are none.
    ModelError
        The network is augmented already, or is none.
    """
    opened = open_model(model)
    if opened.augmentation is not None:
        again = f"flips={flips!r}, transpose={transpose!r}" + (f", offsets={offsets!r}" if offsets is not None else "")
        raise ModelError(
            f"{opened.name} is augmented already: {opened.augmentation.describe()}.",
            "A mean of means would weigh some variants twice.",
            [
                f"augment the network itself: augment(model.plain, {again})",
                "take it as it is: infer(volume, model)",
            ],
        )
    return replace(opened, augmentation=Augmentation(flips, transpose, _offsets(offsets)))


def _axes(argument: str, given: object) -> str:
    """Axis names in the order of the volume."""
    names = list(given) if isinstance(given, str | tuple | list) else [given]
    if any(name not in tuple(AXES) for name in names) or len(set(names)) < len(names):
        raise PlanError(
            f"{argument}={given!r} names no axes.",
            f"It is some of {', '.join(AXES)}, each once; they count from the end, so an image has y and x.",
            [f'{argument}="yx"', f"leave {argument}= out"],
        )
    return "".join(axis for axis in AXES if axis in names)


def _numbers(axes: str) -> tuple[int, ...]:
    """Axes counted from the end."""
    return tuple(AXES.index(axis) - len(AXES) for axis in axes)


def _offsets(given: object) -> tuple[Offset | None, ...] | None:
    """Offsets as tuples, or `PlanError`."""
    if given is None:
        return None
    example = "offsets=[(-1, 0, 0), (0, -1, 0), (0, 0, -1)]"
    try:
        offsets = tuple(None if o is None else tuple(index(step) for step in o) for o in given)  # type: ignore[attr-defined]
    except TypeError as error:
        raise PlanError(
            f"offsets={given!r} are no offsets.",
            "They are one tuple of whole numbers for each output channel, or None for a channel without direction.",
            [example, "leave offsets= out, if no channel has a direction"],
        ) from error
    directed = [o for o in offsets if o is not None]
    if not all(any(o) for o in directed) or len({len(o) for o in directed}) > 1:
        edges = [o if o and any(o) else None for o in offsets]
        alike = len({len(o) for o in directed}) == 1
        raise PlanError(
            f"offsets={given!r} hold an edge from a voxel to itself, or edges of different numbers of axes.",
            "An edge joins a voxel with another one; a channel without direction has None.",
            [
                f"offsets={edges if alike else _neighbours(max(map(len, directed)), len(offsets))}",
                "leave offsets= out, if no channel has a direction",
            ],
        )
    if len(set(directed)) < len(directed):
        twice = next(o for o in directed if directed.count(o) > 1)
        raise PlanError(
            f"The offset {twice} belongs to two channels.",
            "A flipped or transposed volume would not tell which of them an edge is to come from.",
            [
                "compare offsets= with the channels' order in training",
                "wrap it in a module that gives one of them",
            ],
        )
    return offsets


def _neighbours(ndim: int, channels: int) -> list[Offset | None]:
    """Offsets for so many channels: to the neighbour below along each axis, and none for the channels after these."""
    edges = [tuple(-(d == a) for d in range(ndim)) for a in range(ndim)]
    return [*edges, *[None] * channels][:channels]


def _together(contracts: Sequence[AxisContract], name: str, ways: Sequence[str]) -> AxisContract:
    """One axis that suits several, without their context; ``ways`` are told where there is none."""
    first = contracts[0]
    if any((c.stride, c.crop) != (first.stride, first.crop) for c in contracts):
        shown = " and ".join(f"{c.stride} with a crop of {c.crop[0]} + {c.crop[1]}" for c in contracts)
        raise ModelError(
            f"Axis {name} and those that it changes places with have strides of {shown}.",
            "The transposed volume would give other voxels than the volume.",
            ways,
        )
    period = lcm(*(c.period for c in contracts))
    residues = tuple(r for r in range(period) if all(r % c.period in c.residues for c in contracts))
    if not residues:
        shown = ", and ".join(f"{' or '.join(map(str, c.residues))} modulo {c.period}" for c in contracts)
        raise ModelError(
            f"No size suits axis {name} and those that it changes places with: they take {shown}.",
            "The transposed volume would have a size that the network does not take.",
            ways,
        )
    cannot = next((c.uncut for c in contracts if c.uncut is not None), None)
    smallest = max(c.smallest for c in contracts)
    return replace(
        first, period=period, residues=residues, smallest=smallest, uncut=cannot, only=any(c.only for c in contracts)
    )


def _context(roles: Mapping[tuple[AxisContract, bool], None], residue: int) -> tuple[int, int]:
    """The most that whole periods read below and above, over all ways in which an axis is seen."""
    contexts = [_mirrored(c, residue) if flipped else (c.low, c.high) for c, flipped in roles]
    return max(low for low, _ in contexts), max(high for _, high in contexts)


def _mirrored(contract: AxisContract, residue: int) -> tuple[int, int]:
    """What whole periods of the volume read below and above, when the network sees the axis backwards.

    A block of the flipped output, anchored at [b, b + p) of N voxels, is that of [a, a + p) in the volume, where
    a = N - crop - b - p, and reads [a + crop - high, a + p + crop + low). Where N - crop is no multiple of the period,
    a whole period of the volume lies across two of them.
    """
    lost = sum(contract.crop)
    phase = (residue - lost) % contract.period
    low = contract.high - lost + -phase % contract.period
    return max(0, ceil(low)), max(0, ceil(contract.low + lost + phase))
