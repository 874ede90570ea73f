"""Jobs, small volumes and the two canvases, for the tests of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, blended_axis, exact_axis
from chunkinfer.tiling.kernel.block import run_block, start_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import Affine
from chunkinfer.tiling.kernel.outputs import Output
from chunkinfer.tiling.kernel.skip import blank, select
from chunkinfer.tiling.kernel.transfer import transfers

Array = NDArray[Any]
Network = Callable[[torch.Tensor], torch.Tensor]


def contract(context: int = 0, period: int = 1) -> AxisContract:
    return AxisContract(period, Fraction(1), context, context, (0, 0), (0,), period)


def lattice(
    sizes: tuple[int, ...], patch: tuple[int, ...], overlap: tuple[int, ...] | None, context: int = 1, period: int = 1
) -> PatchLattice:
    """Exact with a context, or blended where an overlap is given."""
    of = contract(context, period)
    if overlap is None:
        return PatchLattice(tuple(exact_axis(of, n, p) for n, p in zip(sizes, patch, strict=True)))
    return PatchLattice(tuple(blended_axis(of, n, p, o) for n, p, o in zip(sizes, patch, overlap, strict=True)))


def job_of(patches: PatchLattice, **settings: Any) -> Job:
    """A job of three channels in float32 on the CPU."""
    job = Job(
        patches, "hann", Affine(), 1, 3, np.dtype(np.float32), np.dtype(np.float32), batch=1, device="cpu", threads=1
    )
    return replace(job, **settings)


def restless(x: torch.Tensor) -> torch.Tensor:
    """A network of three channels in [0, 1] whose values depend on where in its patch a voxel lies."""
    first = x[:, :1]
    space = tuple(range(1, x.ndim))
    moved = first - first.mean(space, keepdim=True)
    return torch.cat([first, moved, first.roll(1, -1)], 1).mul(0.6).add(0.2).clamp(0, 1)


@dataclass(frozen=True)
class Case:
    """A volume and the job that it is given to."""

    job: Job
    volume: Array

    @property
    def whole(self) -> Box:
        return Box.of_shape(self.job.lattice.output)

    def task(self, out: Box | None = None, keep: Array | None = None) -> BlockTask:
        """A block, the whole volume by default."""
        out = out or self.whole
        seen = self.job.lattice.seen(out)
        return BlockTask.of(self.job, self.volume[(slice(None), *seen.slices)], seen, out, keep)

    def on_host(self, network: Network, out: Box | None = None, keep: Array | None = None) -> Array:
        """A block, through `run_block`."""
        return run_block(network, self.task(out, keep))

    def on_device(self, network: Network, out: Box | None = None, keep: Array | None = None) -> Array:
        """The same block by torch's operators."""
        task = self.task(out, keep)
        if not task.selection.patches:
            return blank(self.job, task.output_box)
        started = start_block(network, task, transfers("cpu").upload(task.data).tensor)
        return started.arrived(started.tensor.numpy())

    def selected(self, keep: Array | None = None) -> tuple[int, int]:
        """Patches of the whole volume that run, and that do not."""
        selection = select(self.job, self.volume, Box.of_shape(self.job.lattice.shape), self.whole, keep)
        return len(selection.patches), selection.skipped

    def cut(self, cuts: tuple[tuple[int, ...], ...], run: Callable[[Box], Array]) -> Array:
        """The volume, computed block by block."""
        result = np.zeros((self.job.channels, *self.whole.shape), self.job.dtype)
        edges = [sorted({0, n, *(c for c in axis if c < n)}) for axis, n in zip(cuts, self.whole.shape, strict=True)]
        for spans in product(*(pairwise(e) for e in edges)):
            box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
            result[(slice(None), *box.slices)] = run(box)
        return result


OUTPUTS = [
    Output(),
    Output(channels=(2, 0)),
    Output(activation="softmax", channels=(1, 2)),
    Output(activation="sigmoid", threshold=0.6),
    Output(argmax=True),
]


@st.composite
def cases(draw: st.DrawFn, stored: tuple[str, ...] = ("u1", "f4")) -> Case:
    """Exact and blended, two and three axes, sizes that fit nothing, sometimes smaller than a patch."""
    ndim = draw(st.sampled_from([2, 3]))
    exact, period = draw(st.booleans()), draw(st.sampled_from([1, 2]))
    patch = tuple(period * draw(st.integers(4, 8)) for _ in range(ndim))
    overlap = None if exact else tuple(draw(st.integers(0, p - 1)) for p in patch)
    steps = [p if overlap is None else p - o for p, o in zip(patch, overlap or patch, strict=True)]
    sizes = tuple(draw(st.integers(1, p + 2 * s)) for p, s in zip(patch, steps, strict=True))
    if exact:  # the patch must be of the residue of the volume's far-padded size: both are multiples of the period
        patch = tuple(p if p < n + n % period else n + n % period for p, n in zip(patch, sizes, strict=True))
    dtype = np.dtype(draw(st.sampled_from(stored)))
    output = draw(st.sampled_from(OUTPUTS))
    result = np.dtype(draw(st.sampled_from(["f4", "u1", "f2"])))
    job = job_of(
        lattice(sizes, patch, overlap, 1, period),
        window=draw(st.sampled_from(["hann", "linear", "gaussian", "bump"])),
        normalize=Affine(3.0, 255.0) if dtype.kind == "u" else Affine(),
        dtype=output.dtype_of(3, result),
        batch=draw(st.integers(1, 3)),
        output=output,
    )
    rng = np.random.default_rng(sum(sizes))
    shape = (1, *sizes)
    volume = rng.random(shape, dtype="f4") if dtype.kind == "f" else rng.integers(0, 256, shape).astype(dtype)
    return Case(job, volume)


@st.composite
def cuts(draw: st.DrawFn, case: Case) -> tuple[tuple[int, ...], ...]:
    """Where blocks end; exact ones are whole zones."""
    found = []
    for axis in case.job.lattice.axes:
        grain = axis.zone if axis.exact else 1
        inner = st.integers(1, max(1, axis.output // grain)).map(lambda k, grain=grain: k * grain)
        found.append(tuple(draw(st.lists(inner, max_size=2))))
    return tuple(found)
