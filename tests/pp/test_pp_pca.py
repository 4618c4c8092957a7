"""Sparse PCA against the dense one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from sccagn_scale._errors import InputError
from sccagn_scale.pp import fit_pca, fit_pca_twice


def sample(n_obs: int = 60, n_vars: int = 25) -> np.ndarray:
    """Sparse values with a few strong directions of well separated variance."""
    rng = np.random.default_rng(0)
    loadings = rng.random((5, n_vars)) * (rng.random((5, n_vars)) < 0.4)
    values = rng.random((n_obs, 5)) * [16, 8, 4, 2, 1] @ loadings
    return (values + 0.01 * rng.random(values.shape) * (values > 0)).astype(np.float32)


def blocks_of(dense: np.ndarray, size: int = 17) -> list[sp.csr_matrix]:
    return [sp.csr_matrix(dense[i : i + size]) for i in range(0, len(dense), size)]


@pytest.mark.parametrize("n_obs", [60, 24])  # more cells than genes, and fewer
def test_components_and_scores_are_those_of_dense_pca_up_to_sign(n_obs: int) -> None:
    dense = sample(n_obs)
    ours = fit_pca(blocks_of(dense), 4)
    theirs = PCA(4, svd_solver="full").fit(dense.astype(np.float64))
    sign = np.sign((ours.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components * sign[:, None], theirs.components_, atol=1e-4)
    np.testing.assert_allclose(ours.mean, dense.mean(axis=0), atol=1e-5)
    scores = ours.scores(sp.csr_matrix(dense))
    np.testing.assert_allclose(scores * sign, theirs.transform(dense), atol=1e-3)
    assert scores.dtype == ours.components.dtype == ours.mean.dtype == np.float32
    assert scores.flags.c_contiguous


@pytest.mark.parametrize("n_obs", [60, 24])  # more cells than genes, and fewer
def test_scaled_genes_give_the_components_of_z_scores(n_obs: int) -> None:
    dense = sample(n_obs)
    dense[:, 3] = 0.0  # a gene that does not vary
    plain, fitted = fit_pca_twice(iter(blocks_of(dense)), 4)
    np.testing.assert_array_equal(plain.components, fit_pca(blocks_of(dense), 4).components)
    deviations = dense.astype(np.float64).std(axis=0)
    z_scores = (dense - dense.mean(axis=0)) / np.where(deviations > 0, deviations, 1)
    theirs = PCA(4, svd_solver="full").fit(z_scores)
    scores, expected = fitted.scores(sp.csr_matrix(dense)), theirs.transform(z_scores)
    sign = np.sign((scores * expected).sum(axis=0))
    np.testing.assert_allclose(scores * sign, expected, atol=2e-3)
    np.testing.assert_allclose(fitted.mean, dense.mean(axis=0), atol=1e-5)
    assert fitted.components.dtype == fitted.mean.dtype == np.float32


@pytest.mark.parametrize("n_obs", [60, 24])  # more cells than genes, and fewer
def test_new_cells_are_projected_with_the_mean_of_the_old(n_obs: int) -> None:
    dense = sample(100)
    fitted = fit_pca([sp.csr_matrix(dense[:n_obs])], 3)
    expected = (dense[n_obs:] - dense[:n_obs].mean(axis=0)) @ fitted.components.T
    np.testing.assert_allclose(fitted.scores(sp.csr_matrix(dense[n_obs:])), expected, atol=1e-3)


@pytest.mark.parametrize("n_obs", [60, 24])  # more cells than genes, and fewer
def test_axes_are_orthonormal_and_fall_in_variance(n_obs: int) -> None:
    dense = sample(n_obs)
    fitted = fit_pca([sp.csr_matrix(dense)], 5)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(5), atol=1e-5)
    variance = fitted.scores(sp.csr_matrix(dense)).var(axis=0)
    assert (np.diff(variance) < 0).all()


def test_the_largest_loading_of_an_axis_is_positive() -> None:
    axes = fit_pca(blocks_of(sample()), 5).components
    assert (axes.max(axis=1) == np.abs(axes).max(axis=1)).all()


@pytest.mark.parametrize(("shape", "n_comps"), [((60, 3), 2), ((4, 25), 3), ((2, 2), 1)])
def test_fewer_components_where_there_are_fewer_cells_or_genes(shape: tuple[int, int], n_comps: int) -> None:
    fitted = fit_pca([sp.csr_matrix(sample(60, 25)[: shape[0], : shape[1]])], 50)
    assert fitted.components.shape == (n_comps, shape[1])


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_cell_or_one_gene_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"at least 2 cells and 2 genes; {shape[0]} × {shape[1]} are left"):
        fit_pca([sp.csr_matrix(np.ones(shape, np.float32))])


@pytest.mark.parametrize("n_obs", [60, 24])  # more cells than genes, and fewer
def test_the_seed_decides_everything(n_obs: int) -> None:
    matrix = sp.csr_matrix(sample(n_obs))
    first, second = (fit_pca([matrix], 4, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(first.components, second.components)


def test_blocks_are_gone_through_once() -> None:
    dense = sample()
    from_iterator = fit_pca(iter(blocks_of(dense)), 3)
    np.testing.assert_array_equal(from_iterator.components, fit_pca(blocks_of(dense), 3).components)
