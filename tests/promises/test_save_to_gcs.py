"""The main job on Google Cloud Storage's own protocol."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from torch import nn

import chunkinfer as ci
from tests.lib.clusters import Cluster
from tests.lib.storage.buckets import FORMATS, Job, download_from, kill_and_resume, read_by_others, survive_faults


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zarr3, shards", "precomputed"])
def test_a_store_that_fails_one_request_in_twenty(name: str, gcs: str, store: Any, tmp_path: Path) -> None:
    url = f"gs://volumes/faults/{name.replace(', ', '-')}"
    download = partial(download_from, store, partial(names, gcs))
    survive_faults(gcs, "TENSORSTORE_GCS_HTTP_URL", url, FORMATS[name], download, tmp_path)
