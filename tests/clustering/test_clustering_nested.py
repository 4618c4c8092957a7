"""Unions and parts of clusters, against Ward's criterion computed anew at every step."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import same_partition
from scipy.cluster.hierarchy import linkage

from sccagn_scale._errors import InputError
from sccagn_scale.clustering import divided, merged
from sccagn_scale.clustering._nested import WardTree, _divisions, ward_tree
from sccagn_scale.clustering._tree import cut

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=9)


def squares(points: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squares within clusters."""
    return sum(float(((own - own.mean(0)) ** 2).sum()) for own in (points[labels == c] for c in np.unique(labels)))


def groups(sizes: list[int], seed: int, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return 2 * rng.normal(size=(len(sizes), d))[labels] + rng.normal(size=(len(labels), d)), labels


@given(SIZES, st.integers(0, 10**6))
def test_every_union_is_the_one_that_adds_least(sizes: list[int], seed: int) -> None:
    points, labels = groups(sizes, seed)
    means = np.array([points[labels == c].mean(0) for c in range(len(sizes))])
    tree = ward_tree(means, np.array(sizes))
    for n_left in range(len(sizes) - 1, 0, -1):
        finer, coarser = cut(tree.joined, n_left + 1)[labels], cut(tree.joined, n_left)[labels]
        assert len(np.unique(coarser)) == n_left
        assert len(np.unique(np.column_stack([finer, coarser]), axis=0)) == n_left + 1  # nested
        others = []
        for a in range(n_left + 1):
            for b in range(a):
                others.append(squares(points, np.where(finer == a, b, finer)))
        assert squares(points, coarser) == pytest.approx(min(others), rel=1e-9, abs=1e-9)


def test_leaves_of_equal_weight_are_joined_as_scipy_does() -> None:
    points = np.random.default_rng(0).normal(size=(40, 5))
    tree, theirs = ward_tree(points, np.ones(40)), linkage(points, "ward")
    np.testing.assert_array_equal(np.sort(tree.joined, axis=1), np.sort(theirs[:, :2], axis=1))
    n = np.concatenate([np.ones(40), theirs[:, 3]])
    of = n[tree.joined]
    gap = theirs[:, 2] * np.sqrt(of.sum(1) / (2 * of.prod(1)))  # SciPy's heights are √2 times the root of the cost
    np.testing.assert_allclose(tree.gaps, gap, rtol=1e-9)


@given(SIZES, st.integers(0, 10**6), st.data())
def test_merging_gives_as_many_unions_as_are_asked_for(sizes: list[int], seed: int, data: st.DataObject) -> None:
    points, labels = groups(sizes, seed)
    wanted = data.draw(st.integers(1, len(sizes)))
    union = merged(points.astype(np.float32), labels, wanted)
    assert sorted(set(union.tolist())) == list(range(wanted))
    assert union.shape == (len(sizes),)


@given(SIZES, st.integers(0, 10**6), st.data())
def test_dividing_gives_parts_of_clusters(sizes: list[int], seed: int, data: st.DataObject) -> None:
    points, labels = groups(sizes, seed)
    with pytest.raises(InputError, match=rf"`n_clusters` must be at most \d+, .* it is {len(labels) + 1}\.") as error:
        divided(points.astype(np.float32), labels, len(labels) + 1)
    most = int(re.findall(r"at most (\d+),", str(error.value))[0])
    assert len(sizes) <= most <= sum(max(1, size // 5) for size in sizes)
    wanted = data.draw(st.integers(len(sizes), most))
    parts = divided(points.astype(np.float32), labels, wanted)
    assert len(np.unique(np.column_stack([labels, parts]), axis=0)) == wanted
    for c in range(len(sizes)):
        counts = np.bincount(parts[labels == c])
        assert counts.min() >= min(5, sizes[c])
        assert (np.diff(counts) <= 0).all()
    with pytest.raises(InputError, match=rf"`n_clusters` must be at most {most}, .* it is {most + 1}"):
        divided(points.astype(np.float32), labels, most + 1)


def test_a_stray_point_is_no_part() -> None:
    points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    points[0] = 50
    points[1:6] = -50
    parts = divided(points, np.zeros(200, np.int64), 3)
    assert [1, 2, 3, 4, 5] in [np.flatnonzero(parts == part).tolist() for part in range(3)]
    assert np.bincount(parts).min() == 5


def test_what_lies_apart_is_divided_first_however_small() -> None:
    """A cluster of two far groups, small; a large one of two near groups; a round one."""
    rng = np.random.default_rng(0)
    means, sizes = np.array([[0, 0], [8, 0], [30, 0], [33, 0], [60, 0]]), [30, 30, 500, 500, 500]
    group = np.repeat(np.arange(5), sizes)
    points = (means[group] + 0.3 * rng.normal(size=(len(group), 2))).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2])[group]
    first, second = divided(points, labels, 4), divided(points, labels, 5)
    assert same_partition(10 * labels + first, np.array([0, 1, 2, 2, 4])[group])
    assert same_partition(10 * labels + second, group)


def test_points_that_coincide_cannot_be_divided() -> None:
    points, labels = np.zeros((60, 2), np.float32), np.repeat([0, 1], 30)
    points[:15] = 1
    assert divided(points, labels, 3)[:30].tolist() in ([0] * 15 + [1] * 15, [1] * 15 + [0] * 15)
    with pytest.raises(InputError, match="at most 3"):
        divided(points, labels, 4)


def test_the_part_with_the_widest_gap_of_its_own_is_next() -> None:
    # leaves 0 1 2 3: (0 1) 9 apart, then with 2, then with 3; leaves 0 1; leaves 0 1 2, of which two coincide
    trees = [
        WardTree(np.array([[0, 1], [2, 4], [3, 5]]), np.array([9.0, 1.0, 2.0])),
        WardTree(np.array([[0, 1]]), np.array([3.0])),
        WardTree(np.array([[0, 1], [2, 3]]), np.array([0.0, 5.0])),
    ]
    found = {n: [own.tolist() for own in _divisions(trees, n)] for n in range(3, 9)}
    assert found[3] == [[False, False, False], [False], [False, False]]
    assert found[4] == [[False, False, False], [False], [False, True]]
    assert found[5] == [[False, False, False], [True], [False, True]]
    assert found[6] == [[False, False, True], [True], [False, True]]
    assert found[8] == [[True, True, True], [True], [False, True]]
    with pytest.raises(InputError, match="at most 8"):
        _divisions(trees, 9)


def test_a_few_far_points_do_not_shatter_their_cluster() -> None:
    """Ward joins them early: a cut through the whole tree would go through all that was joined later first."""
    rng = np.random.default_rng(0)
    means, sizes = np.outer([0, 12, 30, 35], [1, 0, 0, 0, 0]), [3000, 6, 600, 600]
    group = np.repeat(np.arange(4), sizes)
    points = (means[group] + np.array([1, 0.1, 0.3, 0.3])[group, None] * rng.normal(size=(len(group), 5))).astype("f4")
    labels = np.array([0, 0, 1, 1])[group]
    assert same_partition(10 * labels + divided(points, labels, 3), np.array([0, 0, 2, 3])[group])
