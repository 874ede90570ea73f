"""A pipeline: steps as a value, which declare their results, run, and are kept beside what they made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask.array as da

from chunkinfer.errors import ChunkinferError, PipelineError
from chunkinfer.geometry.boxes import Box
from chunkinfer.runs.report import RunReport
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import FORMAT_PREFIXES
from chunkinfer.support.picture import Picture
from chunkinfer.support.redacting import redacted
from chunkinfer.tools.pipelines import files, objects, words
from chunkinfer.tools.pipelines.commands import Command, command, command_name, commands
from chunkinfer.tools.pipelines.looking import CHECKS
from chunkinfer.tools.pipelines.objects import OBJECTS
from chunkinfer.tools.pipelines.parameters import VOLUMES
from chunkinfer.tools.pipelines.steps import Step
from chunkinfer.tools.viewers.viewing import View
from chunkinfer.volumes.derived import Derived
from chunkinfer.volumes.operators import OPERATORS
from chunkinfer.volumes.volume import Volume, as_volume

if TYPE_CHECKING:
    from chunkinfer.objects.meshes.meshing import MeshReport

PROVENANCE = "pipeline.yaml"
"""Beside an output, in its folder ``.chunkinfer``."""

PLACES = ("url", "model")
"""Parameters that are paths or URLs, besides the second volumes."""

STORING = ("save", "mesh")
"""Steps that write blocks, where and how the chain runs."""

MEASURED: dict[str, Callable[[Any], bool]] = {
    "calibrate": bool,
    "precision": lambda value: value not in (None, "fp32"),
    "engine": lambda value: value == "auto",
}
"""Parameters of `infer` whose values are measured on the volume or the machine when it is called."""

NEEDING = {"calibrate": "max_block_minutes", "precision": "precision_tolerance"}
"""Parameters of `infer` that mean nothing without another one."""


@dataclass(frozen=True)
class Pipeline:
    """Steps from sources to outputs: one lazy graph for each `save`, `show` and `view`.

    Parameters
    ----------
    steps
        Each works on the result of the one before, or on that of the step that it names.
    plugins
        Operators of the user's own, ``module:function``; they are imported when the pipeline is made.

    Raises
    ------
    PipelineError
        A command, a parameter or a name is not known, is missing, or is of the wrong kind.
    """

    steps: tuple[Step, ...]
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self._settled()))

    @classmethod
    def from_words(cls, given: Sequence[str], plugins: Sequence[str] = ()) -> Pipeline:
        """The pipeline that a command line names: ``open em.zarr gaussian 1.5 save smooth.zarr``."""
        return cls(words.steps_of(given, commands(tuple(plugins))), tuple(plugins))

    @classmethod
    def from_yaml(cls, text: str, *, trust: bool = False) -> Pipeline:
        """The pipeline that a file holds.

        Parameters
        ----------
        text
            As `to_yaml` gives it.
        trust
            Says that the code that it names may run: plugins, functions for ``apply``, and networks that are not ONNX
            or OpenVINO files.

        Raises
        ------
        PipelineError
            It holds no pipeline.
        UntrustedModel
            It names code, and nobody said to trust it.
        """
        entries, plugins = files.loaded(text)
        if not trust:
            files.check_trust((), plugins)  # before they are imported
        table = commands(plugins)
        pipeline = cls(tuple(files.step_of(entry, table) for entry in entries), plugins)
        if not trust:
            files.check_trust(pipeline.steps, ())
        return pipeline

    def to_yaml(self) -> str:
        """The pipeline as a file."""
        return files.dumped(self.steps, self.plugins, self._table)

    def to_words(self) -> list[str]:
        """The pipeline as the words of a command line, without the options for plugins."""
        return [word for step in self.steps for word in words.words_of(step, self._table[step.command])]

    def with_outputs(self, urls: Sequence[str]) -> Pipeline:
        """The same with other URLs for its `save` steps, one for each in their order."""
        saves = [step for step in self.steps if step.command == "save"]
        if len(urls) != len(saves):
            raise PipelineError(
                f"The pipeline saves {len(saves)} volumes, and {len(urls)} outputs were given.",
                "Each save takes one, in their order.",
                [" ".join(f"--output {step.parameters['url']}" for step in saves) or "add a step: save out.zarr"],
            )
        others, steps = iter(urls), []
        moved: dict[str, str] = {}
        for step in self.steps:
            given = dict(step.parameters)
            if step.command == "save":
                moved[_absolute(given["url"])] = given["url"] = next(others)
            else:  # what an earlier step saved is read where it is now
                for k in ({"url"} | VOLUMES) & given.keys():
                    given[k] = moved.get(_absolute(given[k]), given[k]) if isinstance(given[k], str) else given[k]
            steps.append(replace(step, parameters=given))
        return replace(self, steps=tuple(steps))

    def lazy(self) -> list[Any]:
        """The lazy volume after each step; a `save`, `show` or `view` passes it on, and nothing is stored or drawn.

        Percentiles that ``normalize`` has to find are found now, in a pass over its input.
        """
        return [volume for _, volume, *_ in self._volumes()]

    def plan(self) -> str:
        """What each step declares, and the plan of each network; no voxel is read.

        What can only be known from voxels is left open, and said to be: percentiles, what reduced precision changes.
        What a `save` would refuse is refused.
        """
        lines: list[str] = []
        for number, (step, volume, notes, given) in enumerate(self._volumes(declared=True), 1):
            about = as_volume(volume)
            if step.command in CHECKS:
                with _in_step(number - 1, self._line(step)):
                    CHECKS[step.command](volume, **given)
            if step.command == "infer":
                (network,) = (p for p in about.networks if p.facts.array == about.array.name)
                notes += network.facts.plan.splitlines()
            lines += [f"{number:>2}  {self._line(step)}", f"      {_shown(about)}", *(f"      {n}" for n in notes)]
        return "\n".join(lines)

    def run(
        self, *, client: Any = None, progress: bool | None = None, events: Sequence[Any] = ()
    ) -> list[RunReport | MeshReport | Picture | View]:
        """Compute and store what each `save` step is given, and draw or serve what `show` and `view` are, in order.

        The steps that lead to an output are written beside it, as ``.chunkinfer/pipeline.yaml``, without credentials.
        The same pipeline run again computes only what is missing.

        Parameters
        ----------
        client, progress, events
            As for `save`.

        Returns
        -------
        list of RunReport, MeshReport, Picture or View
            One for each `save`, `mesh`, `show` and `view`. A View is served until its ``close()``.

        Raises
        ------
        PipelineError
            It has no `save`, `show` or `view`.
        ChunkinferError
            What its steps raise; a note tells which.
        """
        ends = sum(step.command in CHECKS for step in self.steps)
        if not ends:
            raise PipelineError(
                "The pipeline saves nothing, and shows nothing.",
                "A chain is lazy: without such a step, nothing would be computed.",
                ["add a last step: save out.zarr", "look at what it declares: --dry-run"],
            )
        if ends > 1 or any(_declared(step)[1] for step in self.steps):
            with suppress(_NotStored):  # what is wrong further on is found before anything is computed
                self.plan()
        made: list[RunReport | MeshReport | Picture | View] = []
        how = {"client": client, "progress": progress, "events": events}
        with ExitStack() as opened:
            for number, (step, volume, _, given) in enumerate(self._volumes(stored=True, how=how)):
                if step.command not in CHECKS:
                    continue
                with _in_step(number, self._line(step)):
                    where = how if step.command in STORING else {}
                    made.append(self._table[step.command].function(volume, **where, **given))
                    if step.command == "save":
                        Files(given["url"]).write(PROVENANCE, self.provenance(number).encode())
                if isinstance(made[-1], View):
                    opened.callback(made[-1].close)
            opened.pop_all()  # views stay open, unless a later step failed
        return made

    def provenance(self, number: int) -> str:
        """The file of the steps that lead to one of them, with absolute places and without credentials.

        Parameters
        ----------
        number
            Of the step, from 0.
        """
        from chunkinfer import __version__

        steps = [replace(step, parameters=redacted(step.parameters)) for step in self._leading_to(number)]
        used = {step.command for step in steps}
        plugins = tuple(p for p in self.plugins if command_name(p) in used)
        text = files.dumped(tuple(steps), plugins, self._table)
        return f"# Made by chunkinfer {__version__}. To make it again: chunkinfer run THIS_FILE --output URL\n{text}"

    # ---- checking and calling -------------------------------------------------------------------------------------

    @property
    def _table(self) -> Mapping[str, Command]:
        return commands(self.plugins)

    def _line(self, step: Step) -> str:
        return shlex.join(words.words_of(step, self._table[step.command]))

    def _settled(self) -> Iterator[Step]:
        names: set[str] = set()
        if not self.steps:
            raise PipelineError("The pipeline has no steps.", "It begins with open.", ["open em.zarr save copy.zarr"])
        for number, step in enumerate(self.steps):
            with _in_step(number, step.command):
                found = command(self._table, step.command)
                values = {name: found.parameter(name).settled(v) for name, v in step.parameters.items()}
                _check(found, values)
                if number == 0 and step.command != "open":
                    raise PipelineError(f"The pipeline begins with {step.command}.", "Its first step opens a volume.",
                                        [f"open em.zarr {step.command} ..."])  # fmt: skip
                if step.source is not None and (step.source not in names or step.command == "open"):
                    raise PipelineError(
                        f"{step.command} --from {step.source}: "
                        + ("open works on no volume." if step.command == "open" else "no earlier step has that name."),
                        f"Earlier steps are called {', '.join(sorted(names)) or 'nothing'}.",
                        [f"give it to the step before: open em.zarr --as {step.source}"],
                    )
                if step.name and step.command in CHECKS:
                    raise PipelineError(f"{step.command} --as {step.name}: a {step.command} only passes its volume on.",
                                        "The step before it is the one to name.",
                                        [f"gaussian 1.5 --as {step.name} {step.command} ..."])  # fmt: skip
                if step.name in names:
                    raise PipelineError(f"Two steps are called {step.name}.", "A name stands for one volume.",
                                        [f"--as {step.name}2"])  # fmt: skip
            names |= {step.name} if step.name else set()
            yield replace(step, parameters=values)

    def _volumes(
        self, declared: bool = False, stored: bool = False, how: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Step, Any, list[str], dict[str, Any]]]:
        """Each step with its lazy volume, notes on what that leaves open, and what its function is called with.

        With ``declared``, what a step's call would compute is left out. With ``stored``, whoever iterates saves; so a
        later step that names the URL finds it there; otherwise it is given what would have been saved. ``how`` is
        where steps run that compute when they are reached.
        """
        named: dict[str, Any] = {}
        saved: dict[str, Any] = {}
        volume: Any = None
        for number, step in enumerate(self.steps):
            asked, notes = _declared(step) if declared else (step, [])
            volume = volume if step.source is None else named[step.source]
            known = {**saved, **named}
            with _in_step(number, self._line(step)):
                function, given = self._table[step.command].function, self._arguments(asked, known)
                if step.command in CHECKS:
                    saved |= {} if stored or step.command != "save" else {_absolute(given["url"]): volume}
                elif step.command == "open":
                    volume = _saved(saved, given) if _absolute(given["url"]) in saved else function(**given)
                elif step.command in OBJECTS:
                    volume = objects.declared(volume) if declared else function(volume, **(how or {}), **given)
                    notes += ["objects: found by passes over the volume"] * declared
                else:
                    if declared and step.command in OPERATORS and (halo := _halo(function(_stand_in(volume), **given))):
                        notes.append(f"halo: {halo}")
                    volume = function(volume, **given)
            if step.name:
                named[step.name] = volume
            yield step, volume, notes, given

    def _arguments(self, step: Step, known: Mapping[str, Any]) -> dict[str, Any]:
        """What the step's function is called with; second volumes by name, or by the URL of an earlier save."""
        found = self._table[step.command]
        given = {name: found.parameter(name).python(value) for name, value in step.parameters.items()}
        for k in VOLUMES & given.keys():
            if isinstance(given[k], str):
                given[k] = known.get(given[k], known.get(_absolute(given[k]), given[k]))
        return given

    def _leading_to(self, number: int) -> Iterator[Step]:
        """The steps that a step's result comes from, in order: with absolute places, and without ``overwrite``."""
        names: dict[str, int] = {}
        given: list[int | None] = []  # for each step: the one whose result it works on
        needs: list[set[int]] = []
        for i, step in enumerate(self.steps):
            passed = i - 1 if i and self.steps[i - 1].command not in CHECKS else given[i - 1] if i else None
            given.append(None if step.command == "open" else names[step.source] if step.source else passed)
            others = {names[v] for k, v in step.parameters.items() if k in VOLUMES and v in names}
            needs.append(others | ({g} if (g := given[i]) is not None else set()))
            if step.name:
                names[step.name] = i
        wanted = {number}
        for i in range(number, -1, -1):
            wanted |= needs[i] if i in wanted else set()
        before = None
        for i in sorted(wanted):
            step, source = self.steps[i], given[i]
            parameters = {
                k: _absolute(v) if isinstance(v, str) and (k in PLACES or (k in VOLUMES and v not in names)) else v
                for k, v in step.parameters.items()
                if k != "overwrite"
            }
            link = None if source is None or source == before else self.steps[source].name
            yield replace(step, parameters=parameters, source=link)
            before = i


