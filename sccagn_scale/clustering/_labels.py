"""Clusters as labels: in which order, where, of what shape."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

BLOCK = 262_144
"""Cells that are worked on at once."""

_SUMMED = 16_384  # in float32, before double takes over: sums of millions lose digits


def by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters by falling size, ties by first appearance; empty ones vanish."""
    counts = np.bincount(labels)
    first = np.empty(len(counts), np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]  # of those assigned to one place, the last stays
    used = np.flatnonzero(counts)
    rank = np.empty(len(counts), np.int64)
    rank[used[np.lexsort((first[used], -counts[used]))]] = np.arange(len(used))
    return rank[labels]


def one_hot(labels: np.ndarray, n_clusters: int | None = None) -> sp.csr_matrix:
    """Which cluster each point is in: float32 [n_obs, n_clusters], a 1 in every row."""
    shape = None if n_clusters is None else (len(labels), n_clusters)
    return sp.csr_matrix((np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)), shape=shape)


def centers(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the points of each cluster: float32 [n_clusters, d]."""
    n_clusters = int(labels.max()) + 1
    sizes = np.maximum(np.bincount(labels, minlength=n_clusters), 1)
    total = np.zeros((n_clusters, points.shape[1]))
    for i in range(0, len(points), _SUMMED):
        total += one_hot(labels[i : i + _SUMMED], n_clusters).T @ points[i : i + _SUMMED]
    return (total / sizes[:, None]).astype(np.float32)


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
