"""The commands of a chain: every function that takes or makes a volume, with what its signature and docstring say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from chunkinfer.api.infer import infer
from chunkinfer.api.save import save
from chunkinfer.errors import PipelineError
from chunkinfer.tools.pipelines.looking import show, view
from chunkinfer.tools.pipelines.objects import OBJECTS, mesh
from chunkinfer.tools.pipelines.parameters import Parameter
from chunkinfer.volumes.open import open_volume
from chunkinfer.volumes.operators import OPERATORS
from chunkinfer.volumes.operators.applying import imported
from chunkinfer.volumes.operators.filters import apply

GROUP = "chunkinfer.operators"
"""The entry points of installed packages that are operators."""

_OF_THE_RUN = ("client", "progress", "events", "worker_timeout")
"""Parameters that no step holds: where and how it runs is said for the whole chain."""


@dataclass(frozen=True)
class Command:
    """A step's command."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    """Without the volume that comes from the step before."""
    summary: str
    """The docstring's first line."""
    open_ended: bool = False
    """Whether it takes options of any other name."""

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> Command:
        """What a function's signature and numpydoc docstring say."""
        documented = inspect.getdoc(function) or ""
        described = _described(documented)
        given = list(inspect.signature(function).parameters.values())
        given = [p for p in given[0 if name == "open" else 1 :] if p.name not in _OF_THE_RUN]
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return cls(
            name,
            function,
            tuple(Parameter.of(p, described.get(p.name, "")) for p in given if p.kind not in several),
            documented.partition("\n\n")[0].replace("\n", " ").replace("`", ""),
            any(p.kind is p.VAR_KEYWORD for p in given),
        )  # fmt: skip

    @property
    def arguments(self) -> list[Parameter]:
        """Those that are given by their place."""
        return [p for p in self.parameters if p.argument]

    @property
    def usage(self) -> str:
        """``maskout LABELS --remove REMOVE [OPTIONS]``."""
        words = [self.name, *(p.name.upper() for p in self.arguments)]
        words += [f"{p.option} {p.name.upper()}" for p in self.parameters if p.required and not p.argument]
        return " ".join(words) + (
            " [OPTIONS]" if self.open_ended or any(not p.required for p in self.parameters) else ""
        )

    def check(self, name: str, value: Any) -> None:
        """Refuse a plain value that the parameter does not take.

        Raises
        ------
        PipelineError
            It is of another kind.
        """
        p = self.parameter(name)
        if not p.fits(value):
            raise PipelineError(
                f"{self.name}: {name} is {p.annotation}, not {value!r}.", p.help, [f"usage: {self.usage}"]
            )

    def parameter(self, name: str) -> Parameter:
        """By its name.

        Raises
        ------
        PipelineError
            There is none; names the nearest.
        """
        found = next((p for p in self.parameters if p.name == name), None)
        if found is None and self.open_ended:
            return Parameter(name, "Any", False, False)
        if found is None:
            raise PipelineError(
                f"{self.name} takes no {name!r}{meant(name, (p.name for p in self.parameters))}",
                f"It takes {', '.join(p.name for p in self.parameters) or 'nothing'}, and as and from.",
                [f"chunkinfer open URL {self.name} --help"],
            )
        return found


@cache
def commands(plugins: tuple[str, ...] = ()) -> Mapping[str, Command]:
    """Every command by its name: open, the operators, infer, what makes objects, save, show, view, those of installed
    packages, plugins.

    Parameters
    ----------
    plugins
        Names ``module:function``. A function whose first parameter is called ``volume`` takes and returns volumes; any
        other is one of numpy arrays, which `apply` calls. Its command has its name. Importing runs the module.

    Raises
    ------
    PipelineError
        A plugin has the name of another command.
    VolumeError
        A plugin, or an installed package's operator, cannot be imported.
    """
    functions: dict[str, Callable[..., Any]] = {
        "open": open_volume, **OPERATORS, "infer": infer, **OBJECTS, "save": save, "mesh": mesh,
        "show": show, "view": view,
    }  # fmt: skip
    for entry in entry_points(group=GROUP):
        functions.setdefault(entry.name, _operator(imported(entry.value)))
    for plugin in plugins:
        function = imported(plugin)
        name = command_name(plugin)
        if name in functions:
            raise PipelineError(
                f"The plugin {plugin} would hide the command {name}.",
                "A plugin's command has the name of its function.",
                ["rename the function", f"without a command of its own: apply {plugin}"],
            )
        functions[name] = _operator(function)
    return {name: Command.of(name, function) for name, function in functions.items()}


def command(table: Mapping[str, Command], name: str, after: str = "") -> Command:
    """A command by its name.

    Raises
    ------
    PipelineError
        There is none; names the nearest.
    """
    if name not in table:
        raise PipelineError(
            f"no such operator: {name}{meant(name, table)}",
            f"{after}The steps of a chain are {', '.join(table)}.",
            ["chunkinfer operators", "for a function of your own: --plugin module:function"],
        )
    return table[name]


def command_name(plugin: str) -> str:
    """The command of a plugin: its function's name."""
    return plugin.rpartition(":")[2].replace("_", "-")


def meant(name: str, names: Iterable[str]) -> str:
    """A full stop, or the name that was probably meant."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else "."


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of volumes: itself, or through `apply` where it is one of numpy arrays."""
    signature = inspect.signature(function)
    first, *own = signature.parameters.values()
    if first.name == "volume":
        return function

    def through_apply(volume: Any, **parameters: Any) -> Any:
        return apply(volume, function, **parameters)

    own = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind is not p.VAR_KEYWORD]
    ours = [p for name, p in inspect.signature(apply).parameters.items() if name in ("halo", "dtype")]
    taken = {p.name for p in own}
    volume = inspect.Parameter("volume", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [volume, *own, *(p for p in ours if p.name not in taken)]
    through_apply.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    through_apply.__doc__ = inspect.getdoc(function)
    return through_apply


def _described(documented: str) -> dict[str, str]:
    """The section Parameters of a numpydoc docstring: a name, and what it is."""
    found = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", documented, re.DOTALL | re.MULTILINE)
    described: dict[str, str] = {}
    names: list[str] = []
    for line in found[1].splitlines() if found else ():
        if line and not line[0].isspace():
            names = [name.strip(" *") for name in line.partition(" : ")[0].split(",")]
        else:
            described |= {name: f"{described.get(name, '')} {line.strip()}".strip().replace("`", "") for name in names}
    return described
