"""Ways out of errors about operators: of functions, percentiles and boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer import operators as op
from tests.lib.ways.rows import NET, VOLUME, Row, computed, each, refusals, row


def done(operator: Callable[..., Any]) -> Callable[..., Any]:
    """An operator whose result is computed."""
    return lambda **given: computed(operator(**given))


def thinned(voxels: Any) -> Any:
    return voxels[::2]


def doubled(voxels: Any) -> Any:
    return np.asarray(voxels, "f8") * 2


COUNTS = op.cast(VOLUME, "int32")
OUTPUT = ci.infer(VOLUME, NET)
TRUE = VOLUME > 0.5
OPERATORS = [
    row("thinned gave", 0, done(op.apply), volume=VOLUME, function=thinned),
    row("doubled gave float64", 1, done(op.apply), volume=COUNTS, function=doubled),
    row("cannot be imported", 0, op.apply, volume=VOLUME, function="no_such_module:function"),
    row("does not work on bool and bool", 2, op.combine, {"a": TRUE, "b": TRUE}, volume=TRUE, other=TRUE,
        function="subtract"),
    row("would run the network now", 2, op.normalize, volume=OUTPUT, percentile=(1, 99)),
    row("quantize takes floats", 1, op.quantize, volume=COUNTS),
    row("dequantize takes unsigned integers", 1, op.dequantize, volume=VOLUME),
    row("of axis z", 2, op.crop, volume=VOLUME, box=(slice(0.5, 3),)),
]  # fmt: skip


@pytest.mark.parametrize("row", each({"operators": OPERATORS}, ("operators",)))
def test_lines_about_operators(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch)
