"""Metrics against closed forms, brute force and invariants."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sccagn_scale._errors import InputError
from sccagn_scale.metrics import cluster_accuracy, contingency, evaluate

labellings = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n), st.lists(st.integers(0, 4), min_size=n, max_size=n)
    )
)


def test_perfect_match_under_other_names() -> None:
    scores = evaluate(["B", "T", "T", "NK"], [7, 0, 0, 3])
    assert scores == pytest.approx({"nmi": 1, "ari": 1, "ami": 1, "completeness": 1, "accuracy": 1})


def test_one_cluster_tells_nothing() -> None:
    scores = evaluate(["B"] * 6 + ["T"] * 4, ["0"] * 10)
    assert scores == pytest.approx({"nmi": 0, "ari": 0, "ami": 0, "completeness": 1, "accuracy": 0.6}, abs=1e-12)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
@pytest.mark.parametrize("kind", [list, tuple, pd.Series, pd.Categorical])
def test_what_is_missing_is_missing_in_any_container(missing: object, kind: type) -> None:
    types, clusters = kind(["a", "a", "b", missing]), kind(["0", "0", missing, "1"])
    table = contingency(types, clusters)
    assert table.columns.tolist() == ["a", "b"]
    assert table.index.tolist() == ["0", "(none)"]
    assert evaluate(types, clusters)["ari"] == 1


def test_closed_forms() -> None:
    # Table [[2, 1], [0, 3]]: mutual information and entropies by hand.
    truth, labels = ["a", "a", "b", "b", "b", "b"], [0, 0, 0, 1, 1, 1]
    information = 2 / 6 * np.log(2) + 1 / 6 * np.log(1 / 2) + 3 / 6 * np.log(3 / 2)
    entropy_truth, entropy_labels = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3), np.log(2)
    scores = evaluate(truth, labels)
    assert scores["nmi"] == pytest.approx(2 * information / (entropy_truth + entropy_labels))
    assert scores["completeness"] == pytest.approx(information / entropy_labels)
    # Pairs: 4 together in both, 7 in truth, 6 in labels, 15 in all.
    expected = 7 * 6 / 15
    assert scores["ari"] == pytest.approx((4 - expected) / ((7 + 6) / 2 - expected))
    assert scores["accuracy"] == pytest.approx(5 / 6)


few = st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 5), min_size=n, max_size=n)] * 2))


def information(truth: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information; of a labelling with itself its entropy."""
    shares = np.zeros((6, 6))
    np.add.at(shares, (truth, labels), 1 / len(truth))
    by_chance = np.outer(shares.sum(axis=1), shares.sum(axis=0))
    there = shares > 0
    return float((shares[there] * np.log(shares[there] / by_chance[there])).sum())


@given(few)
@settings(max_examples=60, deadline=None)
def test_adjusted_information_is_what_exceeds_the_mean_over_all_permutations(pair: tuple[list[int], list[int]]) -> None:
    truth, labels = map(np.array, pair)
    by_chance = np.mean([information(truth, np.array(order)) for order in set(permutations(pair[1]))])
    most = (information(truth, truth) + information(labels, labels)) / 2
    found = evaluate(truth, labels)["ami"]
    if most - by_chance < 1e-9:  # every permutation is a perfect match
        assert found == pytest.approx(1)
    else:
        assert found == pytest.approx((information(truth, labels) - by_chance) / (most - by_chance), abs=1e-9)


@given(labellings)
@settings(max_examples=60, deadline=None)
def test_types_and_clusters_can_change_places_and_scores_stay_within_their_bounds(
    pair: tuple[list[int], list[int]],
) -> None:
    scores, swapped = evaluate(*pair), evaluate(*pair[::-1])
    symmetric = ("nmi", "ari", "ami", "accuracy")
    assert [swapped[name] for name in symmetric] == pytest.approx([scores[name] for name in symmetric], abs=1e-9)
    assert all(-1e-9 <= scores[name] <= 1 + 1e-9 for name in ("nmi", "completeness", "accuracy"))
    assert -0.5 - 1e-9 <= scores["ari"] <= 1 + 1e-9
    assert scores["ami"] <= min(1, scores["nmi"]) + 1e-9  # as information by chance is never below 0


@given(labellings)
@settings(max_examples=60, deadline=None)
def test_accuracy_is_the_best_over_all_pairings(pair: tuple[list[int], list[int]]) -> None:
    truth, labels = map(np.array, pair)
    best = max(np.mean(np.array(names)[labels] == truth) for names in permutations(range(5)))
    assert cluster_accuracy(truth, labels) == pytest.approx(best)


@given(labellings, st.permutations(range(5)), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_names_and_order_do_not_matter(pair: tuple[list[int], list[int]], names: list[int], random: object) -> None:
    truth, labels = map(np.array, pair)
    order = np.array(random.sample(range(len(truth)), len(truth)))  # type: ignore[attr-defined]
    renamed = np.array([f"cluster {n}" for n in names])[labels]
    scores = evaluate(truth, labels)
    assert evaluate(truth[order], renamed[order]) == pytest.approx(scores, abs=1e-9)
    assert all(value <= 1 + 1e-9 for value in scores.values())


def test_cells_without_a_type_are_left_out() -> None:
    truth = pd.Series(pd.Categorical(["a", None, "b", "b", None]))
    labels = ["0", "1", "1", "1", "0"]
    assert evaluate(truth, labels) == evaluate(["a", "b", "b"], ["0", "1", "1"])
    assert evaluate(np.array(["a", None, "b", "b", np.nan], dtype=object), labels) == evaluate(truth, labels)


def test_refusing_cells_does_not_help() -> None:
    truth = ["a"] * 4 + ["b"] * 4
    honest = evaluate(truth, [0, 0, 0, 1, 1, 1, 1, 1])
    refusing = evaluate(truth, [0, 0, 0, np.nan, np.nan, 1, 1, 1])
    assert refusing == evaluate(truth, [0, 0, 0, 2, 2, 1, 1, 1])
    assert refusing["accuracy"] < honest["accuracy"]


def test_contingency_names_and_counts() -> None:
    truth = pd.Categorical(["T", "B", "B", "T", None], categories=["T", "B", "unused"])
    labels = pd.Series(pd.Categorical(["10", "2", "2", None, "2"], categories=["2", "10"]))
    table = contingency(truth, labels)
    assert list(table.columns) == ["T", "B"]
    assert list(table.index) == ["2", "10", "(none)"]
    assert table.to_numpy().tolist() == [[0, 2], [1, 0], [1, 0]]


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match=r"`truth` and `labels`.* 3 and 2"):
        evaluate([0, 1, 1], [0, 1])
    with pytest.raises(InputError, match="all 2 entries are missing"):
        cluster_accuracy([None, None], [0, 1])
    with pytest.raises(InputError, match=r"`labels` must hold one entry.*\(2, 2\)"):
        evaluate([0, 1], np.zeros((2, 2)))


def test_half_precision_numbers_are_labels_as_others() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    assert evaluate(labels.astype(np.float16), labels)["nmi"] == pytest.approx(1)
