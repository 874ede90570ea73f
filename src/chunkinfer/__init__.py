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
    from chunkinfer import clusters as clusters
    from chunkinfer import errors as errors
    from chunkinfer import operators as operators
    from chunkinfer.checking.audit import audit as audit
    from chunkinfer.checking.audit_report import AuditReport as AuditReport
    from chunkinfer.checking.status import Status as Status
    from chunkinfer.checking.status import status as status
    from chunkinfer.checking.tiling_error import TilingErrors as TilingErrors
    from chunkinfer.checking.tiling_error import tiling_error as tiling_error
    from chunkinfer.checking.verify import VerifyReport as VerifyReport
    from chunkinfer.checking.verify import verify as verify
    from chunkinfer.inference import infer as infer
    from chunkinfer.inference import plan as plan
    from chunkinfer.keeping.copying import copy as copy
    from chunkinfer.keeping.deleting import delete as delete
    from chunkinfer.keeping.describing import info as info
    from chunkinfer.models import ReceptiveField as ReceptiveField
    from chunkinfer.models import deliver as deliver
    from chunkinfer.models import receptive_field as receptive_field
    from chunkinfer.models.augmentation import augment as augment
    from chunkinfer.planning import Plan as Plan
    from chunkinfer.planning import Prices as Prices
    from chunkinfer.pyramids import pyramid as pyramid
    from chunkinfer.reports import RunReport as RunReport
    from chunkinfer.saving import save as save
    from chunkinfer.viewers.slices import show as show
    from chunkinfer.viewers.slices import thumbnails as thumbnails
    from chunkinfer.viewers.viewing import view as view
    from chunkinfer.volume import open_volume as open_volume

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "chunkinfer.checking.audit_report",
    "Plan": "chunkinfer.planning",
    "Prices": "chunkinfer.planning",
    "ReceptiveField": "chunkinfer.models",
    "RunReport": "chunkinfer.reports",
    "Status": "chunkinfer.checking.status",
    "TilingErrors": "chunkinfer.checking.tiling_error",
    "VerifyReport": "chunkinfer.checking.verify",
    "audit": "chunkinfer.checking.audit",
    "augment": "chunkinfer.models.augmentation",
    "clusters": "chunkinfer.clusters",
    "copy": "chunkinfer.keeping.copying",
    "delete": "chunkinfer.keeping.deleting",
    "deliver": "chunkinfer.models",
    "errors": "chunkinfer.errors",
    "infer": "chunkinfer.inference",
    "info": "chunkinfer.keeping.describing",
    "open_volume": "chunkinfer.volume",
    "operators": "chunkinfer.operators",
    "plan": "chunkinfer.inference",
    "pyramid": "chunkinfer.pyramids",
    "receptive_field": "chunkinfer.models",
    "save": "chunkinfer.saving",
    "show": "chunkinfer.viewers.slices",
    "status": "chunkinfer.checking.status",
    "thumbnails": "chunkinfer.viewers.slices",
    "tiling_error": "chunkinfer.checking.tiling_error",
    "verify": "chunkinfer.checking.verify",
    "view": "chunkinfer.viewers.viewing",
}

__all__ = [
    "AuditReport",
    "Plan",
    "Prices",
    "ReceptiveField",
    "RunReport",
    "Status",
    "TilingErrors",
    "VerifyReport",
    "__version__",
    "audit",
    "augment",
    "clusters",
    "copy",
    "delete",
    "deliver",
    "errors",
    "infer",
    "info",
    "open_volume",
    "operators",
    "plan",
    "pyramid",
    "receptive_field",
    "save",
    "show",
    "status",
    "thumbnails",
    "tiling_error",
    "verify",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chunkinfer' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(_HOMES[name])
    value = module if name in ("clusters", "errors", "operators") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
