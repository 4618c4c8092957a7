"""AnnData in, labels out."""

from sccagn_scale.model._cluster import cluster
from sccagn_scale.model._model import SCCAGN
from sccagn_scale.model._setup import Device

__all__ = ["SCCAGN", "Device", "cluster"]
