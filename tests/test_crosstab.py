"""Counts of two groupings against counting them one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import DTypeLike

from sccagn_scale._crosstab import crosstab


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (3, 2), (90, 100)])
def test_every_pair_is_counted_whatever_the_type_of_the_codes(dtype: DTypeLike, n_rows: int, n_columns: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(n_rows, size=500).astype(dtype), rng.integers(n_columns, size=500).astype(dtype)
    found = crosstab(rows, columns, (n_rows, n_columns))
    counts = Counter(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found.dtype == np.int64
    assert found.tolist() == [[counts[i, j] for j in range(n_columns)] for i in range(n_rows)]


def test_groups_of_nothing_are_there_too() -> None:
    assert crosstab(np.array([1, 1]), np.array([0, 2]), (3, 4)).tolist() == [[0] * 4, [1, 0, 1, 0], [0] * 4]
    assert crosstab(np.zeros(0, np.int8), np.zeros(0, np.int8), (2, 1)).tolist() == [[0], [0]]
