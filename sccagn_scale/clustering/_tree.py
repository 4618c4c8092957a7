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
    return fall_apart(joined, np.arange(len(joined)) > len(joined) - n_clusters)


def fall_apart(joined: np.ndarray, is_divided: np.ndarray) -> np.ndarray:
    """Find the cluster of every leaf, int64 [m], where some of the nodes are divided.

    Parameters
    ----------
    joined
        See `cut`.
    is_divided
        bool [m − 1], of node m + i whether what it was made of is apart; if so, it is of all nodes above it too.
    """
    n_leaves = len(joined) + 1
    of_node = np.arange(2 * n_leaves - 1)
    for i in np.flatnonzero(~is_divided)[::-1]:  # a node's own cluster is known before its parts'
        of_node[joined[i]] = of_node[n_leaves + i]
    return np.unique(of_node[:n_leaves], return_inverse=True)[1]
