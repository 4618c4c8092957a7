"""What clusterings agree on: errors of one are outvoted, and numbers mean nothing."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import same_partition
from sklearn.metrics import adjusted_rand_score

from sccagn_scale.clustering import by_size, consensus, most_stable
from sccagn_scale.clustering._consensus import _agreement


def with_errors(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The truth with some cells put anywhere, and the clusters numbered otherwise."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(truth)) < share
    n_clusters = truth.max() + 1
    return rng.permutation(n_clusters)[np.where(wrong, rng.integers(0, n_clusters, len(truth)), truth)]


def test_errors_that_clusterings_do_not_share_are_outvoted() -> None:
    truth = np.repeat([0, 1, 2, 3], [80, 60, 40, 20])
    clusterings = [with_errors(truth, 0.2, seed) for seed in range(9)]
    assert not any(same_partition(labels, truth) for labels in clusterings)
    np.testing.assert_array_equal(consensus(clusterings, 4), truth)  # 0 is the largest


@given(st.lists(st.lists(st.integers(0, 3), min_size=30, max_size=30), min_size=1, max_size=6), st.randoms())
def test_numbers_of_clusters_mean_nothing(clusterings: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    ours = [np.array(labels) for labels in clusterings]
    numbers = [np.array(random.sample(range(4), 4)) for _ in ours]
    one, other = consensus(ours, 4), consensus([n[labels] for n, labels in zip(numbers, ours, strict=True)], 4)
    np.testing.assert_array_equal(one, other)


@given(st.lists(st.integers(0, 4), min_size=5, max_size=40), st.integers(1, 5))
def test_what_all_agree_on_stays(labels: list[int], n: int) -> None:
    own = np.unique(labels, return_inverse=True)[1]
    np.testing.assert_array_equal(consensus([own] * n, int(own.max()) + 1), by_size(own))


def test_of_two_that_differ_neither_is_mixed_with_the_other() -> None:
    one, other = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = consensus([one, other], 3)
    assert same_partition(found, one) or same_partition(found, other)


def test_a_cell_on_which_votes_tie_stays_whatever_the_numbers_of_the_clusters() -> None:
    one, other = np.repeat([0, 1, 2], [5, 4, 3]), np.repeat([0, 1, 2], [5, 4, 3])
    other[[0, -1]] = other[[-1, 0]]
    np.testing.assert_array_equal(consensus([one, other], 3), one)
    np.testing.assert_array_equal(consensus([one, other, other, one], 3), one)


def test_no_cluster_is_voted_away() -> None:
    """Each of the three has a last cluster of one cell, each another one: no such cluster has a majority."""
    clusterings = [np.array([0, 0, 0, 1, 1, 1, 1]) for _ in range(3)]
    for i, labels in enumerate(clusterings):
        labels[3 + i] = 2
    found = consensus(clusterings, 3)
    assert len(np.unique(found)) == 3
    assert any(same_partition(found, labels) for labels in clusterings)


def test_clusters_are_matched_though_their_order_by_size_turns_round() -> None:
    truth = np.repeat([0, 1, 2], 20)
    clusterings = [truth.copy() for _ in range(3)]
    for i, labels in enumerate(clusterings):  # 24 cells of i, 19 of the next, 17 of the one after that
        second, third = 20 * ((i + 1) % 3), 20 * ((i + 2) % 3)
        labels[[second, third + 1, third + 2, third + 3]] = i
    assert same_partition(consensus(clusterings, 3), truth)


def test_the_vote_is_repeated_until_nothing_changes() -> None:
    truth = np.repeat([0, 1, 2, 3], [80, 60, 40, 20])
    clusterings = [with_errors(truth, 0.6, 600 + i) for i in range(7)]
    found = consensus(clusterings, 4)
    votes = 0.5 * (found[:, None] == np.arange(4))
    for labels in clusterings:
        numbered = (np.array(numbers)[labels] for numbers in permutations(range(4)))
        votes += max(numbered, key=lambda own: int((own == found).sum()))[:, None] == np.arange(4)
    np.testing.assert_array_equal(votes.argmax(axis=1), found)


def test_where_a_cluster_is_voted_away_the_clustering_that_agrees_most_stays() -> None:
    clusterings = [np.repeat([0, 1], [6, 7]) for _ in range(4)]
    for i, labels in enumerate(clusterings):
        labels[6 + i] = 2
    clusterings[0][:3] = 1
    assert same_partition(consensus(clusterings, 3), clusterings[1])


def test_votes_are_counted_in_blocks_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    clusterings = [np.where(rng.random(300) < 0.3, rng.integers(0, 4, 300), truth) for _ in range(5)]
    whole = consensus(clusterings, 4)
    monkeypatch.setattr("sccagn_scale.clustering._consensus._BLOCK", 7)
    np.testing.assert_array_equal(consensus(clusterings, 4), whole)


def test_the_most_stable_kind_is_the_one_that_agrees_with_itself_however_clusters_are_numbered() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)

    def noisy(share: float) -> list[np.ndarray]:
        numbers = [rng.permutation(4) for _ in range(3)]
        return [n[np.where(rng.random(300) < share, rng.integers(0, 4, 300), truth)] for n in numbers]

    much, little = noisy(0.4), noisy(0.1)
    assert most_stable([much, little]) is little
    assert most_stable([little, much]) is little
    same = [truth, truth]
    assert most_stable([same, [truth, truth]]) is same


LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=2, max_size=40)


@pytest.mark.filterwarnings("ignore:The number of unique classes is greater than 50%")
@given(LABELS)
def test_agreement_is_the_adjusted_rand_index_to_the_last_bit(pairs: list[tuple[int, int]]) -> None:
    one, other = np.array(pairs).T
    assert _agreement(one, other) == adjusted_rand_score(one, other)
    assert _agreement(other, one) == adjusted_rand_score(other, one)
