"""Ward's criterion."""

from __future__ import annotations

import numpy as np
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering

from sccagn_scale.clustering._kmeans import kmeans
from sccagn_scale.clustering._labels import by_size, centers
from sccagn_scale.clustering._tree import cut

_EXACT_UP_TO = 5000
_SEEDS = 2000


def ward(points: np.ndarray, n_clusters: int, *, random_state: int = 0) -> np.ndarray:
    """Cluster by Ward's minimum-variance criterion (Ward 1963): labels int64 [n_obs], 0 the largest.

    Unlike k-means it does not favour clusters of equal size, which cell types are not. Beyond 5,000 cells it joins the
    2,000 centres of a k-means, for its memory is quadratic.
    """
    return WardClusters(points, random_state).into(n_clusters)


class WardClusters:
    """Ward's clusters of the same points [n_obs, d], of any number: the tree is made when it is first cut."""

    def __init__(self, points: np.ndarray, random_state: int) -> None:
        self._points, self._seed = points, random_state
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def n_leaves(self) -> int:
        """Most clusters there can be, unless more are asked for."""
        return len(self._tree(0)[1]) + 1

    def into(self, n_clusters: int) -> np.ndarray:
        """Cut the tree: labels int64 [n_obs], 0 the largest."""
        leaves, joined = self._tree(n_clusters)
        return by_size(cut(joined, n_clusters)[leaves])

    def _tree(self, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
        """Leaf of each point, int64 [n_obs], and how m leaves are joined, int64 [m - 1, 2]; see `cut`."""
        n_obs = len(self._points)
        n_seeds = n_obs if n_obs <= _EXACT_UP_TO else min(n_obs, max(_SEEDS, 2 * n_clusters))
        if n_seeds not in self._made:
            leaves, places = np.arange(n_obs), self._points
            if n_obs > _EXACT_UP_TO:
                leaves = kmeans(places, n_seeds, n_init=1, n_iter=10, random_state=self._seed)
                places = centers(places, leaves)
            self._made[n_seeds] = leaves, hierarchy.ward(places.astype(np.float64))[:, :2].astype(np.int64)
        return self._made[n_seeds]


def ward_memory(n_obs: int) -> int:
    """Bytes that `ward`, and `Mixtures` with it, takes for a while: distances of all pairs in float64, and a copy."""
    return 8 * (n_obs if n_obs <= _EXACT_UP_TO else _SEEDS) ** 2


def merge(points: np.ndarray, labels: np.ndarray, n_clusters: int) -> np.ndarray:
    """Merge clusters by Ward's criterion on their centres in `points` until `n_clusters` are left."""
    if labels.max() + 1 <= n_clusters:
        return labels
    # scipy's fcluster would give fewer where distances tie
    return AgglomerativeClustering(n_clusters).fit_predict(centers(points, labels))[labels]
