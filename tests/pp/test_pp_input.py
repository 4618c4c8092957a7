"""Which matrix is taken, and what its values are taken for."""

from __future__ import annotations

import logging
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sccagn_scale import pp
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.io import StoredMatrix, open_atlas
from sccagn_scale.pp import _input, recognize, scan, select_matrix

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


def held(adata: ad.AnnData, layer: str | None = None) -> sp.csr_matrix:
    """The whole matrix, from its blocks."""
    starts, blocks = zip(*select_matrix(adata, layer).each(lambda start, block: (start, block)), strict=True)
    assert list(starts) == np.cumsum([0, *(block.shape[0] for block in blocks)])[:-1].tolist()
    return sp.vstack(blocks, format="csr")


def seen(values: Any) -> pp.Scan:
    return scan(select_matrix(ad.AnnData(csr(values))))


def choice(adata: ad.AnnData, layer: str | None = None) -> tuple[np.ndarray, list[str]]:
    return held(adata, layer).toarray(), list(select_matrix(adata, layer).names)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64]
)
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array])
def test_every_layout_and_type_gives_the_same_csr(dtype: type, layout: Callable[[np.ndarray], Any]) -> None:
    values = COUNTS.astype(dtype)
    adata = ad.AnnData(layout(values))
    matrix = held(adata)
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.nnz == 4
    assert matrix.has_sorted_indices
    np.testing.assert_array_equal(matrix.toarray(), values.astype(np.float32))
    assert list(select_matrix(adata).names) == ["0", "1", "2", "3"]


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
    with pytest.raises(InputError, match=r"choose one of none, as there is no matrix\."):
        select_matrix(ad.AnnData(shape=COUNTS.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_values_that_are_no_numbers_are_counted(bad: float, layout: Callable[[np.ndarray], Any]) -> None:
    values = COUNTS.astype(np.float64)
    values[:2, 0] = bad
    with pytest.raises(InputError, match="X holds 2 NaN or infinite values"):
        scan(select_matrix(ad.AnnData(layout(values))))


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_negative_values_point_at_the_layers(adata: ad.AnnData, layout: Callable[[np.ndarray], Any]) -> None:
    adata.layers["scaled"] = layout(COUNTS - 1.5 * (COUNTS > 0))
    with pytest.raises(InputError, match=r"layers\['scaled'\] .*lowest -0\.5.*`layer`.*'double', 'scaled', 'raw'"):
        scan(select_matrix(adata, "scaled"))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_an_empty_matrix_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"empty: X has {shape[0]} cells and {shape[1]} genes"):
        select_matrix(ad.AnnData(sp.csr_matrix(shape, dtype=np.float32)))


def test_a_matrix_of_zeros_is_taken() -> None:
    adata = ad.AnnData(np.zeros((3, 2)))
    assert (held(adata).shape, held(adata).nnz) == ((3, 2), 0)
    assert scan(select_matrix(adata)).constant.all()


def test_stored_zeros_and_doubled_entries_are_tidied_and_the_input_left_alone() -> None:
    stored = np.array([1, 0, 3, 4], np.float32)
    untidy = sp.csr_matrix((stored, np.array([2, 1, 2, 0]), np.array([0, 3, 4])), shape=(2, 3))
    adata = ad.AnnData(untidy)
    matrix = held(adata)
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
    assert recognize(seen(values)) == kind
    assert {"counts": "raw counts", "log": "already normalised and logged"}[kind] in caplog.text
    assert "`input_kind`" in caplog.text


def test_linear_values_are_recognised_with_a_warning() -> None:
    with pytest.warns(InputWarning, match=r"largest 50\.5.*log1p"):
        assert recognize(seen([[0, 0.7], [50.5, 2]])) == "linear"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_counts_in_silence(dtype: type) -> None:
    adata = ad.AnnData(COUNTS.astype(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recognize(scan(select_matrix(adata))) == "counts"


def test_logged_values_are_taken_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recognize(seen([[0, 0.7], [1.5, 2]])) == "log"


@pytest.mark.parametrize("kind", ["counts", "linear", "log"])
def test_what_the_user_knows_is_not_questioned(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    assert recognize(seen([[0, 0.7], [50.5, 2]]), kind) == kind  # type: ignore[arg-type]
    assert "as `input_kind` says" in caplog.text


VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.25, 1.0, 2.0, 300.0])
DENSE = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=VALUES)


in_small_blocks = pytest.mark.usefixtures("small_blocks", "threads")


@in_small_blocks
@given(DENSE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_scan_in_blocks_is_numpys(dense: np.ndarray) -> None:
    found = scan(select_matrix(ad.AnnData(sp.csr_matrix(dense))))
    assert found.n_detected.tolist() == (dense > 0).sum(axis=0).tolist()
    assert found.constant.tolist() == [len(set(column)) == 1 for column in dense.T.tolist()]
    assert found.is_whole == (dense == np.rint(dense)).all()
    assert found.highest == dense.max()


@in_small_blocks
@pytest.mark.parametrize(("bad", "message"), [(-1.0, r"negative values \(lowest -1\)"), (np.nan, "holds 1 NaN")])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_a_bad_value_is_found_in_any_block(bad: float, message: str, row: int) -> None:
    dense = np.ones((12, 3), np.float32)
    dense[row, 1] = bad
    with pytest.raises(InputError, match=message):
        scan(select_matrix(ad.AnnData(sp.csr_matrix(dense))))


@in_small_blocks
def test_blocks_may_be_changed_without_changing_the_input(adata: ad.AnnData) -> None:
    before = adata.X.toarray()
    for block in select_matrix(adata).each(lambda start, block: block):
        block.data[:] = 7
    np.testing.assert_array_equal(adata.X.toarray(), before)
    np.testing.assert_array_equal(held(adata).toarray(), COUNTS)


@in_small_blocks
@pytest.mark.parametrize("starts", [np.int32, np.int64])
def test_a_block_takes_a_blocks_memory_whatever_the_types_of_indices(starts: type) -> None:
    values = sp.random(4000, 500, 0.5, "csr", np.float32, random_state=0)
    values.indptr = values.indptr.astype(starts)  # anndata reads int32 columns and int64 row starts
    matrix = select_matrix(ad.AnnData(values))
    tracemalloc.start()
    total = sum(matrix.each(lambda start, block: block.nnz))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.nnz == total == 1_000_000
    assert peak < 2e6  # 8 million bytes as int64


@in_small_blocks
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("scale", [1, 200, 0.1])  # the last not whole, the second beyond 255
def test_a_file_is_read_once_and_kept_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, scale: float
) -> None:
    dense = (np.random.default_rng(0).poisson(0.5, (30, 300)) * scale).astype(dtype)
    ad.AnnData(sp.csr_matrix(dense)).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    n_reads = 0
    read = StoredMatrix.blocks

    def counting(self: StoredMatrix, block_size: int) -> Any:
        nonlocal n_reads
        n_reads += 1
        return read(self, block_size)

    monkeypatch.setattr(StoredMatrix, "blocks", counting)
    matrix = select_matrix(adata)
    for _ in range(3):
        np.testing.assert_array_equal(
            np.concatenate(list(matrix.each(lambda start, block: block.toarray()))), dense.astype("f4")
        )
    assert n_reads == 1


@in_small_blocks
def test_a_first_pass_that_was_broken_off_is_started_anew(tmp_path: Path) -> None:
    dense = np.arange(60, dtype=np.float32).reshape(12, 5)
    ad.AnnData(sp.csr_matrix(dense)).write_h5ad(tmp_path / "cells.h5ad")
    matrix = select_matrix(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    next(matrix.each(lambda start, block: block))
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(matrix.each(lambda start, block: block.toarray()))), dense)


