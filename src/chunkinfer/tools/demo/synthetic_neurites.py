"""The shapes of `chunkinfer.tools.demo.synthetic`: centrelines, and the tissue they divide among themselves.

Arrays are (z, y, x); lengths are in nm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float32]
Labels = NDArray[np.uint32]
Clearance = Callable[[NDArray[np.float64]], NDArray[np.float64]]

VOXEL_SIZE = (20.0, 8.0, 8.0)
"""Section thickness and pixel size, in nm: a usual serial-section volume."""

MEMBRANE = 24.0
"""Thickness of the two membranes between neighbours and the cleft between them, in nm."""

STEP = 40.0
"""Distance between the points of a centreline, in nm."""

NARROWEST = 60.0
"""Radius of the thinnest neurites, in nm: gaps narrower than this are left to the neighbours."""


@dataclass(frozen=True)
class Neurites:
    """Centrelines as points."""

    points: NDArray[np.float64]
    """(n, 3), in nm."""
    radius: NDArray[np.float64]
    """(n,), in nm."""
    owner: NDArray[np.int64]
    """(n,), the neurite that a point belongs to, from 1."""

    def with_line(self, line: NDArray[np.float64], radius: NDArray[np.float64], owner: int) -> Neurites:
        """These and one more centreline."""
        return Neurites(
            np.concatenate([self.points, line]),
            np.concatenate([self.radius, radius]),
            np.concatenate([self.owner, np.full(len(line), owner)]),
        )

    def lifted(self) -> NDArray[np.float64]:
        """(n, 4): the points with ``sqrt(max(radius)**2 - radius**2)`` as fourth coordinate.

        From (z, y, x, 0), the nearest of these is the one with the least ``distance**2 - radius**2``.
        """
        return np.column_stack([self.points, np.sqrt(self.radius.max() ** 2 - self.radius**2)])


def grow(rng: np.random.Generator, extent: NDArray[np.float64]) -> Neurites:
    """Centrelines that fill a box of ``extent`` nm, and a margin around it from which neurites come in."""
    margin = 200.0
    low, high = np.full(3, -margin), extent + margin
    neurites, count = Neurites(np.empty((0, 3)), np.empty(0), np.empty(0, np.int64)), 0
    while True:
        clearance = clearance_from(neurites)
        spots = rng.uniform(low, high, (160, 3))
        free = clearance(spots)
        start = spots[int(free.argmax())]
        if free.max() < NARROWEST:
            return neurites
        calibre = float(min(np.clip(rng.lognormal(np.log(100), 0.55), NARROWEST, 270), free.max()))
        if count and rng.random() < 0.35:  # a branch: the way to the nearest neurite is free, as it is the nearest
            parent = int((np.linalg.norm(neurites.points - start, axis=1) - neurites.radius).argmin())
            owner, root = int(neurites.owner[parent]), neurites.points[parent]
            stalk = np.linspace(root, start, max(2, round(float(np.linalg.norm(root - start)) / STEP)), endpoint=False)
            neurites = neurites.with_line(stalk, np.full(len(stalk), min(calibre, 60.0)), owner)
            headings = [start - root]
        else:
            owner = count = count + 1
            heading = rng.standard_normal(3)
            headings = [heading, -heading]
        line = [start, *(at for heading in headings for at in walk(rng, start, heading, calibre, clearance, low, high))]
        swelling = 1 + 0.25 * np.sin(np.arange(len(line)) * rng.uniform(0.15, 0.4) + rng.uniform(0, 6))
        neurites = neurites.with_line(np.array(line), calibre * swelling, owner)


def clearance_from(neurites: Neurites) -> Clearance:
    """How far points are, in nm, from the surfaces of all neurites."""
    if not len(neurites.points):
        return lambda at: np.full(len(at), np.inf)
    tree, few = cKDTree(neurites.lifted()), min(8, len(neurites.points))

    def clearance(at: NDArray[np.float64]) -> NDArray[np.float64]:
        _, near = tree.query(np.column_stack([at, np.zeros(len(at))]), k=range(1, few + 1))
        gaps = np.linalg.norm(neurites.points[near] - at[:, None], axis=2) - neurites.radius[near]
        least: NDArray[np.float64] = gaps.min(1)
        return least

    return clearance


def walk(
    rng: np.random.Generator,
    at: NDArray[np.float64],
    heading: NDArray[np.float64],
    calibre: float,
    clearance: Clearance,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> Iterator[NDArray[np.float64]]:
    """Steps of a neurite that keeps its heading where it has room, until it leaves the box or is stuck."""
    for _ in range(400):
        ways = heading / np.linalg.norm(heading) + 0.35 * rng.standard_normal((6, 3))
        ways /= np.linalg.norm(ways, axis=1)[:, None]
        room = clearance(at + STEP * ways)
        choice = int((np.minimum(room, calibre) + 0.3 * calibre * (ways @ heading) / np.linalg.norm(heading)).argmax())
        if room[choice] < 0.5 * min(calibre, 100):
            return
        heading = ways[choice]
        at = at + STEP * heading
        yield at
        if (at < low).any() or (at > high).any():
            return


def positions(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Where each voxel's centre lies after the warp: (z, y, x, 3), in nm."""
    where = np.empty((*shape, 3), np.float32)
    for axis, line in enumerate(np.ix_(*(np.arange(n) * s for n, s in zip(shape, VOXEL_SIZE, strict=True)))):
        where[..., axis] = line
        for wavelength, amplitude in ((500, 60), (150, 14)):
            where[..., axis] += amplitude * smooth_field(rng, shape, wavelength)
    # Sections are never aligned perfectly.
    where[..., 1:] += rng.normal(0, 3, (shape[0], 1, 1, 2)).astype(np.float32)
    return where


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], wavelength: float) -> Floats:
    """Smooth noise of about unit variance: a cubic B-spline with random coefficients every ``wavelength`` nm."""
    bases = []
    for n, size in zip(shape, VOXEL_SIZE, strict=True):
        at = np.arange(n) * size / wavelength
        knots = np.arange(-1, int(at[-1]) + 3)
        t = np.abs(at[:, None] - knots)
        bases.append(np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6).astype(np.float32))
    z, y, x = bases
    field = rng.standard_normal((z.shape[1], y.shape[1], x.shape[1]), np.float32)
    field = np.tensordot(z, y @ (field @ x.T), 1)
    result: Floats = field / np.float32((151 / 315) ** 1.5)  # the integral of the squared cubic B-spline, three axes
    return result


