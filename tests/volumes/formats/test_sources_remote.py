"""Sections and files in a bucket and behind http: the same, by ranges."""

from __future__ import annotations

import json
import pickle
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import MissingChunk, SourceError, SourceNotFound
from chunkinfer.stores.files import Files
from chunkinfer.stores.ranges import size_of
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.comparing import assert_same
from tests.lib.storage.written import ARRAY, FILES, VOXELS, n5, stack

NAMES = ["tiles.tif", "chunks.h5", "one.nii", "zipped.nii.gz", "turned.map", "fortran.npy"]


def upload(folder: Path, bucket: str, prefix: str) -> str:
    files = Files(f"s3://{bucket}", prefix)
    for path in folder.rglob("*"):
        if path.is_file():
            files.write(str(path.relative_to(folder)), path.read_bytes())
    return f"s3://{bucket}/{prefix}"


@pytest.mark.parametrize("name", NAMES)
def test_files(tmp_path: Path, bucket: str, name: str) -> None:
    FILES[name][0](tmp_path / name)
    source = open_source(f"{upload(tmp_path, bucket, 'files')}/{name}")
    array = FILES[name][1]
    assert_same(source, array, (slice(1, 3), slice(5, 9), 7))
    assert source.version
    assert b"secret" not in pickle.dumps(source)


def test_sections(tmp_path: Path, bucket: str) -> None:
    url = upload(stack(tmp_path / "em", [f"em_{n:03d}.png" for n in (0, 1, 2, 4, 5)]), bucket, "sources/em")
    with pytest.raises(MissingChunk, match="sections 3;"):
        open_source(f"{url}/*.png")
    expected = np.insert(VOXELS[:5], 3, 0, axis=0)
    for pattern in ("*.png", "em_{z}.png"):
        assert_same(open_source(f"{url}/{pattern}", missing="fill"), expected, (slice(2, 5), 3))
    with pytest.raises(SourceNotFound, match=r"\*\.png"):
        open_source(url)


def test_sections_at_google(tmp_path: Path, gcs: str) -> None:
    files = Files("gs://volumes", "sources")
    for path in stack(tmp_path, [f"em_{n}.png" for n in range(3)]).iterdir():
        files.write(path.name, path.read_bytes())
    assert_same(open_source("gs://volumes/sources/*.png"), VOXELS[:3])


def test_n5(tmp_path: Path, bucket: str) -> None:
    n5(tmp_path / "em" / "s0", resolution=[4, 4, 40])
    assert_same(open_source(upload(tmp_path / "em", bucket, "sources/n5")), ARRAY)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_zarr(tmp_path: Path, bucket: str) -> None:
    """What lies beside an array, keys of chunks that nobody told of, and archives."""
    zarr, xr = pytest.importorskip("zarr"), pytest.importorskip("xarray")
    coords = {"z": np.arange(10) * 40.0 + 400, "y": np.arange(20) * 4.0}
    xr.Dataset({"em": (("z", "y", "x"), ARRAY)}, coords=coords).to_zarr(tmp_path / "d", zarr_format=2)
    source = open_source(upload(tmp_path / "d", bucket, "sources/d"))
    assert (source.voxel_size, source.offset) == ({"z": 40.0, "y": 4.0, "x": 1.0}, {"z": 10, "y": 0, "x": 0})
    assert_same(source, ARRAY)

    nested = tmp_path / "nested"
    key = {"name": "v2", "separator": "/"}
    zarr.create_array(str(nested), data=ARRAY, chunks=(8, 8, 8), zarr_format=2, chunk_key_encoding=key)
    meta = json.loads((nested / ".zarray").read_text())
    del meta["dimension_separator"]
    (nested / ".zarray").write_text(json.dumps(meta))
    assert_same(open_source(upload(nested, bucket, "sources/nested")), ARRAY)

    (tmp_path / "zip").mkdir()
    with zarr.storage.ZipStore(str(tmp_path / "zip" / "a.zarr.zip"), mode="w") as store:
        zarr.open_group(store=store, mode="w").create_array("raw", data=ARRAY, chunks=(8, 8, 8))
    assert_same(open_source(f"{upload(tmp_path / 'zip', bucket, 'sources/zip')}/a.zarr.zip"), ARRAY)


def test_http(tmp_path: Path, s3_server: str, bucket: str) -> None:
    import boto3

    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"}
    boto3.client("s3", endpoint_url=s3_server).put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Statement": [statement]})
    )
    stack(tmp_path, [f"em_{n:03d}.png" for n in range(8, 12)])
    FILES["zlib.tif"][0](tmp_path / "a.tif")
    upload(tmp_path, bucket, "sources/http")
    url = f"{s3_server}/{bucket}/sources/http"
    assert_same(open_source(f"{url}/a.tif"), FILES["zlib.tif"][1])
    assert_same(open_source(f"{url}/em_{{008..011}}.png"), VOXELS[:4])
    with pytest.raises(MissingChunk, match="sections 6-7;"):
        open_source(f"{url}/em_{{006..009}}.png")
    for pattern in ("*.png", "em_{z}.png"):
        with pytest.raises(SourceError, match=r"\{00000\.\.00249\}"):
            open_source(f"{url}/{pattern}")
    with pytest.raises(SourceNotFound):
        open_source(f"{url}/b.tif")


def test_http_without_ranges(tmp_path: Path) -> None:
    """A server that sends whole files serves for sections."""
    stack(tmp_path, [f"em_{n}.png" for n in range(3)])
    FILES["tiles.tif"][0](tmp_path / "a.tif")
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert_same(open_source(f"{url}/em_{{0..2}}.png"), VOXELS[:3])
        with pytest.raises(SourceError, match="ignored by server"):
            open_source(f"{url}/a.tif")
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *about: object) -> None:
        pass


@given(size=st.one_of(st.integers(0, 100), st.integers(0, 2**20)))
def test_sizes(size: int) -> None:
    import tensorstore as ts

    store = ts.KvStore.open({"driver": "memory", "path": "a"}).result()
    store.write("", bytes(size)).result()
    assert size_of(store) == size
