"""Quality control, normalisation, selection and scaling against dense numpy."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sccagn_scale import pp
from sccagn_scale._errors import InputError
from sccagn_scale.config import InputKind

pytestmark = pytest.mark.usefixtures("small_blocks")

VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.1, 1.0, 2.0, 7.0])
DENSE = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=VALUES)


def sample(n_obs: int = 40, n_vars: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 2, n_vars), (n_obs, n_vars)).astype(np.float32)


def quality_control(dense: np.ndarray, cells_frac: float = 0.01, genes_frac: float = 0.01) -> pp.Kept:
    matrix = expression(dense)
    detected = pp.scan(matrix).n_detected
    return pp.quality_control(matrix, detected, min_cells_frac=cells_frac, min_genes_frac=genes_frac)


def expression(dense: np.ndarray) -> pp.Expression:
    return pp.select_matrix(ad.AnnData(sp.csr_matrix(dense)))


def passing(dense: np.ndarray, cells_frac: float, genes_frac: float) -> tuple[list[bool], list[bool]]:
    """Quality control, one value at a time."""
    n_obs, n_vars = dense.shape
    var = [sum(dense[i, j] > 0 for i in range(n_obs)) > cells_frac * n_obs for j in range(n_vars)]
    obs = [sum(dense[i, j] > 0 and var[j] for j in range(n_vars)) > genes_frac * sum(var) for i in range(n_obs)]
    return obs, var


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DENSE, st.sampled_from([0, 0.01, 0.2, 0.5, 0.9]), st.sampled_from([0, 0.01, 0.2, 0.5, 0.9]))
def test_quality_control_is_the_brute_force_count(dense: np.ndarray, cells_frac: float, genes_frac: float) -> None:
    obs, var = passing(dense, cells_frac, genes_frac)
    if any(obs) and any(var):
        kept = quality_control(dense, cells_frac, genes_frac)
        assert (kept.obs.tolist(), kept.var.tolist()) == (obs, var)
        assert kept.obs.dtype == kept.var.dtype == bool
        np.testing.assert_allclose(kept.totals, dense[:, kept.var].sum(axis=1, dtype=np.float64))
    else:
        with pytest.raises(InputError, match="`min_genes_frac`" if any(var) else "`min_cells_frac`"):
            quality_control(dense, cells_frac, genes_frac)


def test_a_share_must_be_passed_not_met() -> None:
    dense = np.zeros((4, 3), np.float32)
    dense[0, 0] = dense[:2, 1] = dense[:, 2] = 1  # detected in 25, 50 and 100 %
    assert quality_control(dense, 0.5, 0.0).var.tolist() == [False, False, True]


def test_filtering_everything_out_names_the_threshold_and_the_best() -> None:
    dense = np.eye(4, dtype=np.float32)
    with pytest.raises(InputError, match=r"`min_cells_frac` = 0\.5 filters out all 4 genes.*25\.00%"):
        quality_control(dense, 0.5)
    with pytest.raises(InputError, match=r"`min_genes_frac` = 0\.3 filters out all 4 cells.*25\.00%"):
        quality_control(dense, 0.01, 0.3)


def test_normalize_total_brings_filled_cells_to_one_total() -> None:
    dense = sample()
    dense[:15] = 0
    matrix = sp.csr_matrix(dense)
    totals = dense.sum(axis=1, dtype=np.float64)
    pp.normalize_total(matrix, totals, 1e4)
    np.testing.assert_allclose(matrix.toarray(), dense * (1e4 / np.where(totals > 0, totals, 1))[:, None], rtol=1e-6)
    assert matrix.dtype == np.float32


def test_empty_cells_do_not_pull_the_median_total_down() -> None:
    assert pp.median_total(np.array([0.0, 0, 0, 3, 5, 9])) == 5
    assert pp.median_total(np.zeros(3)) == 1


@pytest.mark.parametrize("kind", ["counts", "linear", "log"])
@pytest.mark.parametrize("genes", [None, [7, 2, 3]])
def test_log_expression_in_blocks_is_the_dense_formula(kind: InputKind, genes: list[int] | None) -> None:
    dense = sample()
    keep = np.arange(len(dense)) % 3 > 0
    totals = dense[:, :9].sum(axis=1, dtype=np.float64)
    logged = pp.LogExpression(expression(dense), keep, totals, kind, 100.0)
    for _ in range(2):
        blocks = list(logged.blocks(None if genes is None else np.array(genes)))
        found = sp.vstack(blocks).toarray()
        scaled = dense * np.divide(100, totals, out=np.ones_like(totals), where=totals > 0)[:, None]
        expected = (dense if kind == "log" else np.log1p(scaled))[keep]
        np.testing.assert_allclose(found, expected if genes is None else expected[:, genes], rtol=1e-5)


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
    blocks = [sp.csr_matrix(part) for part in np.array_split(dense, 3)]
    chosen = pp.highest_std_genes(map(pp.moments, blocks), n_top_genes, np.arange(12))
    assert chosen.tolist() == sorted(expected)
    assert chosen.dtype == np.int64


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(2**-10, 100, width=32), st.integers(2, 3000))
def test_constant_genes_are_never_chosen(value: float, n_obs: int) -> None:
    varying = np.arange(n_obs, dtype=np.float32)
    dense = np.column_stack([np.full(n_obs, value, np.float32), varying, np.zeros(n_obs, np.float32)])
    blocks = [sp.csr_matrix(part) for part in np.array_split(dense, 2)]
    assert pp.highest_std_genes(map(pp.moments, blocks), 3, np.arange(3)).tolist() == [1]


def test_genes_that_vary_by_rounding_alone_are_never_chosen() -> None:
    dense = np.tile(np.array([0.7, 40, 1, 0], np.float32), (50, 1))
    dense[::2, :2] = np.nextafter(dense[::2, :2], np.float32(100))
    dense[::2, 2] = 1.001
    assert pp.highest_std_genes([pp.moments(sp.csr_matrix(dense))], 4, np.arange(4)).tolist() == [2]


def test_genes_are_chosen_among_those_that_passed() -> None:
    dense = np.log1p(sample())
    among = np.array([1, 4, 5, 9])
    std = dense[:, among].std(axis=0)
    assert pp.highest_std_genes([pp.moments(sp.csr_matrix(dense))], 2, among).tolist() == sorted(
        np.argsort(-std)[:2].tolist()
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DENSE)
def test_scale_to_unit_is_the_dense_formula_and_keeps_zeros(dense: np.ndarray) -> None:
    matrix = sp.csr_matrix(dense)
    maxima = pp.gene_maxima(map(pp.maxima, [matrix[: len(dense) // 2], matrix[len(dense) // 2 :]]))
    largest = dense.max(axis=0)
    np.testing.assert_array_equal(maxima, np.where(largest > 0, largest, 1))
    pp.scale_to_unit(matrix, maxima)
    scaled = dense / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix.toarray(), scaled / np.where(length > 0, length, 1), rtol=1e-5)
    assert matrix.dtype == np.float32
    assert matrix.nnz == np.count_nonzero(dense)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DENSE)
def test_unit_length_is_one_or_zero(dense: np.ndarray) -> None:
    matrix = sp.csr_matrix(dense)
    pp.unit_length(matrix)
    lengths = np.linalg.norm(matrix.toarray(), axis=1)
    np.testing.assert_allclose(lengths, (dense > 0).any(axis=1), atol=1e-6)


def test_a_block_may_have_no_cell() -> None:
    block = sp.csr_matrix((0, 5), dtype=np.float32)
    pp.unit_length(block)
    pp.scale_to_unit(block, np.ones(5, np.float32))
    assert block.shape == (0, 5)
