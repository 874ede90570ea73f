"""From the words of a command line to steps, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chunkinfer.errors import PipelineError
from chunkinfer.tools.pipelines.commands import Command, command
from chunkinfer.tools.pipelines.steps import Step


def steps_of(words: Sequence[str], table: Mapping[str, Command]) -> tuple[Step, ...]:
    """The steps that words name, one after the other.

    A step is its command, the arguments that it needs, and options, each of which begins with two dashes.

    Raises
    ------
    PipelineError
        A command or an option is not known, or an argument is missing.
    """
    steps, rest, after = [], list(words), ""
    while rest:
        found = command(table, rest.pop(0), after)
        steps.append(_step(found, rest))
        after = f"The step before it, {found.usage.removesuffix(' [OPTIONS]')}, takes no more words. "
    return tuple(steps)


def words_of(step: Step, found: Command) -> list[str]:
    """The words that `steps_of` takes for a step."""
    words = [step.command]
    arguments = {p.name for p in found.arguments}
    for p in found.arguments:
        words += [found.parameter(p.name).words(step.parameters[p.name])[0]] if p.name in step.parameters else []
    for name, value in step.parameters.items():
        p = found.parameter(name)
        if name in arguments:
            continue
        if isinstance(value, bool):
            words.append(p.option if value else f"--no-{p.option[2:]}")
        else:
            words += [p.option, *p.words(value)]
    words += ["--from", step.source] if step.source else []
    return [*words, "--as", step.name] if step.name else words


def _step(found: Command, rest: list[str]) -> Step:
    """Takes the words of one step off the front."""
    parameters: dict[str, Any] = {}
    links: dict[str, str] = {}
    missing = found.arguments
    while rest and (rest[0].startswith("--") or missing):
        word = rest.pop(0)
        if not word.startswith("--"):
            parameters[missing[0].name] = missing[0].parse([word])
            found.check(missing[0].name, parameters[missing[0].name])
            del missing[0]
            continue
        option, given, attached = word[2:].partition("=")
        if option in ("as", "from"):
            links[option] = attached if given else _next(rest, found, word)
            continue
        name = option.replace("-", "_")
        off = name.removeprefix("no_")
        if name != off and any(p.name == off and p.flag for p in found.parameters):
            parameters[off] = False
            continue
        p = found.parameter(name)
        count = 0 if given else p.takes(rest)
        values = [attached] if given else [rest.pop(0) for _ in range(count)]
        if not values and not p.flag:
            _next(rest, found, word)
        parameters[name] = p.parse(values)
        missing = [m for m in missing if m.name != name]
    return Step(found.name, parameters, links.get("as"), links.get("from"))


def _next(rest: list[str], found: Command, option: str) -> str:
    if not rest:
        raise PipelineError(
            f"Nothing follows {option} of {found.name}.",
            "The option takes a value.",
            [f"chunkinfer open URL {found.name} --help"],
        )
    return rest.pop(0)
