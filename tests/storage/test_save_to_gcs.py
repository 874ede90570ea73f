"""The main job on Google Cloud Storage's own protocol."""

from __future__ import annotations

import json
import logging
import re
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from torch import nn

import chunkinfer as ci
from clusters import Cluster
from storage.buckets import FORMATS, Job, download_from, kill_and_resume, read_by_others


def as_google_answers(get: Callable[..., None]) -> Callable[..., None]:
    """What tensorstore relies on and the emulator leaves out: listings between two names, the generation of what is
    read, and the last bytes of an object. Without the first it takes other folders' names for its own, and may abort.
    """

    def answer(request: Any, response: Any, storage: Any, *more: Any) -> None:
        get(request, response, storage, *more)
        if response.status >= 300:
            return
        asked = request.params
        if "object_id" in asked:
            generation = storage.get_file_obj(asked["bucket_name"], asked["object_id"])["generation"]
            response["x-goog-generation"], response["ETag"] = generation, f'"{generation}"'
            response["Last-Modified"] = formatdate(usegmt=True)
            if last := re.fullmatch(r"bytes=-(\d+)", request.get_header("range", "")):
                size, first = len(response._content), max(0, len(response._content) - int(last[1]))
                response._content, response.status = response._content[first:], HTTPStatus.PARTIAL_CONTENT
                response["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        elif "startOffset" in request.query or "endOffset" in request.query:
            table = json.loads(response._content)
            (start,), (stop,) = (request.query.get(name, [""]) for name in ("startOffset", "endOffset"))
            table["items"] = [i for i in table["items"] if i["name"] >= start and (not stop or i["name"] < stop)]
            response.json(table)

    return answer


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """The address of an emulator on loopback, which this process and those that it starts take for Google's."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with (
        pytest.MonkeyPatch.context() as patch,
        emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="volumes") as server,
    ):
        for _, methods in emulator.HANDLERS:
            for get in (emulator.objects.ls, emulator.objects.get, emulator.objects.download):
                if methods.get("GET") is get:
                    patch.setitem(methods, "GET", as_google_answers(get))
        url = f"http://127.0.0.1:{server._api._httpd.server_port}"
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "not-so-secret-token")
        yield url


@pytest.fixture(scope="module")
def store(gcs: str) -> Any:
    """The bucket as obstore sees it."""
    obstore = pytest.importorskip("obstore.store")
    options = {"base_url": gcs, "skip_signature": True}
    return obstore.GCSStore("volumes", config=options, client_options={"allow_http": True})


def names(gcs: str, prefix: str) -> list[str]:
    """Listed by Google's JSON protocol: the emulator does not speak the other one, which obstore uses."""
    with urllib.request.urlopen(f"{gcs}/storage/v1/b/volumes/o?prefix={quote(prefix)}", timeout=60) as answer:
        return [thing["name"] for thing in json.load(answer)["items"]]


@pytest.fixture(scope="module")
def cluster(gcs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of two threads each, that know the server by their environment."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.worker()
        cluster.worker()
        yield cluster
    finally:
        cluster.close()


def test_infer_from_bucket_to_bucket_and_resume(gcs: str, store: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((20, 40, 40), dtype="f4")
    net = nn.Conv3d(1, 2, 3, padding=1).eval()
    ci.save(image, "gs://volumes/smoke/em.zarr", chunks=(10, 20, 20), progress=False)
    result = ci.infer(ci.open_volume("gs://volumes/smoke/em.zarr"), net, patch=14)
    report = ci.save(result, "gs://volumes/smoke/out.zarr", progress=False)
    assert report.computed == report.blocks > 1
    again = ci.save(result, "gs://volumes/smoke/out.zarr", progress=False)
    assert (again.computed, again.skipped) == (0, report.blocks)
    assert np.array_equal(ci.open_volume("gs://volumes/smoke/out.zarr").values, result.values)
    download_from(store, partial(names, gcs), "gs://volumes/smoke/out.zarr", tmp_path)
    assert np.array_equal(read_by_others(tmp_path), result.values)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_resumed_and_read_by_others(
    name: str, gcs: str, store: Any, cluster: Cluster, tmp_path: Path
) -> None:
    job = Job(tmp_path, f"gs://volumes/matrix/{name.replace(', ', '-')}", cluster, FORMATS[name], seconds=0.15)
    kill_and_resume(job, partial(download_from, store, partial(names, gcs)), tmp_path / "copy")
