"""Numbers of clusters, their centres and their common shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from planted import blobs, n_groups, same_partition

from sccagn_scale.clustering import by_size, centers, sphering

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=40).map(np.array)


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


def test_rounding_gives_clusters_of_variance_one_in_every_direction() -> None:
    points, truth = blobs([300, 200, 100])
    stretched = (points @ np.diag([5.0, 0.2, 1.0, 3.0, 1.0, 1.0])).astype(np.float32)
    transform = sphering(stretched, truth)
    np.testing.assert_array_equal(transform, transform.T)
    away = stretched @ transform
    away = away - centers(away, truth)[truth]
    np.testing.assert_allclose(away.T @ away / len(away), np.eye(6), atol=1e-3)


def test_rounding_leaves_directions_without_variance_finite() -> None:
    points, truth = blobs([30, 20])
    points[:, 5] = 1.0
    assert np.isfinite(sphering(points, truth)).all()
    np.testing.assert_array_equal(sphering(np.ones((4, 2), np.float32), np.zeros(4, np.int64)), np.eye(2))


def test_clusters_without_extent_but_for_rounding_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    points = rng.normal(size=(6, 4)).astype(np.float32)[labels] * 100
    points *= 1 + 1e-7 * rng.normal(size=points.shape).astype(np.float32)
    np.testing.assert_array_equal(sphering(points, labels), np.eye(4))


def test_centers_of_millions_keep_their_digits() -> None:
    points = np.full((6_000_000, 1), 0.1, np.float32)
    np.testing.assert_allclose(centers(points, np.zeros(len(points), np.int64)), 0.1, rtol=5e-4)
