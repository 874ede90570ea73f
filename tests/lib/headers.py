"""Headers of ledgers, made without a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chunkinfer.runs.record.headers import OutputFacts, RunHeader


def header_of(counts: Sequence[int], shape: Sequence[int], block: Sequence[int], **more: Any) -> dict[str, Any]:
    """Header of a run that writes blocks of an array with channels in front."""
    space = dict.fromkeys("zyx"[1 - len(counts) :], 1.0)
    output = OutputFacts(
        format="zarr3", shape=tuple(shape), dtype="uint8", dims=("c", *space), block=tuple(block),
        counts=tuple(counts), voxel_size=space, unit="nm", offset=dict.fromkeys(space, 0.0), chunks=tuple(block),
        shards=None, encoding=None, compression=None, **more,
    )  # fmt: skip
    return RunHeader("infer-1", (), None, output, {}).to_json()
