"""Passes over the blocks of a grid that leave a small table of each, on any workers and resumable."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from tempfile import TemporaryDirectory
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import DestinationError, PlanError, SourceError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.schedule.placement import active_client
from chunkinfer.runs.schedule.storing import Written
from chunkinfer.stores.files import FOLDER, Files
from chunkinfer.support.timing import drain, stage
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.lazy import arrays_read
from chunkinfer.volumes.volume import Volume

NEAR = ("inproc://", "tcp://127.0.0.1:", "tls://127.0.0.1:", "tcp://localhost:", "tls://localhost:")
"""How addresses begin of schedulers whose workers are on this machine."""

Table = Mapping[str, NDArray[Any]]
"""What is known of a block: arrays of any shapes, by name; no objects."""


class Step(Protocol):
    """What is done with a block: a small value that can travel and be tokenized."""

    def read(self, box: Box) -> Any:
        """The table of a block, read and computed in the task that has it."""


@dataclass(frozen=True)
class Tables(Sequence[dict[str, NDArray[Any]]]):
    """The tables of a pass, by the number of the block; each is read from the store when it is asked for."""

    url: str
    name: str
    grid: BlockGrid

    @property
    def files(self) -> Files:
        """The folder that holds them."""
        return Files(self.url, f"{FOLDER}/{self.name}-tables")

    def __len__(self) -> int:
        return len(self.grid)

    @overload
    def __getitem__(self, position: int) -> dict[str, NDArray[Any]]: ...
    @overload
    def __getitem__(self, position: slice) -> list[dict[str, NDArray[Any]]]: ...
    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        name = f"{range(len(self))[position]}.npz"
        content = self.files.read(name)
        if content is None:
            raise DestinationError(
                f"The table {name} of {self.url} is gone.",
                f"Something deleted it in {FOLDER}/{self.name}-tables, or the pass that writes it has not ended.",
                ["make the same call anew: overwrite=True", "restore the file"],
            )
        return from_npz(content)

    def write(self, box: Box, block: Table) -> Written:
        """Keep the table of a block."""
        index = [edges.index(start) for edges, start in zip(self.grid.edges, box.start, strict=True)]
        content = to_npz(block)
        with stage("write"):
            self.files.write(f"{self.grid.ravel(index)}.npz", content)
        return Written(len(content), zlib.crc32(content), **drain())


def to_npz(table: Table) -> bytes:
    """A table as a file."""
    content = io.BytesIO()
    np.savez(content, **table)  # type: ignore[arg-type]  # names are any
    return content.getvalue()


def from_npz(content: bytes) -> dict[str, NDArray[Any]]:
    """The table in a file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def check_finished(*volumes: Volume) -> None:
    """Refuse volumes that are the output of a run which has not ended: its blocks that are missing are no voxels.

    Who opened them with ``missing="fill"`` wants them as they are.

    Raises
    ------
    SourceError
        The ledger beside a volume lists fewer blocks than it has.
    """
    sources = {found for volume in volumes for found in arrays_read(volume.array) if isinstance(found, Source)}
    for url in sorted({source.url for source in sources if source.missing == "error"}):
        for place in (url, url.rpartition("/")[0]):  # the ledger of an image lies above its levels
            ledger = Ledger(Files(place))
            if (header := RunHeader.of(ledger)) is not None:
                blocks = prod(header.destination.counts)
                if (done := ledger.done(blocks).count) < blocks:
                    raise _unfinished(place, done, blocks)
                break


def _unfinished(url: str, done: int, blocks: int) -> SourceError:
    return SourceError(
        f"{url} is not finished: {done} of {blocks} blocks are stored.",
        "The run that writes it was paused, failed, or is going on.",
        [
            f"make its call again, which computes what is missing: chunkinfer.save(array, {url!r})",
            f"look how far it is: chunkinfer.status({url!r})",
            f"take what is missing for zeros: chunkinfer.open_volume({url!r}, missing='fill')",
        ],
    )


def temporary_folder(client: Any) -> TemporaryDirectory[str]:
    """A folder on this machine, for passes that nobody wants to keep.

    Raises
    ------
    PlanError
        The workers may be on other machines, and would write into a folder of theirs.
    """
    found = client or active_client()
    address = "" if found is None else str(found.scheduler.address)
    if address and not address.startswith(NEAR):
        raise PlanError(
            f"The workers of {address} may be on other machines, and there is no folder that all of them reach.",
            "Each block leaves a small table, and they are joined.",
            [
                f"name a folder that they reach, if they reach this one: url={os.path.abspath('tables')!r}",
                "run it here: with distributed.Client(processes=False): ...",
            ],
        )
    return TemporaryDirectory(prefix="chunkinfer-")


keep_tokens(globals(), "chunkinfer.passes")
