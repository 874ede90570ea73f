"""Files for `fuzzing`: TIFF, HDF5, NIfTI, MRC, npy and PNG sections, and what their libraries read of them."""

from __future__ import annotations

from tests.lib.storage.fuzz_files_hdf5 import HDF5
from tests.lib.storage.fuzz_files_headers import HEADERS
from tests.lib.storage.fuzz_files_png import PNG
from tests.lib.storage.fuzz_files_tiff import TIFF

FILES = (*TIFF, *HDF5, *HEADERS, *PNG)
