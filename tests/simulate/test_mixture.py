"""Draws around mixtures of real cells against their closed form."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sccagn_scale.simulate._mixture import make_mixture_model


def cells(counts: list[list[int]], types: list[str], kind: str = "csr") -> anndata.AnnData:
    x = np.array(counts, dtype=np.int32)
    matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](x)
    names = [f"c{i}" for i in range(len(types))]
    return anndata.AnnData(matrix, obs=pd.DataFrame({"kind": types}, index=names))


def test_two_cells_mixed_have_the_mean_and_variance_of_the_formula() -> None:
    # equal totals, so the profile is u·(1, 0, 0) + (1 − u)·(0, ½, ½) with u uniform, and the library size 100
    model = make_mixture_model(cells([[100, 0, 0], [0, 50, 50], [7, 7, 7], [7, 7, 7]], list("aabb")), "kind", None)
    n = 40_000
    drawn = model.draw(np.zeros(n, dtype=np.int8), np.random.default_rng(0)).toarray()
    np.testing.assert_allclose(drawn.mean(axis=0), [50, 25, 25], rtol=0.02)
    # Poisson variance 50 plus 100² / 12 of the weight
    np.testing.assert_allclose(drawn.var(axis=0)[0], 50 + 100**2 / 12, rtol=0.03)
    # Poisson given the weight: a mixture of all weights has exactly this share of cells without the first gene
    assert np.mean(drawn[:, 0] == 0) == pytest.approx((1 - np.exp(-100)) / 100, abs=0.003)
    total = drawn.sum(axis=1)
    assert total.mean() == pytest.approx(100, rel=0.01)
    assert total.var() == pytest.approx(100, rel=0.04)


def test_a_cell_is_mixed_with_another_of_its_type_and_scaled_to_a_real_library_size() -> None:
    model = make_mixture_model(
        cells([[0, 0, 400], [10, 0, 0], [0, 90, 0], [0, 0, 600]], ["b", "a", "a", "b"]), "kind", None
    )
    drawn = model.draw(np.tile(np.array([0, 1], dtype=np.int8), 5000), np.random.default_rng(0)).toarray()
    assert drawn[0::2, 2].sum() == 0
    assert drawn[1::2, :2].sum() == 0
    # two cells only: both are in each mixture; with total counts 10 and 90 the first gene's share has the mean
    # ∫ 10u / (10u + 90(1 − u)) du
    u = (np.arange(100_000) + 0.5) / 100_000
    share = np.mean(10 * u / (10 * u + 90 * (1 - u)))
    assert drawn[0::2, 0].mean() == pytest.approx(50 * share, rel=0.05)
    for row, sizes in ((drawn[0::2], (10, 90)), (drawn[1::2], (400, 600))):
        total = row.sum(axis=1)
        middle = np.mean(sizes)
        assert np.mean(total > middle) == pytest.approx(0.5, abs=0.03)
        assert total[total > middle].mean() == pytest.approx(sizes[1], rel=0.02)


def test_a_librarys_size_is_any_cells_of_the_type() -> None:
    model = make_mixture_model(cells([[10, 0, 0], [0, 10, 0], [0, 0, 900], [1, 1, 1]], list("aaab")), "kind", None)
    drawn = model.draw(np.zeros(20_000, dtype=np.int8), np.random.default_rng(0)).toarray()
    # a third of the mixtures are of the two small cells, and a third of those are as large as the large one
    assert np.mean((drawn[:, 2] == 0) & (drawn.sum(axis=1) > 700)) == pytest.approx(1 / 9, abs=0.01)


def test_a_lone_cell_is_its_own_partner() -> None:
    model = make_mixture_model(cells([[3, 1], [0, 5], [0, 6]], ["a", "b", "b"]), "kind", None)
    drawn = model.draw(np.zeros(20_000, dtype=np.int8), np.random.default_rng(0)).toarray()
    np.testing.assert_allclose(drawn.mean(axis=0), [3, 1], rtol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), [3, 1], rtol=0.05)


def test_any_storage_gives_the_same_model() -> None:
    counts = [[1, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 5]]
    models = [make_mixture_model(cells(counts, list("abab"), kind), "kind", None) for kind in ("csr", "csc", "dense")]
    for model in models:
        np.testing.assert_array_equal(model.counts.toarray(), [[1, 0, 2], [4, 0, 0], [0, 3, 0], [0, 0, 5]])
        np.testing.assert_array_equal(model.totals, [3, 4, 3, 5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_source_is_left_as_it_is(dtype: type) -> None:
    source = cells([[1, 0, 2], [0, 3, 0]], ["a", "b"])
    values = np.array([2, 1, 3], dtype)
    source.X = sp.csr_matrix((values, np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
    make_mixture_model(source, "kind", None)
    np.testing.assert_array_equal(source.X.indices, [2, 0, 1])
    np.testing.assert_array_equal(source.X.data, [2, 1, 3])


def test_counts_may_be_dense_halves() -> None:
    """SciPy has no sparse form of float16."""
    adata = cells([[1, 0, 4], [2, 3, 0], [0, 9, 1], [5, 0, 6]], list("abab"), "dense")
    adata.X = adata.X.astype(np.float16)
    drawn = make_mixture_model(adata, "kind", None).draw(np.zeros(20, np.int8), np.random.default_rng(0))
    assert drawn.sum() > 0
