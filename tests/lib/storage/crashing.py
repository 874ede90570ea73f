"""A deletion that a crash cuts short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chunkinfer.volumes.arrays import erase


@contextmanager
def a_crash_after(deleted: int) -> Iterator[None]:
    """What runs inside deletes so many objects and is interrupted at the next one."""
    opened, left = erase.kvstore, iter(range(deleted))

    class Crashing:
        def __init__(self, spec: Any) -> None:
            self.store = opened(spec)

        def write(self, key: str, value: bytes | None) -> Any:
            if value is None and next(left, None) is None:
                raise KeyboardInterrupt
            return self.store.write(key, value)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erase, "kvstore", Crashing)
        with pytest.raises(KeyboardInterrupt):
            yield
