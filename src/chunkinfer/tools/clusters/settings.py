"""What a worker is: dask's configuration, section ``chunkinfer``, and arguments over it.

Every setting is in ``chunkinfer.yaml`` beside this file, with a comment; `settings_of` merges the sections for a kind
of cluster, and `worker_of` makes of them the one form in which the kinds ask for a worker.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from chunkinfer.errors import ClusterError
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.support.device import SLOTS_PER_GPU

KINDS = ("local", "slurm", "kubernetes")
"""Sections of clusters; each may hold what ``worker`` holds."""

PRELOAD = "chunkinfer.tools.clusters.one_gpu"
"""Module by which each of several workers on a node takes a GPU of its own."""

LOOPBACK = "127.0.0.1:0"
"""A free port that other machines do not reach."""

SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|PRIVATE|_KEY$", re.IGNORECASE)
"""Names of variables whose values nobody else should read."""

_FILE = Path(__file__).with_name("chunkinfer.yaml")
_DEFAULTS: dict[str, Any] = dask.config.merge(*dask.config.collect_yaml([str(_FILE)]))

dask.config.update_defaults(_DEFAULTS)
dask.config.ensure_file(str(_FILE))


@dataclass(frozen=True)
class Worker:
    """One worker process, whatever starts it."""

    gpu: bool
    """Whether it has a GPU to itself, and declares it (``GPU=1``)."""
    cores: int
    """CPU cores that it may use."""
    memory: int
    """Bytes."""
    slots: int
    """Blocks in flight: its threads."""
    lifetime: float | None = None
    """Seconds after which it retires; None if it stays."""
    stagger: float = 0.0
    """More or less by so many seconds at random."""
    local_directory: str | None = None
    """Where it may spill."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that must be set before the process starts: glibc and OpenMP read them only then."""

    @property
    def resources(self) -> dict[str, float]:
        """What it declares to the scheduler."""
        return {"GPU": 1} if self.gpu else {}

    def arguments(self) -> list[str]:
        """Arguments of ``dask worker``, besides its threads, memory and folder: those are options everywhere.

        It has no status page of its own; what is left of it, not encrypted, listens on loopback.
        """
        words = ["--no-dashboard", "--dashboard-address", LOOPBACK]
        if self.gpu:
            words += ["--resources", "GPU=1", "--preload", PRELOAD]
        if self.lifetime is not None:
            words += ["--lifetime", f"{self.lifetime:.0f}s", "--lifetime-stagger", f"{self.stagger:.0f}s"]
        return words


def settings_of(kind: str, **given: Any) -> dict[str, Any]:
    """The settings of a kind of cluster: ``worker`` and ``scheduler``, under its own section, under what is given.

    Parameters
    ----------
    kind
        One of `KINDS`.
    given
        Arguments of the caller, by the names of the settings with ``_`` for ``-``; None is not given.

    Returns
    -------
    dict
        Every setting of these sections, under names with ``_``.

    Raises
    ------
    ClusterError
        The configuration, or the caller, names a setting that there is none of.
    """
    check()
    merged = {**section(kind), **section("worker"), **section("scheduler")}
    for name in given.keys() - merged.keys():
        near = difflib.get_close_matches(name, merged, 1)
        raise ClusterError(
            f"{name}= is no setting of a {kind} cluster.",
            f"Did you mean {near[0]}=?" if near else f"There are: {', '.join(sorted(merged))}.",
            [f"every setting, with a comment: {_FILE}", f"options of dask's own class: options={{{name!r}: ...}}"],
        )
    for values in (section(kind), given):
        merged |= {k: v for k, v in values.items() if v is not None}
    return merged


def section(name: str) -> dict[str, Any]:
    """A section of the configuration, its names with ``_``."""
    found = dask.config.get("chunkinfer")
    return {_under(k): v for k, v in (_get(found, name) or {}).items()}


def scheduler_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What dask's configuration must hold where the scheduler starts, from settings."""
    return {f"distributed.scheduler.{k}": values[_under(k)] for k in ("allowed-failures", "worker-ttl")}


def worker_of(values: Mapping[str, Any], walltime: float | None = None) -> Worker:
    """The worker that settings describe.

    Parameters
    ----------
    values
        Of `settings_of`; ``gpus``, ``cores`` and ``memory`` are known.
    walltime
        Seconds that a job may run: without a ``lifetime`` workers retire well before.

    Raises
    ------
    ClusterError
        A value is none, or a worker would outlive its job.
    """
    gpu = _count("gpus", values["gpus"], least=0) > 0
    cores = _count("cores", values["cores"])
    lifetime, stagger = _lifetime(values, walltime)
    return Worker(
        gpu=gpu,
        cores=cores,
        memory=_bytes(values["memory"]),
        slots=_count("slots", values["slots"] or (SLOTS_PER_GPU if gpu else cores + 1)),
        lifetime=lifetime,
        stagger=stagger,
        local_directory=values["local_directory"],
        environment={**ENVIRONMENT, "OMP_NUM_THREADS": "1", **_plain(values["environment"])},
    )


