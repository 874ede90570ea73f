"""Slices show what is in the volume where it is, and read no more."""

import io
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from chunkinfer.errors import MissingExtra, SourceError, VolumeError
from chunkinfer.support import thinning
from chunkinfer.support.colours import label_colours
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.pictures import slices
from chunkinfer.volumes.pictures.levels import opened as levels_of
from chunkinfer.volumes.pictures.levels import plane
from chunkinfer.volumes.pictures.levels import stored as levels
from chunkinfer.volumes.pictures.slices import THUMBNAIL, layout, show, thumbnails

image_module = pytest.importorskip("matplotlib.image")

SHAPE = {"z": 20, "y": 120, "x": 160}
CUBE = {"z": (4, 12), "y": (30, 60), "x": (100, 140)}
"""A bright box; the slices meet in it."""
MIDDLE = (8, 45, 120)
VOXEL = {"z": 40.0, "y": 8.0, "x": 8.0}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Fewer pixels take less time."""
    monkeypatch.setattr(slices, "DPI", 80)


def cube(dtype="uint8", low=20, high=220):
    array = np.full(tuple(SHAPE.values()), low, dtype)
    array[tuple(slice(*CUBE[d]) for d in "zyx")] = high
    return array


def labelled(array, origin=(0, 0, 0)):
    dims = ("c", "z", "y", "x")[-array.ndim :]
    coords = {d: (np.arange(n) + o) * VOXEL[d] for d, n, o in zip("zyx", array.shape[-3:], origin, strict=True)}
    return xr.DataArray(array, dims=dims, coords=coords, attrs={"unit": "nm"}, name="cube")


def pixels(picture):
    return image_module.imread(io.BytesIO(picture.png))[..., :3]


def panels(picture, shape=SHAPE, voxel=VOXEL):
    """By axes (down, across): the panel's pixels and the pixels of a voxel down and across."""
    image = pixels(picture)
    found = {}
    for panel in layout(dict(shape), dict(voxel))[2]:
        left, bottom, width, height = panel.box
        rows = round((1 - bottom - height) * image.shape[0]), round((1 - bottom) * image.shape[0])
        columns = round(left * image.shape[1]), round((left + width) * image.shape[1])
        part = image[slice(*rows), slice(*columns)]
        found[panel.down, panel.across] = (
            part, part.shape[0] / shape[panel.down], part.shape[1] / shape[panel.across],
        )  # fmt: skip
    return found


def at(panel, down, across):
    """The colour in the middle of a voxel."""
    part, tall, wide = panel
    return part[int((down + 0.5) * tall), int((across + 0.5) * wide)]


def test_the_bright_cube_is_where_it_is(tmp_path):
    picture = show(labelled(cube()), tmp_path / "new" / "a.png", position=MIDDLE)
    assert picture.path == tmp_path / "new" / "a.png"
    assert picture.path.read_bytes() == picture.png == picture._repr_png_()
    found = panels(picture)
    assert set(found) == {("y", "x"), ("y", "z"), ("z", "x")}
    for (down, across), panel in found.items():
        for d in (CUBE[down][0], CUBE[down][1] - 1):
            for a in (CUBE[across][0], CUBE[across][1] - 1):
                assert (at(panel, d, a) > 0.95).all(), (down, across)
        (d0, d1), (a0, a1) = CUBE[down], CUBE[across]
        for d, a in ((d0 - 1, a0), (d1, a0), (d0, a0 - 1), (d0, a1)):
            assert (at(panel, d, a) < 0.05).all(), (down, across)


def test_lengths_are_true_to_the_voxel_size():
    found = panels(show(labelled(cube())))
    (_, y, x), (_, _, z) = found["y", "x"], found["y", "z"]
    assert y == pytest.approx(x, rel=0.02)
    assert z == pytest.approx(5 * x, rel=0.02)
    assert found["z", "x"][1] == pytest.approx(z, rel=0.02)


def test_a_scale_bar_is_drawn():
    flat = show(labelled(np.full(tuple(SHAPE.values()), 9, "uint8")))
    corner = panels(flat)["y", "x"][0][-100:, :300]
    assert (corner > 0.9).all(-1).sum() > 200  # white, in a black picture
    assert (panels(flat)["y", "z"][0][5:-5, 5:-5] < 0.05).all()


