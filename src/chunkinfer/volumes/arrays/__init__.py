"""Stored arrays: opened, created, written in whole units, erased; their levels, axes and positions.

======================  ==================================================================================
module                  purpose
======================  ==================================================================================
source, destination     a stored array as a small value; the same, writable in whole units
open, create, meta      from a URL to a source; from a request to a destination; what metadata say
nodes, inventory        what lies at a place; every array at a URL
single_files            names that no output has
erase                   what belongs to an array; making room for an output
layout, chunk_shape     chunks and shards for given blocks; chunks where nobody asks
levels, downsampling    coarser levels of a stored image; the arithmetic of a level; cells: its compiled loops
attributes, numbers     what JSON can hold of attributes; sizes and positions as headers hold them
axes, placement         names and order of axes; voxel size, unit and offset
======================  ==================================================================================
"""
