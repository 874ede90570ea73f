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
    from chunkinfer.evaluation import Evaluation as Evaluation
    from chunkinfer.evaluation import Skeletons as Skeletons
    from chunkinfer.evaluation import contact_sites as contact_sites
    from chunkinfer.evaluation import error_map as error_map
    from chunkinfer.evaluation import evaluate as evaluate
    from chunkinfer.evaluation import majority as majority
    from chunkinfer.evaluation import statistics as statistics
    from chunkinfer.inference import infer as infer
    from chunkinfer.inference import plan as plan
    from chunkinfer.keeping.copying import copy as copy
    from chunkinfer.keeping.deleting import delete as delete
    from chunkinfer.keeping.describing import info as info
    from chunkinfer.meshes import MeshReport as MeshReport
    from chunkinfer.meshes import mesh as mesh
    from chunkinfer.meshes.skeletons import skeletonize as skeletonize
    from chunkinfer.models import ReceptiveField as ReceptiveField
    from chunkinfer.models import deliver as deliver
    from chunkinfer.models import receptive_field as receptive_field
    from chunkinfer.models.augmentation import augment as augment
    from chunkinfer.planning import Plan as Plan
    from chunkinfer.planning import Prices as Prices
    from chunkinfer.pyramids import pyramid as pyramid
    from chunkinfer.reports import RunReport as RunReport
    from chunkinfer.saving import save as save
    from chunkinfer.segmentation.connecting import connected_components as connected_components
    from chunkinfer.segmentation.result import Segmentation as Segmentation
    from chunkinfer.segmentation.segmenting import segment as segment
    from chunkinfer.segmentation.segmenting import watershed as watershed
    from chunkinfer.segmentation.stages import agglomerate as agglomerate
    from chunkinfer.segmentation.stages import consecutive as consecutive
    from chunkinfer.segmentation.stages import region_graph as region_graph
    from chunkinfer.segmentation.stages import relabel as relabel
    from chunkinfer.segmentation.stages import remove_dust as remove_dust
    from chunkinfer.viewers.slices import show as show
    from chunkinfer.viewers.slices import thumbnails as thumbnails
    from chunkinfer.viewers.viewing import view as view
    from chunkinfer.volume import open_volume as open_volume

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "chunkinfer.checking.audit_report",
    "Evaluation": "chunkinfer.evaluation",
    "MeshReport": "chunkinfer.meshes",
    "Plan": "chunkinfer.planning",
    "Prices": "chunkinfer.planning",
    "ReceptiveField": "chunkinfer.models",
    "RunReport": "chunkinfer.reports",
    "Segmentation": "chunkinfer.segmentation.result",
    "Skeletons": "chunkinfer.evaluation",
    "Status": "chunkinfer.checking.status",
    "TilingErrors": "chunkinfer.checking.tiling_error",
    "VerifyReport": "chunkinfer.checking.verify",
    "agglomerate": "chunkinfer.segmentation.stages",
    "audit": "chunkinfer.checking.audit",
    "augment": "chunkinfer.models.augmentation",
    "clusters": "chunkinfer.clusters",
    "connected_components": "chunkinfer.segmentation.connecting",
    "consecutive": "chunkinfer.segmentation.stages",
    "contact_sites": "chunkinfer.evaluation",
    "copy": "chunkinfer.keeping.copying",
    "delete": "chunkinfer.keeping.deleting",
    "deliver": "chunkinfer.models",
    "error_map": "chunkinfer.evaluation",
    "errors": "chunkinfer.errors",
    "evaluate": "chunkinfer.evaluation",
    "infer": "chunkinfer.inference",
    "info": "chunkinfer.keeping.describing",
    "majority": "chunkinfer.evaluation",
    "mesh": "chunkinfer.meshes",
    "open_volume": "chunkinfer.volume",
    "operators": "chunkinfer.operators",
    "plan": "chunkinfer.inference",
    "pyramid": "chunkinfer.pyramids",
    "receptive_field": "chunkinfer.models",
    "region_graph": "chunkinfer.segmentation.stages",
    "relabel": "chunkinfer.segmentation.stages",
    "remove_dust": "chunkinfer.segmentation.stages",
    "save": "chunkinfer.saving",
    "segment": "chunkinfer.segmentation.segmenting",
    "show": "chunkinfer.viewers.slices",
    "skeletonize": "chunkinfer.meshes.skeletons",
    "statistics": "chunkinfer.evaluation",
    "status": "chunkinfer.checking.status",
    "thumbnails": "chunkinfer.viewers.slices",
    "tiling_error": "chunkinfer.checking.tiling_error",
    "verify": "chunkinfer.checking.verify",
    "view": "chunkinfer.viewers.viewing",
    "watershed": "chunkinfer.segmentation.segmenting",
}

__all__ = [
    "AuditReport",
    "Evaluation",
    "MeshReport",
    "Plan",
    "Prices",
    "ReceptiveField",
    "RunReport",
    "Segmentation",
    "Skeletons",
    "Status",
    "TilingErrors",
    "VerifyReport",
    "__version__",
    "agglomerate",
    "audit",
    "augment",
    "clusters",
    "connected_components",
    "consecutive",
    "contact_sites",
    "copy",
    "delete",
    "deliver",
    "error_map",
    "errors",
    "evaluate",
    "infer",
    "info",
    "majority",
    "mesh",
    "open_volume",
    "operators",
    "plan",
    "pyramid",
    "receptive_field",
    "region_graph",
    "relabel",
    "remove_dust",
    "save",
    "segment",
    "show",
    "skeletonize",
    "statistics",
    "status",
    "thumbnails",
    "tiling_error",
    "verify",
    "view",
    "watershed",
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
