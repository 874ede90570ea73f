"""The same through S3's own protocol, on loopback."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from chunkinfer.errors import AmbiguousSource, DestinationError, MissingChunk, SourceError, SourceNotFound
from chunkinfer.runs.record.lease import Lease
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays.create import ArraySpec, create, open_destination
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.filling import fill

ARRAY = np.random.default_rng(0).integers(0, 255, (20, 24, 28), dtype="u1")
ARRAY[:16, :16, :16] = 0
MADE: dict[str, Any] = {"shape": ARRAY.shape, "dtype": "u1", "dims": "zyx", "chunks": (8, 8, 8)}
LAYOUTS = [("zarr2", None), ("zarr3", None), ("zarr3", (16,) * 3), ("precomputed", None), ("precomputed", (16,) * 3)]


def versions(server: str, bucket: str, prefix: str) -> dict[str, int]:
    """How often each object was written."""
    import boto3

    listed = boto3.client("s3", endpoint_url=server).list_object_versions(Bucket=bucket, Prefix=prefix)
    counts: dict[str, int] = {}
    for version in listed.get("Versions", []):
        counts[version["Key"]] = counts.get(version["Key"], 0) + 1
    return counts


@pytest.mark.parametrize(("format", "shards"), LAYOUTS)
def test_round_trip(s3_server: str, bucket: str, format: str, shards: Any) -> None:
    url = f"s3://{bucket}/round/{format}{'-sharded' if shards else ''}"
    out = create(url, ArraySpec(format=format, **MADE, shards=shards, offset={"z": -5}))
    with pytest.raises(MissingChunk):
        open_source(url)[:]
    fill(pickle.loads(pickle.dumps(out)), ARRAY)
    source = open_source(url)
    assert source.url == url
    assert source.offset["z"] == -5
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[:], ARRAY)
    assert source.version
    for shipped in (json.dumps(source.spec), repr(source), str(pickle.dumps(source))):
        assert "secret" not in shipped
    # Every object is written once, however many chunks it holds.
    counts = versions(s3_server, bucket, f"round/{format}{'-sharded' if shards else ''}/")
    assert set(counts.values()) == {1}
    with pytest.raises(DestinationError, match="overwrite=True"):
        create(url, ArraySpec(format=format, **MADE))
    create(url, ArraySpec(format=format, **MADE), overwrite=True)
    with pytest.raises(MissingChunk):
        open_source(url)[:]
    assert open_destination(url).url == url


def test_nothing_there(bucket: str) -> None:
    with pytest.raises(SourceNotFound, match="bucket"):
        open_source(f"s3://{bucket}/nothing")
    with pytest.raises(DestinationError, match="bucket does not exist"):
        create("s3://no-such-bucket/out", ArraySpec(**MADE))
    with pytest.raises(SourceError, match="cannot be"):
        open_source("s3://B/nothing")


def test_unrelated_objects_are_not_overwritten(bucket: str) -> None:
    Files(f"s3://{bucket}/unrelated", "data").write("x", b"1")
    with pytest.raises(DestinationError, match="not empty"):
        create(f"s3://{bucket}/unrelated", ArraySpec(**MADE), overwrite=True)


def test_no_server(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    files = Files("s3://no-such-bucket/x")
    with pytest.raises(DestinationError, match="bucket"):
        files.write("a", b"")
    with pytest.raises(SourceError, match="bucket"):
        files.list()


def test_files(bucket: str) -> None:
    files = pickle.loads(pickle.dumps(Files(f"s3://{bucket}/ledger")))
    assert (files.list(), files.read("1")) == ([], None)
    files.write("a/1", b"x" * 10)
    assert (files.list(), files.read("a/1")) == (["a/1"], b"x" * 10)
    files.delete("a/1")
    assert files.list() == []


def test_groups(bucket: str) -> None:
    files = Files(f"s3://{bucket}", "group")
    array = create(f"s3://{bucket}/group/raw", ArraySpec(**MADE))
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    files.write("zarr.json", json.dumps(group).encode())
    with pytest.raises(AmbiguousSource, match="without listing every chunk"):
        open_source(f"s3://{bucket}/group")
    assert open_source(f"s3://{bucket}/group", array="raw").shape == array.shape
    meta = json.loads(files.read("raw/zarr.json") or b"")
    group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {"raw": meta}}
    files.write("zarr.json", json.dumps(group).encode())
    assert open_source(f"s3://{bucket}/group").shape == array.shape


def test_reading_over_http(s3_server: str, bucket: str) -> None:
    fill(create(f"s3://{bucket}/http", ArraySpec(**MADE)), ARRAY)
    import boto3

    policy = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"}]}
    boto3.client("s3", endpoint_url=s3_server).put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    source = open_source(f"{s3_server}/{bucket}/http")
    np.testing.assert_array_equal(source[:], ARRAY)
    with pytest.raises(DestinationError, match="only be read"):
        open_destination(f"{s3_server}/{bucket}/http")


def test_a_bucket_that_is_not_there_is_no_other_run(s3_server: str, bucket: str) -> None:
    """Its conditional writes fail as those do whose condition does not hold."""
    with pytest.raises(DestinationError, match="cannot be written") as caught, Lease(Files("s3://no-such-bucket/out")):
        pass
    assert "create the bucket" in caught.value.ways[0]
