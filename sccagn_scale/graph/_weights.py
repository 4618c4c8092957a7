"""From neighbour lists to the weighted, symmetric cell graph and its normalised adjacency."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sccagn_scale.graph._neighbors import Neighbors

_BLOCK = 262_144  # cells that are worked on at once


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
    A, symmetric 0/1 float32 [n_obs, n_obs], no self-loops, sorted CSR.
    """
    n_obs, k = found.indices.shape
    keep = np.empty((n_obs, k - 1), bool)
    for i in range(0, n_obs, _BLOCK):
        rows = slice(i, i + _BLOCK)
        keep[rows] = found.indices[rows, 1:] != np.arange(n_obs)[rows, None]
        if prune and k > 1:
            keep[rows] &= _is_near(found.distances[rows, 1:], keep[rows])
    directed = _from_rows(found.indices[:, 1:], None, keep)
    reverse = directed.T.tocsr()
    blocks = [directed[i : i + _BLOCK].maximum(reverse[i : i + _BLOCK]) for i in range(0, n_obs, _BLOCK)]
    del directed, reverse
    graph = sp.vstack(blocks, format="csr")
    graph.data = np.ones(graph.nnz, np.float32)
    graph.sort_indices()
    return graph


def distance_matrix(found: Neighbors) -> sp.csr_matrix:
    """Lay the neighbour distances out as scanpy does: CSR float32 [n_obs, n_obs], n_neighbors − 1 to a row."""
    own = np.arange(len(found.indices), dtype=found.indices.dtype)[:, None]
    return _from_rows(found.indices[:, 1:], found.distances[:, 1:], found.indices[:, 1:] != own)


def normalized(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Â = D^-1/2 (A + I) D^-1/2, D the degrees of A + I (Kipf & Welling 2017), of a graph without self-loops.

    A batch takes its weights from here: normalising a sampled subgraph would use the wrong degrees.
    """
    n_obs = graph.shape[0]
    scale = (1.0 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel() + 1)).astype(np.float32)
    looped = sp.csr_matrix(graph.shape, dtype=np.float32)
    index = sp.get_index_dtype(maxval=max(n_obs, graph.nnz + n_obs))
    looped.data = np.empty(graph.nnz + n_obs, np.float32)
    looped.indices = np.empty(graph.nnz + n_obs, index)
    looped.indptr = graph.indptr.astype(index) + np.arange(n_obs + 1, dtype=index)
    for start in range(0, n_obs, _BLOCK):
        stop = min(start + _BLOCK, n_obs)
        own = sp.eye(stop - start, n_obs, k=start, dtype=graph.dtype, format="csr")
        block = graph[start:stop] + own
        block.sort_indices()
        rows = np.repeat(np.arange(start, stop), np.diff(block.indptr))
        here = slice(looped.indptr[start], looped.indptr[stop])
        looped.indices[here] = block.indices
        looped.data[here] = block.data * scale[rows] * scale[block.indices]
    return looped


def _is_near(distances: np.ndarray, is_edge: np.ndarray) -> np.ndarray:
    """Whether a distance is at most the mean plus one standard deviation of its row's edges [n, k]."""
    exact = distances.astype(np.float64)  # so that of two distances mean plus sd is the longer one to the last bit
    longest = exact.mean(axis=1) + exact.std(axis=1)
    short = np.flatnonzero(is_edge.any(axis=1) & ~is_edge.all(axis=1))  # the search found fewer
    if len(short):
        own, edges = exact[short], is_edge[short]
        longest[short] = own.mean(axis=1, where=edges) + own.std(axis=1, where=edges)
    return exact <= longest[:, None]


def _from_rows(indices: np.ndarray, values: np.ndarray | None, keep: np.ndarray) -> sp.csr_matrix:
    """Lay out what is kept of rows of neighbours [n_obs, k], sorted; without values, int8 ones."""
    n_obs = len(indices)
    indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1), dtype=np.int64)])
    matrix = sp.csr_matrix((n_obs, n_obs), dtype=np.int8 if values is None else values.dtype)
    index = sp.get_index_dtype(maxval=max(n_obs, int(indptr[-1])))
    matrix.indptr, matrix.indices = indptr.astype(index), np.empty(indptr[-1], index)
    matrix.data = np.ones(indptr[-1], np.int8) if values is None else np.empty(indptr[-1], values.dtype)
    for i in range(0, n_obs, _BLOCK):
        rows = slice(i, i + _BLOCK)
        here = slice(indptr[i], indptr[min(i + _BLOCK, n_obs)])
        matrix.indices[here] = indices[rows][keep[rows]]
        if values is not None:
            matrix.data[here] = values[rows][keep[rows]]
    matrix.sort_indices()
    return matrix