def assign(neurites: Neurites, where: Floats) -> Labels:
    """The owner of each voxel: the neurite with the least ``distance**2 - radius**2``, a power diagram.

    It is an ordinary nearest neighbour among the lifted points, so in a tile of half-diagonal h around c only points
    nearer to c than its nearest plus 2h can own a voxel.
    """
    tree = cKDTree(neurites.lifted())
    labels = np.empty(where.shape[:3], np.uint32)
    for box in tiles(labels.shape, (4, 16, 16)):
        at = where[box].reshape(-1, 3)
        centre = at.mean(0)
        reach = np.linalg.norm(at - centre, axis=1).max()
        query = (*centre, 0.0)
        near = tree.query_ball_point(query, tree.query(query)[0] + 2 * reach)
        relative = neurites.points[near] - centre
        power = (relative**2).sum(1) - neurites.radius[near] ** 2
        score = (at - centre) @ (2 * relative.T).astype(np.float32) - power.astype(np.float32)
        labels[box] = neurites.owner[near][score.argmax(1)].reshape(labels[box].shape)
    return labels


def tiles(shape: tuple[int, ...], size: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Boxes of ``size`` that cover ``shape``."""
    for start in product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))):
        yield tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))


def boundaries(labels: NDArray[np.integer], thickness: float) -> NDArray[np.bool_]:
    """Voxels in a band of ``thickness`` nm along every change of label.

    Of each pair of opposite offsets one counts: with both, the band could not be thinner than two sections.
    """
    band = np.zeros(labels.shape, np.bool_)
    reach = [int(thickness // size) for size in VOXEL_SIZE]
    for offset in product(*(range(-n, n + 1) for n in reach)):
        if offset <= (0, 0, 0) or np.linalg.norm(np.multiply(offset, VOXEL_SIZE)) > thickness:
            continue
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, labels.shape, strict=True))
        there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, labels.shape, strict=True))
        band[here] |= labels[here] != labels[there]
    return band
