"""A job's numbers: patch and block, memory as a sum, the plan."""

from chunkinfer.planning.costs import Prices
from chunkinfer.planning.forms import PerAxis, every_axis
from chunkinfer.planning.layout import COPY_BYTES, ROW, WORTH_A_TASK, choose_layout, copy_block
from chunkinfer.planning.make import Planning, grid_for_exchange
from chunkinfer.planning.plan import Plan
from chunkinfer.planning.show import human_bytes
from chunkinfer.planning.wishes import Place, Stored, Wishes, positive

__all__ = [
    "COPY_BYTES",
    "ROW",
    "WORTH_A_TASK",
    "PerAxis",
    "Place",
    "Plan",
    "Planning",
    "Prices",
    "Stored",
    "Wishes",
    "choose_layout",
    "copy_block",
    "every_axis",
    "grid_for_exchange",
    "human_bytes",
    "positive",
]
