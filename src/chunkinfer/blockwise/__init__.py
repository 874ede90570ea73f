"""All that knows dask: haloed reads, halo exchange, windows, placement, the ledger."""

from chunkinfer.blockwise.haloed import Network, infer_exchanging, infer_reading
from chunkinfer.blockwise.ledger import Ledger, differences
from chunkinfer.blockwise.masks import Mask
from chunkinfer.blockwise.payload import Payload, networks_of
from chunkinfer.blockwise.placement import active_client, client_for, gpu_annotation, room_of
from chunkinfer.blockwise.reading import Reader, check_reads, lazy_source, must_exchange, origin_of, places_read
from chunkinfer.blockwise.runner import Outcome, Windows
from chunkinfer.blockwise.storing import Store, copy_blocks, store_blocks

__all__ = [
    "Ledger",
    "Mask",
    "Network",
    "Outcome",
    "Payload",
    "Reader",
    "Store",
    "Windows",
    "active_client",
    "check_reads",
    "client_for",
    "copy_blocks",
    "differences",
    "gpu_annotation",
    "infer_exchanging",
    "infer_reading",
    "lazy_source",
    "must_exchange",
    "networks_of",
    "origin_of",
    "places_read",
    "room_of",
    "store_blocks",
]
