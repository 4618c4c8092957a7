"""Parts of equal size, near cells together."""

from __future__ import annotations

import numpy as np
import pytest

from sccagn_scale._errors import InputError
from sccagn_scale.graph import partition


@pytest.mark.parametrize(("n_obs", "part_size"), [(1, 1), (7, 2), (100, 100), (100, 1000), (1000, 30), (1000, 1)])
def test_parts_are_as_even_as_can_be(n_obs: int, part_size: int) -> None:
    points = np.random.default_rng(0).normal(size=(n_obs, 4))
    before = points.copy()
    parts = partition(points, part_size)
    sizes = np.bincount(parts)
    assert parts.dtype == np.int64
    assert parts.shape == (n_obs,)
    assert len(sizes) == max(1, round(n_obs / part_size))
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(points, before)


def test_groups_far_apart_become_parts() -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(8), 500))
    points = 100 * rng.normal(size=(8, 10))[group] + rng.normal(size=(4000, 10))
    parts = partition(points, 500)
    assert len({*zip(group.tolist(), parts.tolist(), strict=True)}) == 8


def test_cells_of_a_part_are_near() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    parts = partition(points, 50)
    within = np.mean([points[parts == part].var(axis=0).sum() for part in range(80)])
    assert within < 0.15 * points.var(axis=0).sum()


def test_parts_are_the_same_each_time_and_identical_cells_are_divided_too() -> None:
    points = np.random.default_rng(0).normal(size=(6000, 5))
    np.testing.assert_array_equal(partition(points, 40, random_state=1), partition(points, 40, random_state=1))
    assert (np.bincount(partition(np.zeros((1000, 3)), 10)) == 10).all()


def test_a_part_needs_a_cell() -> None:
    with pytest.raises(InputError, match="`part_size` must be at least 1; it is 0"):
        partition(np.zeros((3, 2)), 0)
