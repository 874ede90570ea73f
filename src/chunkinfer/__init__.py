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
    from chunkinfer import operators as operators
    from chunkinfer.api.audit.audit import audit as audit
    from chunkinfer.api.audit.report import AuditReport as AuditReport
    from chunkinfer.api.copy import copy as copy
    from chunkinfer.api.delete import delete as delete
    from chunkinfer.api.infer import infer as infer
    from chunkinfer.api.infer import plan as plan
    from chunkinfer.api.info import info as info
    from chunkinfer.api.save import save as save
    from chunkinfer.api.tiling_error.report import TilingErrors as TilingErrors
    from chunkinfer.api.tiling_error.tiling_error import tiling_error as tiling_error
    from chunkinfer.api.verify import VerifyReport as VerifyReport
    from chunkinfer.api.verify import verify as verify
    from chunkinfer.networks.augment import augment as augment
    from chunkinfer.networks.field import ReceptiveField as ReceptiveField
    from chunkinfer.networks.model import deliver as deliver
    from chunkinfer.networks.receptive_field import receptive_field as receptive_field
    from chunkinfer.objects import evaluation as evaluation
    from chunkinfer.objects.evaluation.contacts import contact_sites as contact_sites
    from chunkinfer.objects.evaluation.evaluating import error_map as error_map
    from chunkinfer.objects.evaluation.evaluating import evaluate as evaluate
    from chunkinfer.objects.evaluation.objects import majority as majority
    from chunkinfer.objects.evaluation.objects import statistics as statistics
    from chunkinfer.objects.evaluation.report import Evaluation as Evaluation
    from chunkinfer.objects.evaluation.skeletons import Skeletons as Skeletons
    from chunkinfer.objects.meshes.meshing import MeshReport as MeshReport
    from chunkinfer.objects.meshes.meshing import mesh as mesh
    from chunkinfer.objects.segmentation.connecting import connected_components as connected_components
    from chunkinfer.objects.segmentation.result import Segmentation as Segmentation
    from chunkinfer.objects.segmentation.segmenting import segment as segment
    from chunkinfer.objects.segmentation.segmenting import watershed as watershed
    from chunkinfer.objects.segmentation.stages import agglomerate as agglomerate
    from chunkinfer.objects.segmentation.stages import consecutive as consecutive
    from chunkinfer.objects.segmentation.stages import region_graph as region_graph
    from chunkinfer.objects.segmentation.stages import relabel as relabel
    from chunkinfer.objects.segmentation.stages import remove_dust as remove_dust
    from chunkinfer.objects.skeletons.skeletonize import skeletonize as skeletonize
    from chunkinfer.runs.exporters.jsonlines import JsonLines as JsonLines
    from chunkinfer.runs.exporters.jsonlines import read_events as read_events
    from chunkinfer.runs.exporters.prometheus import Metrics as Metrics
    from chunkinfer.runs.pyramids.building import pyramid as pyramid
    from chunkinfer.runs.report import RunReport as RunReport
    from chunkinfer.runs.status import Status as Status
    from chunkinfer.runs.status import status as status
    from chunkinfer.tiling.plan.costs import Prices as Prices
    from chunkinfer.tiling.plan.plan import Plan as Plan
    from chunkinfer.tools import clusters as clusters
    from chunkinfer.tools.pipelines.pipeline import Pipeline as Pipeline
    from chunkinfer.tools.viewers.viewing import view as view
    from chunkinfer.volumes.open import open_volume as open_volume
    from chunkinfer.volumes.pictures.slices import show as show
    from chunkinfer.volumes.pictures.slices import thumbnails as thumbnails

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "chunkinfer.api.audit.report",
    "Evaluation": "chunkinfer.objects.evaluation.report",
    "JsonLines": "chunkinfer.runs.exporters.jsonlines",
    "MeshReport": "chunkinfer.objects.meshes.meshing",
    "Metrics": "chunkinfer.runs.exporters.prometheus",
    "Pipeline": "chunkinfer.tools.pipelines.pipeline",
    "Plan": "chunkinfer.tiling.plan.plan",
    "Prices": "chunkinfer.tiling.plan.costs",
    "ReceptiveField": "chunkinfer.networks.field",
    "RunReport": "chunkinfer.runs.report",
    "Segmentation": "chunkinfer.objects.segmentation.result",
    "Skeletons": "chunkinfer.objects.evaluation.skeletons",
    "Status": "chunkinfer.runs.status",
    "TilingErrors": "chunkinfer.api.tiling_error.report",
    "VerifyReport": "chunkinfer.api.verify",
    "agglomerate": "chunkinfer.objects.segmentation.stages",
    "audit": "chunkinfer.api.audit.audit",
    "augment": "chunkinfer.networks.augment",
    "clusters": "chunkinfer.tools.clusters",
    "connected_components": "chunkinfer.objects.segmentation.connecting",
    "consecutive": "chunkinfer.objects.segmentation.stages",
    "contact_sites": "chunkinfer.objects.evaluation.contacts",
    "copy": "chunkinfer.api.copy",
    "delete": "chunkinfer.api.delete",
    "deliver": "chunkinfer.networks.model",
    "error_map": "chunkinfer.objects.evaluation.evaluating",
    "errors": "chunkinfer.errors",
    "evaluate": "chunkinfer.objects.evaluation.evaluating",
    "evaluation": "chunkinfer.objects.evaluation",
    "infer": "chunkinfer.api.infer",
    "info": "chunkinfer.api.info",
    "majority": "chunkinfer.objects.evaluation.objects",
    "mesh": "chunkinfer.objects.meshes.meshing",
    "open_volume": "chunkinfer.volumes.open",
    "operators": "chunkinfer.operators",
    "plan": "chunkinfer.api.infer",
    "pyramid": "chunkinfer.runs.pyramids.building",
    "read_events": "chunkinfer.runs.exporters.jsonlines",
    "receptive_field": "chunkinfer.networks.receptive_field",
    "region_graph": "chunkinfer.objects.segmentation.stages",
    "relabel": "chunkinfer.objects.segmentation.stages",
    "remove_dust": "chunkinfer.objects.segmentation.stages",
    "save": "chunkinfer.api.save",
    "segment": "chunkinfer.objects.segmentation.segmenting",
    "show": "chunkinfer.volumes.pictures.slices",
    "skeletonize": "chunkinfer.objects.skeletons.skeletonize",
    "statistics": "chunkinfer.objects.evaluation.objects",
    "status": "chunkinfer.runs.status",
    "thumbnails": "chunkinfer.volumes.pictures.slices",
    "tiling_error": "chunkinfer.api.tiling_error.tiling_error",
    "verify": "chunkinfer.api.verify",
    "view": "chunkinfer.tools.viewers.viewing",
    "watershed": "chunkinfer.objects.segmentation.segmenting",
}

__all__ = [
    "AuditReport",
    "Evaluation",
    "JsonLines",
    "MeshReport",
    "Metrics",
    "Pipeline",
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
    "evaluation",
    "infer",
    "info",
    "majority",
    "mesh",
    "open_volume",
    "operators",
    "plan",
    "pyramid",
    "read_events",
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
    value = module if name in ("clusters", "errors", "evaluation", "operators") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
