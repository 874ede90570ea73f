"""All that knows dask: haloed reads, halo exchange, windows, placement, the ledger."""

from chunkinfer.blockwise.arrays import check_voxels, lazy_array
from chunkinfer.blockwise.derived import as_declared
from chunkinfer.blockwise.facts import ModelFacts, NetworkFacts, SourceFacts
from chunkinfer.blockwise.haloed import Network, infer_exchanging, infer_reading
from chunkinfer.blockwise.headers import LevelFacts, OutputFacts, PassHeader, RunHeader, differences
from chunkinfer.blockwise.interrupts import Interrupts
from chunkinfer.blockwise.lease import Lease
from chunkinfer.blockwise.masks import Mask
from chunkinfer.blockwise.overwriting import Overwriting
from chunkinfer.blockwise.payload import NetworkPayload, Payload, Recipe, networks_of
from chunkinfer.blockwise.placement import active_client, client_for, room_of
from chunkinfer.blockwise.reading import (
    Reader,
    check_reads,
    held_by_workers,
    lazy_source,
    must_exchange,
    origin_of,
    places_read,
)
from chunkinfer.blockwise.runner import Outcome, run_blocks
from chunkinfer.blockwise.storing import Store, checksum, copy_blocks, store_blocks
from chunkinfer.blockwise.windows import Windows
from chunkinfer.blockwise.workers import Workers, waiting_at_most

__all__ = [
    "Interrupts",
    "Lease",
    "LevelFacts",
    "Mask",
    "ModelFacts",
    "Network",
    "NetworkFacts",
    "NetworkPayload",
    "Outcome",
    "OutputFacts",
    "Overwriting",
    "PassHeader",
    "Payload",
    "Reader",
    "Recipe",
    "RunHeader",
    "SourceFacts",
    "Store",
    "Windows",
    "Workers",
    "active_client",
    "as_declared",
    "check_reads",
    "check_voxels",
    "checksum",
    "client_for",
    "copy_blocks",
    "differences",
    "held_by_workers",
    "infer_exchanging",
    "infer_reading",
    "lazy_array",
    "lazy_source",
    "must_exchange",
    "networks_of",
    "origin_of",
    "places_read",
    "room_of",
    "run_blocks",
    "store_blocks",
    "waiting_at_most",
]
