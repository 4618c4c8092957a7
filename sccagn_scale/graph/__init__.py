"""The cell graph: neighbours, edges, weights."""

from sccagn_scale.graph._algorithms import ALGORITHMS, Backend
from sccagn_scale.graph._neighbors import Neighbors, choose_backend, neighbors, sampled_recall
from sccagn_scale.graph._weights import adjacency, distance_matrix, normalized

__all__ = [
    "ALGORITHMS",
    "Backend",
    "Neighbors",
    "adjacency",
    "choose_backend",
    "distance_matrix",
    "neighbors",
    "normalized",
    "sampled_recall",
]
