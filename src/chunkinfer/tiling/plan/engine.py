"""Which engine runs a network: the one asked for, or the fastest of those that are here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chunkinfer.errors import ChunkinferError, EngineError, PlanError
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.opening import AUTO, ENGINES, candidates, native_engine, open_network, require
from chunkinfer.tiling.plan.measuring import Measuring

if TYPE_CHECKING:
    from chunkinfer.networks.model import Model

SECONDS = 120.0
"""After which no further engine is tried, where nothing else is measured: the slow ones compile for a minute, once."""

COMPILING = {"compile": 45.0, "export": 45.0}
"""Seconds that engines compile, about, where they have not yet: they are tried only where there is time for it."""

ROUND_OFF = 1e-3
"""Largest difference from the reference, as a share of its largest value, that is round-off in fp32."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why it runs the network."""

    engine: str
    why: str


def name_engine(asked: str | None, model: Model) -> str:
    """The engine asked for, by a name that there is; "auto" stays, None is the one that the model is made for."""
    if asked is None:
        return native_engine(model)
    if asked != AUTO and asked not in ENGINES:
        raise PlanError(
            f"engine={asked!r} is not known.",
            f"There are: {', '.join((*ENGINES, AUTO))}.",
            [f"engine={native_engine(model)!r}", "engine='auto' takes the fastest of those that are installed"],
        )
    return asked


def choose_engine(
    asked: str | None,
    model: Model,
    setup: Setup,
    seconds: Callable[[str], float],
    known: Callable[[str], bool],
    time: Measuring,
) -> EngineChoice:
    """The engine of a run.

    Parameters
    ----------
    asked
        A name, "auto", or None for the one that the model is made for.
    model, setup
        The network, and what it is opened for; the precision is the caller's and stays.
    seconds
        Measures an engine: seconds of a batch.
    known
        Whether an engine was measured before, so that it need not be compared with the reference again.
    time
        That measuring may take; what there is no time for is left out.

    Raises
    ------
    EngineError
        The engine cannot run the network here, or none can.
    """
    name = name_engine(asked, model)
    if name != AUTO:
        require(name, model, setup)
        if name == native_engine(model):
            return EngineChoice(name, "the reference" if name == "torch" else f"what {model.name} is made for")
        return EngineChoice(name, "asked for")
    timed: dict[str, float] = {}
    others: list[str] = []
    for engine in candidates(model):
        reason = engine.refuses(model, setup)
        needed = COMPILING.get(engine.name, 0.0) + 4 * max(timed.values(), default=0.0)
        if reason is None and timed and not known(engine.name) and time.left <= needed:
            reason = f"not tried: of {time.seconds:.0f} s {max(0.0, time.left):.0f} were left"
        if reason is None:
            try:
                if setup.precision == "fp32" and not known(engine.name):
                    time.tell(engine.name, needed)
                    _compare(model, setup, engine.name)
                timed[engine.name] = seconds(engine.name)
                continue
            except ChunkinferError as error:
                reason = error.what
            except Exception as error:  # whatever a compiler raises; the engine is left out, with its words
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        others.append(f"{engine.name} not ({reason})")
    if not timed:
        raise EngineError(
            f"No engine here runs {model.name} in {setup.precision} on {setup.device}: {'; '.join(others)}.",
            "Each says why.",
            ['pip install "chunkinfer[openvino]"', f'infer(volume, model, engine="{native_engine(model)}")'],
        )
    order = sorted(timed, key=lambda e: timed[e])
    base = "torch" if "torch" in timed else order[-1]
    speeds = ", ".join(f"{e} {timed[base] / timed[e]:.2g}" for e in order)
    why = f"fastest measured here; speed relative to {base}: {speeds}" + "".join(f"; {o}" for o in others)
    return EngineChoice(order[0], why)


def _compare(model: Model, setup: Setup, engine: str) -> None:
    """Raise `EngineError` where an engine in full precision gives something else than the reference."""
    import torch

    from chunkinfer.networks.engines.exporting import noise

    if engine == native_engine(model):
        return
    patch = noise(setup)
    reference: Run = model.network(setup.device)
    with torch.inference_mode():
        expected = reference(patch).clone()
        found = open_network(model, setup, engine)(patch)
    error = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    if not error <= ROUND_OFF:  # NaN counts
        raise EngineError(f"its result differs from {native_engine(model)}'s by {error:.2g} of the largest value")
