"""The cell graph: neighbours, edges, weights."""

from sccagn_scale.graph._algorithms import ALGORITHMS, EXACT_BACKENDS, missing
from sccagn_scale.graph._neighbors import EXACT_UP_TO, Neighbors, choose_backend, neighbors, sampled_recall
from sccagn_scale.graph._partition import partition
from sccagn_scale.graph._recall import knn_recall
from sccagn_scale.graph._weights import adjacency, distance_matrix, normalized

__all__ = [
    "ALGORITHMS",
    "EXACT_BACKENDS",
    "EXACT_UP_TO",
    "Neighbors",
    "adjacency",
    "choose_backend",
    "distance_matrix",
    "knn_recall",
    "missing",
    "neighbors",
    "normalized",
    "partition",
    "sampled_recall",
]
