"""A tree of clusters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class WardTree(NamedTuple):
    """Ward's tree (Ward 1963) over m leaves: row i is what made node m + i, in the order of joining."""

    joined: np.ndarray  # int64 [m − 1, 2]
    gaps: np.ndarray  # float64 [m − 1], distance between the centres of the two that were joined

    def cut(self, n_clusters: int) -> np.ndarray:
        """Cluster of every leaf, int64 [m], where `n_clusters` are left."""
        n_leaves = len(self.joined) + 1
        of_node = np.arange(2 * n_leaves - 1)
        for node in range(n_leaves - n_clusters - 1, -1, -1):  # a node's own cluster is known before its parts'
            of_node[self.joined[node]] = of_node[n_leaves + node]
        return np.unique(of_node[:n_leaves], return_inverse=True)[1]
