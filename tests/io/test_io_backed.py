"""X left in its file: read, gone through, written back without coming into memory."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from io_samples import COUNTS
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError


@pytest.fixture
def path(tmp_path: Path, adata: anndata.AnnData) -> Path:
    io.write(adata, tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_only_x_stays_in_the_file(path: Path) -> None:
    adata = io.read(path, backed=True)
    assert adata.isbacked
    assert list(adata.obs["cell_type"]) == ["T", "B", "B", "T"]
    assert sparse.issparse(adata.layers["double"])
    assert not io.read(path).isbacked


@pytest.mark.parametrize("matrix", [sparse.csc_matrix(COUNTS), COUNTS])
def test_what_has_no_rows_in_the_file_comes_into_memory(tmp_path: Path, matrix: object) -> None:
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    assert not io.read(tmp_path / "a.h5ad", backed=True).isbacked


def test_a_zarr_store_comes_into_memory(path: Path, tmp_path: Path) -> None:
    io.write(io.read(path), tmp_path / "cells.zarr")
    adata = io.read(tmp_path / "cells.zarr", backed=True)
    assert not adata.isbacked
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_what_was_added_is_written_beside_what_was_there(path: Path, tmp_path: Path, suffix: str) -> None:
    before = io.read(path)
    adata = io.read(path, backed=True)
    adata.obs["cluster"] = ["0", "1", "1", "0"]
    adata.obsm["Z"] = np.ones((4, 2), np.float32)
    adata.obsp["distances"] = sparse.identity(4, format="csr")
    adata.uns["facts"] = {"seed": 3}
    io.write(adata, tmp_path / f"out{suffix}")
    after = io.read(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(after.X.toarray(), COUNTS)
    np.testing.assert_array_equal(np.asarray(after.raw.X), np.asarray(before.raw.X))
    assert list(after.raw.var_names) == list(before.raw.var_names)
    assert set(after.layers) == {"double", "dense"}
    assert list(after.obs["cluster"]) == ["0", "1", "1", "0"]
    assert after.obs["cluster"].dtype == "category"
    assert after.uns["facts"]["seed"] == 3
    assert (list(after.obsm), list(after.obsp)) == (["Z"], ["distances"])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_view_is_written_with_the_rows_and_columns_that_it_has(path: Path, tmp_path: Path, suffix: str) -> None:
    adata = io.read(path, backed=True)
    adata.obs["donor"] = ["a", "b", "a", "b"]
    io.write(adata[[1, 3], [0, 2]], tmp_path / f"out{suffix}")
    after, whole = io.read(tmp_path / f"out{suffix}"), io.read(path)
    np.testing.assert_array_equal(after.X.toarray(), COUNTS[np.ix_([1, 3], [0, 2])])
    assert list(after.obs_names) == list(whole.obs_names[[1, 3]])
    assert list(after.var_names) == list(whole.var_names[[0, 2]])
    np.testing.assert_array_equal(np.asarray(after.raw.X), np.asarray(whole.raw.X)[[1, 3]])


def test_a_file_that_was_closed_is_opened_again(path: Path, tmp_path: Path) -> None:
    adata = io.read(path, backed=True)
    adata.file.close()
    io.write(adata, tmp_path / "out.h5ad")
    after = io.read(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(after.X.toarray(), COUNTS)
    np.testing.assert_array_equal(np.asarray(after.raw.X), np.asarray(io.read(path).raw.X))


def test_raw_that_was_taken_out_stays_out(path: Path, tmp_path: Path) -> None:
    adata = io.read(path, backed=True)
    del adata.raw
    io.write(adata, tmp_path / "out.h5ad")
    assert io.read(tmp_path / "out.h5ad").raw is None


def test_without_raw_none_is_written(path: Path, tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.raw = None
    io.write(adata, path)
    io.write(io.read(path, backed=True), tmp_path / "out.h5ad")
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert "raw" not in file


def test_chunks_are_copied_as_they_are_compressed(tmp_path: Path) -> None:
    anndata.AnnData(sparse.csr_matrix(np.eye(500))).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    io.write(io.read(tmp_path / "a.h5ad", backed=True), tmp_path / "b.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as a, h5py.File(tmp_path / "b.h5ad") as b:
        assert b["X/data"].compression == "gzip"
        assert b["X/data"].id.get_storage_size() == a["X/data"].id.get_storage_size()


def test_names_that_repeat_are_told_and_mended(path: Path, adata: anndata.AnnData) -> None:
    adata.obs_names = ["a", "a", "b", "c"]
    adata.write_h5ad(path)
    with pytest.warns(UserWarning, match="1 of 4 cell names"):
        assert io.read(path, backed=True).obs_names.is_unique


def test_damage_in_the_frame_is_told_at_once(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["X/indptr"][1] = 10**6
    with pytest.raises(InputError, match="damaged"):
        io.read(path, backed=True)


def test_damage_in_the_middle_is_told_with_the_cells(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 99
    adata = io.read(path, backed=True)
    with pytest.raises(InputError, match=r"cells 0 to 1, index 99"):
        list(io.iter_blocks(adata, 2))
