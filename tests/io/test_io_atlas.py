"""`open_atlas`: the files' cells under one another, from whatever they are stored as, in bounded memory."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from io_samples import COUNTS, GENES, tree
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.io import _transpose

KINDS = ["csr", "csc", "dense"]
STORES = ["h5ad", "h5ad gzip", "zarr 2", "zarr 3", "zarr 3 sharded"]


def store(adata: anndata.AnnData, path: Path, kind: str = "h5ad") -> Path:
    """Write in a format, with names as they are; the path with the format's extension."""
    layout, _, how = kind.partition(" ")
    path = path.with_name(f"{path.name}.{layout}")
    if layout == "h5ad":
        adata.write_h5ad(path, compression=how or None)
    else:
        version, sharded = int(how[0]), how.endswith("sharded")
        with (
            anndata.settings.override(zarr_write_format=version),
            anndata.settings.override(auto_shard_zarr_v3=sharded),  # on its own, as it is refused with format 2
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)  # AnnData's and zarr's, of what will be the default one day
            adata.write_zarr(path)
    return path


def random_atlas(
    seed: int, shape: tuple[int, int], kind: str = "csr", prefix: str = "c", dtype: str = "float32"
) -> anndata.AnnData:
    """A third of the values are not zero; genes are a random choice of twice as many, in random order."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(1, 100, shape) * (rng.random(shape) < 0.3)).astype(dtype)
    adata = anndata.AnnData(values if kind == "dense" else sparse.csr_matrix(values).asformat(kind))
    adata.obs_names = [f"{prefix}{i}" for i in range(shape[0])]
    adata.var_names = [f"g{i}" for i in rng.permutation(2 * shape[1])[: shape[1]]]
    return adata


def gathered(matrix: io.StoredMatrix, block_size: int) -> sparse.csr_matrix:
    """All blocks under one another, after a look at each."""
    starts = [first for _, first in matrix.parts] + [matrix.shape[0]]
    blocks, expected = [], 0
    for start, block in matrix.blocks(block_size):
        assert start == expected
        border = next(first for first in starts if first > start)
        assert block.shape == (min(block_size, border - start), matrix.shape[1])
        block.check_format(full_check=True)
        blocks.append(block)
        expected += block.shape[0]
    return sparse.vstack(blocks, format="csr")


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


def test_10x_is_held_in_memory(tenx_hdf5: Callable[..., Path], tenx_mtx: Callable[..., Path]) -> None:
    for path in (tenx_hdf5(), tenx_mtx()):
        with pytest.warns(InputWarning, match="1 of 5 features are not Gene Expression"):
            matrix = io.open_atlas([path]).matrix()
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


@st.composite
def several(draw: st.DrawFn) -> list[anndata.AnnData]:
    n_files = draw(st.integers(1, 3))
    adatas = []
    for i in range(n_files):
        shape = draw(st.integers(1, 9)), draw(st.integers(8, 10))
        layout, dtype = (
            draw(st.sampled_from(KINDS)),
            draw(st.sampled_from(["int8", "uint16", "int64", "float32", "bool"])),
        )
        adatas.append(random_atlas(draw(st.integers(0, 99)), shape, layout, f"f{i}-", dtype))
        adatas[-1].var_names = [f"g{g}" for g in np.random.default_rng(i).permutation(12)[: shape[1]]]
    return adatas


@settings(max_examples=15, deadline=None)
@given(
    adatas=several(),
    kinds=st.lists(st.sampled_from(STORES), min_size=3, max_size=3),
    block_size=st.integers(1, 12),
    held=st.sampled_from([1, 3, 2**21]),
    data=st.data(),
)
def test_several_files_are_their_concatenation(
    adatas: list[anndata.AnnData], kinds: list[str], block_size: int, held: int, data: st.DataObject
) -> None:
    truth = anndata.concat([adata.copy() for adata in adatas], join="inner")
    names = [gene for gene in adatas[0].var_names if all(gene in adata.var_names for adata in adatas)]
    expected = sparse.csr_matrix(truth[:, names].X)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_transpose, "_N_HELD", held)
        paths = [store(a, Path(folder) / f"{i}", kinds[i]) for i, a in enumerate(adatas)]
        atlas = io.open_atlas(paths)
        matrix = atlas.matrix()
        got = gathered(matrix, block_size)
        start = data.draw(st.integers(0, matrix.shape[0]))
        stop = data.draw(st.integers(start, matrix.shape[0]))
        piece = matrix.read(start, stop)
    assert list(atlas.adata.obs_names) == list(truth.obs_names)
    assert list(atlas.adata.var_names) == list(matrix.names) == names
    assert matrix.dtype == got.dtype == piece.dtype == np.result_type(*(adata.X.dtype for adata in adatas))
    np.testing.assert_array_equal(got.toarray(), expected.toarray())
    np.testing.assert_array_equal(piece.toarray(), expected[start:stop].toarray())
    assert got.has_sorted_indices


def pair(tmp_path: Path, change: Callable[[anndata.AnnData, anndata.AnnData], None] = lambda a, b: None) -> list[Path]:
    """Two files that share 4 of 5 and 6 genes."""
    a, b = random_atlas(0, (3, 5), prefix="a"), random_atlas(1, (4, 6), prefix="b")
    a.var_names, b.var_names = list("tuvwx"), list("zxwvuy")
    change(a, b)
    return [store(a, tmp_path / "a"), store(b, tmp_path / "b")]


def test_columns_of_obs_are_all_kept_and_the_file_is_told(tmp_path: Path) -> None:
    def annotate(a: anndata.AnnData, b: anndata.AnnData) -> None:
        a.obs["type"], b.obs["type"] = pd.Categorical(["T", "B", "T"]), pd.Categorical(["NK"] * 4)
        a.obs["n"], b.obs["age"] = [1, 2, 3], [0.5, 1.5, 2.5, 3.5]
        a.var["id"], b.var["id"] = [f"id-{g}" for g in a.var_names], [f"id-{g}" for g in b.var_names]
        a.var["mean"], b.var["mean"] = 1.0, 2.0

    atlas = io.open_atlas(pair(tmp_path, annotate))
    obs = atlas.adata.obs
    assert list(obs["type"]) == ["T", "B", "T", *["NK"] * 4]
    assert obs["type"].dtype == "category"
    assert obs["n"].dtype == "Int64"
    np.testing.assert_array_equal(obs["n"].to_numpy(float, na_value=np.nan), [1, 2, 3, *[np.nan] * 4])
    np.testing.assert_array_equal(obs["age"].to_numpy(), [*[np.nan] * 3, 0.5, 1.5, 2.5, 3.5])
    assert list(obs["file"]) == ["a"] * 3 + ["b"] * 4
    assert list(obs["file"].cat.categories) == ["a", "b"]
    assert list(atlas.adata.var.columns) == ["id"]  # the mean is not the same
    assert list(atlas.adata.var["id"]) == ["id-u", "id-v", "id-w", "id-x"]


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (np.array([2**53 + 1, -1, 0]), None, "Int64"),
        (np.array([2**64 - 1, 0, 1], np.uint64), None, "UInt64"),
        (np.array([1, 2, 3], np.int8), None, "Int64"),
        (None, np.array([2**53 + 1, 1, 2, 3]), "Int64"),
        (np.array([2**63, 0, 1], np.uint64), np.array([0, 1, 2, 2**53 + 1]), "uint64"),
        (np.array([2**53 + 1, 0, 1], np.uint64), np.array([-1, 1, 2, 3]), "int64"),
        (pd.array([2**53 + 1, None, 1], "UInt64"), np.array([-1, 1, 2, 3]), "Int64"),
        (np.array([1, 2, 3], np.int32), np.array([2**53 + 1, 1, 2, 3]), "int64"),
        (np.array([1, 2, 2**53]), np.array([0.5, 1, 2, 3]), "float64"),
        (np.array([2**64 - 1, 0, 1], np.uint64), np.array([-1, 1, 2, 3]), "category"),
        (np.array([2**53 + 1, 0, 1]), np.array([np.nan, 0.5, 2, 3]), "category"),
    ],
)
def test_whole_numbers_are_not_rounded(tmp_path: Path, first: Any, second: Any, dtype: str) -> None:
    def annotate(a: anndata.AnnData, b: anndata.AnnData) -> None:
        for adata, values in ((a, first), (b, second)):
            if values is not None:
                adata.obs["n"] = values

    paths, is_text = pair(tmp_path, annotate), dtype == "category"
    with (
        pytest.warns(InputWarning, match="Column 'n' of `obs` holds values of several types")
        if is_text
        else contextlib.nullcontext()
    ):
        atlas = io.open_atlas(paths)
    expected = [None] * 3 if first is None else list(first)
    expected += [None] * 4 if second is None else list(second)
    io.write(atlas.adata, tmp_path / "out.h5ad")
    for obs in (atlas.obs, io.read(tmp_path / "out.h5ad").obs):
        assert obs["n"].dtype == dtype
        for value, wanted in zip(obs["n"], expected, strict=True):
            if pd.isna(wanted):
                assert pd.isna(value)
            elif is_text:
                assert type(wanted)(value) == wanted
            else:
                assert value == wanted
                assert dtype == "float64" or int(value) == int(wanted)


def test_the_name_of_an_index_that_is_also_a_column_does_not_keep_the_rest_from_being_written(tmp_path: Path) -> None:
    def annotate(a: anndata.AnnData, b: anndata.AnnData) -> None:
        for adata in (a, b):
            adata.obs.index.name, adata.var.index.name = "barcode", "gene"
        a.obs["barcode"] = a.obs_names

    atlas = io.open_atlas(pair(tmp_path, annotate))
    io.write(atlas.adata, tmp_path / "out.h5ad")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(written.obs["barcode"][:3]) == ["a0", "a1", "a2"]
    assert list(written.obs_names) == ["a0", "a1", "a2", "b0", "b1", "b2", "b3"]
    assert written.var.index.name == "gene"

    def name(a: anndata.AnnData, b: anndata.AnnData) -> None:
        a.obs.index.name = b.obs.index.name = "file"

    atlas = io.open_atlas(pair(tmp_path, name))
    io.write(atlas.adata, tmp_path / "out.h5ad")
    assert list(anndata.read_h5ad(tmp_path / "out.h5ad").obs["file"]) == ["a"] * 3 + ["b"] * 4


def test_what_is_not_joined_is_not_held(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        adata = random_atlas(0, (20_000, 3), prefix=name)
        for i in range(10):
            adata.obs[f"{i}"] = float(i)
        adata.obsm["X_pca"], adata.uns["old"] = np.zeros((20_000, 50)), np.zeros(10**6)
        adata.obsp["distances"] = sparse.identity(20_000, format="csr")
        paths.append(store(adata, tmp_path / name))
    tracemalloc.start()
    atlas = io.open_atlas(paths)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (list(atlas.adata.obsm), list(atlas.adata.obsp), list(atlas.adata.uns)) == ([], [], [])
    assert held < 1.3 * atlas.obs.memory_usage(deep=True).sum()
    assert list(io.open_atlas(paths[0]).adata.obsm) == ["X_pca"]


def test_genes_left_out_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sccagn_scale"):
        io.open_atlas(pair(tmp_path)).matrix()
    assert caplog.messages == ["4 genes are in all files; left out: 1 of 5 in a.h5ad, 2 of 6 in b.h5ad."]
    caplog.clear()
    with caplog.at_level(logging.INFO, "sccagn_scale"):
        io.open_atlas([tmp_path / "a.h5ad"]).matrix()
    assert caplog.messages == []


def test_layers_and_raw_have_genes_of_their_own(tmp_path: Path) -> None:
    def add(a: anndata.AnnData, b: anndata.AnnData) -> None:
        a.layers["minus"], b.layers["minus"] = -a.X, sparse.csc_matrix(-b.X)
        a.layers["only here"] = a.X
        for adata, genes in ((a, "vxqr"), (b, "rvx")):
            adata.raw = random_atlas(adata.n_obs, (adata.n_obs, len(genes)))
            adata.raw.var.index = list(genes)

    paths = pair(tmp_path, add)
    a, b = (anndata.read_h5ad(path) for path in paths)
    atlas = io.open_atlas(paths)
    assert atlas.matrix("minus").choices == "None (X), 'minus', 'raw'"
    for layer, genes in (("minus", list("uvwx")), ("raw", list("vxr"))):
        matrix = atlas.matrix(layer)
        take = [adata.layers["minus"] if layer == "minus" else adata.raw.X for adata in (a, b)]
        names = [adata.var_names if layer == "minus" else adata.raw.var_names for adata in (a, b)]
        truth = np.vstack([t.toarray()[:, n.get_indexer(genes)] for t, n in zip(take, names, strict=True)])
        assert list(matrix.names) == genes
        np.testing.assert_array_equal(gathered(matrix, 2).toarray(), truth)
    with pytest.raises(
        InputError, match=r"`layer` must be one of .*'minus', 'raw'; there is no 'only here' in .*b\.h5ad'\."
    ):
        atlas.matrix("only here")


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


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for sample in ("s1", "s2"):
        (tmp_path / sample / "deep").mkdir(parents=True)
        adata = random_atlas(0, (2, 5), prefix=sample)
        paths.append(store(adata, tmp_path / sample / "deep" / "cells"))
    atlas = io.open_atlas(paths)
    assert list(atlas.adata.obs["file"].cat.categories) == ["s1/deep/cells.h5ad", "s2/deep/cells.h5ad"]


def test_files_whose_names_are_no_utf8(tmp_path: Path) -> None:
    paths = []
    for sample, name in ((b"s\xfe", b"cells"), (b"s\xff", b"cells"), (b"s", b"\xe4")):
        folder = tmp_path / os.fsdecode(sample)
        try:
            folder.mkdir()
        except OSError:
            pytest.skip("the disk takes none")
        adata = random_atlas(0, (2, 5), prefix=f"{len(paths)}-")
        path = folder / f"{os.fsdecode(name)}.h5ad"
        store(adata, tmp_path / "plain").rename(path)
        paths.append(path)
    atlas = io.open_atlas(paths)
    io.write(atlas.adata, tmp_path / "out.h5ad")
    names = list(io.read(tmp_path / "out.h5ad").obs["file"][::2])
    assert names == ["s\ufffd/cells.h5ad", "s\ufffd/cells.h5ad-1", "s/\ufffd.h5ad"]
    names = list(io.open_atlas(paths[1:]).obs["file"].cat.categories)
    assert names == ["cells", "\ufffd"]


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


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "scratch").mkdir()
    yield tmp_path / "scratch"
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []


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
