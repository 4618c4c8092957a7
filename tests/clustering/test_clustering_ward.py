"""Ward's clusters and those that start from them, in points."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from planted import blobs, n_groups, same_partition
from scipy.cluster import hierarchy

from sccagn_scale.clustering import Mixtures, _ward, kmeans, ward, ward_memory


def test_merging_gives_the_number_asked_for_where_distances_tie() -> None:
    square = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    assert len(set(_ward.merge(square, np.arange(4), 3).tolist())) == 3
    assert same_partition(_ward.merge(square, np.arange(4), 2), np.array([0, 0, 1, 1]))
    assert len(set(_ward.merge(np.zeros((6, 2), np.float32), np.arange(6), 4).tolist())) == 4
    np.testing.assert_array_equal(_ward.merge(square, np.array([0, 0, 1, 1]), 3), [0, 0, 1, 1])


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
    monkeypatch.setattr(_ward, "_EXACT_UP_TO", 100)
    monkeypatch.setattr(_ward, "_SEEDS", 40)
    labels = ward(points, 3)
    assert same_partition(labels, truth)
    assert n_groups(labels) == 3


def test_mixtures_are_cut_from_one_tree_unless_it_has_too_few_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs([80, 60, 40])
    monkeypatch.setattr(_ward, "_EXACT_UP_TO", 100)
    monkeypatch.setattr(_ward, "_SEEDS", 40)
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


def test_ward_has_no_more_leaves_than_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ward, "_EXACT_UP_TO", 100)
    points = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    assert len(np.unique(ward(points, 70))) == 70