class _NotStored(PipelineError):
    """What a step opens is made by the pipeline itself, and is not there yet."""


def _saved(saved: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """What an earlier save would have stored, where it is opened as it is."""
    if len(given) > 1:
        raise _NotStored(
            f"{given['url']} is saved by this pipeline, and is not there yet.",
            "Opened with options, what it will be is not known before.",
            ["leave the options out", "run the pipeline, and look at the next one after it"],
        )
    return saved[_absolute(given["url"])]


def _declared(step: Step) -> tuple[Step, list[str]]:
    """A step that declares the same result without computing anything, and what is left open."""
    given = dict(step.parameters)
    if step.command == "normalize" and "range" not in given:
        return replace(step, parameters={"range": [0, 1]}), ["limits: found in a first pass over the volume"]
    if step.command != "infer":
        return step, []
    notes = [f"{name} {given[name]}: measured when it runs" for name in MEASURED if MEASURED[name](given.get(name))]
    left_out = {note.partition(" ")[0] for note in notes}
    left_out |= {needing for name, needing in NEEDING.items() if name in left_out}
    return replace(step, parameters={k: v for k, v in given.items() if k not in left_out}), notes


def _check(found: Command, values: Mapping[str, Any]) -> None:
    for p in found.parameters:
        if p.required and p.name not in values:
            raise PipelineError(f"{found.name} needs {p.name}.", p.help, [f"usage: {found.usage}"])
    for name, value in values.items():
        found.check(name, value)


def _absolute(url: str) -> str:
    """A place that is the same wherever the file is read."""
    prefix, separator, rest = url.partition("://")
    if separator and prefix in FORMAT_PREFIXES:
        return f"{prefix}://{_absolute(rest)}"
    return url if separator or not url else os.path.abspath(os.path.expanduser(url))


def _shown(volume: Volume) -> str:
    frame = volume.frame
    sizes = ", ".join(f"{d} {n}" for d, n in zip(volume.dims, volume.array.shape, strict=True))
    voxel = " x ".join(f"{frame.voxel_size[d]:g}" for d in frame.space)
    origin = ", ".join(f"{frame.origin[d]:g}" for d in frame.space)
    names = "" if volume.channel is None else f"; channels {', '.join(map(str, volume.channel))}"
    return f"{sizes}; {volume.array.dtype}; voxel size {voxel} {frame.unit}".rstrip() + f"; origin {origin}{names}"


def _stand_in(volume: Any) -> Any:
    """Zeros in a volume's place: a step tells its halo there, which after a network only dask would know."""
    v = as_volume(volume)
    zeros = da.zeros(v.array.shape, dtype=v.array.dtype, chunks=-1)
    return v.frame.label(zeros, v.dims, name=v.name, attrs=v.attrs, channel=v.channel)


def _halo(result: Any) -> str:
    """How far around a voxel the step reads that made a volume, where it keeps the grid."""
    volume = as_volume(result)
    derived = volume.origin
    if not isinstance(derived, Derived) or derived.inputs[0].shape != derived.shape:
        return ""
    middle = tuple(n // 2 for n in derived.shape)
    read = derived.step.reads(Box(middle, tuple(m + 1 for m in middle)))[0]
    around = [max(m - a, b - m - 1) for m, a, b in zip(middle, read.start, read.stop, strict=True)]
    wide = [f"{d} {n}" for d, n in zip(volume.dims, around, strict=True) if n and d in volume.frame.space]
    return ", ".join(wide)


@contextmanager
def _in_step(number: int, line: str) -> Iterator[None]:
    """Errors tell which step raised them."""
    try:
        yield
    except ChunkinferError as error:
        error.add_note(f"in step {number + 1}: {line}")
        raise
