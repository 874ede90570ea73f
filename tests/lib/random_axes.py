"""How networks map an axis, drawn at random."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from chunkinfer.geometry.contract import AxisContract


@st.composite
def contracts(draw: st.DrawFn) -> AxisContract:
    """Same-padded, valid, strided and finer-sampled axes."""
    period = draw(st.sampled_from([1, 2, 3, 4, 8]))
    divisors = [d for d in (1, 2, 4) if period % d == 0]
    stride = draw(st.sampled_from([Fraction(d) for d in divisors] + [Fraction(1, 2)]))
    low, high = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    lost = int(draw(st.integers(0, 3)) * max(1, stride)) if draw(st.booleans()) else 0
    residue = lost % period
    return AxisContract(period, stride, low, high + lost, (lost // 2, lost - lost // 2), (residue,), lost + period)
