"""Surfaces of labels: how fast they are marched, and what ways of simplifying them cost and spoil.

    python benchmarks/meshes.py labels.npy          # (z, y, x), unsigned integers; prints tables in markdown

Needs fast-simplification, which is no dependency of this package: ``pip install fast-simplification``.

Without a file, labels are smooth noise. Times are CPU seconds of one thread. Compared are fast-simplification and
zmesh's two, `simplify_fqmr` and `Mesher.simplify`, on the same meshes, those of objects over 10^4 voxels, at the same
target of triangles; ours and zmesh's also take an error. Volumes are against voxel counts. "Bad edges" are those that
are not in two triangles, once in each direction; "objects" is how many have some.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import fast_simplification
import numpy as np
import zmesh
from numpy.typing import NDArray
from scipy import ndimage

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.meshes.marching import March, packed
from chunkinfer.objects.meshes.octree import octree
from chunkinfer.objects.meshes.simplifying import simplified
from chunkinfer.objects.meshes.welding import volume, welded
from chunkinfer.stores.files import Files
from chunkinfer.volumes.lazy import Reader

LARGE = 10**4
"""Voxels of an object that is compared."""

Mesh = tuple[NDArray[Any], NDArray[Any]]


def noise(n: int) -> NDArray[Any]:
    """Objects that fill a volume."""
    rng = np.random.default_rng(0)
    smooth = np.stack([ndimage.gaussian_filter(rng.normal(size=(n, n, n)).astype("f4"), 5) for _ in range(4)])
    kinds, labels, count = smooth.argmax(0), np.zeros((n, n, n), "uint32"), 0
    for kind in range(4):
        part, found = ndimage.label(kinds == kind)
        labels += np.where(part > 0, part + count, 0).astype("uint32")
        count += found
    return labels


def bad_edges(faces: NDArray[Any]) -> int:
    """Edges that are not in two triangles, once in each direction."""
    a = faces.astype(np.int64)
    edges = np.concatenate([a[:, [0, 1]], a[:, [1, 2]], a[:, [2, 0]]])
    keys, times = np.unique(edges[:, 0] << 32 | edges[:, 1], return_counts=True)
    alone = np.setdiff1d(keys, keys % 2**32 << 32 | keys >> 32)
    return int((times != 1).sum() + len(alone))


def fast(vertices: NDArray[Any], faces: NDArray[Any], target: int, error: float) -> Mesh:
    return fast_simplification.simplify(vertices, faces.astype("i4"), target_count=target)


def fqmr(vertices: NDArray[Any], faces: NDArray[Any], target: int, error: float) -> Mesh:
    alpha, rounds = error**2 / 32.0**7, 30  # the last of its rounds allows the error
    found = zmesh.simplify_fqmr(
        zmesh.Mesh(vertices.astype("f4"), faces), target, max_iterations=rounds, alpha=alpha, aggressiveness=7
    )
    return found.vertices, found.faces


def classic(vertices: NDArray[Any], faces: NDArray[Any], target: int, error: float) -> Mesh:
    mesher = zmesh.Mesher((1.0, 1.0, 1.0))
    mesh = zmesh.Mesh(vertices.astype("f4"), faces)
    # It divides the error by a voxel's diagonal, and rounds down.
    found = mesher.simplify(mesh, reduction_factor=round(len(faces) / target), max_error=2 * error)
    return found.vertices, found.faces


WAYS: dict[str, Callable[[NDArray[Any], NDArray[Any], int, float], Mesh]] = {
    "ours": simplified, "fast-simplification": fast, "zmesh fqmr": fqmr, "zmesh simplify": classic,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="?", help="A .npy file.")
    parser.add_argument("--n", type=int, default=192, help="Voxels along an axis, without a file.")
    args = parser.parse_args()
    labels = np.load(args.labels) if args.labels else noise(args.n)
    voxels = np.bincount(labels.ravel())

    clock = time.process_time
    begin = clock()
    step = March(Reader(labels, False), BlockGrid(tuple((n,) for n in labels.shape)), None, Files("unused"))
    surfaces = step.surfaces(Box.of_shape(labels.shape))
    marching = clock() - begin
    begin = clock()
    size = sum(len(packed(vertices, faces)) for _, vertices, faces in surfaces)
    packing = clock() - begin
    begin = clock()
    meshes = {label: welded([(vertices, faces)]) for label, vertices, faces in surfaces}
    welding = clock() - begin
    triangles = sum(len(faces) for _, faces in meshes.values())
    print(f"{labels.shape} voxels, {len(meshes)} objects, {triangles:,} triangles\n")
    print("| | CPU s | Mvoxel/s | Mtriangle/s |\n|---|---|---|---|")
    for name, seconds in (("marching", marching), ("packing", packing), ("putting together", welding)):
        print(f"| {name} | {seconds:.1f} | {labels.size / seconds / 1e6:.1f} | {triangles / seconds / 1e6:.2f} |")
    print(f"\n{size / triangles:.1f} bytes a triangle are kept between the passes.\n")

    large = {label: (v / 2, f) for label, (v, f) in meshes.items() if voxels[label] > LARGE}
    simplified(*next(iter(large.values())), 1000, 1.0)  # compiles
    print(f"{len(large)} objects over {LARGE:,} voxels; errors in voxels.\n")
    print(
        "| | target | error | Mtriangle/s | left | volume against voxels | bad edges | objects |\n" + "|---" * 8 + "|"
    )

    def row(name: str, target: Any, error: Any, seconds: float, made: dict[int, Mesh]) -> None:
        before, after = (sum(len(f) for _, f in some.values()) for some in (large, made))
        off = [volume(*mesh) / voxels[label] - 1 for label, mesh in made.items()]
        bad = [bad_edges(faces) for _, faces in made.values()]
        speed = f"{before / seconds / 1e6:.2f}" if seconds else ""
        print(
            f"| {name} | {target} | {error} | {speed} | {after / before:.1%} | {min(off):+.2%} to {max(off):+.2%} "
            f"| {sum(bad):,} | {sum(b > 0 for b in bad)} |",
            flush=True,
        )

    row("as marched", "", "", 0, large)
    for factor, error in ((10, 1.0), (100, 0.5), (100, 1.0)):
        for name, way in WAYS.items():
            if name == "fast-simplification" and error != 1.0:
                continue  # it knows no error
            begin = clock()
            made = {label: way(v, f, len(f) // factor, error) for label, (v, f) in large.items()}
            row(name, f"1/{factor}", "" if name == "fast-simplification" else error, clock() - begin, made)

    begin = clock()
    fine = {label: simplified(v * 8, f, len(f) // 100, 4.0) for label, (v, f) in large.items()}
    middle = clock()
    levels = sum(len(octree(v, f, 4.0).levels) for v, f in fine.values())
    print(
        f"\nSimplified in {middle - begin:.1f} s, then {levels} levels of detail of {len(fine)} objects "
        f"in {clock() - middle:.1f} s."
    )


if __name__ == "__main__":
    main()
