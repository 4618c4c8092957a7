"""k-means."""

from __future__ import annotations

import faiss
import numpy as np

from sccagn_scale.clustering._labels import by_size


def kmeans(
    points: np.ndarray, n_clusters: int, *, n_init: int = 20, n_iter: int = 100, random_state: int = 0
) -> np.ndarray:
    """Cluster by k-means, the best of `n_init` restarts: labels int64 [n_obs], 0 the largest."""
    points = np.ascontiguousarray(points, np.float32)
    model = faiss.Kmeans(
        points.shape[1],
        n_clusters,
        niter=n_iter,
        nredo=n_init,
        seed=random_state % 2**31,  # FAISS has no more
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, 100_000 // n_clusters),
    )
    model.train(points)
    return by_size(model.assign(points)[1])
