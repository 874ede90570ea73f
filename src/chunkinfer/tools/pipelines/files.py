"""Pipelines as YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chunkinfer.errors import PipelineError, SourceNotFound, UntrustedModel
from chunkinfer.networks.adapters.callable import FILE_KINDS
from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import locate, safe_name
from chunkinfer.tools.pipelines.commands import Command, command, meant
from chunkinfer.tools.pipelines.steps import Step

KEYS = ("plugins", "steps")


def read_file(url: str) -> str:
    """The text of a file at a path or URL.

    Raises
    ------
    SourceNotFound, SourceError
        It is not there, or cannot be read.
    """
    place = locate(url)
    name = place.url.rpartition("/")[2]
    try:
        found = kvstore(place.parent().kvstore).read(safe_name(name)).result()
    except failures.FAILURES as error:
        raise failures.unreadable(place.url, error, "read") from error
    if found.state != "value":
        raise SourceNotFound(
            f"There is no pipeline file at {place.url}.",
            "Its name is misspelt, or the output beside it was not made by a pipeline.",
            ["print the file of a chain: chunkinfer open ... --yaml"],
        )
    return bytes(found.value).decode(errors="replace")


def dumped(steps: tuple[Step, ...], plugins: tuple[str, ...], table: Mapping[str, Command]) -> str:
    """The file."""
    import yaml  # type: ignore[import-untyped, unused-ignore]

    document: dict[str, Any] = {"plugins": list(plugins)} if plugins else {}
    document["steps"] = [_entry(step, table) for step in steps]
    text: str = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def loaded(text: str) -> tuple[list[Any], tuple[str, ...]]:
    """The entries of a file's steps, and its plugins, which are not imported.

    Raises
    ------
    PipelineError
        It is not YAML, or not a pipeline.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _no_pipeline(f"The file is not YAML: {error}") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("steps"), list):
        raise _no_pipeline("The file has no list of steps.")
    for key in document:
        if key not in KEYS:
            raise _no_pipeline(f"The file has a key {key!r}{meant(str(key), KEYS)}")
    plugins = document.get("plugins") or []
    if not isinstance(plugins, list) or not all(isinstance(p, str) for p in plugins):
        raise _no_pipeline(f"plugins: {plugins!r} is not a list of module:function.")
    return document["steps"], tuple(plugins)


def step_of(entry: Any, table: Mapping[str, Command]) -> Step:
    """A step out of its entry: a command, a command with its first argument, or one with a table of parameters."""
    if isinstance(entry, str):
        return Step(command(table, entry).name)
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise _no_pipeline(f"{entry!r} is not one step.")
    ((name, given),) = entry.items()
    found = command(table, str(name))
    if not isinstance(given, Mapping):
        first = next((p.name for p in found.arguments), None)
        if first is None and given is not None:
            raise _no_pipeline(f"{name}: {given!r} does not say which parameter this is; {name} takes no argument.")
        given = {} if given is None else {first: given}
    parameters = {str(k).replace("-", "_"): v for k, v in given.items() if v is not None}
    link = [parameters.pop(k, None) for k in ("as", "from")]
    if not all(v is None or isinstance(v, str) for v in link):
        raise _no_pipeline(f"as and from of {name} are names, not {link}.")
    return Step(found.name, parameters, *link)


def check_trust(steps: Iterable[Step], plugins: Iterable[str]) -> None:
    """Refuse a file that would run code: plugins, functions for `apply`, and networks in formats that can be code.

    Raises
    ------
    UntrustedModel
        Names the first of them.
    """
    code = [f"the plugin {plugin}" for plugin in plugins]
    code += [f"the function {step.parameters.get('function')}" for step in steps if step.command == "apply"]
    models = [str(step.parameters.get("model")) for step in steps if step.command == "infer"]
    code += [f"the model {model}" for model in models if _suffix(model) not in FILE_KINDS]
    if code:
        raise UntrustedModel(
            f"The pipeline file names {code[0]}.",
            "It is code, and whoever wrote the file chose it. ONNX and OpenVINO models need no trust.",
            ["read the file, then say that you trust it: chunkinfer run pipeline.yaml --trust",
             "or name its steps yourself: chunkinfer open ..."],
        )  # fmt: skip


def _suffix(model: str) -> str:
    """As `open_model` sees it: only a URL has a digest behind a #."""
    return Path(model.partition("#")[0] if "://" in model else model).suffix


def _entry(step: Step, table: Mapping[str, Command]) -> Any:
    link = {k: v for k, v in (("as", step.name), ("from", step.source)) if v}
    if not step.parameters and not link:
        return step.command
    first = [p.name for p in table[step.command].arguments][:1]
    if [*step.parameters, *link] == first and not isinstance(step.parameters[first[0]], Mapping):
        return {step.command: step.parameters[first[0]]}
    return {step.command: {**step.parameters, **link}}


def _no_pipeline(what: str) -> PipelineError:
    return PipelineError(
        what,
        "A pipeline file has a list of steps, each a command, or a command with its parameters.",
        ["steps: [{open: em.zarr}, {gaussian: 1.5}, {save: {url: out.zarr, overwrite: true}}]",
         "print the file of a chain: chunkinfer open ... --yaml"],
    )  # fmt: skip
