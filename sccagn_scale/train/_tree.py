"""A tree of clusters."""

from __future__ import annotations

import numpy as np


def cut(joined: np.ndarray, n_clusters: int) -> np.ndarray:
    """Find the cluster of every leaf, int64 [m], where `n_clusters` are left.

    Parameters
    ----------
    joined
        How m leaves became one, int64 [m − 1, 2]: row i has what made node m + i, in the order of joining.
    n_clusters
        From 1 to m.
    """
    n_leaves = len(joined) + 1
    of_node = np.arange(2 * n_leaves - 1)
    for node in range(n_leaves - n_clusters - 1, -1, -1):  # a node's own cluster is known before its parts'
        of_node[joined[node]] = of_node[n_leaves + node]
    return np.unique(of_node[:n_leaves], return_inverse=True)[1]
