"""The storage room: what an array at a URL is.

======================  ==================================================================================
module                  purpose
======================  ==================================================================================
source, destination     a stored array as a small value; the same, writable in whole units
opening, creating       from a URL to a source; from a request to a destination
nodes, inventory        what lies at a place; every array at a URL
single_files            names that no output has
erasing                 what belongs to an array; making room for an output
zarr, ome, precomputed  the metadata of one format each; npy is read only
ome_versions            OME-Zarr's versions in one form; coordinate systems
cf, chunk_keys          what xarray stores beside an array; how chunks of zarr version 2 are named
chunks, shards, morton  chunks of precomputed volumes, written below the driver; in shards; which box a shard is
compressed_...          segmentation: the encoding of labels
levels, downsampling    coarser levels of a stored image; the arithmetic of a level; cells: its compiled loops
attributes              what JSON can hold of attributes
axes, placement         names and order of axes; voxel size, unit and offset
numbers                 sizes and positions as headers hold them
readers                 by format: what describes a file, what reads boxes of it
sections, naming, ...   pictures, tiff, hdf5 (and its scales), nifti, mrc, npy, n5: one format each, read only
ranges, flat, decoded   objects by byte ranges; uncompressed arrays; decoded parts, kept for a while
urls, store, failures   places; handles opened once per process; what a store's failure means
files, disk             small objects next to an output; whole files on a local disk
======================  ==================================================================================
"""

from chunkinfer.storage.chunk_shape import default_chunks
from chunkinfer.storage.creating import ArraySpec, create, guess_format, open_destination, write_unit
from chunkinfer.storage.destination import Destination
from chunkinfer.storage.erasing import refuse_file
from chunkinfer.storage.files import Files
from chunkinfer.storage.ledger import Ledger
from chunkinfer.storage.opening import open_source
from chunkinfer.storage.segments import Entry
from chunkinfer.storage.source import Source
from chunkinfer.storage.urls import holds, locate

__all__ = [
    "ArraySpec",
    "Destination",
    "Entry",
    "Files",
    "Ledger",
    "Source",
    "create",
    "default_chunks",
    "guess_format",
    "holds",
    "locate",
    "open_destination",
    "open_source",
    "refuse_file",
    "write_unit",
]
