"""The main job from bucket to bucket."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import chunkinfer as ci


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