def workers_of(values: Mapping[str, Any]) -> int:
    """Worker processes of a machine, job or pod: one per GPU, or one, where nobody says."""
    return _count("workers", values["workers"] or max(1, _count("gpus", values["gpus"], least=0)))


def check() -> None:
    """Refuse keys that mean nothing, of sections that chunkinfer reads.

    Raises
    ------
    ClusterError
        With the key that was probably meant.
    """
    for where, key, known in _unknown(dask.config.get("chunkinfer") or {}):
        near = difflib.get_close_matches(_hyphen(key), known, 1)
        raise ClusterError(
            f"The configuration has {where}.{key}, which chunkinfer does not know.",
            f"Did you mean {near[0]}?" if near else f"{where} has: {', '.join(sorted(known))}.",
            [
                f"correct it in {Path(dask.config.PATH) / 'chunkinfer.yaml'}, or where else dask's configuration is",
                f"every key, with a comment: {_FILE}",
            ],
        )


def _unknown(found: Mapping[str, Any]) -> Iterator[tuple[str, str, set[str]]]:
    """Where it is, its name, and the names that are known there."""
    allowed = _DEFAULTS["chunkinfer"]
    for name, values in found.items():
        if _hyphen(name) not in allowed:
            yield "chunkinfer", name, set(allowed)
            continue
        known = set(allowed[_hyphen(name)])
        if name in KINDS:
            known |= allowed["worker"].keys() | allowed["scheduler"].keys()
        for key in values or {}:
            if _hyphen(key) not in known:
                yield f"chunkinfer.{name}", key, known


def _get(found: Mapping[str, Any], name: str) -> Any:
    return next((v for k, v in found.items() if _under(k) == _under(name)), None)


def _under(name: str) -> str:
    return name.replace("-", "_")


def _hyphen(name: str) -> str:
    return name.replace("_", "-")


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ClusterError(
            f"{name}={value!r} is not a whole number from {least} on.",
            "It comes from an argument or from dask's configuration.",
            [f"{name}={max(least, 1)} as an argument", f"in chunkinfer.yaml, {name}: {max(least, 1)}"],
        )
    return value


def _bytes(value: Any) -> int:
    try:
        size = parse_bytes(value)
    except (ValueError, TypeError, AttributeError):
        size = 0
    if size < 1 << 20:
        raise ClusterError(
            f"memory={value!r} is not an amount of memory.",
            "It is that of one worker process, with its unit.",
            ['memory="16 GiB" as an argument', "in chunkinfer.yaml, memory: 16 GiB"],
        )
    return int(size)


def seconds(name: str, value: Any) -> float:
    try:
        return float(parse_timedelta(value))
    except (ValueError, TypeError, KeyError) as error:
        raise ClusterError(
            f"{name}={value!r} is not a time.",
            "A number of seconds, or one with a unit.",
            [f'{name}="50 minutes"', f'{name}="3h"'],
        ) from error


def _lifetime(values: Mapping[str, Any], walltime: float | None) -> tuple[float | None, float]:
    """Seconds of life and their stagger: a worker that retires in time loses less than one that is killed."""
    lifetime, stagger = values["lifetime"], values["lifetime_stagger"]
    if lifetime is None and walltime is None:
        return None, 0.0
    if walltime is None:
        return seconds("lifetime", lifetime), seconds("lifetime_stagger", stagger or 0)
    margin = min(600.0, walltime / 12)
    spread = margin if stagger is None else seconds("lifetime_stagger", stagger)
    if lifetime is None:
        life = walltime - margin - spread
    else:
        life = seconds("lifetime", lifetime)
        spread = min(spread, life / 10) if stagger is None else spread
    if life - spread <= 0 or life + spread >= walltime:
        raise ClusterError(
            f"lifetime={life:.0f} s, more or less by {spread:.0f} s, does not fit into a walltime of {walltime:.0f} s.",
            "Workers should retire before their job is killed.",
            ["leave lifetime= out: it then fits the walltime", "a longer walltime="],
        )
    return life, spread


def _plain(variables: Mapping[str, Any]) -> dict[str, str]:
    """Variables as text; refused if they look secret."""
    for name in variables:
        if SECRET.search(name):
            raise ClusterError(
                f"environment holds {name}, which looks like a secret.",
                "These variables are written into job scripts and pods, where others can read them.",
                [
                    f"SLURM hands the environment of whoever submits to the job: export {name} before you start Python",
                    "better: a file of credentials that only you can read, or the node's own role",
                ],
            )
    return {name: str(value) for name, value in variables.items()}
