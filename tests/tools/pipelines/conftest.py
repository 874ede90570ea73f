"""Small volumes, a small network, and a module with steps of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci

OWN = '''
"""Steps of a user's own."""

import numpy as np

from chunkinfer import operators


def brighter(volume, by: int = 10, *, twice: bool = False):
    """Add a number to every voxel.

    Parameters
    ----------
    by
        The number.
    twice
        Add it again.
    """
    once = operators.add(volume, by)
    return operators.add(once, by) if twice else once


def smoothed(voxels, strength: float = 1.0):
    """A mean of neighbours along x, as a function of arrays."""
    wide = np.pad(voxels, [(0, 0)] * (voxels.ndim - 1) + [(1, 1)], mode="edge").astype("f4")
    return voxels.astype("f4") + strength * (wide[..., 2:] + wide[..., :-2])
'''


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with em.zarr (24, 40, 48) uint8, tissue.zarr, unet.pt2 and own.py; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("home")
    image = np.random.default_rng(0).integers(0, 255, (24, 40, 48), np.uint8)
    np.save(folder / "em.npy", image)
    volume = ci.open_volume(folder / "em.npy", voxel_size=(40, 4, 4), offset=(3, 0, 0))
    ci.save(volume, folder / "em.zarr", chunks=(12, 20, 24), progress=False)
    ci.save((volume > 100).astype("u1"), folder / "tissue.zarr", progress=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.Sigmoid()).eval()
    dims = {2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")}
    program = torch.export.export(net, (torch.zeros(1, 1, 24, 24, 24),), dynamic_shapes=(dims,))
    torch.export.save(program, folder / "unet.pt2")
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, with links to what is in `home`; the working directory."""
    for name in ("em.zarr", "tissue.zarr", "unet.pt2", "own.py"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(home))
    return tmp_path
