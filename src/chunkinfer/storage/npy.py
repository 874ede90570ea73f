"""``.npy`` files, memory-mapped. No pickles."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".npy"


@lru_cache(maxsize=16)
def opened(path: str, version: str) -> NDArray[Any]:
    """The memory-mapped array; ``version`` keeps a file and its successor apart."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def version(path: Path) -> str:
    """Modification time and size."""
    stat = path.stat()
    return f"{stat.st_mtime_ns}-{stat.st_size}"
