"""Clusters as labels: in which order, where, of what shape."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

BLOCK = 262_144
"""Cells that are worked on at once."""


def by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters by falling size, ties by first appearance; empty ones vanish."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]


def one_hot(labels: np.ndarray) -> sp.csr_matrix:
    """Which cluster each point is in: float32 [n_obs, n_clusters], a 1 in every row."""
    return sp.csr_matrix((np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)))


def centers(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the points of each cluster: float32 [n_clusters, d]."""
    n_clusters = int(labels.max()) + 1
    sizes = np.maximum(np.bincount(labels, minlength=n_clusters), 1)
    return ((one_hot(labels).T @ points) / sizes[:, None]).astype(np.float32)


def sphering(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the symmetric T [d, d] that makes the clusters of points·T round: covariance one within them, over all.

    The Student-t kernel knows no directions. Where clusters are long and flat, cells at the ends of one are nearer to
    the centre of another.

    Parameters
    ----------
    points
        [n_obs, d].
    labels
        Cluster of each, int [n_obs].

    Returns
    -------
    T = Σ^-1/2, float32. A direction with hardly any variance is stretched at most √1000 times as far as the widest.
    """
    middles = centers(points, labels)
    scatter = np.zeros((points.shape[1], points.shape[1]))
    for i in range(0, len(points), BLOCK):
        rows = slice(i, i + BLOCK)
        away = (points[rows] - middles[labels[rows]]).astype(np.float64)
        scatter += away.T @ away
    values, vectors = np.linalg.eigh(scatter / len(points))
    spread = points.var(axis=0, dtype=np.float64).sum()
    if values[-1] <= np.finfo(np.float32).eps * spread:  # every cell lies on its centre, but for rounding
        return np.eye(points.shape[1], dtype=np.float32)
    return ((vectors / np.sqrt(np.maximum(values, 1e-3 * values[-1]))) @ vectors.T).astype(np.float32)