@pytest.mark.parametrize("origin", [(0, 0, 0), (100, -50, 7)])
def test_positions_are_the_volumes_own(origin):
    moved = tuple(m + o for m, o in zip(MIDDLE, origin, strict=True))
    picture = show(labelled(cube(), origin), position=moved)
    assert (at(panels(picture)["z", "x"], 8, 120) > 0.95).all()
    with pytest.raises(VolumeError, match=f"z {origin[0]} to {origin[0] + 20}, y {origin[1]} to"):
        show(labelled(cube(), origin), position=(moved[0] + 12, *moved[1:]))
    with pytest.raises(VolumeError, match="one number per axis"):
        show(labelled(cube(), origin), position=moved[1:])


def test_affinities_are_colours_and_labels_are_stable():
    affinities = np.stack([cube("float32", 0, 1), cube("float32", 0, 0.5), cube("float32", 0, 0)])
    inside = at(panels(show(labelled(affinities), position=MIDDLE))["y", "x"], 45, 120)
    assert inside == pytest.approx([1, 0.5, 0], abs=0.01)
    heat = at(panels(show(cube("float32", 0, 0.5), position=MIDDLE, kind="affinities"), voxel=ONES)["y", "x"], 45, 120)
    assert heat == pytest.approx([1, 0.5, 0], abs=0.01)
    labels = cube("uint64", 3, 2**40)
    seen = panels(show(labelled(labels), position=MIDDLE))["y", "x"]
    assert at(seen, 45, 120) == pytest.approx(label_colours(np.array([2**40]))[0], abs=0.01)
    assert at(seen, 10, 120) == pytest.approx(label_colours(np.array([3]))[0], abs=0.01)


ONES = dict.fromkeys("zyx", 1.0)


def test_only_the_slices_are_read(stored, monkeypatch):
    url = stored("a.zarr", cube(), chunks=(8, 16, 16))
    read = []
    whole = Source._read
    monkeypatch.setattr(Source, "_read", lambda self, bounds: read.append(bounds) or whole(self, bounds))
    from_store, from_memory = show(url, position=MIDDLE), show(labelled(cube()), position=MIDDLE)
    assert sorted(np.prod([b - a for a, b in bounds]) for bounds in read) == [20 * 120, 20 * 160, 120 * 160]
    one, two = panels(from_store)["y", "x"][0], panels(from_memory)["y", "x"][0]
    assert (one == two).all()


def test_a_lazy_volume_computes_the_slices_only():
    seen = []

    def bright(block, block_info=None):
        seen.append(block_info[0]["chunk-location"])
        return block + 1

    array = da.zeros((40, 40, 40), chunks=10, dtype="uint8").map_blocks(bright, dtype="uint8", meta=np.empty(0, "u1"))
    show(array)
    assert len(seen) <= 3 * 16
    assert all(2 in place for place in seen)


def test_what_is_not_stored_is_drawn_as_the_fill_value(tmp_path, stored):
    url = stored("a.zarr", cube(), chunks=(20, 60, 80))
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "1").unlink()
    assert (at(panels(show(url, position=MIDDLE))["y", "x"], 45, 120) < 0.1).all()


@pytest.mark.parametrize("shape", [(40, 60), (1, 40, 60), (3, 1, 40, 60)])
def test_one_section_has_one_panel(shape):
    array = np.zeros(shape, "uint8")
    array[..., 10:20, 30:50] = 255
    sizes = dict(zip("zyx"[-min(len(shape), 3) :], shape[-3:], strict=True))
    found = panels(show(array), sizes, ONES)
    assert list(found) == [("y", "x")]
    assert (at(found["y", "x"], 15, 40) > 0.95).all()
    assert (at(found["y", "x"], 15, 20) < 0.05).all()


def test_a_coarser_level_is_taken_of_what_is_large(pyramid, monkeypatch):
    levels = [cube()[:: 2**k, :: 2**k, :: 2**k] for k in range(3)]
    url = pyramid("a.zarr", levels)
    for most, level in ((159, 1), (10, 2)):
        monkeypatch.setattr(slices, "PIXELS", most)
        picture = show(url, position=MIDDLE)
        found = panels(picture)
        for (down, across), panel in found.items():
            middle = dict(zip("zyx", MIDDLE, strict=True))
            assert (at(panel, middle[down], middle[across]) > 0.95).all()
            assert (at(panel, CUBE[down][1] + 4, middle[across]) < 0.05).all()
        assert picture.png == show(url, position=MIDDLE, level=level).png
    with pytest.raises(SourceError, match="no level 3"):
        show(url, level=3)
    with pytest.raises(VolumeError, match="no URL"):
        show(cube(), level=1)


