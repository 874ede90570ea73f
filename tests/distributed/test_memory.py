"""Memory of a run: a sum over blocks in flight, whatever the size of the volume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_peak_stays_under_the_sum() -> None:
    """With freed memory given back at once: what an allocator keeps for later is not what a run holds."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "memory.py"
    inside = subprocess.run([sys.executable, str(benchmark), "--json"], check=True, stdout=subprocess.PIPE)
    found = json.loads(inside.stdout)
    assert found["times"] >= 20
    assert found["peak"] <= found["bound"], found
