"""From neighbour lists to the weighted, symmetric cell graph and its normalised adjacency."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sccagn_scale.graph._neighbors import Neighbors


def adjacency(found: Neighbors, *, prune: bool = True) -> sp.csr_matrix:
    """Join cells that list one another, in either direction.

    Parameters
    ----------
    found
        Neighbours of every cell.
    prune
        Drop a cell's edges that are longer than the mean plus one standard deviation of its own distances (scCAGN;
        as in scGNN, Wang et al. 2021). An edge stays if either end keeps it.

    Returns
    -------
    A, symmetric 0/1 float32 [n_obs, n_obs], no self-loops, sorted int64-indptr CSR.
    """
    n_obs, k = found.indices.shape
    indices, distances = found.indices[:, 1:], found.distances[:, 1:]
    keep = indices != np.arange(n_obs)[:, None]
    if prune:
        exact = distances.astype(np.float64)  # the mean plus one sd of two distances is the longer one to the last bit
        bound = exact.mean(axis=1, keepdims=True) + exact.std(axis=1, keepdims=True)
        keep &= distances <= bound
    directed = _from_rows(indices, np.ones((n_obs, k - 1), np.float32), keep)
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    return graph


def distance_matrix(found: Neighbors) -> sp.csr_matrix:
    """Lay the neighbour distances out as scanpy does: CSR float32 [n_obs, n_obs], n_neighbors − 1 to a row."""
    own = np.arange(len(found.indices))[:, None]
    return _from_rows(found.indices[:, 1:], found.distances[:, 1:], found.indices[:, 1:] != own)


def normalized(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Â = D^-1/2 (A + I) D^-1/2, D the degrees of A + I (Kipf & Welling 2017), on the whole graph at once.

    A batch takes its weights from here: normalising a sampled subgraph would use the wrong degrees.
    """
    looped = (graph + sp.identity(graph.shape[0], dtype=graph.dtype, format="csr")).tocsr()
    scale = 1.0 / np.sqrt(np.asarray(looped.sum(axis=1)).ravel())
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(looped.indptr))
    looped.data = (looped.data * scale[rows] * scale[looped.indices]).astype(np.float32)
    looped.sort_indices()
    return looped


def _from_rows(indices: np.ndarray, values: np.ndarray, keep: np.ndarray) -> sp.csr_matrix:
    n_obs = len(indices)
    indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1), dtype=np.int64)])
    matrix = sp.csr_matrix((values[keep], indices[keep], indptr), shape=(n_obs, n_obs))
    matrix.sort_indices()
    return matrix
