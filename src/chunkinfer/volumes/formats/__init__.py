"""Formats of stored arrays, one a file.

======================  ==================================================================================
module                  purpose
======================  ==================================================================================
zarr, ome, precomputed  metadata of what is read and written; ome_versions: OME-Zarr's versions in one form
cf, chunk_keys          what xarray stores beside an array; how chunks of zarr version 2 are named
n5, n5_output           N5, read and written
tiff, hdf5, nifti, ...  single files, read only, as npy, mrc and sections are
readers                 by format: what describes a file, what reads boxes of it
flat, decoded           uncompressed arrays; decoded parts, kept for a while
======================  ==================================================================================
"""
