"""Recall of neighbours against set intersection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sccagn_scale import InputError
from sccagn_scale.graph import knn_recall


def test_knn_recall_by_hand() -> None:
    reference = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    assert knn_recall(reference[:, ::-1], reference) == 1
    found = np.array([[0, 1, 9], [1, -1, -1], [7, 8, 9]])
    assert knn_recall(found, reference) == pytest.approx(3 / 9)
    assert knn_recall(found, np.where(reference == 2, -1, reference)) == pytest.approx(3 / 6)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_knn_recall_is_set_intersection(k: int, k_reference: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = np.array([rng.permutation(12)[:k] for _ in range(9)])
    reference = np.array([rng.permutation(12)[:k_reference] for _ in range(9)])
    expected = np.mean([len({*a} & {*b}) / k_reference for a, b in zip(found, reference, strict=True)])
    assert knn_recall(found, reference) == pytest.approx(expected)


def test_knn_recall_over_many_blocks() -> None:
    reference = np.arange(10_000)[:, None]
    found = reference.copy()
    found[::4] = -1
    assert knn_recall(found, reference) == 0.75


def test_knn_recall_shapes() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\) and \(3, 3\)"):
        knn_recall(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(InputError, match="at least one neighbour"):
        knn_recall(np.zeros((2, 3)), np.full((2, 3), -1))
