"""Objects of real affinities against ground truth, beside waterz and mwatershed on the same affinities.

    python benchmarks/objects.py --python OTHER    # prints a table in markdown; about four minutes

OTHER is the Python of an environment with waterz, mwatershed and scikit-image: ``pip install waterz mwatershed
scikit-image``. The affinities are the network's of ../shared on the labelled sections of sample 2. Scores leave out the
background of the truth: adapted Rand error, and variation of information in bits (merges + splits); less is better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from skimage.metrics import adapted_rand_error, variation_of_information

import chunkinfer as ci

SHARED = Path(__file__).parents[2] / "shared"
LOW, HIGH = 0.05, 0.995
MEANS = (0.4, 0.5, 0.6, 0.7)
BIASES = (-0.5, -0.6, -0.7, -0.8)

THEIRS = """
    import json, sys
    import numpy as np
    affinities = np.load(sys.argv[1] + "/affinities.npy")
    low, high, means, biases = json.loads(sys.argv[2])
    import waterz, mwatershed
    thresholds = sorted(1 - mean for mean in means)
    for threshold, labels in zip(
        thresholds, waterz.agglomerate(affinities, thresholds, aff_threshold_low=low, aff_threshold_high=high)
    ):
        np.save(f"{sys.argv[1]}/waterz, mean affinity {1 - threshold:.1f}.npy", labels)
    for bias in biases:
        labels = mwatershed.agglom(affinities.astype("f8") + bias, [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
        np.save(f"{sys.argv[1]}/mwatershed, bias {bias}.npy", labels)
"""


def row(name: str, labels: np.ndarray, truth: np.ndarray) -> None:
    """One line of the table."""
    error = adapted_rand_error(truth, labels, ignore_labels=(0,))[0]
    splits, merges = variation_of_information(truth, labels, ignore_labels=(0,))
    objects = len(np.unique(labels[labels > 0]))
    print(f"| {name} | {objects:,} | {error:.3f} | {merges:.2f} + {splits:.2f} = {merges + splits:.2f} |", flush=True)


def main(python: str | None) -> None:
    truth = np.load(SHARED / "data" / "fib25" / "sample2_labels_z000_180.npz")["labels"]
    image = np.load(SHARED / "data" / "fib25" / "sample2_image.npy")[: len(truth)]
    network = str(SHARED / "models" / "fib25_affinity.pt")
    affinities = np.asarray(ci.infer(image, network, normalize=(0, 255)).compute(), "f4")
    print(f"FIB-25, sample 2, {' x '.join(map(str, truth.shape))} voxels; low {LOW}, high {HIGH} for all.\n")
    print("| | objects | adapted Rand error | variation of information |\n|---|---|---|---|")
    found = ci.segment(affinities, low=LOW, high=HIGH, progress=False)
    plain = ci.segment(affinities, low=LOW, high=HIGH, merge_size=0, dust_size=0, progress=False)
    for mean in MEANS:
        row(f"chunkinfer, mean affinity {mean}", found.at(mean).labels.values, truth)
    for mean in MEANS:
        row(f"chunkinfer without merging by size, mean affinity {mean}", plain.at(mean).labels.values, truth)
    if python is None:
        print("\nwaterz and mwatershed: left out, no --python was given.")
        return
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/affinities.npy", affinities)
        settings = json.dumps([LOW, HIGH, MEANS, BIASES])
        command = [python, "-W", "ignore", "-c", textwrap.dedent(THEIRS), folder, settings]
        subprocess.run(command, check=True, stdout=sys.stderr)
        for path in sorted(Path(folder).glob("[wm]*.npy")):
            row(path.stem, np.load(path).astype("u8"), truth)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of an environment with waterz and mwatershed")
    main(parser.parse_args().python)
