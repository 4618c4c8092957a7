"""Communities of planted graphs, against the definition of modularity."""

from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from planted import blobs, n_groups, planted_graph, same_partition

from sccagn_scale.clustering import CommunityFinder, by_size, estimate_by_communities
from sccagn_scale.graph import adjacency, neighbors


def test_leiden_finds_planted_groups_again_and_again() -> None:
    graph, truth = planted_graph([60, 40, 30, 20])
    finder = CommunityFinder(graph)
    labels = finder.at_resolution(1.0)
    assert same_partition(labels, truth)
    assert n_groups(labels) == 4
    np.testing.assert_array_equal(labels, finder.at_resolution(1.0))
    np.testing.assert_array_equal(labels, CommunityFinder(graph).at_resolution(1.0))


def test_leiden_draws_from_its_own_seed_alone() -> None:
    graph, _ = planted_graph([40, 40], between=0.4)
    random.seed(1)
    before = random.getstate()
    first = CommunityFinder(graph, 3).at_resolution(1.5)
    assert random.getstate() == before
    random.seed(2)
    np.testing.assert_array_equal(CommunityFinder(graph, 3).at_resolution(1.5), first)


def test_weights_count() -> None:
    """A complete graph falls into the groups that its weights make."""
    truth = np.arange(20) % 2
    weights = np.where(truth[:, None] == truth, 5.0, 0.1) * (1 - np.eye(20))
    assert same_partition(CommunityFinder(sp.csr_matrix(weights)).at_resolution(1.0), truth)


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_modularity_is_the_sum_over_pairs(resolution: float) -> None:
    graph, truth = planted_graph([15, 10, 5], between=0.1)
    graph = graph.multiply(np.add.outer(np.arange(30), np.arange(30)) / 10 + 1).tocsr()
    a = graph.toarray().astype(np.float64)
    degree, total = a.sum(axis=1), a.sum()
    expected = 0.0
    for i in range(30):
        for j in range(30):
            if truth[i] == truth[j]:
                expected += a[i, j] / total - resolution * degree[i] * degree[j] / total**2
    assert CommunityFinder(graph).modularity(truth, resolution) == pytest.approx(expected, abs=1e-6)


def grouped(sizes: list[int], group_size: int, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """A planted graph, the truth, and pure groups of about `group_size` cells."""
    graph, truth = planted_graph(sizes, seed=seed)
    rank = np.zeros(len(truth), int)
    for kind in set(truth.tolist()):
        rank[truth == kind] = np.arange((truth == kind).sum())
    groups = np.unique(truth * 1000 + rank // group_size, return_inverse=True)[1]
    return graph, truth, groups


@pytest.mark.parametrize("resolution", [0.3, 1.0])
def test_leiden_on_groups_of_one_is_leiden_on_cells(resolution: float) -> None:
    graph, _ = planted_graph([30, 20, 10], between=0.2)
    alone = CommunityFinder(graph, groups=np.arange(60))
    np.testing.assert_array_equal(alone.at_resolution(resolution), CommunityFinder(graph).at_resolution(resolution))


def test_leiden_on_groups_finds_what_leiden_on_cells_finds() -> None:
    graph, truth, groups = grouped([60, 40, 30, 20], 6)
    finder = CommunityFinder(graph, groups=groups)
    assert same_partition(finder.at_resolution(1.0), truth)
    assert estimate_by_communities(finder).n_clusters == 4


def test_groups_across_a_border_are_torn_apart_by_settling() -> None:
    graph, truth, groups = grouped([60, 50], 10)
    swapped = np.flatnonzero(truth == 0)[:4]
    groups[swapped] = groups[np.flatnonzero(truth == 1)[:4]]
    finder = CommunityFinder(graph, groups=groups)
    rough = finder.at_resolution(1.0)
    assert not same_partition(rough, truth)
    settled = finder.refined(rough, 1.0)
    assert same_partition(settled, truth)
    assert finder.modularity(settled, 1.0) > finder.modularity(rough, 1.0)
    assert same_partition(finder.into(2, np.zeros((110, 1), np.float32)), truth)


@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.2, 1.0, 3.0]))
def test_settling_loses_neither_modularity_nor_communities(seed: int, n_groups: int, resolution: float) -> None:
    graph, _ = planted_graph([12, 8, 5], between=0.3, seed=seed)
    finder = CommunityFinder(graph)
    labels = by_size(np.random.default_rng(seed).integers(0, n_groups, 25))
    settled = finder.refined(labels, resolution)
    assert finder.modularity(settled, resolution) >= finder.modularity(labels, resolution)
    assert set(settled.tolist()) == set(labels.tolist())


def test_into_gives_every_number_of_groups_asked_for() -> None:
    points, truth = blobs([20, 15, 10, 10, 5])
    finder = CommunityFinder(adjacency(neighbors(points, 6)))
    for n_clusters in (*range(1, 16), 20, 33, 59, 60):
        labels = finder.into(n_clusters, points)
        assert n_groups(labels) == n_clusters
        assert n_clusters != 5 or same_partition(labels, truth)


def test_into_joins_components_that_are_too_many() -> None:
    """Six groups without an edge between them, in three pairs of near ones."""
    truth = np.repeat(np.arange(6), 10)
    points = np.array([[0, 0], [1, 0], [9, 0], [10, 0], [0, 9], [0, 10]], np.float32)[truth]
    graph = sp.csr_matrix((truth[:, None] == truth).astype(np.float32) - np.eye(60))
    finder = CommunityFinder(graph)
    assert same_partition(finder.into(6, points), truth)
    assert same_partition(finder.into(3, points), truth // 2)
    for n_clusters in (2, 4, 5, 7):
        assert n_groups(finder.into(n_clusters, points)) == n_clusters


def test_into_works_on_cells_without_any_edge() -> None:
    labels = CommunityFinder(sp.csr_matrix((10, 10))).into(3, np.arange(10, dtype=np.float32)[:, None])
    assert n_groups(labels) == 3
