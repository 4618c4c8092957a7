"""How many clusters there are, on planted groups."""

from __future__ import annotations

import numpy as np
import pytest
from planted import blobs, planted_graph

from sccagn_scale.clustering import (
    CommunityFinder,
    Mixtures,
    _estimate,
    _mixtures,
    _ward,
    estimate_by_communities,
    estimate_by_mixtures,
)
from sccagn_scale.graph import adjacency, neighbors


@pytest.mark.parametrize("sizes", [[60, 60], [60, 50, 40], [50, 45, 40, 35, 30, 25], [40] * 9])
def test_the_number_of_planted_groups_is_recovered(sizes: list[int]) -> None:
    points, _ = blobs(sizes)
    estimate = estimate_by_communities(CommunityFinder(adjacency(neighbors(points, 15))))
    low, high = estimate.plausible
    assert estimate.n_clusters == len(sizes)
    assert low <= estimate.n_clusters <= high


def test_an_estimate_comes_with_its_evidence() -> None:
    graph, _ = planted_graph([50, 40, 30], between=0.05)
    finder = CommunityFinder(graph)
    estimate = estimate_by_communities(finder, 0.7)
    assert estimate.n_clusters == estimate.candidates[estimate.scores.argmax()]
    assert (np.diff(estimate.candidates) > 0).all()
    assert (estimate.candidates[0], estimate.scores[0]) == (1, pytest.approx(1 - 0.7))
    assert estimate.best_division == estimate.candidates[1:][estimate.scores[1:].argmax()]
    assert estimate.candidates.shape == estimate.scores.shape
    assert estimate.scores.max() == pytest.approx(finder.modularity(finder.into(3, graph.toarray()), 0.7), abs=1e-6)
    near = estimate.candidates[estimate.scores >= 0.99 * estimate.scores.max()]
    assert estimate.plausible == (near[0], near[-1])


def test_the_clustering_at_the_resolution_of_the_score_is_among_the_candidates() -> None:
    finder = CommunityFinder(planted_graph([40, 40, 40], between=0.2)[0])
    finest = int(finder.at_resolution(12.0).max()) + 1
    assert finest > finder.at_resolution(float(_estimate.RESOLUTIONS[-1])).max() + 1
    assert finest in estimate_by_communities(finder, 12.0).candidates
    assert finest not in estimate_by_communities(finder, 0.5).candidates


def test_a_higher_resolution_never_estimates_fewer() -> None:
    points, _ = blobs([40] * 6, spread=4.0)
    finder = CommunityFinder(adjacency(neighbors(points, 10)))
    found = [estimate_by_communities(finder, resolution).n_clusters for resolution in (0.1, 0.5, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_cells_that_never_part_are_one_cluster() -> None:
    class OneGroup(CommunityFinder):
        def at_resolution(self, resolution: float) -> np.ndarray:
            return np.zeros(4, np.int64)

    estimate = estimate_by_communities(OneGroup(planted_graph([4])[0]))
    assert (estimate.n_clusters, estimate.best_division, estimate.plausible) == (1, None, (1, 1))


def test_all_cells_as_one_cluster_have_the_modularity_that_they_are_scored_with() -> None:
    points, _ = blobs([40, 40])
    finder = CommunityFinder(adjacency(neighbors(points, 10)))
    for resolution in (0.3, 0.5, 2.0):
        scored = dict(zip(*estimate_by_communities(finder, resolution)[2:4], strict=True))
        assert scored[1] == pytest.approx(finder.modularity(np.zeros(80, np.int64), resolution))


@pytest.mark.parametrize("n_obs", [60, 300, 2000])
def test_noise_is_one_cluster(n_obs: int) -> None:
    points = np.random.default_rng(0).normal(size=(n_obs, 24)).astype(np.float32)
    finder = CommunityFinder(adjacency(neighbors(points, 15)))
    assert estimate_by_communities(finder).n_clusters == 1
    found = estimate_by_mixtures(finder, Mixtures(points))
    assert found.n_clusters == 1
    assert found.best_division is not None
    assert estimate_by_communities(finder, 1.0).n_clusters > 1  # at which all together have no modularity


@pytest.mark.parametrize("sizes", [[60, 60], [60, 50, 40], [50, 45, 40, 35, 30, 25], [40] * 9])
@pytest.mark.parametrize("ward_up_to", [5000, 50])
def test_mixtures_recover_the_number_of_planted_groups(
    sizes: list[int], ward_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ward, "_EXACT_UP_TO", ward_up_to)
    monkeypatch.setattr(_ward, "_SEEDS", 50)
    points, _ = blobs(sizes)
    finder = CommunityFinder(adjacency(neighbors(points, 15)))
    mixtures = Mixtures(points)
    estimate = estimate_by_mixtures(finder, mixtures)
    low, high = estimate.plausible
    assert low <= estimate.n_clusters == len(sizes) <= high
    np.testing.assert_array_equal(estimate.candidates, np.arange(1, len(sizes) + 9))  # eight more are looked at
    for n_clusters, score in zip(estimate.candidates[1:4], estimate.scores[1:], strict=False):
        assert score == pytest.approx(finder.modularity(mixtures.into(n_clusters), 0.5))


def test_mixtures_of_few_cells_end_with_the_cells() -> None:
    points, _ = blobs([3, 3])
    estimate = estimate_by_mixtures(CommunityFinder(adjacency(neighbors(points, 3))), Mixtures(points))
    assert estimate.n_clusters == 2
    assert estimate.candidates[-1] <= 6


def test_what_mixtures_miss_is_left_to_communities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mixtures, "shrunk_mixture", lambda points, *_, **__: np.zeros(len(points), np.int64))
    points, _ = blobs([20, 20])
    estimate = estimate_by_mixtures(CommunityFinder(adjacency(neighbors(points, 5))), Mixtures(points))
    assert (estimate.n_clusters, estimate.best_division) == (2, 2)
    assert "Leiden" in estimate.method


def test_a_higher_resolution_has_the_graph_bear_out_more_mixtures() -> None:
    points, _ = blobs([40] * 6, spread=4.0)
    finder = CommunityFinder(adjacency(neighbors(points, 10)))
    mixtures = Mixtures(points)
    found = [estimate_by_mixtures(finder, mixtures, resolution).n_clusters for resolution in (0.1, 0.5, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[-1] > found[0]
