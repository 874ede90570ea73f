"""What a run says when it ends."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chunkinfer.runs.events import BLOCK_DONE, BLOCK_FAILED, BLOCK_SLOW, RETRY, WORKER_LOST, Event
from chunkinfer.support import html


@dataclass
class RunReport:
    """How a run went."""

    url: str
    """Where the output is."""
    blocks: int = 0
    """Blocks of the output."""
    skipped: int = 0
    """Blocks that earlier runs had stored."""
    computed: int = 0
    """Blocks that this run stored."""
    retried: int = 0
    """Times that a block was tried again."""
    slow: int = 0
    """Blocks that took ten times as long as usual, and ten seconds at least."""
    workers_lost: int = 0
    """Workers that left while the run went on: preempted, killed, or at their lifetime's end."""
    paused: bool = False
    """Whether it was paused before its end."""
    engines: dict[str, int] = field(default_factory=dict)
    """Blocks that each engine computed."""
    failed: list[str] = field(default_factory=list)
    """Boxes, in voxels of the output, that failed after all retries."""
    voxels: int = 0
    """Voxels, times channels, that this run stored."""
    bytes: int = 0
    """Their bytes before compression."""
    patches: int = 0
    """Patches of the blocks that this run stored; those that two blocks share count twice."""
    patches_skipped: int = 0
    """Patches among them that were not computed: outside of the mask, or empty."""
    seconds: float = 0.0
    """Wall time."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of all tasks per stage: read, wait (for the device), compute, write."""
    plan: str = ""
    """The plan, as text."""
    verdict: str = ""
    """What kind of equality with the network on the whole volume the output has, in words."""
    precision_check: str = ""
    """What reduced precision changes, in words."""
    header: dict[str, Any] = field(default_factory=dict)
    """Source, model, settings, destination and versions: what the run is."""

    @property
    def voxels_per_second(self) -> float:
        """Of this run, stored."""
        return self.voxels / self.seconds if self.seconds else 0.0

    def told(self, event: Event) -> None:
        """Count what happened; a subscriber of the run's events."""
        facts = event.facts
        if event.kind == BLOCK_DONE:
            self.computed += 1
            for name in ("voxels", "bytes"):
                setattr(self, name, getattr(self, name) + facts[name])
            for name, number in facts["counts"].items():
                setattr(self, name, getattr(self, name) + number)
            for name, seconds in facts["seconds"].items():
                self.stages[name] = self.stages.get(name, 0.0) + seconds
            if engine := facts["engine"]:
                self.engines[engine] = self.engines.get(engine, 0) + 1
        elif event.kind == BLOCK_FAILED:
            self.failed.append(facts["box"])
        elif event.kind == BLOCK_SLOW:
            self.slow += 1
        elif event.kind == RETRY:
            self.retried += 1
        elif event.kind == WORKER_LOST:
            self.workers_lost += 1

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for ``run.json``."""
        return {**asdict(self), "voxels_per_second": self.voxels_per_second}

    def _rows(self) -> list[tuple[str, str]]:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stages.items())
        return [
            ("output", self.url),
            ("result", self.verdict),
            *([("precision", self.precision_check)] if self.precision_check else []),
            ("blocks", f"{self.computed} computed, {self.skipped} stored before, {len(self.failed)} failed, "
                       f"{self.retried} retries{self._trouble()}"),
            *([("engines", ", ".join(f"{name} {n}" for name, n in self.engines.items()))]
              if len(self.engines) > 1 else []),
            *([("skipped", f"{self.patches_skipped:,} of {self.patches:,} patches")] if self.patches_skipped else []),
            ("time", f"{self.seconds:.1f} s, {self.voxels_per_second / 1e6:.2f} Mvoxel/s stored (channels counted)"),
            ("tasks", stages),
        ]  # fmt: skip

    def _trouble(self) -> str:
        lost = f", {self.workers_lost} workers lost" if self.workers_lost else ""
        slow = f", {self.slow} slow" if self.slow else ""
        return f"{lost}{slow}{', paused' if self.paused else ''}"

    def __str__(self) -> str:
        return "\n".join(f"{name + ':':<9}{value}" for name, value in self._rows() if value)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.facts(self._rows())


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("chunkinfer", "torch", "numpy", "dask", "distributed", "tensorstore", "xarray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
