"""Nannies of local clusters: their workers start in a given environment, and have no status page of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import distributed


class Nanny(distributed.Nanny):
    """A nanny whose worker finds variables set when its process starts.

    dask's own configuration for it (``distributed.nanny.pre-spawn-environ``) is read when a nanny is made, which for a
    cluster that scales is at any later time.

    Parameters
    ----------
    variables
        Name -> value.
    """

    def __init__(self, *args: Any, variables: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **{**options, "dashboard": False})
        self.pre_spawn_env.update(variables)
        self.env.update({name: value for name, value in variables.items() if name not in (options.get("env") or {})})
