"""What Neuroglancer is told of layers, as plain values."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from chunkinfer.errors import VolumeError
from chunkinfer.tools.viewers.layers import (
    COLOURS,
    GREY,
    HEAT,
    layer_of,
    layer_state,
    on_one_grid,
    readable,
    remote_url,
    shader,
    shown_dtype,
    stored_source,
    transform,
    view_state,
)
from chunkinfer.volumes.pictures.levels import opened
from chunkinfer.volumes.pictures.levels import stored as found


def lazy(shape=(20, 30, 40), dtype="uint8", size=(40, 8, 4), origin=(5, 0, -3), unit="nm"):
    coords = {d: (np.arange(n) + o) * s for d, n, o, s in zip("zyx", shape[-3:], origin, size, strict=True)}
    attrs = {"unit": unit} if unit else {}
    return xr.DataArray(np.zeros(shape, dtype), dims=("c", "z", "y", "x")[-len(shape) :], coords=coords, attrs=attrs)


def layer(volume, name="a", kind=None):
    url = isinstance(volume, str)
    return layer_of(name, kind, opened(volume), found(volume) if url else None)


def test_voxels_keep_their_size_unit_and_place():
    volume = opened(lazy((2, 20, 30, 40)))
    told = transform({"c": "c'", "z": "z", "y": "d1", "x": "x"}, volume.frame, volume.frame.origin, "c^")
    space = {"z": [40e-9, "m"], "y": [8e-9, "m"], "x": [4e-9, "m"]}
    assert told["outputDimensions"] == {"c^": [1, ""], **space}
    assert told["inputDimensions"] == {"c'": [1, ""], "z": space["z"], "d1": space["y"], "x": space["x"]}
    assert list(told["outputDimensions"]) == ["c^", "z", "y", "x"]
    assert told["matrix"] == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 5], [0, 0, 1, 0, 0], [0, 0, 0, 1, -3]]


@pytest.mark.parametrize(
    ("unit", "length"), [("um", [4e-6, "m"]), ("nm", [4e-9, "m"]), ("", [4, ""]), ("furlong", [4, ""])]
)
def test_units(unit, length):
    volume = opened(lazy(unit=unit))
    assert transform(dict.fromkeys("zyx", ""), volume.frame, {}, "c^")["outputDimensions"]["x"] == length


def test_the_view_looks_at_the_middle_of_the_first_layer():
    layers = [layer(lazy()), layer(lazy((4, 4, 4)), "b")]
    state = view_state(layers, [{"name": "a"}, {"name": "b"}], None, "4panel")
    assert state["dimensions"] == {"x": [4e-9, "m"], "y": [8e-9, "m"], "z": [40e-9, "m"]}
    assert list(state["dimensions"]) == ["x", "y", "z"]
    assert state["position"] == [-3 + 20.5, 15.5, 15.5]
    assert state["crossSectionScale"] == pytest.approx(20 * 40 / 4 / 400)  # z is longest: 200 times the shortest voxel
    assert [told["name"] for told in state["layers"]] == ["a", "b"]
    assert view_state(layers, [], (1, 2, 3), "xy")["position"] == [3.5, 2.5, 1.5]
    with pytest.raises(VolumeError, match="one number for each of"):
        view_state(layers, [], (1, 2), "xy")


def test_arrays_without_coordinates_lie_on_the_grid_of_the_others():
    bare = np.zeros((20, 30, 40), "uint32")
    one, two, three = on_one_grid([layer(bare), layer(lazy()), layer(lazy(unit=""), "c")])
    assert one.volume.frame == two.volume.frame
    assert three.volume.frame.unit == "nm"
    assert three.volume.frame.origin == two.volume.frame.origin
    (alone,) = on_one_grid([layer(bare)])
    assert alone.volume.frame.voxel_size == dict.fromkeys("zyx", 1.0)


@pytest.mark.parametrize(
    ("kind", "channels", "code"),
    [
        ("image", 1, GREY),
        ("affinities", 1, HEAT),
        ("affinities", 2, COLOURS.format(blue="0.5 * (red + green)")),
        ("affinities", 12, COLOURS.format(blue="contrast(getDataValue(2))")),
        ("image", 3, COLOURS.format(blue="contrast(getDataValue(2))")),
    ],
)
def test_shaders(kind, channels, code):
    assert shader(kind, channels) == code
    assert code.count("{") == code.count("}") == 1
    assert code.startswith("#uicontrol invlerp contrast\n")


@pytest.mark.parametrize(
    ("dtype", "kind", "shown"),
    [
        ("uint8", "image", "uint8"),
        ("bool", "image", "uint8"),
        ("float16", "affinities", "float32"),
        ("float64", "image", "float32"),
        ("int64", "image", "float32"),
        ("int64", "segmentation", "uint64"),
        ("int32", "segmentation", "int32"),
    ],
)
def test_types_that_can_be_drawn(dtype, kind, shown):
    assert shown_dtype(np.dtype(dtype), kind) == shown


def test_layers_of_each_kind():
    image = layer_state(layer(lazy()), {"url": "u"}, (3.4, 90.7))
    assert image["shaderControls"] == {"contrast": {"range": [3, 91]}}
    assert image["type"] == "image"
    floats = layer_state(layer(lazy(dtype="float32")), {"url": "u"}, (0.25, 0.5))
    assert floats["shaderControls"] == {"contrast": {"range": [0.25, 0.5]}}
    assert "shaderControls" not in layer_state(layer(lazy()), {"url": "u"}, (7, 7))
    affinities = layer_state(layer(lazy((3, 20, 30, 40))), {"url": "u"}, None)
    assert affinities["type"] == "image"
    assert affinities["opacity"] < image["opacity"] == 1
    labels = layer_state(layer(lazy(dtype="uint64")), {"url": "u"}, None)
    assert labels["type"] == "segmentation"
    assert "shader" not in labels


def test_stores_are_given_as_they_are(stored, pyramid):
    array = np.zeros((3, 20, 30, 40), "uint8")
    for name, scheme in (("a.zarr", "zarr3"), ("b.precomputed", "precomputed")):
        shown = layer(stored(name, array, offset={"z": 5, "y": 0, "x": -3}))
        assert readable(shown)
        told = stored_source(shown, "http://here/folder")
        assert told["url"].rstrip("/") == f"{scheme}://http://here/folder"
        if scheme == "zarr3":
            assert list(told["transform"]["outputDimensions"]) == ["c^", "z", "y", "x"]
            assert [row[-1] for row in told["transform"]["matrix"]] == [0, 5, 0, -3]
        else:
            assert "transform" not in told  # its info file says it
    shown = layer(pyramid("p.zarr", [array, array[:, ::2, ::2, ::2]], offset=7))
    assert shown.volume.frame.origin["x"] == 7
    assert [row[-1] for row in stored_source(shown, "http://here")["transform"]["matrix"]] == [0.5] * 4


@pytest.mark.parametrize(
    ("dtype", "chunks", "kind", "can"),
    [
        ("uint8", (3, 8, 8, 8), None, True),
        ("uint8", (1, 8, 8, 8), None, False),
        ("uint8", (1, 8, 8, 8), "image", True),
        ("float64", (3, 8, 8, 8), None, False),
        ("bool", (3, 8, 8, 8), None, False),
    ],
)
def test_what_the_browser_cannot_read(stored, dtype, chunks, kind, can):
    shown = layer(stored("a.zarr", np.zeros((3, 8, 8, 8), dtype), chunks=chunks), kind=kind)
    assert readable(shown) is can
    if can and chunks[0] == 1:  # channels are looked at one by one
        told = stored_source(shown, "http://here")
        assert "c'" in told["transform"]["outputDimensions"]
        state = layer_state(shown, told, None)
        assert state["shader"] == GREY
        assert (state["localDimensions"], state["localPosition"]) == ({"c'": [1, ""]}, [0.5])


def test_old_images_name_their_axes_in_a_way_that_the_browser_cannot_read(pyramid):
    url = pyramid("p.zarr", [np.zeros((4, 4, 4), "uint8")])
    path = Path(url) / "zarr.json"
    meta = json.loads(path.read_text())
    meta["attributes"]["ome"]["multiscales"][0]["axes"] = ["z", "y", "x"]
    assert readable(layer(url))
    path.write_text(json.dumps(meta))
    assert not readable(layer(url))


def test_lazy_volumes_and_files_are_read_here(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 4), "uint8"))
    assert not readable(layer(str(tmp_path / "a.npy")))
    assert not readable(layer(lazy()))


def test_buckets(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert remote_url("s3://bucket/em.zarr") == "s3://bucket/em.zarr"
    assert remote_url("gs://bucket/em.zarr") == "gs://bucket/em.zarr"
    assert remote_url("https://host/em.zarr") == "https://host/em.zarr"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert remote_url("s3://bucket/em.zarr") == "s3+http://127.0.0.1:9000/bucket/em.zarr/"


def test_chosen_segments_keep_all_their_digits():
    labels = layer(lazy(dtype="uint64"))
    assert layer_state(labels, {}, None, [2**64 - 1, 7])["segments"] == [str(2**64 - 1), "7"]
    assert layer_state(labels, {}, None)["segments"] == []
