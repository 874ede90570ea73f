"""What an electron microscope would show of the neurites of `chunkinfer.tools.demo.synthetic`.

Grey values are painted layer by layer, dark stain on bright cytoplasm, then pass through the microscope: blur, uneven
sections, shot noise. Arrays are (z, y, x); lengths are in nm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkinfer.tools.demo.synthetic_neurites import VOXEL_SIZE, Floats, Labels, boundaries, smooth_field

Points = NDArray[np.intp]

CYTOPLASM, STAIN, MITOCHONDRION = 172.0, 58.0, 118.0
"""Grey values of cytoplasm, of stained membranes, and inside mitochondria."""


def paint(rng: np.random.Generator, labels: Labels) -> NDArray[np.uint8]:
    """The image of a volume of neurites."""
    depth = depths(labels)
    count = int(labels.max()) + 1
    image = rng.normal(CYTOPLASM, 9, count).astype(np.float32)[labels]  # no two neurites are quite equally dense
    grain = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), (0, 1.3, 1.3))
    image += grain * np.float32(8 / grain.std())  # ribosomes and filaments, unresolved
    image += 6 * smooth_field(rng, image.shape, 45)

    microtubules(rng, image, depth)
    mitochondria(rng, image, labels, depth)
    # A membrane cut along its face is wide and grey, one cut across is thin and dark.
    width = ndimage.uniform_filter((labels == 0).astype(np.float32), (1, 7, 7))
    image[labels == 0] = (STAIN + 42 * np.clip(2.5 * width - 1.5, 0, 1))[labels == 0]
    synapses(rng, image, labels, depth)
    return microscope(rng, image)


def depths(labels: Labels) -> Floats:
    """Distance to the nearest membrane, to a few nm: measured on every fourth pixel, which is 16 times cheaper."""
    coarse = ndimage.distance_transform_edt(labels[:, ::4, ::4] > 0, np.multiply(VOXEL_SIZE, (1, 4, 4)))
    fine = coarse.astype(np.float32).repeat(4, 1).repeat(4, 2)[:, : labels.shape[1], : labels.shape[2]]
    depth: Floats = np.where(labels > 0, ndimage.uniform_filter(fine, (1, 5, 5)), 0)
    return depth


def pick(rng: np.random.Generator, where: NDArray[np.bool_], density: float) -> Points:
    """Random voxels (n, 3) out of ``where``, ``density`` to the cubic micrometre."""
    inside = np.flatnonzero(where)
    count = rng.poisson(density * len(inside) * np.prod(VOXEL_SIZE) * 1e-9) if len(inside) else 0
    return np.stack(np.unravel_index(rng.choice(inside, count), where.shape), 1) if count else np.empty((0, 3), np.intp)


def around(centre: Points, reach: float, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], list[Floats]]:
    """The box of ``reach`` nm around a voxel, and its voxels' offsets from it in nm, one open array an axis."""
    box = tuple(
        slice(max(0, int(c - reach / s)), min(n, int(c + reach / s) + 1))
        for c, s, n in zip(centre, VOXEL_SIZE, shape, strict=True)
    )
    offsets = [(np.arange(b.start, b.stop) - c) * s for b, c, s in zip(box, centre, VOXEL_SIZE, strict=True)]
    return box, [o.astype(np.float32) for o in np.ix_(*offsets)]


def microtubules(rng: np.random.Generator, image: Floats, depth: Floats) -> None:
    """Thin threads in thick neurites: dots where they run across the sections, lines where they run along."""
    starts = pick(rng, depth > 45, 330)
    heading = rng.standard_normal((len(starts), 3))
    heading /= np.linalg.norm(heading, axis=1)[:, None]
    for step in np.arange(-280, 280, 6.0):
        at = np.rint(starts + step * heading / VOXEL_SIZE).astype(np.intp)
        at = at[((at >= 0) & (at < image.shape)).all(1)]
        inside = tuple(at[depth[tuple(at.T)] > 20].T)
        image[inside] = np.minimum(image[inside], CYTOPLASM - 75)


def mitochondria(rng: np.random.Generator, image: Floats, labels: Labels, depth: Floats) -> None:
    """Sausages with a dark rim and folded inner membranes, well inside thick neurites."""
    bodies = np.zeros(labels.shape, np.uint16)
    for number, centre in enumerate(pick(rng, depth > 75, 26), 1):
        if bodies[tuple(centre)]:
            continue
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        half, radius = rng.uniform(100, 380), min(rng.uniform(0.55, 0.85) * depth[tuple(centre)], 150)
        box, (z, y, x) = around(centre, half + radius, labels.shape)
        along = axis[0] * z + axis[1] * y + axis[2] * x
        wobble = 1 + 0.12 * np.sin(along / 90 + rng.uniform(0, 6))
        distance = z**2 + y**2 + x**2 - 2 * along * np.clip(along, -half, half) + np.clip(along, -half, half) ** 2
        mine = (labels[box] == labels[tuple(centre)]) & (depth[box] > 34) & (bodies[box] == 0)
        mine &= distance < (radius * wobble) ** 2
        bodies[box][mine] = number
        folds = 13 * np.sin(along / 9 + 1.5 * np.sin((y + 0.6 * x + z) / 35)) if radius > 60 else 0 * along
        image[box][mine] = (MITOCHONDRION + folds)[mine]
    image[boundaries(bodies, 16)] = STAIN + 14


def synapses(rng: np.random.Generator, image: Floats, labels: Labels, depth: Floats) -> None:
    """A dark thickening on one side of a membrane, and a cloud of vesicles on the other."""
    shape = labels.shape
    for centre in pick(rng, labels == 0, 22):
        box, (z, y, x) = around(centre, 330, shape)
        square = z**2 + y**2 + x**2
        near, sizes = np.unique(labels[box][square < 40**2], return_counts=True)
        order = near[np.argsort(-sizes)]
        order = order[order > 0]
        if len(order) < 2:
            continue
        before, after = order[:2]
        facing = ndimage.maximum_filter(labels[box] == before, (3, 9, 9)) & (labels[box] == after)
        image[box][facing & (depth[box] < 30) & (square < rng.uniform(100, 170) ** 2)] = STAIN - 12
        cloud = (labels[box] == before) & (depth[box] > 24) & (square < rng.uniform(180, 320) ** 2)
        cloud &= image[box] > CYTOPLASM - 36  # not in mitochondria
        corner = [b.start for b in box]
        for vesicle in pick(rng, cloud, 5200) + corner:
            ring, (z, y, x) = around(vesicle, 26, shape)
            radius = np.sqrt(z**2 + y**2 + x**2)
            image[ring] -= 80 * np.exp(-(((radius - 17) / 6) ** 2))


def microscope(rng: np.random.Generator, image: Floats) -> NDArray[np.uint8]:
    """Blur, uneven illumination and sections, and noise; the image is worked on in place."""
    ndimage.gaussian_filter(image, (0.35, 0.85, 0.85), output=image)
    sections = (len(image), 1, 1)
    image *= rng.normal(1, 0.03, sections).astype(np.float32)
    image += rng.normal(0, 4, sections).astype(np.float32)
    image += 4 * smooth_field(rng, image.shape, 1500)
    noise = rng.standard_normal(image.shape, np.float32)
    image += noise * np.sqrt(np.maximum(image, 1))  # shot noise of many electrons: Gaussian, variance as the mean
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
