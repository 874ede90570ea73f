"""Pictures have the size, the panels and the lines that they should, and read no more than the planes they show."""

import sys

import numpy as np
import pytest

from chunkinfer.errors import MissingExtra, VolumeError
from chunkinfer.support.drawing import DPI, GAP
from chunkinfer.tools.viewers.plots import LEFT, PANEL, RIGHT, side_by_side

image_module = pytest.importorskip("matplotlib.image")
SHAPE = (6, 40, 60)
BLOCKS = ((3, 3), (20, 20), (32, 28))
ACCENT = np.array([0xF2, 0x54, 0x2D]) / 255


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    labels = (np.indices(SHAPE)[1] // 10 + 4 * (np.indices(SHAPE)[2] // 20)).astype(np.uint32)
    return rng.integers(0, 255, SHAPE, np.uint8), rng.uniform(0.4, 1, (3, *SHAPE)), labels  # no ACCENT in it


def panels(path, columns):
    """The picture cut into columns, margins off."""
    picture = image_module.imread(path)[..., :3]
    starts = [round((LEFT + k * (PANEL + GAP)) * DPI) for k in range(columns)]
    return picture, [picture[:, a + 4 : a + round(PANEL * DPI) - 4] for a in starts]


def has_line(panel) -> bool:
    return bool((np.abs(panel - ACCENT).max(-1) < 0.1).any())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("everything", [False, True])
def test_size_and_panels(arrays, tmp_path, ndim, everything):
    image, output, labels = (a[..., 3, :, :] if ndim == 2 else a for a in arrays)
    more = {"blocks": BLOCKS[-ndim:], "segmentation": labels, "title": "Title"} if everything else {}
    path = side_by_side(image, output, tmp_path / "p.png", voxel_size=(20, 8, 8)[-ndim:], **more)
    columns = 4 if everything else 2
    picture, parts = panels(path, columns)
    assert picture.shape[1] == pytest.approx((LEFT + RIGHT + columns * (PANEL + GAP) - GAP) * DPI, abs=1)
    tall = PANEL * 40 / 60 + (GAP + PANEL * 6 * 20 / (60 * 8) if ndim == 3 else 0)
    assert picture.shape[0] == pytest.approx(((0.64 if everything else 0.3) + tall + RIGHT) * DPI, abs=1)
    assert all(part.std() > 0.05 for part in parts)
    assert [has_line(part) for part in parts] == [False, False, everything, False][:columns]


def test_the_same_output_is_shown_with_and_without_blocks(arrays, tmp_path):
    image, output, _ = arrays
    _, (_, plain, cut) = panels(side_by_side(image, output, tmp_path / "p.png", blocks=BLOCKS), 3)
    below = slice(round(0.35 * DPI), None)  # the panels' names are above
    assert np.isclose(plain, cut)[below].mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 5])
def test_any_number_of_channels(arrays, tmp_path, channels):
    image = arrays[0]
    output = np.full((channels, *SHAPE) if channels else SHAPE, 200, np.uint8)
    assert side_by_side(image, output, str(tmp_path / "p.png")).stat().st_size > 1000


def test_only_planes_are_read(arrays, tmp_path):
    class Lazy:
        def __init__(self, array):
            self.array, self.shape, self.read = array, array.shape, 0

        def __getitem__(self, index):
            part = self.array[index]
            self.read += part.size
            return part

    image, output = Lazy(arrays[0]), Lazy(arrays[1])
    side_by_side(image, output, tmp_path / "p.png")
    assert image.read == 40 * 60 + 6 * 60
    assert output.read == 3 * image.read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": np.zeros((3, 6, 40, 61))}, "The output has shape"),
        ({"image": np.zeros(5), "output": np.zeros(5)}, "The image has shape"),
        ({"segmentation": np.zeros((6, 40))}, "The segmentation has shape"),
        ({"blocks": ((6,), (40,), (32, 32))}, "The blocks cover"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, tmp_path, change, message):
    with pytest.raises(VolumeError, match=message):
        side_by_side(**{"image": arrays[0], "output": arrays[1], "path": tmp_path / "p.png"} | change)


def test_without_matplotlib(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[demo\]"'):
        side_by_side(arrays[0], arrays[1], tmp_path / "p.png")
