"""Inverted lists: points are filed under their nearest of ~4·√n centroids, and only the nearest lists are searched."""

from __future__ import annotations

import faiss
import numpy as np

_TRAIN_PER_LIST = 64
_PROBED_SHARE = 1 / 32
_MIN_PROBED = 16


def search(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point; see the package for the contract."""
    n, d = points.shape
    n_lists, n_probed = n_lists_and_probed(n)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, n_lists)
    index.cp.max_points_per_centroid = _TRAIN_PER_LIST
    index.train(points)
    index.add(points)
    index.nprobe = n_probed
    squared, indices = index.search(points, k)
    return indices, np.sqrt(np.maximum(squared, 0.0))


def n_lists_and_probed(n_obs: int) -> tuple[int, int]:
    """Number of lists, and how many of them are searched."""
    n_lists = max(1, min(int(4 * np.sqrt(n_obs)), n_obs // 39))  # FAISS wants 39 training points for each list
    return n_lists, min(n_lists, max(_MIN_PROBED, int(n_lists * _PROBED_SHARE)))
