"""Batches of cells with their subgraph, all of one shape whatever the loader."""

from sccagn_scale.loader._batch import Batch, Cells, Loader, WholeGraph, whole_graph
from sccagn_scale.loader._full import FullLoader
from sccagn_scale.loader._neighbor import NeighborLoader, check_sampler
from sccagn_scale.loader._partition import PartitionLoader
from sccagn_scale.loader._prefetch import Prefetch
from sccagn_scale.loader._stored import CellsOnDisk

__all__ = [
    "Batch",
    "Cells",
    "CellsOnDisk",
    "FullLoader",
    "Loader",
    "NeighborLoader",
    "PartitionLoader",
    "Prefetch",
    "WholeGraph",
    "check_sampler",
    "whole_graph",
]
