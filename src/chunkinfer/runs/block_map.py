"""The blocks of a run as a picture: in characters, inside a notebook, and as a PNG file.

Blocks lie in a grid (z, y, x), which is cut into slabs along z; what shares a cell of the picture is added up::

    z 0-4   z 5-9
    ███▓    ▒···        █ done, ░▒▓ in part, · missing, ! failed
    ██!▓    ····
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.picture import check_name, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = "\N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}"
DONE, MISSING, FAILED = "\N{FULL BLOCK}", "\N{MIDDLE DOT}", "!"

COLOURS = {"done": (43, 92, 138), "missing": (236, 236, 236), "failed": (242, 84, 45)}
"""Red, green and blue; a cell done in part lies between the first two."""

DPI = 150


@dataclass(frozen=True)
class BlockMap:
    """How many blocks are done and failed at each place of a grid (z, y, x); along other axes they are added up."""

    done: NDArray[np.int64]
    """(z, y, x)."""
    failed: NDArray[np.int64]
    """(z, y, x)."""
    each: int
    """Blocks at one place: the product of the other axes' numbers."""

    @classmethod
    def of(cls, dims: Sequence[str], counts: Sequence[int], done: NDArray[Any], failed: Iterable[int]) -> BlockMap:
        """The map of a grid.

        Parameters
        ----------
        dims, counts
            Names of its axes, and blocks along each.
        done
            A bool per block, the last axis fastest.
        failed
            Numbers of blocks.
        """
        others = tuple(d for d, name in enumerate(dims) if name not in "zyx")
        flags = np.zeros(len(done), np.bool_)
        flags[np.fromiter(failed, np.int64)] = True

        def placed(blocks: NDArray[Any]) -> NDArray[np.int64]:
            found: NDArray[np.int64] = blocks.reshape(counts).sum(axis=others, dtype=np.int64)
            return found.reshape((1,) * (3 - found.ndim) + found.shape)

        return cls(placed(done), placed(flags), int(np.prod([counts[d] for d in others], dtype=np.int64)))

    def cells(self, slabs: int, rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(slabs, rows, columns), as many as there are blocks at most: the share of each cell that is done, and whether
        a block in it failed."""
        cuts = [_cut(n, k) for n, k in zip(self.done.shape, (slabs, rows, columns), strict=True)]
        held = np.array(self.each)
        for starts, n in zip(cuts, self.done.shape, strict=True):
            held = np.multiply.outer(held, np.diff(starts, append=n))
        return _added(self.done, cuts) / held, _added(self.failed, cuts) > 0

    def spans(self, slabs: int) -> list[str]:
        """Numbers of the blocks along z in each slab."""
        n = self.done.shape[0]
        starts = [int(a) for a in _cut(n, slabs)]
        return [f"z {a}" if b == a + 1 else f"z {a}-{b - 1}" for a, b in zip(starts, [*starts[1:], n], strict=True)]

    # ---- in characters ------------------------------------------------------------------------------------------

    def text(self, width: int = 80) -> str:
        """Up to four slabs side by side, in so many columns at most, and what the characters mean."""
        slabs = min(4, self.done.shape[0])
        room = (width - 2 * (slabs - 1)) // slabs
        rows, columns = self.done.shape[1:]
        across = min(columns, room)
        wide = 2 if 2 * across <= room else 1  # a character is twice as high as wide
        down = max(1, min(rows, 20, round(rows * across * wide / (2 * columns))))
        share, failed = self.cells(slabs, down, across)
        spans = self.spans(slabs)
        lines = [[name.ljust(across * wide) for name in spans]]
        for y in range(down):
            lines.append(
                [
                    "".join(_character(share[s, y, x], failed[s, y, x]) * wide for x in range(across)).ljust(len(name))
                    for s, name in enumerate(lines[0])
                ]
            )
        key = f"{DONE} done  {SHADES} in part  {MISSING} missing" + (f"  {FAILED} failed" if failed.any() else "")
        return "\n".join("  ".join(line).rstrip() for line in lines) + f"\n{key}"

    # ---- in pixels ----------------------------------------------------------------------------------------------

    def png(self) -> bytes:
        """Up to six slabs side by side, about 100 pixels each: a PNG file of a few hundred bytes."""
        slabs, rows, columns = (min(n, most) for n, most in zip(self.done.shape, (6, 64, 64), strict=True))
        pixels = _coloured(*self.cells(slabs, rows, columns))
        scale = max(1, 96 // max(rows, columns))
        pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        gap = np.full((slabs, rows * scale, 6, 3), 255, np.uint8)
        return _png(np.concatenate([*np.concatenate([pixels, gap], axis=2)], axis=1)[:, :-6])

    def draw(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Figure:
        """Up to twelve slabs along z, each a picture of the blocks' grid, with matplotlib.

        Parameters
        ----------
        path
            The PNG to write, if any.
        title
            A line above.

        Raises
        ------
        MissingExtra
            matplotlib is absent.
        """
        require_matplotlib("Plots", "demo")
        check_name(path)
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        rows, columns = self.done.shape[1:]
        slabs = min(12, self.done.shape[0])
        across = min(4, slabs)
        down = -(-slabs // across)
        high = min(4.0, max(0.4, 2.2 * rows / columns))
        figure = Figure(
            figsize=(2.4 * across + 0.4, (high + 0.45) * down + 0.9), facecolor="white", layout="constrained"
        )
        if title:
            figure.suptitle(title, size=10, x=0.02, ha="left")
        pictures = _coloured(*self.cells(slabs, rows, columns))
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[slabs:]:
            axes.set_axis_off()
        for axes, picture, name in zip(panels, pictures, self.spans(slabs), strict=False):
            axes.imshow(picture, interpolation="nearest", extent=(0, columns, rows, 0), aspect="auto")
            axes.set_title(name, size=8, loc="left")
            axes.tick_params(labelsize=7, width=0.5)
            axes.locator_params(integer=True, nbins=4)
            axes.spines[:].set(linewidth=0.5)
        panels[0].set_xlabel("x, blocks", size=8)
        panels[0].set_ylabel("y, blocks", size=8)
        key = [Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=name) for name, colour in COLOURS.items()]
        figure.legend(handles=key, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
        if path is not None:
            figure.savefig(path, dpi=DPI, format="png")
        return figure


def _cut(n: int, parts: int) -> NDArray[np.int64]:
    """Starts of ``parts`` ranges of nearly one length that cover n."""
    return np.arange(parts, dtype=np.int64) * n // parts


def _added(blocks: NDArray[np.int64], cuts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    for axis, starts in enumerate(cuts):
        blocks = np.add.reduceat(blocks, starts, axis=axis)
    return blocks


def _character(share: float, failed: bool) -> str:
    if failed:
        return FAILED
    if share in (0, 1):
        return DONE if share else MISSING
    return SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))]


def _coloured(share: NDArray[np.float64], failed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cells as pixels (..., 3)."""
    done, missing, broken = (np.array(COLOURS[name], np.float64) for name in ("done", "missing", "failed"))
    pixels = missing + share[..., np.newaxis] * (done - missing)
    pixels[failed] = broken
    return pixels.round().astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (y, x, 3): the format's four parts, so that a notebook's repr needs no imaging library."""

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")
