"""Activation, channels, classes and thresholds: against plain numpy, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from chunkinfer.errors import PlanError
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.outputs import ACTIVATIONS, Output, resolve_output
from tests.lib.kernel.blocks import Array, Case, job_of, lattice

VOLUME = np.random.default_rng(0).standard_normal((1, 9, 12, 14)).astype("f4")
PATCHES = {
    "exact": lattice((9, 12, 14), (6, 8, 8), None),
    "blended": lattice((9, 12, 14), (6, 8, 8), (2, 3, 4)),
}


def network(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, 0.3 - x, x * x - 0.5], 1)


def values() -> Array:
    x = VOLUME.astype("f8")
    return np.concatenate([x, 0.3 - x, x * x - 0.5])


def softmax(v: Array) -> Array:
    return np.exp(v) / np.exp(v).sum(0)


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def summed(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor.sum(1), tensor[:, 0]], 1)


CASES: list[tuple[dict[str, Any], Array]] = [
    ({}, values()),
    ({"activation": "sigmoid"}, sigmoid(values())),
    ({"activation": "softmax"}, softmax(values())),
    ({"activation": "tanh"}, np.tanh(values())),
    ({"activation": "relu"}, np.maximum(values(), 0)),
    ({"activation": summed}, np.stack([values().sum(0), values()[0]])),
    ({"channels": 1}, values()[[1]]),
    ({"channels": (0, 1)}, values()[:2]),
    ({"channels": [2, 0]}, values()[[2, 0]]),
    ({"channels": np.array([1, 2]), "activation": "softmax"}, softmax(values())[[1, 2]]),
    ({"channels": (1,), "activation": summed}, values()[[0]]),
]


def job_with(kind: str, output: Output, dtype: str = "f4") -> Job:
    return job_of(PATCHES[kind], output=output, dtype=output.dtype_of(3, np.dtype(dtype)))


@pytest.mark.parametrize("kind", sorted(PATCHES))
@pytest.mark.parametrize(("asked", "expected"), CASES, ids=[str(sorted(c)) for c, _ in CASES])
def test_values_are_stored(kind: str, asked: dict[str, Any], expected: Array) -> None:
    output = resolve_output(3, **asked)
    result = Case(job_with(kind, output), VOLUME).on_host(network)
    assert result.shape[0] == output.channels_of(3) == len(expected)
    assert np.abs(result - expected).max() < 1e-5


@pytest.mark.parametrize("kind", sorted(PATCHES))
def test_activated_values_are_quantised(kind: str) -> None:
    output = resolve_output(3, activation="sigmoid", dtype="uint8")
    job = job_with(kind, output, "u1")
    assert job.quantised
    assert np.abs(Case(job, VOLUME).on_host(network) - 255 * sigmoid(values())).max() <= 0.501


@pytest.mark.parametrize("kind", sorted(PATCHES))
@pytest.mark.parametrize("channels", [None, (2, 0)])
def test_classes_are_counted_among_the_channels_kept(kind: str, channels: tuple[int, ...] | None) -> None:
    output = resolve_output(3, channels=channels, argmax=True)
    job = job_with(kind, output)
    result = Case(job, VOLUME).on_host(network)
    assert result.dtype == np.uint8
    assert not job.quantised
    assert (job.channels, result.shape[0]) == (1, 1)
    kept = values()[list(channels or (0, 1, 2))]
    clear = np.diff(np.sort(kept, 0)[-2:], axis=0)[0] > 1e-5
    assert np.array_equal(result[0][clear], kept.argmax(0)[clear])


@pytest.mark.parametrize("kind", sorted(PATCHES))
def test_thresholds(kind: str) -> None:
    output = resolve_output(3, activation="sigmoid", threshold=0.5)
    result = Case(job_with(kind, output), VOLUME).on_host(network)
    assert result.dtype == np.uint8
    clear = np.abs(values()) > 1e-5
    assert np.array_equal(result[clear], (values() > 0)[clear])


def test_the_first_of_equal_channels_is_the_class() -> None:
    job = job_with("exact", resolve_output(3, argmax=True))
    for run in (Case.on_host, Case.on_device):
        assert not run(Case(job, VOLUME), lambda x: x.expand(-1, 3, -1, -1, -1)).any()


def test_many_classes_take_sixteen_bits() -> None:
    output = resolve_output(300, argmax=True)
    assert output.dtype_of(300, np.dtype("f4")) == np.uint16
    job = job_of(PATCHES["exact"], output=output, channels_out=300, dtype=np.dtype("u2"))

    def one_of_many(x: torch.Tensor) -> torch.Tensor:
        classes = (x * 50).round().clamp(0, 299).long()
        return torch.zeros((1, 300, *x.shape[2:])).scatter_(1, classes, 1.0)

    for run in (Case.on_host, Case.on_device):
        result = run(Case(job, VOLUME * 3), one_of_many)
        assert np.array_equal(result, np.rint(VOLUME * 3 * np.float32(50)).clip(0, 299))


def test_a_function_is_described_by_its_code() -> None:
    plain = [resolve_output(3, activation=f).describe() for f in (lambda v: v * 2, lambda v: v * 2, lambda v: v * 3)]
    assert plain[0]["activation"].startswith("test_a_function")
    assert plain[0] != plain[2]
    json.dumps(plain)


def test_only_what_was_asked_is_described() -> None:
    assert Output().describe() == {}
    asked = resolve_output(3, activation="softmax", channels=(1, 2), argmax=True)
    assert asked.describe() == {"activation": "softmax", "channels": [1, 2], "argmax": True}
    assert resolve_output(3, threshold=0).describe() == {"threshold": 0.0}


def test_every_activation_works_voxel_by_voxel() -> None:
    for function in ACTIVATIONS.values():
        assert resolve_output(3, activation=function).channels_of(3) == 3


def test_dtype_may_be_given_where_it_is_what_results() -> None:
    assert resolve_output(3, argmax=True, dtype="uint8").argmax
    assert resolve_output(3, threshold=1, dtype=np.uint8).threshold == 1


def _standardised(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor - tensor.mean()) / tensor.std()


BAD: list[tuple[str, int, dict[str, Any], str]] = [
    ("a name that is not known", 3, {"activation": "sofmax"}, "relu, sigmoid, softmax, tanh"),
    ("neither name nor function", 3, {"activation": 2}, "activation=2 is not known"),
    ("a function of the whole patch", 3, {"activation": _standardised}, "cut differently"),
    ("a function that moves voxels", 3, {"activation": lambda v: v.roll(1, -1)}, "cut differently"),
    ("a function that fails", 3, {"activation": lambda v: v.nothing}, "fails on a tensor"),
    ("a function that gives another shape", 3, {"activation": lambda v: v[..., 1:]}, "gives (1, 3, 4, 5, 5)"),
    ("a function that gives an array", 3, {"activation": lambda v: v.numpy()}, "gives ndarray"),
    ("softmax of one channel", 1, {"activation": "softmax"}, "1 everywhere"),
    ("a channel that is not there", 3, {"channels": (0, 3)}, "0 to 2"),
    ("a channel from the end", 3, {"channels": -1}, "0 to 2"),
    ("a channel that the function does not give", 3, {"channels": 2, "activation": summed}, "0 to 1"),
    ("a channel twice", 3, {"channels": (1, 1)}, "twice"),
    ("no channel", 3, {"channels": ()}, "is no channel"),
    ("half a channel", 3, {"channels": 0.5}, "is no channel"),
    ("a channel's name", 3, {"channels": "0"}, "is no channel"),
    ("a flag as channel", 3, {"channels": True}, "is no channel"),
    ("a threshold that is no number", 3, {"threshold": "0.5"}, "is no number"),
    ("a threshold of NaN", 3, {"threshold": float("nan")}, "is no number"),
    ("classes and a threshold", 3, {"argmax": True, "threshold": 0.5}, "contradict"),
    ("classes of one channel", 3, {"argmax": True, "channels": 0}, "argmax=True of 1 channel"),
    ("classes as floats", 3, {"argmax": True, "dtype": "float32"}, "stored as uint8"),
    ("many classes as bytes", 300, {"argmax": True, "dtype": "uint8"}, "stored as uint16"),
    ("a threshold as floats", 3, {"threshold": 0.5, "dtype": "float16"}, "stored as uint8"),
]


@pytest.mark.parametrize(("channels", "asked", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_refused(channels: int, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as caught:
        resolve_output(channels, **asked)
    assert says in str(caught.value)
    assert len(caught.value.ways) == 2
