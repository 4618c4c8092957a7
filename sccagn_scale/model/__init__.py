"""AnnData in, labels out."""

from sccagn_scale.model._cluster import cluster
from sccagn_scale.model._model import SCCAGN
from sccagn_scale.model._plan import Plan, plan
from sccagn_scale.model._recluster import recluster
from sccagn_scale.model._save import checked_folder
from sccagn_scale.model._workspace import CELLS

__all__ = ["CELLS", "SCCAGN", "Plan", "checked_folder", "cluster", "plan", "recluster"]
