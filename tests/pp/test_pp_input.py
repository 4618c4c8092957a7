"""Which matrix is taken, and what its values are taken for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.pp import recognize, select_matrix, stored_dtype

COUNTS = np.array([[0, 3, 0, 1], [2, 0, 0, 7], [0, 0, 0, 0]])


def csr(values: Any) -> sp.csr_matrix:
    return sp.csr_matrix(np.asarray(values, dtype=np.float32))


@pytest.fixture
def adata() -> ad.AnnData:
    """Counts in X, twice the counts in a layer, log values of two genes more in raw."""
    made = ad.AnnData(sp.csr_matrix(COUNTS))
    made.layers["double"] = 2 * COUNTS
    made.raw = ad.AnnData(np.log1p(np.hstack([COUNTS, COUNTS[:, :2]])), obs=made.obs.copy())
    return made


def choice(adata: ad.AnnData, layer: str | None = None) -> tuple[np.ndarray, list[str]]:
    matrix, names = select_matrix(adata, layer)
    return matrix.toarray(), list(names)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64]
)
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array])
def test_every_layout_and_type_gives_the_same_csr(dtype: type, layout: Callable[[np.ndarray], Any]) -> None:
    values = COUNTS.astype(dtype)
    matrix, names = select_matrix(ad.AnnData(layout(values)))
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.nnz == 4
    assert matrix.has_sorted_indices
    np.testing.assert_array_equal(matrix.toarray(), values.astype(np.float32))
    assert list(names) == ["0", "1", "2", "3"]


def test_half_precision_is_taken() -> None:
    np.testing.assert_array_equal(choice(ad.AnnData(COUNTS.astype(np.float16)))[0], COUNTS)


def test_large_counts_stay_exact() -> None:
    largest = 2**24
    assert choice(ad.AnnData(np.array([[largest, largest - 1]])))[0].tolist() == [[largest, largest - 1]]


def test_layers_and_raw_bring_their_own_genes(adata: ad.AnnData) -> None:
    values, names = choice(adata, "double")
    np.testing.assert_array_equal(values, 2 * COUNTS)
    assert len(names) == 4
    values, names = choice(adata, "raw")
    np.testing.assert_allclose(values[:, 4:], np.log1p(COUNTS[:, :2]), rtol=1e-6)
    assert names == list(adata.raw.var_names)


def test_a_layer_called_raw_goes_before_raw(adata: ad.AnnData) -> None:
    adata.layers["raw"] = 3 * COUNTS
    np.testing.assert_array_equal(choice(adata, "raw")[0], 3 * COUNTS)


def test_a_missing_layer_is_told_with_the_choices(adata: ad.AnnData) -> None:
    with pytest.raises(InputError, match=r"`layer` .*None \(X\), 'double', 'raw'; there is no 'counts'"):
        select_matrix(adata, "counts")
    with pytest.raises(InputError, match=r"`layer` must be one of None \(X\); there is no 'raw'"):
        select_matrix(ad.AnnData(COUNTS), "raw")


def test_an_absent_x_is_told_with_the_choices() -> None:
    adata = ad.AnnData(shape=COUNTS.shape, layers={"counts": COUNTS})
    with pytest.raises(InputError, match=r"X, which holds no matrix; choose one of 'counts'\."):
        select_matrix(adata)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_values_that_are_no_numbers_are_counted(bad: float, layout: Callable[[np.ndarray], Any]) -> None:
    values = COUNTS.astype(np.float64)
    values[:2, 0] = bad
    with pytest.raises(InputError, match="X holds 2 NaN or infinite values"):
        select_matrix(ad.AnnData(layout(values)))


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_negative_values_point_at_the_layers(adata: ad.AnnData, layout: Callable[[np.ndarray], Any]) -> None:
    adata.layers["scaled"] = layout(COUNTS - 1.5 * (COUNTS > 0))
    with pytest.raises(InputError, match=r"layers\['scaled'\] .*lowest -0\.5.*`layer`.*'double', 'scaled', 'raw'"):
        select_matrix(adata, "scaled")


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_an_empty_matrix_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"empty: X has {shape[0]} cells and {shape[1]} genes"):
        select_matrix(ad.AnnData(sp.csr_matrix(shape, dtype=np.float32)))


def test_a_matrix_of_zeros_is_taken() -> None:
    matrix, _ = select_matrix(ad.AnnData(np.zeros((3, 2))))
    assert (matrix.shape, matrix.nnz) == ((3, 2), 0)


def test_stored_zeros_and_doubled_entries_are_tidied_and_the_input_left_alone() -> None:
    stored = np.array([1, 0, 3, 4], np.float32)
    untidy = sp.csr_matrix((stored, np.array([2, 1, 2, 0]), np.array([0, 3, 4])), shape=(2, 3))
    adata = ad.AnnData(untidy)
    matrix, _ = select_matrix(adata)
    assert (matrix.indices.tolist(), matrix.data.tolist()) == ([2, 0], [4, 4])
    assert adata.X.data.tolist() == [1, 0, 3, 4]
    assert adata.X.indices.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0, 1], [900, 2]], "counts"),
        ([[0, 0], [0, 0]], "counts"),
        ([[0, 0.7], [50, 2]], "log"),
        ([[0.5, 1], [1, 2]], "log"),
    ],
)
def test_counts_and_logged_values_are_recognised_and_announced(
    values: list[list[float]], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    assert recognize(csr(values)) == kind
    assert {"counts": "raw counts", "log": "already normalised and logged"}[kind] in caplog.text
    assert "`input_kind`" in caplog.text


def test_linear_values_are_recognised_with_a_warning() -> None:
    with pytest.warns(InputWarning, match=r"largest 50\.5.*log1p"):
        assert recognize(csr([[0, 0.7], [50.5, 2]])) == "linear"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whole_numbers_kept_as_floats_are_counts_with_a_warning(dtype: type) -> None:
    adata = ad.AnnData(COUNTS.astype(dtype))
    with pytest.warns(InputWarning, match=f"stored as {np.dtype(dtype)} .*whole numbers: they were taken for counts"):
        assert recognize(select_matrix(adata)[0], stored_as=stored_dtype(adata)) == "counts"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_whole_numbers_kept_as_such_are_counts_in_silence(dtype: type) -> None:
    adata = ad.AnnData(sp.csr_matrix(COUNTS.astype(dtype)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recognize(select_matrix(adata)[0], stored_as=stored_dtype(adata)) == "counts"


def test_logged_values_are_taken_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recognize(csr([[0, 0.7], [1.5, 2]]), stored_as=np.dtype(np.float32)) == "log"


def test_the_stored_type_is_that_of_the_matrix_chosen(adata: ad.AnnData) -> None:
    assert stored_dtype(adata) == COUNTS.dtype
    assert stored_dtype(adata, "raw") == np.float64
    with pytest.raises(InputError, match="there is no 'counts'"):
        stored_dtype(adata, "counts")


@pytest.mark.parametrize("kind", ["counts", "linear", "log"])
def test_what_the_user_knows_is_not_questioned(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    assert recognize(csr([[0, 0.7], [50.5, 2]]), kind) == kind  # type: ignore[arg-type]
    assert "as `input_kind` says" in caplog.text
