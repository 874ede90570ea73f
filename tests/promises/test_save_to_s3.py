"""The main job from bucket to bucket, on S3's own protocol."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import chunkinfer as ci
from tests.lib.clusters import Cluster
from tests.lib.storage.buckets import FORMATS, Job, download_from, kill_and_resume, survive_faults


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("suffix", [".zarr", ".precomputed"])
def test_infer_from_bucket_to_bucket_and_resume(bucket: str, suffix: str) -> None:
    image = np.random.default_rng(0).random((20, 40, 40), dtype="f4")
    net = nn.Conv3d(1, 2, 3, padding=1).eval()
    ci.save(image, f"s3://{bucket}/main-job{suffix}/em.zarr", chunks=(10, 20, 20))
    volume = ci.open_volume(f"s3://{bucket}/main-job{suffix}/em.zarr")
    assert np.array_equal(volume.values, image)
    result = ci.infer(volume, net, patch=14)
    report = ci.save(result, f"s3://{bucket}/main-job{suffix}/out{suffix}")
    assert report.computed == report.blocks > 1
    again = ci.save(
        ci.infer(volume, net), f"s3://{bucket}/main-job{suffix}/out{suffix}"
    )  # the earlier run's patch is adopted
    assert (again.computed, again.skipped) == (0, report.blocks)
    stored = ci.open_volume(f"s3://{bucket}/main-job{suffix}/out{suffix}")
    assert np.array_equal(stored.values, result.values)


@pytest.fixture(scope="module")
def store(s3_server: str, bucket: str) -> Any:
    """The bucket as obstore sees it."""
    obstore = pytest.importorskip("obstore.store")
    keys = {"access_key_id": "not-so-secret-id", "secret_access_key": "not-so-secret-key"}
    return obstore.S3Store(bucket, endpoint=s3_server, region="us-east-1", client_options={"allow_http": True}, **keys)


def names(store: Any, prefix: str) -> list[str]:
    import obstore

    return [thing["path"] for batch in obstore.list(store, prefix=prefix) for thing in batch]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_resumed_and_read_by_others(
    name: str, bucket: str, store: Any, cluster: Cluster, tmp_path: Path
) -> None:
    url = f"s3://{bucket}/matrix/{name.replace(', ', '-')}"
    job = Job(tmp_path, url, cluster, FORMATS[name], seconds=0.15)
    kill_and_resume(job, partial(download_from, store, partial(names, store)), tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zarr3, shards", "precomputed"])
def test_a_store_that_fails_one_request_in_twenty(
    name: str, bucket: str, s3_server: str, store: Any, tmp_path: Path
) -> None:
    url = f"s3://{bucket}/faults/{name.replace(', ', '-')}"
    download = partial(download_from, store, partial(names, store))
    survive_faults(s3_server, "AWS_ENDPOINT_URL", url, FORMATS[name], download, tmp_path)
