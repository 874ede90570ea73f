"""Segmentations as numbers: how good they are, and what is in them.

>>> print(ci.evaluate("segmentation.precomputed", "truth.precomputed"))               # doctest: +SKIP
>>> ci.statistics("segmentation.precomputed", "em.zarr").to_csv("objects.csv")        # doctest: +SKIP

Each verb is a pass: a step makes a small table of each block, tables are joined by integer sums, least and most, and
numbers are computed from the joined table alone.

=======================================  =========================================================================
module                                   purpose
=======================================  =========================================================================
evaluating, report                       `evaluate`: a segmentation against the truth, or skeletons; what it found
objects, contacts                        `statistics`, `majority`; `contact_sites`
pairing, scoring, skeletons, run_length  contingency tables; adapted Rand and VOI; traced neurites; their ERL
mistakes                                 where it is wrong, as a lazy volume and in colours
laying, passing                          volumes on common voxels, in blocks; passes over these
tables                                   tables with keys, and their reduction
=======================================  =========================================================================
"""

from chunkinfer.objects.evaluation.contacts import contact_sites
from chunkinfer.objects.evaluation.evaluating import error_map, evaluate
from chunkinfer.objects.evaluation.objects import majority, statistics
from chunkinfer.objects.evaluation.report import Evaluation
from chunkinfer.objects.evaluation.run_length import RunLength
from chunkinfer.objects.evaluation.skeletons import Skeletons

__all__ = [
    "Evaluation", "RunLength", "Skeletons", "contact_sites", "error_map", "evaluate", "majority", "statistics",
]  # fmt: skip