def test_names_of_a_backed_anndata_are_its_own(tmp_path: Path) -> None:
    ad.AnnData(csr(np.eye(3))).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    adata.var_names = ["x", "y", "z"]
    assert select_matrix(adata).names.tolist() == ["x", "y", "z"]


def test_chunks_of_dask_may_be_sparse() -> None:
    da = pytest.importorskip("dask.array")
    dense = np.random.default_rng(0).poisson(1, (30, 8)).astype(np.float32)
    for matrix in (da.from_array(dense, chunks=(7, 8)), da.from_array(dense, chunks=(7, 8)).map_blocks(sp.csr_matrix)):
        np.testing.assert_array_equal(held(ad.AnnData(matrix)).toarray(), dense)


def test_a_matrix_by_columns_is_copied_in_the_first_pass_and_not_before() -> None:
    class Counted(sp.csc_matrix):
        copies = 0

        def tocsr(self, copy: bool = False) -> sp.csr_matrix:
            Counted.copies += 1
            return super().tocsr(copy)

    names = ad.AnnData(csr(np.eye(4))).var_names
    adata = SimpleNamespace(X=Counted(np.eye(4)), var_names=names, layers={}, raw=None, isbacked=False)
    matrix = select_matrix(adata)  # type: ignore[arg-type]
    assert (matrix.nnz, Counted.copies) == (4, 0)
    for _ in range(2):
        scan(matrix)
    assert Counted.copies == 1


@pytest.mark.parametrize("other", [np.zeros((5, 3)), np.full((5, 3), 0.5)])
def test_a_file_without_values_is_of_any_kind(tmp_path: Path, other: np.ndarray) -> None:
    for name, values in (("a", np.full((5, 3), 0.7)), ("b", other), ("c", np.zeros((5, 3)))):
        adata = ad.AnnData(csr(values))
        adata.obs_names = [f"{name}{i}" for i in range(5)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    found = scan(select_matrix(open_atlas([tmp_path / f"{name}.h5ad" for name in "abc"])), one_kind=True)
    assert recognize(found) == "log"


@in_small_blocks
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (np.nan, r"X of '.*b\.h5ad' holds 2 NaN or infinite values"),
        (-0.5, r"X of '.*b\.h5ad' holds negative values \(lowest -0\.5\)"),
        (0.7, r"one kind of values, but '.*a\.h5ad' holds counts and '.*b\.h5ad' logged values"),
    ],
)
def test_a_fault_is_told_at_the_end_of_its_file(
    tmp_path: Path, fault: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        values = np.ones((12, 3), np.float32)
        values[[2, 9], 1] = fault if name == "b" else 1
        adata = ad.AnnData(csr(values))
        adata.obs_names = [f"{name}{i}" for i in range(12)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    atlas, seen = open_atlas(tmp_path), []
    whole = _input._look
    monkeypatch.setattr(_input, "_look", lambda start, block: seen.append(start) or whole(start, block))
    with pytest.raises(InputError, match=message):
        scan(select_matrix(atlas, store=tmp_path / "store"), one_kind=True)
    assert max(seen) < 36  # nothing of the last file
    assert not (tmp_path / "store").exists()
