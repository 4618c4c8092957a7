"""Edges, weights and the normalised adjacency against dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale.graph import Neighbors, adjacency, distance_matrix, neighbors, normalized


def found_for(n_obs: int = 60, k: int = 8, seed: int = 0) -> Neighbors:
    return neighbors(np.random.default_rng(seed).normal(size=(n_obs, 3)), k)


def joined(found: Neighbors, *, prune: bool) -> np.ndarray:
    """The graph, one edge at a time."""
    n_obs = len(found.indices)
    dense = np.zeros((n_obs, n_obs))
    for i in range(n_obs):
        own = found.distances[i, 1:].astype(np.float64)
        for j, distance in zip(found.indices[i, 1:], own, strict=True):
            if j != i and not (prune and distance > own.mean() + own.std()):
                dense[i, j] = dense[j, i] = 1
    return dense


def smoothed(graph: np.ndarray) -> np.ndarray:
    looped = graph + np.eye(len(graph))
    scale = np.diag(looped.sum(axis=1) ** -0.5)
    return scale @ looped @ scale


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("k", [2, 3, 8, 15])
def test_adjacency_is_the_brute_force_graph(k: int, prune: bool) -> None:
    found = found_for(k=k)
    graph = adjacency(found, prune=prune)
    np.testing.assert_array_equal(graph.toarray(), joined(found, prune=prune))
    assert isinstance(graph, sp.csr_matrix)
    assert graph.dtype == np.float32
    assert graph.has_sorted_indices


def test_pruning_drops_an_edge_only_if_both_ends_find_it_long() -> None:
    #  0, 1 and 2 are close; 3 is far, but all it has
    distances = np.array([[0, 1, 1, 9], [0, 1, 2, 8], [0, 1, 2, 8], [0, 9, 9, 9]], np.float32)
    indices = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]])
    assert adjacency(Neighbors(indices, distances)).nnz == 12
    lonely = Neighbors(np.array([[0, 1, 2, 3], *indices[1:3], [3, 3, 3, 3]]), distances)
    assert adjacency(lonely)[[3]].nnz == 0
    assert adjacency(lonely, prune=False)[[3]].nnz == 3


def test_neighbours_that_were_not_found_do_not_count_among_the_distances() -> None:
    """Places that a search could not fill are one more mention of the cell itself, at distance 0."""
    indices = np.zeros((6, 9), np.int64)
    indices[:, 0] = np.arange(6)
    indices[0, 1:5] = 1, 2, 3, 4
    indices[1:, 1:] = indices[1:, :1]
    distances = np.zeros((6, 9), np.float32)
    distances[0, 1:5] = 1.0, 1.01, 1.02, 1.03
    graph = adjacency(Neighbors(indices, distances)).toarray()
    assert graph[0].tolist() == [0, 1, 1, 1, 0, 0]  # the mean plus one sd of the four is 1.026
    assert not graph[5].any()


def test_two_neighbours_are_never_pruned() -> None:
    """Mean plus sd of two distances is the longer one itself, which rounding must not drop."""
    found = found_for(2000, 3)
    assert adjacency(found).nnz == adjacency(found, prune=False).nnz


@given(st.integers(3, 40), st.integers(0, 10**6), st.booleans(), st.data())
def test_graphs_of_any_cells_are_simple(n_obs: int, seed: int, prune: bool, data: st.DataObject) -> None:
    points = np.random.default_rng(seed).integers(0, 5, (n_obs, 2))  # many cells coincide
    found = neighbors(points, data.draw(st.integers(2, n_obs)))
    graph = adjacency(found, prune=prune)
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()
    assert set(graph.data.tolist()) == {1.0}
    assert (np.diff(graph.indptr) >= 1).all()  # a nearest neighbour is never longer than the mean
    assert (adjacency(found, prune=False) - graph).min() >= 0
    np.testing.assert_allclose(normalized(graph).toarray(), smoothed(graph.toarray()), atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_normalized_is_the_dense_formula(weighted: bool) -> None:
    graph = adjacency(found_for())
    if weighted:
        graph = graph.multiply(sp.csr_matrix(np.add.outer(np.arange(60), np.arange(60)) + 0.5)).tocsr()
    before = graph.toarray()
    weights = normalized(graph)
    np.testing.assert_allclose(weights.toarray(), smoothed(before), atol=1e-6)
    np.testing.assert_array_equal(weights.toarray(), weights.toarray().T)
    np.testing.assert_array_equal(graph.toarray(), before)
    assert weights.dtype == np.float32
    assert weights.has_sorted_indices
    assert np.abs(np.linalg.eigvalsh(weights.toarray().astype(np.float64))).max() <= 1 + 1e-5


def test_a_cell_without_edges_keeps_its_own_value() -> None:
    np.testing.assert_array_equal(normalized(sp.csr_matrix((3, 3), dtype=np.float32)).toarray(), np.eye(3))


def test_distances_lie_as_in_scanpy() -> None:
    found = found_for()
    matrix = distance_matrix(found)
    assert matrix.shape == (60, 60)
    assert matrix.dtype == np.float32
    assert matrix.has_sorted_indices
    np.testing.assert_array_equal(np.diff(matrix.indptr), 7)
    for i in range(60):
        np.testing.assert_array_equal(matrix[i, found.indices[i, 1:]].toarray().ravel(), found.distances[i, 1:])


def test_distances_of_twins_are_stored_zeros() -> None:
    matrix = distance_matrix(neighbors(np.zeros((10, 2)), 4))
    np.testing.assert_array_equal(np.diff(matrix.indptr), 3)
    assert not matrix.data.any()
    assert matrix.diagonal().sum() == 0
