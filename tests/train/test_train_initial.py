"""Initial clusters and the number of them, on planted groups."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from train_samples import blobs, planted, same_partition

from sccagn_scale._errors import InputError
from sccagn_scale.graph import adjacency, neighbors
from sccagn_scale.train import (
    CommunityFinder,
    Mixtures,
    _initial,
    by_size,
    centers,
    estimate_by_mixtures,
    estimate_n_clusters,
    kmeans,
    rounding,
    ward,
    ward_memory,
)

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=40).map(np.array)


def n_groups(labels: np.ndarray) -> int:
    """Number of groups, after checking that they are numbered 0, 1, … by falling size."""
    sizes = np.bincount(labels)
    assert labels.dtype == np.int64
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()
    return len(sizes)


@given(LABELS)
def test_by_size_keeps_the_groups_and_sorts_them(labels: np.ndarray) -> None:
    ranked = by_size(labels)
    assert same_partition(ranked, labels)
    assert n_groups(ranked) == len(set(labels.tolist()))
    np.testing.assert_array_equal(by_size(ranked), ranked)


@given(LABELS, st.permutations(list(range(7))))
def test_by_size_forgets_the_names(labels: np.ndarray, names: list[int]) -> None:
    np.testing.assert_array_equal(by_size(np.array(names)[labels]), by_size(labels))


def test_ties_go_by_first_appearance() -> None:
    assert by_size(np.array([7, 7, 3, 3, 9, 5, 5, 5])).tolist() == [1, 1, 2, 2, 3, 0, 0, 0]


@given(LABELS, st.integers(1, 4))
def test_centers_are_means(labels: np.ndarray, d: int) -> None:
    points = np.random.default_rng(len(labels)).normal(size=(len(labels), d)).astype(np.float32)
    found = centers(points, labels)
    assert found.shape == (labels.max() + 1, d)
    assert found.dtype == np.float32
    for k in set(labels.tolist()):
        np.testing.assert_allclose(found[k], points[labels == k].mean(axis=0), atol=1e-5)


def test_leiden_finds_planted_groups_again_and_again() -> None:
    graph, truth = planted([60, 40, 30, 20])
    finder = CommunityFinder(graph)
    labels = finder.at(1.0)
    assert same_partition(labels, truth)
    assert n_groups(labels) == 4
    np.testing.assert_array_equal(labels, finder.at(1.0))
    np.testing.assert_array_equal(labels, CommunityFinder(graph).at(1.0))


def test_leiden_draws_from_its_own_seed_alone() -> None:
    graph, _ = planted([40, 40], between=0.4)
    random.seed(1)
    before = random.getstate()
    first = CommunityFinder(graph, 3).at(1.5)
    assert random.getstate() == before
    random.seed(2)
    np.testing.assert_array_equal(CommunityFinder(graph, 3).at(1.5), first)


def test_weights_count() -> None:
    """A complete graph falls into the groups that its weights make."""
    truth = np.arange(20) % 2
    weights = np.where(truth[:, None] == truth, 5.0, 0.1) * (1 - np.eye(20))
    assert same_partition(CommunityFinder(sp.csr_matrix(weights)).at(1.0), truth)


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_modularity_is_the_sum_over_pairs(resolution: float) -> None:
    graph, truth = planted([15, 10, 5], between=0.1)
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
    graph, truth = planted(sizes, seed=seed)
    rank = np.zeros(len(truth), int)
    for kind in set(truth.tolist()):
        rank[truth == kind] = np.arange((truth == kind).sum())
    groups = np.unique(truth * 1000 + rank // group_size, return_inverse=True)[1]
    return graph, truth, groups


@pytest.mark.parametrize("resolution", [0.3, 1.0])
def test_leiden_on_groups_of_one_is_leiden_on_cells(resolution: float) -> None:
    graph, _ = planted([30, 20, 10], between=0.2)
    alone = CommunityFinder(graph, groups=np.arange(60))
    np.testing.assert_array_equal(alone.at(resolution), CommunityFinder(graph).at(resolution))


def test_leiden_on_groups_finds_what_leiden_on_cells_finds() -> None:
    graph, truth, groups = grouped([60, 40, 30, 20], 6)
    finder = CommunityFinder(graph, groups=groups)
    assert same_partition(finder.at(1.0), truth)
    assert estimate_n_clusters(finder).n_clusters == 4


def test_groups_across_a_border_are_torn_apart_by_settling() -> None:
    graph, truth, groups = grouped([60, 50], 10)
    swapped = np.flatnonzero(truth == 0)[:4]
    groups[swapped] = groups[np.flatnonzero(truth == 1)[:4]]
    finder = CommunityFinder(graph, groups=groups)
    rough = finder.at(1.0)
    assert not same_partition(rough, truth)
    settled = finder.settled(rough, 1.0)
    assert same_partition(settled, truth)
    assert finder.modularity(settled, 1.0) > finder.modularity(rough, 1.0)
    assert same_partition(finder.into(2, np.zeros((110, 1), np.float32)), truth)


@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.2, 1.0, 3.0]))
def test_settling_loses_neither_modularity_nor_communities(seed: int, n_groups: int, resolution: float) -> None:
    graph, _ = planted([12, 8, 5], between=0.3, seed=seed)
    finder = CommunityFinder(graph)
    labels = by_size(np.random.default_rng(seed).integers(0, n_groups, 25))
    settled = finder.settled(labels, resolution)
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


def test_merging_gives_the_number_asked_for_where_distances_tie() -> None:
    square = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    assert len(set(_initial.merge(square, np.arange(4), 3).tolist())) == 3
    assert same_partition(_initial.merge(square, np.arange(4), 2), np.array([0, 0, 1, 1]))
    assert len(set(_initial.merge(np.zeros((6, 2), np.float32), np.arange(6), 4).tolist())) == 4
    np.testing.assert_array_equal(_initial.merge(square, np.array([0, 0, 1, 1]), 3), [0, 0, 1, 1])


@pytest.mark.parametrize("sizes", [[60, 60], [60, 50, 40], [50, 45, 40, 35, 30, 25], [40] * 9])
def test_the_number_of_planted_groups_is_recovered(sizes: list[int]) -> None:
    points, _ = blobs(sizes)
    estimate = estimate_n_clusters(CommunityFinder(adjacency(neighbors(points, 15))))
    low, high = estimate.plausible
    assert estimate.n_clusters == len(sizes)
    assert low <= estimate.n_clusters <= high


def test_an_estimate_comes_with_its_evidence() -> None:
    graph, _ = planted([50, 40, 30], between=0.05)
    finder = CommunityFinder(graph)
    estimate = estimate_n_clusters(finder, 0.7)
    assert estimate.n_clusters == estimate.candidates[estimate.scores.argmax()]
    assert (np.diff(estimate.candidates) > 0).all()
    assert estimate.candidates[0] >= 2
    assert estimate.candidates.shape == estimate.scores.shape
    assert estimate.scores.max() == pytest.approx(finder.modularity(finder.into(3, graph.toarray()), 0.7), abs=1e-6)
    near = estimate.candidates[estimate.scores >= 0.99 * estimate.scores.max()]
    assert estimate.plausible == (near[0], near[-1])


def test_a_higher_resolution_never_estimates_fewer() -> None:
    points, _ = blobs([40] * 6, spread=4.0)
    finder = CommunityFinder(adjacency(neighbors(points, 10)))
    found = [estimate_n_clusters(finder, resolution).n_clusters for resolution in (0.1, 0.5, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_cells_that_never_part_leave_the_number_to_the_user() -> None:
    class OneGroup(CommunityFinder):
        def at(self, resolution: float) -> np.ndarray:
            return np.zeros(4, np.int64)

    with pytest.raises(InputError, match="`n_clusters` cannot be estimated"):
        estimate_n_clusters(OneGroup(planted([4])[0]))


@pytest.mark.parametrize("sizes", [[60, 60], [60, 50, 40], [50, 45, 40, 35, 30, 25], [40] * 9])
@pytest.mark.parametrize("ward_up_to", [5000, 50])
def test_mixtures_recover_the_number_of_planted_groups(
    sizes: list[int], ward_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_initial, "_WARD_UP_TO", ward_up_to)
    monkeypatch.setattr(_initial, "_WARD_SEEDS", 50)
    points, _ = blobs(sizes)
    finder = CommunityFinder(adjacency(neighbors(points, 15)))
    mixtures = Mixtures(points)
    estimate = estimate_by_mixtures(finder, mixtures)
    low, high = estimate.plausible
    assert low <= estimate.n_clusters == len(sizes) <= high
    np.testing.assert_array_equal(estimate.candidates, np.arange(2, len(sizes) + 9))  # eight more are looked at
    for n_clusters, score in zip(estimate.candidates[:3], estimate.scores, strict=False):
        assert score == pytest.approx(finder.modularity(mixtures.into(n_clusters), 0.5))


def test_mixtures_of_few_cells_end_with_the_cells() -> None:
    points, _ = blobs([3, 3])
    estimate = estimate_by_mixtures(CommunityFinder(adjacency(neighbors(points, 3))), Mixtures(points))
    assert estimate.n_clusters == 2
    assert estimate.candidates[-1] <= 6


def test_mixtures_that_are_all_one_leave_the_number_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_initial, "shrunk_mixture", lambda points, *_, **__: np.zeros(len(points), np.int64))
    points, _ = blobs([20, 20])
    with pytest.raises(InputError, match="`n_clusters` cannot be estimated"):
        estimate_by_mixtures(CommunityFinder(adjacency(neighbors(points, 5))), Mixtures(points))


def test_a_higher_resolution_has_the_graph_bear_out_more_mixtures() -> None:
    points, _ = blobs([40] * 6, spread=4.0)
    finder = CommunityFinder(adjacency(neighbors(points, 10)))
    mixtures = Mixtures(points)
    found = [estimate_by_mixtures(finder, mixtures, resolution).n_clusters for resolution in (0.1, 0.5, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[-1] > found[0]


def mixture(points: np.ndarray, n_clusters: int, *, random_state: int) -> np.ndarray:
    return Mixtures(points, random_state=random_state).into(n_clusters)


@pytest.mark.parametrize("cluster", [kmeans, ward, mixture])
def test_separated_groups_are_found_in_the_points(cluster: object) -> None:
    points, truth = blobs([50, 30, 20, 10])
    labels = cluster(points, 4, random_state=0)  # type: ignore[operator]
    assert same_partition(labels, truth)
    assert n_groups(labels) == 4
    np.testing.assert_array_equal(labels, cluster(points, 4, random_state=0))  # type: ignore[operator]
    assert n_groups(cluster(points, 25, random_state=0)) == 25  # type: ignore[operator]


def test_ward_keeps_groups_of_very_unequal_size_apart() -> None:
    points, truth = blobs([300, 300, 5])
    assert same_partition(ward(points, 3), truth)


def test_ward_of_many_cells_joins_the_centres_of_a_kmeans(monkeypatch: pytest.MonkeyPatch) -> None:
    points, truth = blobs([80, 60, 40])
    monkeypatch.setattr(_initial, "_WARD_UP_TO", 100)
    monkeypatch.setattr(_initial, "_WARD_SEEDS", 40)
    labels = ward(points, 3)
    assert same_partition(labels, truth)
    assert n_groups(labels) == 3


def test_mixtures_are_cut_from_one_tree_unless_it_has_too_few_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs([80, 60, 40])
    monkeypatch.setattr(_initial, "_WARD_UP_TO", 100)
    monkeypatch.setattr(_initial, "_WARD_SEEDS", 40)
    made, join = [], hierarchy.ward
    monkeypatch.setattr(hierarchy, "ward", lambda places: made.append(len(places)) or join(places))
    mixtures = Mixtures(points)
    assert (mixtures.most, made) == (40, [40])
    for n_clusters in (3, 20, 30, 3):
        assert n_groups(mixtures.into(n_clusters)) == n_clusters
    assert made == [40, 60]


@pytest.mark.parametrize("n_obs", [3000, 4000, 6000])
def test_memory_of_ward_is_foretold(n_obs: int) -> None:
    points = np.random.default_rng(0).normal(size=(n_obs, 3)).astype(np.float32)
    tracemalloc.start()
    ward(points, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 < 2 * peak / ward_memory(n_obs) < 1.2  # the copy is made out of sight


def test_ward_gives_the_number_asked_for_where_distances_tie() -> None:
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2).astype(np.float32)
    for n_clusters in range(1, 17):
        assert n_groups(ward(grid, n_clusters)) == n_clusters


def test_rounding_gives_clusters_of_variance_one_in_every_direction() -> None:
    points, truth = blobs([300, 200, 100])
    stretched = (points @ np.diag([5.0, 0.2, 1.0, 3.0, 1.0, 1.0])).astype(np.float32)
    transform = rounding(stretched, truth)
    np.testing.assert_array_equal(transform, transform.T)
    away = stretched @ transform
    away = away - centers(away, truth)[truth]
    np.testing.assert_allclose(away.T @ away / len(away), np.eye(6), atol=1e-3)


def test_rounding_leaves_directions_without_variance_finite() -> None:
    points, truth = blobs([30, 20])
    points[:, 5] = 1.0
    assert np.isfinite(rounding(points, truth)).all()
    np.testing.assert_array_equal(rounding(np.ones((4, 2), np.float32), np.zeros(4, np.int64)), np.eye(2))


def test_ward_has_no_more_leaves_than_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_initial, "_WARD_UP_TO", 100)
    points = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    assert len(np.unique(ward(points, 70))) == 70


def test_clusters_without_extent_but_for_rounding_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    points = rng.normal(size=(6, 4)).astype(np.float32)[labels] * 100
    points *= 1 + 1e-7 * rng.normal(size=points.shape).astype(np.float32)
    np.testing.assert_array_equal(rounding(points, labels), np.eye(4))


def test_the_clustering_at_the_resolution_of_the_score_is_among_the_candidates() -> None:
    finder = CommunityFinder(planted([40, 40, 40], between=0.2)[0])
    finest = int(finder.at(12.0).max()) + 1
    assert finest > finder.at(float(_initial.RESOLUTIONS[-1])).max() + 1
    assert finest in estimate_n_clusters(finder, 12.0).candidates
    assert finest not in estimate_n_clusters(finder, 0.5).candidates
