"""A table that keeps what was used last, against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.support.lru import Lru


@given(st.integers(1, 4), st.lists(st.integers(0, 6)))
def test_it_holds_the_keys_used_last(most: int, keys: list[int]) -> None:
    table, used, made = Lru[int, int](most), list[int](), list[int]()
    for key in keys:
        held = key in used[-most:]

        def make(key: int = key) -> int:
            made.append(key)
            return -key

        before = len(made)
        assert table.get_or_make(key, make) == -key
        assert len(made) - before == (not held)
        used = [k for k in used if k != key] + [key]
        assert list(table) == used[-most:]


def test_what_cannot_be_made_is_not_kept() -> None:
    table = Lru[str, int]()
    with pytest.raises(ZeroDivisionError):
        table.get_or_make("a", lambda: 1 // 0)
    assert table.get_or_make("a", lambda: 1) == 1
