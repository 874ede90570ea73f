"""Who takes part: the peers, each by its own script, and chunkinfer in several ways."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parents[3] / "shared" / "peers"
"""The peers' scripts, which lie beside the repository."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Work:
    """What is run on what."""

    volume: Path
    """A .npy of uint8; the same voxels lie beside it as a .zarr."""
    model: Path
    """TorchScript; takes values in [0, 1]."""
    scaled: Path
    """The same; takes values in [0, 255]."""
    patch: int | None
    """Voxels along each axis; None leaves it to the contestant."""
    overlap: int
    threads: int
    memory: int
    """Bytes of the process."""
    out: Path
    """Folder for the result."""

    @property
    def sizes(self) -> list[str]:
        """Patch and overlap as the scripts take them."""
        patch = ["--patch", *[str(self.patch)] * 3] if self.patch else []
        return [*patch, "--overlap", *[str(self.overlap)] * 3]


@dataclass(frozen=True)
class Peer:
    """Another library, run by the script that lies beside the repository."""

    key: str
    name: str
    environment: str
    """Whose Python it runs in."""
    needs: tuple[str, ...]
    """Modules of that Python."""
    script: str
    extra: tuple[str, ...] = ()
    precision: str = "fp32"
    one_thread_each: bool = False
    """Whether it has a worker thread per core, so that torch gets one thread in each."""

    def command(self, python: str, work: Work) -> list[str]:
        """What to run."""
        threads = ["--threads", "1" if self.one_thread_each else str(work.threads)]
        if self.one_thread_each:
            threads += ["--workers", str(work.threads)]
        places = ["--input", str(work.volume), "--model", str(work.scaled), "--out", str(work.out)]
        return [python, str(SCRIPTS / self.script), *places, *work.sizes, *threads, *self.extra]


@dataclass(frozen=True)
class Chunkflow(Peer):
    """chunkflow scales integers itself, takes a file that opens the network, and ends its clock before it writes."""

    def command(self, python: str, work: Work) -> list[str]:
        """What to run."""
        network = ["--engine", "pytorch", "--model", str(HERE / "chunkflow_model.py"), "--weight", str(work.model)]
        places = ["--input", str(work.volume), "--output", str(work.out / "y.npy")]
        how = ["--channels", "3", "--mask", "--threads", str(work.threads)]
        return [python, str(SCRIPTS / self.script), *places, *network, *work.sizes, *how]


@dataclass(frozen=True)
class Ours:
    """chunkinfer in one of its ways."""

    key: str
    name: str
    engine: str
    precision: str = "fp32"
    blended: bool = False
    """With the peers' overlap and MONAI's best patch; exact otherwise, with the plan's own patch."""

    def command(self, python: str, work: Work) -> list[str]:
        """What to run."""
        how = ["--engine", self.engine, "--precision", self.precision, "--memory", str(work.memory)]
        places = ["--input", str(work.volume.with_suffix(".zarr")), "--model", str(work.model), "--out", str(work.out)]
        sizes = work.sizes if self.blended else []
        return [python, str(HERE / "bench_chunkinfer.py"), *places, *how, *sizes, "--threads", str(work.threads)]


Contestant = Peer | Ours

PEERS = (
    Peer("monai", "MONAI, sliding window, gaussian", "monai", ("monai", "torch", "zarr"), "bench_monai.py"),
    Peer("monai-zarr", "MONAI, averages in a zarr", "monai", ("monai", "torch", "zarr"), "bench_monai.py",
         ("--mode", "zarr")),
    Peer("nnunet", "nnU-Net's window, gaussian", "nnunet", ("nnunetv2", "zarr"), "bench_nnunet.py",
         precision="fp32, sums fp16"),
    Peer("torchem", "torch-em, pipelined, halo cropped", "nnunet", ("torch_em", "zarr"), "bench_torchem.py"),
    Peer("dask", "dask map_overlap recipe, halo cropped", "monai", ("dask", "torch", "zarr"), "bench_dask_naive.py",
         one_thread_each=True),
    Chunkflow("chunkflow", "chunkflow, bump window", "chunkflow", ("chunkflow", "torch"), "bench_chunkflow.py"),
)  # fmt: skip

OURS = (
    Ours("exact-torch", "**chunkinfer**, exact, torch", "torch"),
    Ours("exact-openvino", "**chunkinfer**, exact, OpenVINO", "openvino"),
    Ours("exact-openvino-bf16", "**chunkinfer**, exact, OpenVINO", "openvino", "bf16"),
    Ours("blended-openvino", "**chunkinfer**, blended, OpenVINO", "openvino", blended=True),
)

USUAL = ("monai", "nnunet", "torchem", "dask", "chunkflow")
"""Peers that take part where nothing else is said."""


def missing(peer: Peer, python: str) -> str | None:
    """Why a peer cannot take part; None if it can."""
    if not (SCRIPTS / peer.script).exists():
        return f"its script, shared/peers/{peer.script} beside the repository, is not there"
    names: Sequence[str] = peer.needs
    look = f"from importlib.util import find_spec; print(*(n for n in {list(names)!r} if find_spec(n) is None))"
    try:
        found = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"the Python given for {peer.environment} does not run"
    if absent := found.stdout.split():
        return f"{', '.join(absent)} not installed there; say where it is: --python {peer.environment}=PATH"
    return None
