"""Headers of ledgers: what they hold comes back, and what is in a fingerprint decides whether a run goes on."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import DestinationError, SettingsDiffer
from chunkinfer.runs.record.headers import LevelFacts, OutputFacts, PassHeader, RunHeader, differences
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.support.facts import ModelFacts, NetworkFacts, SourceFacts

SOURCES = st.builds(SourceFacts, st.none() | st.just("s3://a"), st.none() | st.text(max_size=3), array=st.none())
PLACES = st.tuples(st.integers(0, 9), st.integers(0, 9))
PARTS = st.builds(SourceFacts, st.just("b"), st.just("c"), st.integers(), PLACES, PLACES)
NAMED = st.builds(SourceFacts, st.none(), array=st.sampled_from(["array-1", "array-2"]))
MODELS = st.builds(ModelFacts, st.just("net"), st.text(max_size=2), st.none() | st.just("v1"), st.none() | st.just(1))
SETTINGS = st.dictionaries(st.sampled_from(["patch", "window"]), st.none() | st.lists(st.integers()))
NETWORKS = st.builds(
    NetworkFacts, SOURCES | PARTS | NAMED, MODELS, SETTINGS, st.just(("z", "y")), st.sampled_from(["exact", "blended"]),
    programs=st.none() | st.just(("1", "2")), zone=st.none() | PLACES, asked=st.just(("patch",)),
    planned=st.just({"z": 64}), slots=st.integers(1, 4), other=st.dictionaries(st.just("later"), st.integers()),
)  # fmt: skip
LEVELS = st.builds(LevelFacts, st.just("mean"), st.just([[1, 2, 2]]), st.integers(0, 2))


@st.composite
def outputs(draw: st.DrawFn) -> OutputFacts:
    lengths = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=2)))
    block = tuple(draw(st.lists(st.integers(1, 16), min_size=2, max_size=2)))
    counts = tuple(-(-n // b) for n, b in zip(lengths, block, strict=True))
    return OutputFacts(
        "zarr3", lengths, "uint8", ("y", "x"), block, counts, {"y": 8.0}, "nm", {"y": 0.5}, block, None, None, "zstd",
        draw(st.none() | LEVELS), draw(st.dictionaries(st.just("later"), st.integers())),
    )  # fmt: skip


HEADERS = st.builds(
    RunHeader, st.sampled_from(["infer-1", "infer-2"]), st.lists(NETWORKS, max_size=2).map(tuple),
    st.none() | SOURCES | NAMED, outputs(), st.just({"torch": "2"}), st.booleans(),
    st.dictionaries(st.just("later"), st.integers()),
)  # fmt: skip

TELLING = {"source", "model", "settings", "axes", "verdict", "programs", "zone", "other"}
"""Facts of a network whose change another run is refused for, stated here once more."""


def read(header: RunHeader) -> RunHeader:
    return RunHeader.from_json(json.loads(json.dumps(header.to_json())))


@given(HEADERS)
def test_a_header_comes_back_from_its_json(header: RunHeader) -> None:
    assert read(header) == header
    assert not differences(read(header).fingerprint(), header.fingerprint())


@pytest.mark.parametrize("name", sorted({f.name for f in fields(NetworkFacts)}))
def test_each_fact_of_a_network_tells_or_does_not(name: str) -> None:
    facts = NetworkFacts(SourceFacts("a"), ModelFacts("net", "1"), {"patch": [8]}, ("z",), "exact")
    changed: dict[str, Any] = {
        "source": SourceFacts("b"), "model": ModelFacts("net", "2"), "settings": {"patch": [9]}, "axes": ("y",),
        "planned": {"z": 2}, "other": {"later": 1}, "slots": 7,
    }  # fmt: skip
    value = changed.get(name, ("5",) if name in ("programs", "zone", "asked") else "other words")
    lines = differences(facts.fingerprint(), replace(facts, **{name: value}).fingerprint())
    assert bool(lines) == (name in TELLING)


def test_what_a_later_version_adds_to_a_ledger_is_a_difference(tmp_path: Path) -> None:
    url, volume = tmp_path / "v", np.zeros((8, 8, 8), "f4")
    network = nn.Conv3d(1, 1, 3, padding=1).eval()
    ci.save(ci.infer(volume, network), url, progress=False)
    ledger = Ledger(Files(str(url)))
    header = ledger.header()
    assert header is not None
    header["networks"][0]["settings"]["seed"] = 1
    ledger.begin(header)
    with pytest.raises(SettingsDiffer, match=r"networks.0.settings.seed: stored 1, asked nothing"):
        ci.save(ci.infer(volume, network), url, progress=False)


def test_a_ledger_that_lacks_something_is_refused(tmp_path: Path) -> None:
    url, volume = tmp_path / "v", np.zeros((8, 8, 8), "u1")
    ci.save(volume, url, progress=False)
    ledger = Ledger(Files(str(url)))
    header = ledger.header()
    assert header is not None
    del header["destination"]["block"]
    ledger.begin(header)
    with pytest.raises(DestinationError, match=r"is not of this version: .*block"):
        ci.status(url)
    with pytest.raises(DestinationError, match=r"is not of this version: .*block"):
        ci.save(volume, url, progress=False)
    ci.save(volume, url, overwrite=True, progress=False)
    assert ci.status(url).done == ci.status(url).blocks


def test_a_pass_tells_all_but_versions(tmp_path: Path) -> None:
    ledger = Ledger(Files(str(tmp_path)))
    assert PassHeader.of(ledger) is None
    ledger.begin(PassHeader({"pass": "sums", "array": 1}, {"torch": "2"}).to_json())
    found = PassHeader.of(ledger)
    assert found is not None
    assert not differences(found.fingerprint(), PassHeader({"pass": "sums", "array": 1}, {}).fingerprint())
    assert differences(found.fingerprint(), {"pass": "sums", "array": 2}) == ["array: stored 1, asked 2"]
