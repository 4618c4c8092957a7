"""Several files as one atlas: which genes and columns it has, and which cells are from where."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from atlas_samples import KINDS, STORES, gathered, pair, random_atlas, store
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.io import _transpose


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


def test_of_several_files_the_same_is_read_whatever_parts_are_asked_for(tmp_path: Path) -> None:
    def annotate(a: anndata.AnnData, b: anndata.AnnData) -> None:
        for adata in (a, b):
            adata.obs["kind"] = "x"
            adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))

    paths = pair(tmp_path, annotate)
    assert list(io.open_atlas(paths[0], parts=("obsm",)).adata.obsm) == ["X_pca"]
    joined, whole = (io.open_atlas(paths, parts=parts).adata for parts in (("obsm", "uns"), None))
    assert not joined.obsm
    pd.testing.assert_frame_equal(joined.obs, whole.obs)
    pd.testing.assert_frame_equal(joined.var, whole.var)
    assert set(joined.obs) == {"kind", "file"}


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
