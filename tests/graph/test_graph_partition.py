"""Parts of near cells, none too large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale._errors import InputError
from sccagn_scale.graph import partition


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 3))
def test_every_cell_has_a_part_and_no_part_is_empty_or_too_large(n_obs: int, part_size: int, n_kinds: int) -> None:
    points = np.random.default_rng(n_obs).integers(0, n_kinds, (n_obs, 2)).astype(np.float64)  # many are identical
    before = points.copy()
    parts = partition(points, part_size)
    assert parts.dtype == np.int64
    assert parts.shape == (n_obs,)
    sizes = np.bincount(parts)
    assert sizes.min() > 0
    assert sizes.max() <= 4 * part_size
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize(("n_obs", "part_size"), [(3000, 100), (3000, 10), (20_000, 20)])
def test_parts_have_the_size_asked_for_on_average(n_obs: int, part_size: int) -> None:
    points = np.random.default_rng(0).normal(size=(n_obs, 4))
    n_parts = partition(points, part_size).max() + 1
    assert 0.9 * n_obs / part_size < n_parts < 1.2 * n_obs / part_size


@pytest.mark.parametrize("part_size", [80, 20])
def test_parts_stay_inside_groups_far_apart(part_size: int) -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(8), 500))
    points = 100 * rng.normal(size=(8, 10))[group] + rng.normal(size=(4000, 10))
    parts = partition(points, part_size)
    assert len({*zip(group.tolist(), parts.tolist(), strict=True)}) == parts.max() + 1


def test_cells_of_a_part_are_near() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    parts = partition(points, 50)
    within = sum(points[parts == part].var(axis=0).sum() * (parts == part).sum() for part in range(parts.max() + 1))
    assert within / 4000 < 0.15 * points.var(axis=0).sum()


def test_parts_are_the_same_each_time_and_follow_the_seed() -> None:
    points = np.random.default_rng(0).normal(size=(6000, 5))
    first = partition(points, 40, random_state=1)
    np.testing.assert_array_equal(first, partition(points, 40, random_state=1))
    assert (first != partition(points, 40, random_state=2)).any()


def test_a_part_needs_a_cell() -> None:
    with pytest.raises(InputError, match="`part_size` must be at least 1; it is 0"):
        partition(np.zeros((3, 2)), 0)
