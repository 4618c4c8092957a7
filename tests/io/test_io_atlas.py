"""`open_atlas`: the files' cells under one another, from whatever they are stored as, in bounded memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from atlas_samples import KINDS, STORES, gathered, pair, random_atlas, store
from io_samples import COUNTS, GENES, tree
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputWarning


@pytest.fixture
def adata_path(tmp_path: Path, adata: anndata.AnnData) -> Path:
    return store(adata, tmp_path / "cells")


# One file


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("layout", KINDS)
def test_one_file_is_what_it_is_in_memory(tmp_path: Path, layout: str, kind: str) -> None:
    adata = random_atlas(0, (13, 7), layout)
    adata.layers["minus"] = -adata.X
    adata.raw = random_atlas(1, (13, 11), layout)
    path = store(adata, tmp_path / "a", kind)
    before = tree(path.parent)
    atlas = io.open_atlas([path])
    for layer, truth, names in (
        (None, adata.X, adata.var_names),
        ("minus", -adata.X, adata.var_names),
        ("raw", adata.raw.X, adata.raw.var_names),
    ):
        matrix = atlas.matrix(layer)
        truth = sparse.csr_matrix(truth)
        assert matrix.shape == truth.shape
        assert matrix.dtype == truth.dtype
        assert matrix.nnz == (truth.nnz if layout != "dense" else np.prod(truth.shape))
        assert list(matrix.names) == list(names)
        assert matrix.parts == ((path, 0),)
        np.testing.assert_array_equal(gathered(matrix, 5).toarray(), truth.toarray())
        np.testing.assert_array_equal(matrix.read(3, 9).toarray(), truth[3:9].toarray())
    assert [atlas.matrix(layer).where for layer in (None, "minus", "raw")] == ["X", "layers['minus']", "raw.X"]
    assert atlas.matrix().choices == "None (X), 'minus', 'raw'"
    assert tree(path.parent) == before


@pytest.mark.parametrize("kind", STORES)
def test_everything_but_the_matrices_is_in_adata(tmp_path: Path, adata: anndata.AnnData, kind: str) -> None:
    adata.uns["facts"] = {"seed": 3}
    adata.obsm["Z"] = np.eye(4, 2)
    adata.varm["W"] = np.eye(5, 2)
    adata.obsp["near"] = sparse.identity(4, format="csr")
    adata.obs["file"] = ["a", "a", "b", "b"]  # of a single file just a column
    atlas = io.open_atlas([store(adata, tmp_path / "a", kind)])
    got = atlas.adata
    assert (atlas.shape, atlas.n_obs, atlas.n_vars) == ((4, 5), 4, 5)
    assert got.X is None
    assert got.raw is None
    assert not got.isbacked
    assert list(got.layers) == []
    pd.testing.assert_frame_equal(got.obs, adata.obs, check_categorical=False)
    pd.testing.assert_frame_equal(got.var, adata.var)
    assert got.uns["facts"]["seed"] == 3
    for field, name in (("obsm", "Z"), ("varm", "W")):
        np.testing.assert_array_equal(getattr(got, field)[name], getattr(adata, field)[name])
    np.testing.assert_array_equal(got.obsp["near"].toarray(), np.eye(4))


def test_10x_has_x_and_no_place_for_results(tenx_hdf5: Callable[..., Path], tenx_mtx: Callable[..., Path]) -> None:
    for path in (tenx_hdf5(), tenx_mtx()):
        with pytest.warns(InputWarning, match="1 of 5 features are not Gene Expression"):
            atlas = io.open_atlas([path])
        assert not atlas.is_one_file
        matrix = atlas.matrix()
        assert (matrix.where, matrix.choices, matrix.parts) == ("X", "None (X)", ((path, 0),))
        for taken in (matrix, pickle.loads(pickle.dumps(matrix))):
            np.testing.assert_array_equal(gathered(taken, 3).toarray(), COUNTS[:, :4])
            np.testing.assert_array_equal(taken.read(1, 4).toarray(), COUNTS[1:, :4])


def test_old_files(adata_path: Path) -> None:
    """AnnData before 0.7 had tables for obs and var, other attributes, and raw at the top."""
    with h5py.File(adata_path, "a") as file:
        shape = file["X"].attrs["shape"]
        file.attrs.clear()
        file["X"].attrs.clear()
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", shape
        file.move("raw/X", "raw.X")
        for name, cells in (("obs", ["a", "b", "c", "d"]), ("var", list("vwxyz")), ("raw.var", list("tuvwxyz"))):
            if name in file:
                del file[name]
            file[name] = np.array(
                [(cell.encode(), i) for i, cell in enumerate(cells)], dtype=[("index", "S1"), ("n", "i4")]
            )
        for name in ("raw", "layers"):
            del file[name]
    with pytest.warns(anndata.OldFormatWarning):
        atlas = io.open_atlas([adata_path])
    assert list(atlas.adata.obs_names) == ["a", "b", "c", "d"]
    assert list(atlas.adata.var["n"]) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(atlas.matrix().read(0, 4).toarray(), COUNTS)
    assert list(atlas.matrix("raw").names) == list("tuvwxyz")
    np.testing.assert_array_equal(atlas.matrix("raw").read(0, 4).toarray()[:, :5], -COUNTS)


def test_a_layer_called_raw_goes_first(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.layers["raw"] = 7 * adata.X
    matrix = io.open_atlas([store(adata, tmp_path / "a")]).matrix("raw")
    assert matrix.where == "layers['raw']"
    np.testing.assert_array_equal(matrix.read(0, 4).toarray(), 7 * COUNTS)


def test_n_bytes_are_those_on_the_disk(tmp_path: Path) -> None:
    adata = random_atlas(0, (400, 50))
    sizes = {}
    for kind in STORES:
        path = store(adata, tmp_path / kind, kind)
        matrix = io.open_atlas([path]).matrix()
        sizes[kind] = matrix.n_bytes
        if path.is_dir():
            on_disk = sum(f.stat().st_size for f in (path / "X").rglob("*") if f.is_file())
            assert 0 <= on_disk - matrix.n_bytes < 1000  # but for the group's own metadata
    assert sizes["h5ad"] == sum(getattr(adata.X, part).nbytes for part in ("data", "indices", "indptr"))
    with h5py.File(tmp_path / "h5ad gzip.h5ad") as file:
        assert sizes["h5ad gzip"] == sum(file["X"][p].id.get_storage_size() for p in file["X"]) < sizes["h5ad"]


def test_float16_comes_as_float32(tmp_path: Path) -> None:
    values = np.array([[0, 0.1], [3, 0]], dtype=np.float16)
    for layout in ("dense", "csc"):
        adata = anndata.AnnData(values if layout == "dense" else sparse.csc_matrix(values.astype(np.float32)))
        path = store(adata, tmp_path / layout)
        if layout == "csc":  # as other languages may write it
            with h5py.File(path, "a") as file:
                stored = file["X/data"][:].astype(np.float16)
                del file["X/data"]
                file["X/data"] = stored
        got = io.open_atlas([path]).matrix().read(0, 2)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.toarray(), values)


def test_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """Of 2.25 thousand million values only those of the last cells are there: chunks never written take no room."""
    n_obs, n_vars, per_cell = 45_000, 60_000, 50_000
    path = tmp_path / "a.h5ad"
    frame = anndata.AnnData(obs=pd.DataFrame(index=np.arange(n_obs).astype(str)))
    frame.write_h5ad(path)
    border = 2**31 // per_cell  # the cell in which the offset passes 2³¹
    rng = np.random.default_rng(0)
    cells = {cell: np.sort(rng.permutation(n_vars)[:per_cell]) for cell in (border, border + 1, n_obs - 1)}
    with h5py.File(path, "a") as file:
        del file["var"]
        anndata.io.write_elem(file, "var", pd.DataFrame(index=np.arange(n_vars).astype(str)))
        if "X" in file:
            del file["X"]
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", (n_obs, n_vars)
        group["indptr"] = per_cell * np.arange(n_obs + 1)
        for name, dtype in (("data", "f4"), ("indices", "i4")):
            stored = group.create_dataset(name, (n_obs * per_cell,), dtype, chunks=(per_cell,), fillvalue=1)
            for cell, indices in cells.items():
                stored[cell * per_cell : (cell + 1) * per_cell] = indices % 50 if name == "data" else indices
    assert path.stat().st_size < 20e6
    matrix = io.open_atlas([path]).matrix()
    assert matrix.nnz == n_obs * per_cell > 2**31
    for cell, indices in cells.items():
        got = matrix.read(cell, cell + 1)
        np.testing.assert_array_equal(got.indptr, [0, per_cell])
        np.testing.assert_array_equal(got.indices, indices)
        np.testing.assert_array_equal(got.data, indices % 50)
    assert matrix.read(border, border + 2).nnz == 2 * per_cell


# Several files


def test_repeated_names_within_a_file_are_made_unique(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    with h5py.File(paths[1], "a") as file:
        file["obs/_index"][3] = "b0"
        file["var/_index"][:] = list("zxxwvw")
    with pytest.warns(InputWarning) as caught:
        atlas = io.open_atlas(paths)
    assert [str(w.message).split(" (")[0] for w in caught] == [
        f"{paths[1]}: 1 of 4 cell names repeat an earlier one",
        f"{paths[1]}: 2 of 6 gene names repeat an earlier one",
    ]
    assert {w.filename for w in caught} == {__file__}
    assert list(atlas.adata.obs_names) == ["a0", "a1", "a2", "b0", "b1", "b2", "b0-1"]
    assert list(atlas.adata.var_names) == ["v", "w", "x"]
    truth = anndata.read_h5ad(tmp_path / "a.h5ad")[:, list("vwx")].X.toarray()
    np.testing.assert_array_equal(atlas.matrix().read(0, 3).toarray(), truth)


def test_a_folder_stands_for_what_is_in_it(tmp_path: Path, tenx_mtx: Callable[..., Path]) -> None:
    tenx_mtx(types=["Gene Expression"] * 5)
    for name, kind in (("b", "h5ad"), ("a", "zarr 3"), (".hidden", "h5ad")):
        adata = random_atlas(ord(name[-1]), (2, 5), prefix=name)
        adata.var_names = GENES
        store(adata, tmp_path / name, kind)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "scratch.mtx").unlink()
    atlas = io.open_atlas(tmp_path)
    assert [file.name for file in atlas.files] == ["a.zarr", "b.h5ad", "tenx_v3_False"]
    assert list(atlas.adata.obs["file"].cat.categories) == ["a", "b", "tenx_v3_False"]
    assert [start for _, start in atlas.matrix().parts] == [0, 2, 4]
    np.testing.assert_array_equal(atlas.matrix().read(4, 8).toarray(), COUNTS)


# Elsewhere, at once, and within bounds


@pytest.mark.parametrize("layout", KINDS)
def test_a_pickled_matrix_opens_its_files_again(tmp_path: Path, layout: str) -> None:
    adata = random_atlas(0, (2000, 7), layout)
    atlas = io.open_atlas([store(adata, tmp_path / "a")])
    packed = pickle.dumps(atlas.matrix())
    assert len(packed) < 8 * 2000  # without the row offsets
    got = pickle.loads(packed)
    np.testing.assert_array_equal(got.read(90, 700).toarray(), sparse.csr_matrix(adata.X)[90:700].toarray())
    np.testing.assert_array_equal(gathered(got, 600).toarray(), sparse.csr_matrix(adata.X).toarray())


def test_rows_may_be_read_by_several_threads(tmp_path: Path) -> None:
    adatas = [random_atlas(0, (500, 7), layout, prefix=layout) for layout in ("csr", "csc")]
    paths = [
        store(adata, tmp_path / f"{i}", kind) for i, (adata, kind) in enumerate(zip(adatas, STORES[1:3], strict=True))
    ]
    matrix = io.open_atlas(paths).matrix()
    truth = np.vstack([adata.X.toarray() for adata in adatas])
    starts = list(range(0, 990, 9)) * 2
    with ThreadPoolExecutor(4) as pool:
        for start, got in zip(starts, pool.map(lambda start: matrix.read(start, start + 10), starts), strict=True):
            np.testing.assert_array_equal(got.toarray(), truth[start : start + 10])


def test_files_are_closed_at_the_end_and_on_leaving_early(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    matrix = io.open_atlas(paths).matrix()
    matrix.read(1, 5)
    assert len(list(matrix.blocks(2))) == 4
    for _ in matrix.blocks(1):
        break
    for path in paths:
        with h5py.File(path, "a") as file:  # refused while it is open to read
            assert "X" in file
