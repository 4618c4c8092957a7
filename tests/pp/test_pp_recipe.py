"""Quality control, normalisation, selection and scaling against dense numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sccagn_scale import pp
from sccagn_scale._errors import InputError

VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.1, 1.0, 2.0, 7.0])
DENSE = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=VALUES)


def sample(n_obs: int = 40, n_vars: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 2, n_vars), (n_obs, n_vars)).astype(np.float32)


def passing(dense: np.ndarray, cells_frac: float, genes_frac: float) -> tuple[list[bool], list[bool]]:
    """Quality control, one value at a time."""
    n_obs, n_vars = dense.shape
    var = [sum(dense[i, j] > 0 for i in range(n_obs)) > cells_frac * n_obs for j in range(n_vars)]
    obs = [sum(dense[i, j] > 0 and var[j] for j in range(n_vars)) > genes_frac * sum(var) for i in range(n_obs)]
    return obs, var


@given(DENSE, st.sampled_from([0, 0.01, 0.2, 0.5, 0.9]), st.sampled_from([0, 0.01, 0.2, 0.5, 0.9]))
def test_quality_control_is_the_brute_force_count(dense: np.ndarray, cells_frac: float, genes_frac: float) -> None:
    obs, var = passing(dense, cells_frac, genes_frac)
    if any(obs) and any(var):
        kept = pp.quality_control(sp.csr_matrix(dense), cells_frac, genes_frac)
        assert (kept.obs.tolist(), kept.var.tolist()) == (obs, var)
        assert kept.obs.dtype == kept.var.dtype == bool
    else:
        with pytest.raises(InputError, match="`min_genes_frac`" if any(var) else "`min_cells_frac`"):
            pp.quality_control(sp.csr_matrix(dense), cells_frac, genes_frac)


def test_a_share_must_be_passed_not_met() -> None:
    dense = np.zeros((4, 3), np.float32)
    dense[0, 0] = dense[:2, 1] = dense[:, 2] = 1  # detected in 25, 50 and 100 %
    assert pp.quality_control(sp.csr_matrix(dense), 0.5, 0.0).var.tolist() == [False, False, True]


def test_filtering_everything_out_names_the_threshold_and_the_best() -> None:
    matrix = sp.csr_matrix(np.eye(4, dtype=np.float32))
    with pytest.raises(InputError, match=r"`min_cells_frac` = 0\.5 filters out all 4 genes.*25\.00%"):
        pp.quality_control(matrix, 0.5)
    with pytest.raises(InputError, match=r"`min_genes_frac` = 0\.3 filters out all 4 cells.*25\.00%"):
        pp.quality_control(matrix, 0.01, 0.3)


@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_normalize_total_brings_filled_cells_to_one_total(target_sum: float | None) -> None:
    dense = sample()
    dense[:15] = 0  # empty cells would pull the median down
    matrix = sp.csr_matrix(dense)
    totals = dense.sum(axis=1)
    expected = target_sum or np.median(totals[totals > 0])
    assert pp.normalize_total(matrix, target_sum) == expected
    np.testing.assert_allclose(
        matrix.toarray(), dense * (expected / np.where(totals > 0, totals, 1))[:, None], rtol=1e-6
    )
    assert matrix.dtype == np.float32


def test_normalize_total_of_zeros_changes_nothing() -> None:
    matrix = sp.csr_matrix((3, 2), dtype=np.float32)
    pp.normalize_total(matrix)
    assert matrix.nnz == 0


def test_log1p_is_in_place() -> None:
    dense = sample()
    matrix = sp.csr_matrix(dense)
    pp.log1p(matrix)
    np.testing.assert_allclose(matrix.toarray(), np.log1p(dense), rtol=1e-6)


@pytest.mark.parametrize("n_top_genes", [1, 5, 12, 100])
def test_highest_std_genes_are_numpys(n_top_genes: int) -> None:
    dense = np.log1p(sample())
    std = dense.std(axis=0, dtype=np.float64)
    expected = [gene for gene in np.argsort(-std, kind="stable")[:n_top_genes] if std[gene] > 0]
    chosen = pp.highest_std_genes(sp.csr_matrix(dense), n_top_genes)
    assert chosen.tolist() == sorted(expected)
    assert chosen.dtype == np.int64


@given(st.floats(2**-10, 100, width=32), st.integers(2, 3000))
def test_constant_genes_are_never_chosen(value: float, n_obs: int) -> None:
    varying = np.arange(n_obs, dtype=np.float32)
    dense = np.column_stack([np.full(n_obs, value, np.float32), varying, np.zeros(n_obs, np.float32)])
    assert pp.highest_std_genes(sp.csr_matrix(dense), 3).tolist() == [1]


@given(DENSE)
def test_constant_genes_are_those_of_one_value(dense: np.ndarray) -> None:
    expected = [len(set(column)) == 1 for column in dense.T.tolist()]
    assert pp.constant_genes(sp.csr_matrix(dense)).tolist() == expected


@given(DENSE)
def test_scale_to_unit_is_the_dense_formula_and_keeps_zeros(dense: np.ndarray) -> None:
    matrix = sp.csr_matrix(dense)
    maxima = pp.gene_maxima(matrix)
    largest = dense.max(axis=0)
    np.testing.assert_array_equal(maxima, np.where(largest > 0, largest, 1))
    pp.scale_to_unit(matrix, maxima)
    scaled = dense / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix.toarray(), scaled / np.where(length > 0, length, 1), rtol=1e-5)
    assert matrix.dtype == np.float32
    assert matrix.nnz == np.count_nonzero(dense)


@given(DENSE)
def test_unit_length_is_one_or_zero(dense: np.ndarray) -> None:
    matrix = sp.csr_matrix(dense)
    pp.unit_length(matrix)
    lengths = np.linalg.norm(matrix.toarray(), axis=1)
    np.testing.assert_allclose(lengths, (dense > 0).any(axis=1), atol=1e-6)
