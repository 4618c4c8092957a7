"""The cell graph: neighbours, edges, weights."""

from sccagn_scale.graph._algorithms import ALGORITHMS, EXACT_BACKENDS, why_unavailable
from sccagn_scale.graph._neighbors import Neighbors, neighbors, resolved_backend, sampled_recall
from sccagn_scale.graph._partition import partition
from sccagn_scale.graph._recall import knn_recall
from sccagn_scale.graph._weights import adjacency, distance_matrix, normalized

__all__ = [
    "ALGORITHMS",
    "EXACT_BACKENDS",
    "Neighbors",
    "adjacency",
    "distance_matrix",
    "knn_recall",
    "neighbors",
    "normalized",
    "partition",
    "resolved_backend",
    "sampled_recall",
    "why_unavailable",
]
