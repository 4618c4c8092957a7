"""Rows of matrices that are stored by columns: copies of them, and what is read without one."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest
from atlas_samples import STORES, gathered, random_atlas, store
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _transpose


def test_transposing_is_bounded_and_leaves_nothing(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sparse.random(10_000, 200, 0.5, format="csr", random_state=0, dtype=np.float32)
    whole = values.data.nbytes + values.indices.nbytes
    path = store(anndata.AnnData(values.tocsc()), tmp_path / "a", "h5ad gzip")
    monkeypatch.setattr(_transpose, "_N_HELD", 2**14)
    monkeypatch.setattr(_transpose, "_PER_ROOT", 1)
    atlas = io.open_atlas([path], scratch=scratch)
    tracemalloc.start()
    matrix = atlas.matrix()
    predicted = matrix.copies
    matrix.read(0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < min(2**14 * 70 + 10_000 * 8 * 3, whole / 5)
    assert peak < predicted.memory + 10_000 * 8 * 2
    assert matrix is atlas.matrix()
    (copy,) = scratch.rglob("*.h5")
    assert copy.stat().st_size == pytest.approx(predicted.kept, rel=0.01)
    assert predicted.making == 12 * values.nnz
    assert matrix.copies == (0, 0, 0)
    got = gathered(matrix, 4096)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(got, part), getattr(values, part))
    del atlas
    gc.collect()
    np.testing.assert_array_equal(matrix.read(0, 5).toarray(), values[:5].toarray())  # kept as long as it is used


def test_transposing_keeps_zeros_and_doubled_values(tmp_path: Path, scratch: Path) -> None:
    stored = sparse.csc_matrix((np.array([5, 0, 7, 8], np.int8), [2, 0, 2, 2], [0, 2, 2, 4]), shape=(3, 3))
    truth = stored.tocsr()
    got = io.open_atlas([store(anndata.AnnData(stored), tmp_path / "a")], scratch=scratch).matrix().read(0, 3)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(got, part), getattr(truth, part))


def test_a_copy_is_made_when_rows_are_first_read_and_not_for_a_sample(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transpose, "_N_HELD", 500)  # pieces end within genes
    monkeypatch.setattr(_transpose, "_PER_ROOT", 0)
    adatas = [random_atlas(i, (300, 40), kind, prefix=f"{i}-") for i, kind in enumerate(["csc", "csr", "csc"])]
    for adata in adatas:
        adata.var_names = [f"g{i}" for i in range(40)]
    paths = [store(adata, tmp_path / f"{i}", kind) for i, (adata, kind) in enumerate(zip(adatas, STORES, strict=False))]
    truth = sparse.vstack([adata.X.tocsr() for adata in adatas], format="csr")
    matrix = io.open_atlas(paths, scratch=scratch).matrix()
    assert (matrix.shape, matrix.nnz, matrix.dtype) == (truth.shape, truth.nnz, truth.dtype)
    assert matrix.value_size() == 1
    starts = [0, 50, 290, 590, 800]  # two stretches go from one file into the next
    sample = matrix.sample(starts, 30)
    rows = (np.array(starts)[:, None] + np.arange(30)).ravel()
    np.testing.assert_array_equal(sample.toarray(), truth[rows].toarray())
    assert list(scratch.iterdir()) == []
    np.testing.assert_array_equal(matrix.read(0, 900).toarray(), truth.toarray())
    assert len(list(scratch.rglob("*.h5"))) == 2
    np.testing.assert_array_equal(matrix.sample(starts, 30).toarray(), sample.toarray())
    with pytest.raises(InputError, match="`starts` and `length` must stay within 0 to 900"):
        matrix.sample([880], 30)


def test_writes_of_a_transposition_grow_with_the_values_and_not_with_their_square(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transpose, "_N_HELD", 128)
    monkeypatch.setattr(_transpose, "_PER_ROOT", 4)
    whole, n_writes = _transpose._distribute, []

    def counted(*given: Any) -> None:
        *others, ranges = given
        file = SimpleNamespace(seek=ranges.seek, write=lambda part: n_writes.append(len(part)) or ranges.write(part))
        whole(*others, file)

    monkeypatch.setattr(_transpose, "_distribute", counted)
    per_value = []
    for n_vars in (100, 400, 1600):
        values = sparse.random(200, n_vars, 0.3, format="csc", random_state=0, dtype=np.float32)
        matrix = io.open_atlas([store(anndata.AnnData(values), tmp_path / f"{n_vars}")], scratch=scratch).matrix()
        n_writes.clear()
        assert (matrix.read(0, 200) != values.tocsr()).nnz == 0
        per_value.append(len(n_writes) / values.nnz)
    assert per_value[2] == pytest.approx(per_value[0], rel=0.3)


def test_ranges_of_rows_fit_or_are_one_row() -> None:
    assert list(_transpose._bounds(np.array([0, 5, 5, 6, 20, 21, 27, 27]), 6)) == [0, 3, 4, 5, 7]


def test_close_removes_what_was_transposed(tmp_path: Path, scratch: Path) -> None:
    atlas = io.open_atlas([store(random_atlas(0, (9, 5), "csc"), tmp_path / "a")], scratch=str(scratch))
    matrix = atlas.matrix()
    assert matrix.read(0, 2).shape == (2, 5)
    atlas.close()
    assert list(scratch.iterdir()) == []
    with pytest.raises(InputError, match="cannot be opened"):
        matrix.read(0, 2)
