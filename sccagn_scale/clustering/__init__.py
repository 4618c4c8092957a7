"""Clusterings of points and of graphs, what several of them agree on, and how many clusters there are."""

from sccagn_scale.clustering._communities import CommunityFinder
from sccagn_scale.clustering._consensus import consensus, most_stable
from sccagn_scale.clustering._estimate import Estimate, estimate_by_communities, estimate_by_mixtures
from sccagn_scale.clustering._kmeans import kmeans
from sccagn_scale.clustering._labels import by_size, centers, sphering
from sccagn_scale.clustering._mixtures import Mixtures
from sccagn_scale.clustering._nested import divided, merged, regrouped
from sccagn_scale.clustering._ward import ward, ward_memory

__all__ = [
    "CommunityFinder",
    "Estimate",
    "Mixtures",
    "by_size",
    "centers",
    "consensus",
    "divided",
    "estimate_by_communities",
    "estimate_by_mixtures",
    "kmeans",
    "merged",
    "most_stable",
    "regrouped",
    "sphering",
    "ward",
    "ward_memory",
]
