"""Batches: which cells are of which, and components that no longer tell them apart."""

from __future__ import annotations

import random
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from sccagn_scale._errors import InputError
from sccagn_scale.pp import correct_batches, select_batches


def annotated(**columns: Any) -> ad.AnnData:
    return ad.AnnData(obs=pd.DataFrame(columns, index=[f"cell{i}" for i in range(6)]))


@pytest.mark.parametrize(
    "column",
    [
        ["b", "b", "a", "a", "b", "a"],
        pd.Categorical(["b", "b", "a", "a", "b", "a"], categories=["unused", "a", "b"]),
        [7, 7, 3, 3, 7, 3],
        [True, True, False, False, True, False],
    ],
    ids=["text", "categorical", "int", "bool"],
)
def test_columns_of_any_type_are_numbered(column: Any) -> None:
    batches = select_batches(annotated(batch=column), "batch")
    assert batches.dtype == np.int64
    np.testing.assert_array_equal(batches, [0, 0, 1, 1, 0, 1])


def test_only_cells_that_passed_quality_control_count() -> None:
    adata = annotated(batch=["x", "b", "a", "a", "b", "b"])
    keep = np.array([False, True, True, True, True, True])
    np.testing.assert_array_equal(select_batches(adata, "batch", keep), [0, 1, 1, 0, 0])
    keep[[2, 3]] = False
    with pytest.raises(InputError, match="at least two values among the cells that pass quality control; all 3 have"):
        select_batches(adata, "batch", keep)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "lot",
            r"`batch_key` must name a column of obs, but there is no 'lot'; the columns are: 'one', 'gaps', 'names'",
        ),
        (["one"], r"`batch_key` must name a column of obs, but there is no \['one'\]"),
        ("one", r"`batch_key` = 'one' must have at least two values among the cells; all 6 have '1'\. Leave it out"),
        ("gaps", r"`batch_key` = 'gaps' must have a value for every cell; 2 of 6 cells have none\. Fill them in"),
        (
            "names",
            r"`batch_key` = 'names' must have at most half as many values as there are cells; it has 6 for the 6",
        ),
    ],
)
def test_columns_that_cannot_be_used(key: Any, message: str) -> None:
    adata = annotated(one=[1] * 6, gaps=["a", None, "b", "b", np.nan, "a"], names=list("abcdef"))
    with pytest.raises(InputError, match=message):
        select_batches(adata, key)


def shifted(n_obs: int = 400, n_comps: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components of two types in two batches, one batch moved."""
    rng = np.random.default_rng(0)
    types, batches = rng.integers(0, 2, n_obs), np.arange(n_obs) % 2
    pcs = rng.normal(size=(n_obs, n_comps))
    pcs[:, 0] += 10 * types
    pcs[:, 1] += 4 * batches
    return (pcs - pcs.mean(axis=0)).astype(np.float32), types, batches


def gap(pcs: np.ndarray, groups: np.ndarray) -> float:
    return float(np.linalg.norm(pcs[groups == 0].mean(axis=0) - pcs[groups == 1].mean(axis=0)))


def test_batches_come_together_and_types_stay_apart() -> None:
    pcs, types, batches = shifted()
    before = pcs.copy()
    corrected = correct_batches(pcs, batches)
    np.testing.assert_array_equal(pcs, before)
    assert (corrected.shape, corrected.dtype) == (pcs.shape, np.float32)
    assert corrected.flags.c_contiguous
    assert gap(corrected, batches) < 0.2 * gap(pcs, batches)
    assert gap(corrected, types) > 0.9 * gap(pcs, types)


def test_the_seed_decides_and_threads_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pcs, _, batches = shifted()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, other = correct_batches(pcs, batches, random_state=1), correct_batches(pcs, batches, random_state=2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    np.testing.assert_array_equal(correct_batches(pcs, batches, random_state=1), first)
    assert not np.array_equal(first, other)
    assert np.isfinite(correct_batches(pcs, batches, random_state=2**40)).all()


def test_harmony_is_told_how_many_threads_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import harmonypy

    given = []
    run = harmonypy.run_harmony
    monkeypatch.setattr(harmonypy, "run_harmony", lambda *a, **options: given.append(options) or run(*a, **options))
    pcs, _, batches = shifted()
    for threads in (1, 2):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        correct_batches(pcs, batches)
        assert given[-1]["ncores"] == threads


def test_global_generators_are_left_alone() -> None:
    def state() -> tuple[bytes, str, object]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002

    pcs, _, batches = shifted()
    before = state()
    correct_batches(pcs, batches)
    assert state() == before


@pytest.mark.parametrize(("n_obs", "n_comps"), [(10, 9), (12, 12), (40, 40)])
def test_few_cells_and_as_many_cells_as_components(n_obs: int, n_comps: int) -> None:
    pcs, _, batches = shifted(n_obs, n_comps)
    corrected = correct_batches(pcs, batches)
    assert corrected.shape == pcs.shape
    assert np.isfinite(corrected).all()
    assert gap(corrected, batches) < 0.8 * gap(pcs, batches)


def test_a_column_that_stands_twice_is_no_batch() -> None:
    obs = pd.DataFrame([["a", "b"]] * 4, columns=["lot", "lot"], index=list("wxyz"))
    with pytest.raises(InputError, match="2 are called 'lot'"):
        select_batches(ad.AnnData(obs=obs), "lot")
