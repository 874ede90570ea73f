"""chunkinfer: a convolutional network over an image volume of any size, exact, block by block, on dask.

>>> import chunkinfer as ci                                      # doctest: +SKIP
>>> volume = ci.open_volume("em.zarr")                           # doctest: +SKIP
>>> ci.save(ci.infer(volume, "model.pt2"), "affinities.zarr")    # doctest: +SKIP

Names resolve on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunkinfer import errors as errors
    from chunkinfer.inference import infer as infer
    from chunkinfer.inference import plan as plan
    from chunkinfer.planning import Plan as Plan
    from chunkinfer.reports import RunReport as RunReport
    from chunkinfer.saving import save as save
    from chunkinfer.volume import open_volume as open_volume

__version__ = "0.1.0"

_HOMES = {
    "Plan": "chunkinfer.planning",
    "RunReport": "chunkinfer.reports",
    "errors": "chunkinfer.errors",
    "infer": "chunkinfer.inference",
    "open_volume": "chunkinfer.volume",
    "plan": "chunkinfer.inference",
    "save": "chunkinfer.saving",
}

__all__ = ["Plan", "RunReport", "__version__", "errors", "infer", "open_volume", "plan", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chunkinfer' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(_HOMES[name])
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
