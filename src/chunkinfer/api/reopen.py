"""The lazy array that an earlier run stored, made again from what its ledger says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from chunkinfer.api.infer import infer_again
from chunkinfer.errors import DestinationError, ModelError, SourceError, UntrustedModel
from chunkinfer.networks.model import Model, open_model
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.support.facts import NetworkFacts, SourceFacts
from chunkinfer.tiling.kernel.outputs import ACTIVATIONS
from chunkinfer.volumes.open import open_volume
from chunkinfer.volumes.volume import as_volume, source_of

FROZEN = (
    "patch", "halves", "overlap", "halo", "pad", "block", "window", "batch", "precision", "engine", "cpu_engine",
    "device", "threads",
)  # fmt: skip
"""Settings of a run that `infer_again` takes under the same name."""


def reopened(header: RunHeader, url: str, volume: Any = None, model: Any = None, trust: bool = False) -> Any:
    """What `save` was given by the run of a ledger.

    Whether it really is the same is not decided here: `save` compares everything that fixes the bits, and refuses what
    differs.

    Parameters
    ----------
    header
        Of the ledger.
    url
        Of the output.
    volume
        The network's input, or the very array that was saved; by default the source that the ledger names is opened.
    model
        The network, or its path; by default the file that the ledger names, if ``trust`` says so.
    trust
        Open the model file that the ledger names, which may be code.

    Raises
    ------
    UntrustedModel
        Only the ledger names the model file, and nobody said to trust it.
    ModelError
        The model is not the one of the run, or nothing says where it is.
    DestinationError
        The ledger does not say enough.
    """
    networks, stored = header.networks, header.computation
    if volume is not None and (not networks or _name(volume) == stored):
        return volume
    if len(networks) > 1:
        raise _unknown(url, "several networks made it, one from the other's output")
    if not networks:
        found = list(_sources(header.copied or SourceFacts(None), url))
        return next((source for source in found if _name(source) == stored), found[0])
    (made_by,) = networks
    network, settings = _model(made_by, url, model, trust), _settings(made_by.settings, url)
    made = []
    for source in [volume] if volume is not None else _sources(made_by.source, url):
        for exchange in (None, False, True):
            made.append(infer_again(source, network, exchange, settings))
            if _name(made[-1]) == stored:
                return made[-1]
    return made[0]


def _name(volume: Any) -> str:
    """Of the lazy array: a digest of what it is computed from, and how."""
    name: str = as_volume(volume).array.name
    return name


def _sources(source: SourceFacts, url: str) -> Iterator[Any]:
    """What the description of a source stands for: the part of the level that it names, absent chunks an error or
    filled."""
    if not source.url or source.array is not None:
        raise _unknown(url, "it was computed from an array that is in no store")
    found = False
    for level in count():
        try:
            whole = open_volume(source.url, level=level)
        except SourceError:
            if level == 0:
                raise
            break
        if source_of(as_volume(whole)).digest == source.digest:
            found = True
            box = None
            if source.start is not None and source.shape is not None:
                spans = zip(map(str, whole.dims), source.start, source.shape, strict=True)
                box = {d: slice(a, a + n) for d, a, n in spans if d in ("z", "y", "x")}
            for missing in ("error", "fill"):
                yield open_volume(source.url, level=level, box=box, missing=missing)
    if not found:
        raise _unknown(url, f"{source.url} is not what it was any more")


def _model(network: NetworkFacts, url: str, model: Any, trust: bool) -> Model:
    then = network.model
    if model is None:
        where = network.model_file
        if where is None:
            raise ModelError(
                f"The ledger of {url} does not say where its network {then.name} is.",
                "It was given as a module, a function or bytes, or by an earlier version.",
                [
                    f"give it: verify({url!r}, repair=True, model=the_network)",
                    f"chunkinfer verify {shlex.quote(url)} --repair --model unet.pt2, or what its file is called",
                ],
            )
        if not trust:
            raise UntrustedModel(
                f"The ledger of {url} names the model file {where}.",
                "A model can be code, and whoever could write this ledger chose the file.",
                [f"name it yourself: verify({url!r}, repair=True, model={where!r})",
                 f"say that you trust it: verify({url!r}, repair=True, trust=True)"],
            )  # fmt: skip
        model = where
    opened = open_model(model).versioned(then.version)
    if opened.output is None:
        opened = open_model(opened, then.output)
    if opened.digest != then.digest:
        raise ModelError(
            f"{url} was made with {then.name}, digest {then.digest[:12]}; "
            f"this is {opened.name}, digest {opened.digest[:12]}.",
            "The file was replaced, or the network was wrapped by augment.",
            ["give the network of the run: model=", "compute everything anew: save(array, url, overwrite=True)"],
        )
    return opened


def _settings(stored: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A run's settings as arguments of `infer_again`."""
    output, skips = stored.get("output") or {}, stored.get("skips") or {}
    scaling = re.fullmatch(r"\(value - (\S+)\) / (\S+)", stored["normalize"])
    if not scaling and stored["normalize"] != "as they are":
        raise _unknown(url, f"normalize was a function, {stored['normalize']}")
    if output.get("activation", next(iter(ACTIVATIONS))) not in ACTIVATIONS:
        raise _unknown(url, f"activation was a function, {output['activation']}")
    decided = {"argmax", "threshold"} & output.keys()
    mask = skips.get("mask")
    return {
        **{name: stored.get(name) for name in FROZEN},
        **({} if decided else {"dtype": stored["dtype"]}),
        "normalize": (float(scaling[1]), float(scaling[2])) if scaling else (0.0, 1.0),
        "precision_tolerance": 1e30,  # the run was allowed it
        **output,
        "empty": skips.get("empty"),
        "fill": skips.get("fill"),
        "mask": next(_sources(SourceFacts.from_json(mask["source"]), url)) if mask else None,
    }


def _unknown(url: str, why: str) -> DestinationError:
    return DestinationError(
        f"The ledger of {url} does not say how to compute its blocks again: {why}.",
        "A ledger names what has a URL; what a caller computed on the way is only in his program.",
        [
            f"give the array that was saved: verify({url!r}, repair=True, volume=array)",
            "make the original call again: save(array, url) computes what is missing",
        ],
    )
