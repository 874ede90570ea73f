"""What a caller may ask of a run, and what is taken where an argument is no such thing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkinfer.errors import PlanError
from chunkinfer.networks.engines.opening import AUTO
from chunkinfer.support.arguments import PerAxis, byte_count
from chunkinfer.tiling.plan.precision import TOLERANCE

PRECISIONS = ("fp32", "bf16", "fp16")
"""Of the arithmetic inside the network."""


PADS = ("edge",)
"""Ways to make a volume longer at its far end."""


@dataclass(frozen=True)
class Wishes:
    """The arguments of `infer` that shape a plan, as the caller gave them; None leaves a choice to the plan."""

    patch: PerAxis = None
    overlap: PerAxis = None
    halo: PerAxis = None
    pad: str | None = None
    block: PerAxis = None
    window: str | None = None
    batch: int | None = None
    dtype: Any = None
    precision: str | None = None
    precision_tolerance: float | None = None
    engine: str | None = None
    cpu_engine: str | None = None
    threads: int | None = None
    device: str | None = None
    normalize: Any = None
    memory: int | str | None = None
    slots: int | None = None
    max_block_minutes: float | None = None
    calibrate: bool = False
    halves: Sequence[int] | None = None
    """Of a patch that an earlier plan chose: axes that two patches share; see `exact_axis`."""
    chunks: Sequence[int] | None = None
    """Of a destination that asks for them, along the spatial axes, in output voxels."""
    shards: Sequence[int] | None = None
    """Likewise; blocks are whole numbers of them."""
    activation: Any = None
    channels: Any = None
    argmax: bool = False
    threshold: float | None = None
    mask: Any = None
    empty: float | str | None = None
    fill: float | None = None
    check: int | None = None
    version: str | None = None

    def memory_bytes(self) -> int | None:
        """The memory of a worker process, in bytes; None where it was left open."""
        return None if self.memory is None else byte_count("memory", self.memory)

    def asked(self) -> tuple[str, ...]:
        """Names of the arguments that were given and must be kept; "auto" leaves the engine open."""
        auto = isinstance(self.engine, str) and self.engine == AUTO
        given = [name for name, value in vars(self).items() if value is not None and value is not False]
        return tuple(name for name in given if not (name == "engine" and auto))


@dataclass(frozen=True)
class Stored:
    """How the volume is stored: size of a voxel, in any unit, chunks and shards along its spatial axes, channels of a
    chunk, and bytes of decoded parts that a process keeps."""

    voxel_size: tuple[float, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    channels: int = 1
    decoded: int = 0


@dataclass(frozen=True)
class Place:
    """Where a run will take place, as far as is known."""

    device: str
    """cpu or cuda."""
    slots: int | None = None
    """Blocks in flight in one process."""
    memory: int | None = None
    """Bytes of one process."""
    device_memory: int | None = None
    """Bytes of its GPU."""
    calling: bool = False
    """Whether it is the caller's process, where no client is active."""


def count(name: str, value: Any) -> int:
    """1 where the caller left it open."""
    return 1 if value is None else positive(name, value)


def positive(name: str, value: Any) -> int:
    """A whole number from 1 on, or `PlanError`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise PlanError(
            f"{name}={value!r} is no count.", "It is a whole number, 1 or more.", [f"{name}=1", f"leave {name}= out"]
        )
    return int(value)


def one_of(name: str, value: str, table: Collection[str]) -> str:
    if not isinstance(value, str) or value not in table:
        raise PlanError(
            f"{name}={value!r} is not known.", f"There are: {', '.join(table)}.",
            [f"{name}={next(iter(table))!r}", f"leave {name}= out"],
        )  # fmt: skip
    return value


def tolerance(asked: float | None) -> float:
    if asked is None:
        return TOLERANCE
    if not isinstance(asked, int | float | np.number) or isinstance(asked, bool) or not asked >= 0:
        raise PlanError(
            f"precision_tolerance={asked!r} is no share.",
            "It is the share of decisions that reduced precision may flip.",
            [f"precision_tolerance={TOLERANCE}", "leave precision_tolerance= out"],
        )
    return float(asked)


def check_minutes(minutes: float | None, calibrate: bool) -> None:
    if minutes is None or (calibrate and minutes > 0):
        return
    raise PlanError(
        f"max_block_minutes={minutes!r} "
        + ("is no duration." if calibrate else "needs the speed of a block, which is not known before calibrate=True."),
        "",
        ["infer(volume, model, calibrate=True, max_block_minutes=30)", "leave max_block_minutes= out"],
    )


def result_dtype(asked: Any, compute: str) -> np.dtype[Any]:
    if asked is None:
        return np.dtype(compute)
    ways = ['dtype="uint8" quantises [0, 1] to [0, 255]', 'dtype="float16" halves the bytes']
    try:
        dtype: np.dtype[Any] = np.dtype(asked)
    except TypeError as error:
        raise PlanError(f"dtype={asked!r} is no dtype.", "", ways) from error
    if dtype != np.uint8 and dtype.kind != "f":
        raise PlanError(f"A network's output cannot be stored as {dtype}.", "It holds real numbers.", ways)
    return dtype
