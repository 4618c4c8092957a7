"""AnnData in, labels out."""

from sccagn_scale.model._cluster import cluster
from sccagn_scale.model._model import SCCAGN, Device

__all__ = ["SCCAGN", "Device", "cluster"]
