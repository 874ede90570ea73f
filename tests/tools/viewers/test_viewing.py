"""Views: what is served and what is not, the state, lazy arrays, and a picture by a real browser."""

import http.client
import io
import json
import sys
import threading
import zlib
from urllib.parse import urlsplit

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from chunkinfer.errors import MissingExtra, SourceNotFound, ViewError, VolumeError
from chunkinfer.tools.viewers import browser
from chunkinfer.tools.viewers.viewing import view

pytest.importorskip("neuroglancer", reason="the extra view is not installed")


def ask(url, path="", method="GET", **headers):
    """A request whose path nothing normalises."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    try:
        connection.request(method, place.path + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def folder_of(shown, number=0):
    """Where a layer's folder is served."""
    return shown.state["layers"][number]["source"]["url"].partition("://")[2].rstrip("/")


@pytest.fixture
def em():
    return np.arange(20 * 30 * 40, dtype="uint32").reshape(20, 30, 40).astype("uint8")


# ---- the files of a store ---------------------------------------------------------------------------------------


def test_files_and_ranges_of_them(stored, em, tmp_path):
    with view(stored("a.zarr", em)) as shown:
        folder = folder_of(shown)
        content = (tmp_path / "a.zarr" / "zarr.json").read_bytes()
        status, headers, body = ask(folder, "/zarr.json")
        assert (status, body) == (200, content)
        assert headers["Access-Control-Allow-Origin"] == "*"
        for asked, part in (("0-0", content[:1]), ("5-", content[5:]), ("5-9", content[5:10]), ("-7", content[-7:])):
            status, headers, body = ask(folder, "/zarr.json", Range=f"bytes={asked}")
            assert (status, body) == (206, part)
            assert headers["Content-Range"].endswith(f"/{len(content)}")
            assert "Content-Range" in headers["Access-Control-Expose-Headers"]
        assert ask(folder, "/zarr.json", Range="bytes=99999-")[0] == 416
        status, headers, body = ask(folder, "/zarr.json", "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(content)))
        status, headers, _ = ask(folder, "/zarr.json", "OPTIONS", Origin="https://elsewhere")
        assert status == 204
        assert "Range" in headers["Access-Control-Allow-Headers"]
        status, headers, _ = ask(folder, "/c/9/9/9")
        assert status == 404  # a chunk that is not stored: the page may know
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert ask(folder, "/zarr.json", "POST")[0] == 405


def test_what_changes_is_read_anew(stored, em, tmp_path):
    with view(stored("a.zarr", em)) as shown:
        headers = ask(folder_of(shown), "/zarr.json")[1]
        assert headers["Cache-Control"] == "no-cache"
        assert ask(folder_of(shown), "/zarr.json", If_None_Match=headers["ETag"])[0] == 304
        (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
        assert ask(folder_of(shown), "/zarr.json", If_None_Match=headers["ETag"])[2] == b"{}"


def test_nothing_else_is_given_away(stored, em, tmp_path, caplog):
    stored("a.zarr", em)
    inside, outside = tmp_path / "a.zarr", tmp_path / "a.zarr.secret"
    outside.write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s").write_text("secret")
    (inside / ".chunkinfer").mkdir()
    for hidden in (".chunkinfer/run.json", ".hidden", ".zattrs"):
        (inside / hidden).write_text("hidden")
    (inside / "link").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path / "secrets")
    (inside / "same").symlink_to(inside / "zarr.json")
    with view(str(inside)) as shown:
        folder = folder_of(shown)
        assert ask(folder, "/.zattrs")[2] == b"hidden"  # zarr's own
        assert ask(folder, "/same")[0] == 200  # a link that stays inside
        for path in (
            "/../a.zarr.secret", "/../secrets/s", "/c/../../secrets/s", "/%2e%2e/secrets/s", "/..%2fsecrets%2fs",
            "/%2e%2e%2fsecrets/s", "/..%5csecrets%5cs", "//etc/passwd", "/%2fetc/passwd", "/link", "/folder/s",
            "/.chunkinfer/run.json", "/.hidden", "/%2ehidden", "/.zattrs/../.hidden", "/zarr.json%00", "/c", "/",
            "/./zarr.json", "",
        ):  # fmt: skip
            status, _, body = ask(folder, path)
            assert status == 404, path
            assert b"secret" not in body
            assert b"hidden" not in body
        base, token = folder.rsplit("/", 1)
        assert ask(base, f"/{token[:-1]}/zarr.json")[0] == 404
        assert ask(base, "/zarr.json")[0] == 404
    assert token not in caplog.text


def test_only_this_machine_is_served_and_only_until_the_end(stored, em):
    with view(stored("a.zarr", em)) as shown:
        assert urlsplit(shown.url).hostname == "127.0.0.1"
        assert {s.getsockname()[0] for s in shown._server.http_server._sockets.values()} == {"127.0.0.1"}
        assert ask(shown.url)[0] == 200
        assert f'src="{shown.url}"' in shown._repr_html_()
        port = urlsplit(shown.url).port
        with pytest.raises(ViewError, match="port=0"):
            view(em, port=port)
    with pytest.raises(ConnectionRefusedError):
        ask(shown.url)
    assert not any(t.name.startswith("Thread") and t is shown._server._thread for t in threading.enumerate())
    with view(em, port=port) as again:
        assert urlsplit(again.url).port == port


def test_pages_may_not_ask_for_credentials(em):
    with view(em) as shown:
        place, _, token = shown.url.rstrip("/").rpartition("/v/")
        assert ask(place, f"/credentials/{token}", "POST")[0] == 403


# ---- the state --------------------------------------------------------------------------------------------------


def test_state_of_three_layers(stored, em):
    affinities = np.zeros((3, 20, 30, 40), "uint8")
    with view(
        stored("em.zarr", em, offset={"z": 3, "y": 0, "x": 0}),
        stored("aff.precomputed", affinities),
        em.astype("uint32"),
        layers={"more": em},
        position=(4, 5, 6),
    ) as shown:
        state = json.loads(json.dumps(shown.state))
    kinds = [(told["name"], told["type"]) for told in state["layers"]]
    assert kinds == [
        ("image", "image"),
        ("affinities", "image"),
        ("segmentation", "segmentation"),
        ("more", "image"),
    ]
    sources = [told["source"] for told in state["layers"]]
    assert sources[0]["url"].startswith("zarr3://http://127.0.0.1:")
    assert sources[1]["url"].startswith("precomputed://http://127.0.0.1:")
    assert sources[2]["url"].startswith("python://volume/")
    # What has no coordinates lies where the image lies.
    for source in (sources[0], sources[2], sources[3]):
        assert [row[-1] for row in source["transform"]["matrix"]] == [3, 0, 0]
        assert source["transform"]["outputDimensions"]["z"] == [4e-8, "m"]
    assert state["dimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [4e-8, "m"]}
    assert state["position"] == [6.5, 5.5, 4.5]
    low, high = state["layers"][0]["shaderControls"]["contrast"]["range"]
    assert (low, high) == (1, 254)  # half a percent of all values of uint8


def test_contrast_is_told_or_found(pyramid, em):
    levels = [np.zeros((4, 2048, 16), "uint8"), np.full((2, 1024, 8), 9, "uint8")]
    levels[1][:, ::2] = 50
    with view(pyramid("p.zarr", levels)) as shown:  # the finest level is too large to look at
        assert shown.state["layers"][0]["shaderControls"]["contrast"]["range"] == [9, 50]
    with view(em, contrast=(3, 70)) as shown:
        assert shown.state["layers"][0]["shaderControls"]["contrast"]["range"] == [3, 70]
    with view(em > 3) as shown:
        assert shown.state["layers"][0]["shaderControls"]["contrast"]["range"] == [0, 1]


def test_names_of_several_layers(stored, em):
    url = stored("em.zarr", em)
    with view(image={"raw": url, "again": em}, layers=[url, url, xr.DataArray(em, dims=("z", "y", "x"))]) as shown:
        names = [told["name"] for told in shown.state["layers"]]
    assert names == ["raw", "again", "em.zarr", "em.zarr 2", "volume"]
    with view([url, url], segmentation=[url], reader="process", contrast=(0, 1)) as shown:
        told = [(one["name"], one["type"]) for one in shown.state["layers"]]
    assert told == [("em.zarr", "image"), ("em.zarr 2", "image"), ("em.zarr 3", "segmentation")]
    with view(layers=url) as shown:
        assert [told["name"] for told in shown.state["layers"]] == ["em.zarr"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to show"),
        ({"image": {"a": np.zeros((2, 2, 2))}, "layers": {"a": np.zeros((2, 2, 2))}}, "share a name"),
        ({"image": np.zeros((2, 2, 2)), "reader": "me"}, "browser and process"),
        ({"image": np.zeros((2, 2, 2)), "layout": "5panel"}, "4panel"),
        ({"segmentation": np.zeros((2, 2, 2))}, "float64 is no segmentation"),
        ({"image": np.zeros((2, 2, 2)), "position": (1, 1)}, "one number for each"),
    ],
)
def test_what_cannot_be_shown(given, message):
    before = threading.active_count()
    with pytest.raises(VolumeError, match=message):
        view(**given)
    assert threading.active_count() <= before  # no server is left


def test_nothing_is_there(tmp_path):
    with pytest.raises(SourceNotFound):
        view(tmp_path / "no.zarr")


def test_without_neuroglancer(monkeypatch, em):
    monkeypatch.setitem(sys.modules, "neuroglancer.server", None)
    with pytest.raises(MissingExtra, match=r'pip install "chunkinfer\[view\]"'):
        view(em)


# ---- lazy arrays ------------------------------------------------------------------------------------------------


def part_of(shown, start, stop, number=0):
    """A box of a lazy layer, as the page asks for it, in the array's axes."""
    place = shown.url.partition("/v/")[0]
    key = shown.state["layers"][number]["source"]["url"].rpartition("/")[2]
    ones, low, high = (",".join(map(str, part)) for part in ((1,) * len(start), start, stop))
    status, _, body = ask(place, f"/neuroglancer/npz/{key}/{ones}/{low}/{high}")
    assert status == 200
    return np.load(io.BytesIO(zlib.decompress(body)))


def test_lazy_arrays_are_computed_where_they_are_looked_at(em):
    computed = []

    def twice(block, block_info=None):
        computed.append(block_info[0]["chunk-location"])
        return block * 2

    lazy = da.from_array(em, chunks=10).map_blocks(twice, dtype="uint8", meta=np.empty(0, "u1"))
    with view(lazy) as shown:
        assert not computed
        assert (part_of(shown, (2, 3, 4), (8, 9, 10)) == 2 * em[2:8, 3:9, 4:10]).all()
        assert computed == [(0, 0, 0)]


@pytest.mark.parametrize(("dtype", "shown_as"), [("float64", "float32"), ("bool", "uint8"), ("int64", "uint64")])
def test_types_are_converted(em, dtype, shown_as):
    with view(layers={"a": (em % 2).astype(dtype)}) as shown:
        part = part_of(shown, (0, 0, 0), (4, 4, 4))
        assert part.dtype == shown_as
        assert (part == em[:4, :4, :4] % 2).all()


def test_this_process_reads_what_the_browser_may_not(stored, em):
    with view(stored("a.zarr", em), reader="process") as shown:
        assert shown.state["layers"][0]["source"]["url"].startswith("python://")
        assert (part_of(shown, (1, 2, 3), (9, 9, 9)) == em[1:9, 2:9, 3:9]).all()
    affinities = np.stack([em] * 3)
    with view(affinities=stored("b.zarr", affinities, chunks=(1, 8, 8, 8))) as shown:
        assert (part_of(shown, (0, 1, 2, 3), (3, 9, 9, 9)) == affinities[:, 1:9, 2:9, 3:9]).all()


# ---- pictures by a browser --------------------------------------------------------------------------------------


def test_without_a_browser(em, tmp_path, monkeypatch):
    with view(em) as shown:
        with pytest.raises(MissingExtra, match="no-such-browser"):
            shown.screenshot(browser="no-such-browser")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(browser, "BROWSERS", browser.BROWSERS[:6])
        with pytest.raises(MissingExtra, match="apt-get install chromium"):
            shown.screenshot()


def test_a_browser_that_ends_or_hangs(em, tmp_path):
    for name, body, message in (
        ("ends", 'echo "[1:2] INFO:CONSOLE:7] no WebGL here" >&2; exit 3', r"ended with code 3(?s:.*)no WebGL here"),
        ("hangs", "exec sleep 60", "did not finish in 0.5 s"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
        with view(em) as shown, pytest.raises(ViewError, match=message):
            shown.screenshot(browser=tmp_path / name, timeout=0.5 if name == "hangs" else 20)


SIZE = 600
OFFSET = 7


@pytest.fixture
def a_browser():
    try:
        return browser.found(None)
    except MissingExtra as problem:
        pytest.skip(str(problem))


def pixels(picture):
    image = pytest.importorskip("matplotlib.image").imread(io.BytesIO(picture.png))[..., :3]
    assert image.shape == (SIZE, SIZE, 3)
    return image


class Screen:
    """Where voxels of a view are on its picture of x and y."""

    def __init__(self, shown):
        state = shown.state
        (self.x, self.y, _), self.voxels = state["position"], state["crossSectionScale"]

    def column(self, x):
        return SIZE / 2 + (x + OFFSET - self.x) / self.voxels

    def row(self, y):
        return SIZE / 2 + (y + OFFSET - self.y) / self.voxels

    def colour(self, image, y, x):
        """In the middle of a voxel."""
        return image[int(self.row(y + 0.5)), int(self.column(x + 0.5))]


def em_with_a_cube():
    image = np.zeros((20, 64, 64), "uint8")
    image[5:15, 8:24, 8:40] = 200
    return image


def check_cube(image, screen):
    """The bright cube begins and ends where it should: half a voxel is 2 pixels."""
    bright = (image > 0.9).all(-1)
    columns = np.flatnonzero(bright[int(screen.row(16))])
    assert columns[0] == pytest.approx(screen.column(8), abs=1.1)
    assert columns[-1] + 1 == pytest.approx(screen.column(40), abs=1.1)
    rows = np.flatnonzero(bright[:, int(screen.column(12))])
    assert rows[0] == pytest.approx(screen.row(8), abs=1.1)
    assert rows[-1] + 1 == pytest.approx(screen.row(24), abs=1.1)


@pytest.mark.slow
@pytest.mark.smoke
def test_a_browser_draws_stores(a_browser, pyramid, stored, tmp_path):
    """OME-Zarr places centres of voxels, precomputed corners; both lie where the volumes lie."""
    image = em_with_a_cube()
    affinities = np.zeros((3, 20, 32, 64), "uint8")  # in the lower half
    for channel in range(3):
        affinities[channel, ..., 16 * channel : 16 * channel + 16] = 255
    with view(
        pyramid("em.zarr", [image, image[::2, ::2, ::2]], offset=OFFSET),
        stored("aff.precomputed", affinities, offset={"z": OFFSET, "y": OFFSET + 32, "x": OFFSET}),
        contrast=(0, 200),
        layout="xy",
    ) as shown:
        screen, picture = Screen(shown), shown.screenshot(tmp_path / "view.png", size=(SIZE, SIZE))
    seen = pixels(picture)
    assert picture.path.read_bytes() == picture.png
    check_cube(seen, screen)
    assert screen.colour(seen, 4, 20) == pytest.approx([0, 0, 0], abs=0.02)
    for channel in range(3):
        colour = np.eye(3)[channel] * 0.6  # over black
        for x in (16 * channel + 1, 16 * channel + 14):
            assert screen.colour(seen, 50, x) == pytest.approx(colour, abs=0.05), (channel, x)
    assert screen.colour(seen, 50, 55) == pytest.approx([0, 0, 0], abs=0.02)


def ome_04(path, image):
    """An image of two channels, of which each chunk has one, as zarr-python stores it."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    both = np.stack([image, image // 2])
    group.create_array("0", shape=both.shape, dtype="uint8", chunks=(1, 8, 32, 32))[:] = both
    axes = [{"name": "c", "type": "channel"}, *({"name": d, "type": "space", "unit": "nanometer"} for d in "zyx")]
    steps = [{"type": "scale", "scale": [1, 40, 8, 8]}, {"type": "translation", "translation": [0, 280, 56, 56]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return str(path)


def other_words(path, image):
    """A zarr array whose place is told in attributes that Neuroglancer doesn't know."""
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(path, shape=image.shape, dtype="uint8", chunks=(8, 32, 32), zarr_format=2)
    array[:] = image
    array.attrs.update({"voxel_size": [40, 8, 8], "offset": [280, 56, 56], "units": ["nm"] * 3})
    return str(path)


SOURCES = {
    "zarr3": lambda stored, image, folder: stored("em.zarr", image, offset=dict.fromkeys("zyx", OFFSET)),
    "zarr2": lambda stored, image, folder: stored(
        "em.zarr", image, offset=dict.fromkeys("zyx", OFFSET), format="zarr2", chunks=(8, 32, 32)
    ),
    "shards": lambda stored, image, folder: stored(
        "em.zarr", image, offset=dict.fromkeys("zyx", OFFSET), chunks=(4, 16, 16), shards=(20, 32, 32)
    ),
    "sharded precomputed": lambda stored, image, folder: stored(
        "em.precomputed", image, offset=dict.fromkeys("zyx", OFFSET), chunks=(8, 16, 16), shards=(16, 32, 32)
    ),
    "attributes": lambda stored, image, folder: other_words(folder / "em.zarr", image),
    "OME-Zarr 0.4": lambda stored, image, folder: ome_04(folder / "em.zarr", image),
    "lazy": lambda stored, image, folder: xr.DataArray(
        da.from_array(image, chunks=16) + np.uint8(0),
        dims=("z", "y", "x"),
        coords={d: (np.arange(n) + OFFSET) * s for d, n, s in zip("zyx", image.shape, (40, 8, 8), strict=True)},
        attrs={"unit": "nm"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_browser_draws_all_kinds_of_sources_in_the_same_place(a_browser, stored, tmp_path, source):
    image = em_with_a_cube()
    labels = np.zeros(image.shape, "uint32")
    labels[:, 40:60, 8:40] = 12
    what = SOURCES[source](stored, image, tmp_path)
    with view(what, segmentation=labels, contrast=(0, 200), layout="xy") as shown:
        assert shown.state["layers"][0]["source"]["url"].startswith("python:") is (source == "lazy")
        screen, seen = Screen(shown), pixels(shown.screenshot(size=(SIZE, SIZE)))
    check_cube(seen, screen)
    first = int(screen.column(2))  # beyond the yellow box around the volume
    row = seen[int(screen.row(45)), first : int(screen.column(62))]
    coloured = first + np.flatnonzero(np.ptp(row, axis=-1) > 0.1)  # a label; all else is grey
    assert coloured[0] == pytest.approx(screen.column(8), abs=1.1)
    assert coloured[-1] + 1 == pytest.approx(screen.column(40), abs=1.1)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["zarr3", "OME-Zarr", "lazy"])
def test_a_browser_draws_channels_as_colours(a_browser, stored, pyramid, source):
    affinities = np.zeros((3, 20, 64, 64), "float32")
    for channel in range(3):
        affinities[channel, ..., 16 * channel : 16 * channel + 16] = 1
    if source == "OME-Zarr":
        what = pyramid("aff.zarr", [affinities, affinities[:, ::2, ::2, ::2]], offset=OFFSET)
    else:
        what = stored("aff.zarr", affinities, offset=dict.fromkeys("zyx", OFFSET))
    with view(affinities=what, layout="xy", reader="process" if source == "lazy" else "browser") as shown:
        screen, seen = Screen(shown), pixels(shown.screenshot(size=(SIZE, SIZE)))
    for channel in range(3):
        for x in (16 * channel + 1, 16 * channel + 14):
            colour = screen.colour(seen, 50, x)
            assert colour.argmax() == channel
            assert colour[channel] > 0.5
            assert np.delete(colour, channel).max() < 0.3


@pytest.mark.slow
def test_a_layer_that_cannot_be_drawn_is_an_error(a_browser, em):
    def broken(block):
        raise OSError("the disk is gone")

    lazy = da.from_array(em, chunks=10).map_blocks(broken, dtype="uint8", meta=np.empty(0, "u1"))
    with view(lazy) as shown, pytest.raises(ViewError, match="did not finish in 15 s"):
        shown.screenshot(timeout=15)