def test_thumbnails_of_every_level(pyramid, stored, monkeypatch, tmp_path):
    levels = [cube()[:: 2**k, :: 2**k, :: 2**k] for k in range(3)]
    for array in levels:
        array[len(array) // 2] += 10  # only the middle section is drawn: its dark part is not black
    url = pyramid("a.zarr", levels)
    monkeypatch.setattr(slices, "THUMBNAIL_PIXELS", 100)
    read = []
    whole = Source._read
    monkeypatch.setattr(Source, "_read", lambda self, bounds: read.append(bounds) or whole(self, bounds))
    picture = thumbnails(url, tmp_path / "t.png")
    assert picture.path.stat().st_size == len(picture.png)
    assert [tuple(b - a for a, b in bounds) for bounds in read] == [(1, 100, 100), (1, 60, 80), (1, 30, 40)]
    assert [bounds[0][0] for bounds in read] == [10, 5, 2]
    assert read[0][1:] == ((10, 110), (30, 130))
    assert pixels(picture).shape[1] > 3 * THUMBNAIL * slices.DPI > 2.5 * pixels(thumbnails(url + "/1")).shape[1]
    four = pixels(thumbnails(pyramid("b.zarr", [cube()[:: k + 1] for k in range(5)])))  # a second row
    assert four.shape[0] > 1.9 * pixels(picture).shape[0]


def test_levels_of_every_format(stored, pyramid, tmp_path):
    arrays = [cube()[:: 2**k, :: 2**k, :: 2**k] for k in range(3)]
    assert levels(pyramid("a.zarr", arrays)).levels == 3
    assert levels(stored("b.zarr", arrays[0])).levels == 1
    assert levels(stored("c.precomputed", arrays[0])).levels == 1
    np.save(tmp_path / "d.npy", arrays[0])
    assert levels(tmp_path / "d.npy").levels == 1
    for k, array in enumerate(arrays):
        stored(f"e.n5/s{k}", array, format="n5")
    assert levels(tmp_path / "e.n5").levels == 3
    assert levels(tmp_path / "e.n5" / "s1").levels == 1


@pytest.mark.parametrize("draw", [lambda: show(np.zeros((4, 4, 4), "u1")), lambda: show(np.zeros((4, 4), "u1"))])
def test_without_matplotlib(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[view\]"'):
        draw()


@pytest.mark.parametrize("chunks", [(4, 50, 70), (1, 16, 160), (20, 120, 160)])
def test_of_what_is_large_every_few_th_voxel_is_drawn(stored, monkeypatch, chunks):
    monkeypatch.setattr(slices, "PIXELS", 50)
    monkeypatch.setattr(thinning, "AT_ONCE", 900)
    array = np.random.default_rng(0).integers(0, 255, (2, *SHAPE.values()), dtype="uint8")
    wanted = array[:, 10, ::3, ::4]
    several = da.from_array(array, chunks=(1, *chunks))
    for volume in (array, several, several + 0, stored("a.zarr", array, chunks=(2, *chunks)), labelled(array)):
        opened = levels_of(volume)
        assert (plane(opened, {"z": 10}, 50) == wanted).all()
        assert (plane(opened, {"x": 7}, 50) == array[:, :, ::3, 7]).all()
    drawn, about = [], slices._about
    monkeypatch.setattr(slices, "_about", lambda *given: drawn.append(about(*given)) or drawn[0])
    show(several)
    assert drawn[0].endswith("every 3th in y, every 4th in x")


def test_a_section_of_any_size_takes_little_memory():
    """52 bytes a pixel, as it was, are 1.9 GB of these 36 million."""
    program = """
import resource, dask.array as da, numpy as np
from chunkinfer.volumes.pictures.slices import show
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
show(np.zeros((8, 8, 8), "u1"))
before = peak()
section = da.ones((3, 1, 6000, 6000), chunks=(3, 1, 1000, 1000), dtype="u1")
show(section * (da.arange(6000, chunks=1000) % 251).astype("u1"))
print(peak() - before)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 300e6  # matplotlib takes two thirds of it
