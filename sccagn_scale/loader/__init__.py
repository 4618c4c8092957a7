"""Batches of cells with their subgraph, all of one shape whatever the loader."""

from sccagn_scale.loader._batch import Batch, Loader
from sccagn_scale.loader._full import FullLoader
from sccagn_scale.loader._neighbor import NeighborLoader, SamplerName
from sccagn_scale.loader._partition import PartitionLoader
from sccagn_scale.loader._prefetch import Prefetch

__all__ = [
    "Batch",
    "FullLoader",
    "Loader",
    "NeighborLoader",
    "PartitionLoader",
    "Prefetch",
    "SamplerName",
]
