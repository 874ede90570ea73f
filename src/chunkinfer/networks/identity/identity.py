"""What a network is: a digest that is another's only if the other computes the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from chunkinfer.networks.identity.code import code_of
from chunkinfer.networks.identity.contents import Contents
from chunkinfer.networks.identity.copying import left_as_it_was, tensors_of
from chunkinfer.networks.identity.program import NoProgram, program
from chunkinfer.networks.outputs import all_outputs

LARGE = (96, 48, 64, 192, 240, 144, 120, 72, 256, 224, 160, 128, 512)
SMALL = (16, 8, 24, 32, 12, 20, 40, 28)
"""Sizes of which the first that a network takes tells what it is: a large one and a small one, since it may do other
things to small inputs."""

CHANNELS = (1, 3, 2, 4)
"""Input channels that are tried where no layer tells them."""


@dataclass(frozen=True)
class Identity:
    """A digest of everything that can change what a network computes, and what is not in it."""

    digest: str
    doubt: str | None
    """What could not be told, so that two networks may share the digest; None: nothing."""


def identity_of(network: Any, contents: Contents | None = None) -> Identity:
    """What a torch module, or a function of arrays, is.

    A module is the program that it is on a small and on a large input. One that is part Python, and a function, is its
    code and what this refers to.

    Parameters
    ----------
    network
        Left as it is.
    contents
        Digests of its tensors that were taken before.

    Raises
    ------
    ModelError
        A weight has no values.
    """
    contents = contents or Contents()
    why: NoProgram | None = None
    if isinstance(network, torch.nn.Module):
        contents.add(tensors_of(network))
        try:
            return Identity(_by_programs(network, contents), None)
        except NoProgram as found:
            why = found
    code = code_of(network, contents)
    unknown = [*([why.unknown] if why is not None and why.unknown else []), *code.unknown]
    if not unknown:
        return Identity(code.digest, None)
    listed = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    return Identity(code.digest, f"it {why}, and its code leads to {listed}" if why else f"its code leads to {listed}")


def program_at(network: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype, contents: Contents) -> str | None:
    """Digest of the program that a module is on inputs of a shape (n, c, *space); None where it has none."""
    try:
        return _program(network, shape, dtype, contents)
    except Exception:  # whatever the network raises on a size it does not take
        return None


def _program(network: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype, contents: Contents) -> str:
    device = next((t.device for t in tensors_of(network)), torch.device("cpu"))
    with left_as_it_was(network), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return program(lambda x: all_outputs(network(x)), shape, dtype, device, contents)


def _by_programs(network: torch.nn.Module, contents: Contents) -> str:
    """Digest of a module's programs at the first sizes that it takes, or `NoProgram`."""
    double = any(p.dtype == torch.float64 for p in network.parameters())
    dtype = torch.float64 if double else torch.float32
    why: Exception | None = None
    for channels, ndim in _inputs(network):
        found = []
        for sizes in (LARGE, SMALL):
            for n in sizes:
                try:
                    made = _program(network, (1, channels, *(n,) * ndim), dtype, contents)
                except NoProgram:
                    raise
                except Exception as error:  # whatever the network raises on a size it does not take
                    why = why or error
                    continue
                found.append(f"{channels} {ndim} {n} {made}")
                break
        if found:
            return hashlib.sha256(" ".join(found).encode()).hexdigest()[:32]
    raise NoProgram(f"does not run on what is tried to find out what it is ({type(why).__name__}: {why})") from why


def _inputs(network: torch.nn.Module) -> Iterator[tuple[int, int]]:
    """Channels and spatial axes to try, the likely first."""
    channels = [getattr(m, "in_channels", None) or getattr(m, "in_features", None) for m in network.modules()]
    shapes = [p.shape for p in network.parameters() if p.ndim >= 3]
    axes = dict.fromkeys([s.numel() and len(s) - 2 for s in shapes] + [3, 2])
    counts = dict.fromkeys(
        [c for c in channels if isinstance(c, int)][:2] + [s[1] for s in shapes[:2]] + list(CHANNELS)
    )
    yield from ((c, n) for c in counts for n in axes if n in (1, 2, 3))
