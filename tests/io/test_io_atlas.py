"""Files as one atlas: what is read is what AnnData joins in memory, or an error that names the file."""

from __future__ import annotations

import logging
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning

LAYOUTS = ["h5ad csr", "h5ad csc", "h5ad dense", "zarr2 csr", "zarr2 csc", "zarr3 csr", "zarr3 dense"]


def cells(n_obs: int, genes: list[str], prefix: str, seed: int = 0, dtype: str = "float32") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    dense = (rng.poisson(0.7, (n_obs, len(genes)))).astype(dtype)
    obs = pd.DataFrame({f"only_{prefix}": np.arange(n_obs), "kind": list("ab" * n_obs)[:n_obs]})
    obs.index = [f"{prefix}{i}" for i in range(n_obs)]
    return ad.AnnData(sparse.csr_matrix(dense), obs=obs, var=pd.DataFrame({"length": 1.0}, index=genes))


def stored(adata: ad.AnnData, folder: Path, name: str, layout: str) -> Path:
    where, kind = layout.split()
    adata = adata.copy()
    adata.X = adata.X.toarray() if kind == "dense" else adata.X.asformat(kind)
    adata.layers["twice"] = 2 * adata.X
    adata.raw = adata
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=3 if where == "zarr3" else 2):
        warnings.simplefilter("ignore")
        if where == "h5ad":
            adata.write_h5ad(folder / f"{name}.h5ad")
            return folder / f"{name}.h5ad"
        adata.write_zarr(folder / f"{name}.zarr")
        return folder / f"{name}.zarr"


def dense(matrix: io.StoredMatrix, block_size: int = 7) -> np.ndarray:
    blocks = list(matrix.blocks(block_size))
    assert [start for start, _ in blocks] == np.cumsum([0, *(block.shape[0] for _, block in blocks[:-1])]).tolist()
    assert all(0 < block.shape[0] <= block_size for _, block in blocks)
    return sparse.vstack([block for _, block in blocks], format="csr").toarray()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_file_of_any_layout(tmp_path: Path, layout: str) -> None:
    adata = cells(23, list("ABCDE"), "c")
    atlas = io.open_atlas([stored(adata, tmp_path, "a", layout)])
    assert atlas.shape == (23, 5)
    assert atlas.adata.X is None
    assert not atlas.adata.layers
    assert atlas.adata.raw is None
    assert "file" not in atlas.obs
    pd.testing.assert_frame_equal(atlas.obs, adata.obs, check_dtype=False, check_categorical=False)
    for layer, factor, where in ((None, 1, "X"), ("twice", 2, "layers['twice']"), ("raw", 1, "raw.X")):
        matrix = atlas.matrix(layer)
        assert (matrix.where, matrix.shape, matrix.dtype) == (where, (23, 5), np.float32)
        assert list(matrix.names) == list("ABCDE")
        assert matrix.nnz == (115 if "dense" in layout else adata.X.nnz)
        assert matrix.n_bytes > 0
        np.testing.assert_array_equal(dense(matrix), factor * adata.X.toarray())
        np.testing.assert_array_equal(matrix.read(5, 19).toarray(), factor * adata.X[5:19].toarray())


@pytest.mark.parametrize(
    "layouts", [("h5ad csr", "zarr2 csr"), ("zarr3 dense", "h5ad csc"), ("h5ad dense", "h5ad csr")]
)
def test_several_files_are_joined_as_anndata_does(
    tmp_path: Path, layouts: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    first, second = cells(12, list("ABCDE"), "c"), cells(9, list("DXBAE"), "d", 1, "int32")
    paths = [stored(first, tmp_path, "lung", layouts[0]), stored(second, tmp_path, "liver", layouts[1])]
    expected = ad.concat([first, second], join="outer", label="file", keys=["lung", "liver"])[:, list("ABDE")]
    atlas = io.open_atlas(paths)
    assert atlas.obs.astype(str).equals(expected.obs.astype(str))
    matrix = atlas.matrix()
    assert list(matrix.names) == list(atlas.adata.var_names) == list("ABDE")
    assert matrix.parts == ((paths[0], 0), (paths[1], 12))
    assert matrix.dtype == np.float64  # the smallest that holds float32 and int32
    np.testing.assert_array_equal(dense(matrix), inner(first, second))
    np.testing.assert_array_equal(matrix.read(8, 15).toarray(), inner(first, second)[8:15])
    again = pickle.loads(pickle.dumps(matrix))
    np.testing.assert_array_equal(again.read(0, 21).toarray(), inner(first, second))
    assert sorted(caplog.messages) == [
        f"1 of 5 genes of '{name}' are not in all files and are left out." for name in ("liver", "lung")
    ]


def inner(first: ad.AnnData, second: ad.AnnData) -> np.ndarray:
    return np.vstack([part[:, list("ABDE")].X.toarray() for part in (first, second)])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n_files=st.integers(1, 3), block_size=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_any_files_in_any_blocks(data: st.DataObject, n_files: int, block_size: int, seed: int) -> None:
    genes = st.lists(st.sampled_from("BCDEFG"), unique=True, max_size=5)
    parts = [
        cells(
            data.draw(st.integers(1, 12)),
            ["A", *data.draw(genes)][:: data.draw(st.sampled_from([1, -1]))],
            f"{i}_",
            seed + i,
        )
        for i in range(n_files)
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            stored(part, Path(folder), f"f{i}", data.draw(st.sampled_from(LAYOUTS[:3]))) for i, part in enumerate(parts)
        ]
        matrix = io.open_atlas(paths).matrix()
        common = [gene for gene in parts[0].var_names if all(gene in part.var_names for part in parts)]
        assert list(matrix.names) == common
        expected = np.vstack([part[:, common].X.toarray() for part in parts])
        np.testing.assert_array_equal(dense(matrix, block_size), expected)
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        np.testing.assert_array_equal(matrix.read(start, stop).toarray(), expected[start:stop])


def test_a_folder_is_the_files_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    folder.mkdir()
    stored(cells(4, list("AB"), "d"), folder, "2", "zarr2 csr")
    stored(cells(5, list("AB"), "c"), folder, "1", "h5ad csr")
    (folder / ".hidden.h5ad").write_bytes(b"")
    (folder / "notes.txt").write_text("no cells")
    atlas = io.open_atlas([folder])
    assert [path.name for path in atlas.files] == ["1.h5ad", "2.zarr"]
    assert atlas.obs["file"].tolist() == ["1"] * 5 + ["2"] * 4


def test_files_of_one_name_are_told_by_their_folder(tmp_path: Path) -> None:
    paths = []
    for prefix in "cd":
        (tmp_path / prefix).mkdir()
        paths.append(stored(cells(3, list("AB"), prefix), tmp_path / prefix, "cells", "h5ad csr"))
    assert io.open_atlas(paths).obs["file"].unique().tolist() == ["c/cells", "d/cells"]


def test_10x_beside_anndata(tmp_path: Path, tenx_hdf5: Callable[..., Path]) -> None:
    tenx = tenx_hdf5()
    with pytest.warns(InputWarning, match="not Gene Expression"):
        held = io.read(tenx)
    path = stored(cells(3, list(held.var_names), "c"), tmp_path, "a", "h5ad csr")
    with pytest.warns(InputWarning, match="not Gene Expression"):
        matrix = io.open_atlas([path, tenx]).matrix()
    np.testing.assert_array_equal(dense(matrix)[3:], held.X.toarray())


def test_genes_named_twice_get_suffixes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = stored(cells(3, ["A", "B", "A"], "c"), tmp_path, "a", "h5ad csr")
    with pytest.warns(InputWarning, match="1 of 3 gene names repeat"):
        assert list(io.open_atlas([path]).matrix().names) == ["A", "B", "A-1"]


def test_offsets_beyond_two_to_the_31(tmp_path: Path) -> None:
    """More values than 2³¹, which were never written and take no room on the disk: each is the fill value."""
    per_cell, n_obs = 2**20, 2**11 + 2
    path = tmp_path / "wide.h5ad"
    ad.AnnData(sparse.csr_matrix((n_obs, per_cell), dtype=np.uint8)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        group = file["X"]
        for name, dtype in (("data", np.uint8), ("indices", np.int32)):
            del group[name]
            options = {"chunks": (2**20,), "fillvalue": 1 if name == "data" else 0}
            group.create_dataset(name, (n_obs * per_cell,), dtype, **options)
        del group["indptr"]
        group["indptr"] = np.arange(n_obs + 1, dtype=np.int64) * per_cell
        group["data"][-1], group["indices"][-1] = 7, 5
    assert path.stat().st_size < 60e6
    matrix = io.open_atlas([path]).matrix()
    assert matrix.nnz == n_obs * per_cell > 2**31
    last = matrix.read(n_obs - 1, n_obs)
    assert (last.data[-1], last.indices[-1], last.nnz) == (7, 5, per_cell)
    assert last.data.sum() == per_cell + 6


def test_files_without_a_gene_in_common(tmp_path: Path) -> None:
    paths = [stored(cells(3, list(genes), genes[0].lower()), tmp_path, genes, "h5ad csr") for genes in ("ABC", "XYZ")]
    with pytest.raises(
        InputError, match=r"genes in common.*ABC\.h5ad' \(with genes such as A, B, C\).*XYZ\.h5ad' \(X, Y, Z\)"
    ):
        io.open_atlas(paths)


def test_a_cell_in_two_files(tmp_path: Path) -> None:
    paths = [stored(cells(n, list("AB"), "c"), tmp_path, name, "h5ad csr") for n, name in ((3, "lung"), (5, "liver"))]
    with pytest.raises(InputError, match=r"3 stand in two, such as 'c0' in '.*lung\.h5ad' and '.*liver\.h5ad'"):
        io.open_atlas(paths)


def test_a_column_that_would_be_lost(tmp_path: Path) -> None:
    adata = cells(3, list("AB"), "c")
    adata.obs["file"] = "mine"
    paths = [stored(adata, tmp_path, "a", "h5ad csr"), stored(cells(3, list("AB"), "d"), tmp_path, "b", "h5ad csr")]
    with pytest.raises(InputError, match=r"a\.h5ad' has a column 'file' in obs"):
        io.open_atlas(paths)
    assert io.open_atlas(paths[:1]).obs["file"].tolist() == ["mine"] * 3


def test_a_layer_that_one_file_lacks(tmp_path: Path) -> None:
    first = stored(cells(3, list("AB"), "c"), tmp_path, "a", "h5ad csr")
    cells(3, list("AB"), "d").write_h5ad(tmp_path / "b.h5ad")
    atlas = io.open_atlas([first, tmp_path / "b.h5ad"])
    with pytest.raises(InputError, match=r"`layer` must be one of None \(X\), but is 'twice'"):
        atlas.matrix("twice")
    assert atlas.matrix().choices == "None (X)"


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, fraction: float) -> None:
    good = stored(cells(300, list("ABCDE"), "c"), tmp_path, "good", "h5ad csr")
    bad = stored(cells(300, list("ABCDE"), "d"), tmp_path, "bad", "h5ad csr")
    whole = bad.read_bytes()
    bad.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(InputError, match=r"bad\.h5ad"):
        list(io.open_atlas([good, bad]).matrix().blocks(50))


def test_a_corrupt_chunk_is_named_with_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    adata = cells(400, list("ABCDE"), "c")
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path, "r+") as file:
        data = file["X/data"]
        values = data[:]
        del file["X/data"]
        data = file["X"].create_dataset("data", data=values, chunks=(64,), compression="gzip", fletcher32=True)
        place = data.id.get_chunk_info(data.id.get_num_chunks() // 2).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 12)
        raw.write(b"\xff\x00\xff")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a\.h5ad' is damaged.*cells \d+ to \d+"):
        list(io.open_atlas([path]).matrix().blocks(20))
    assert path.read_bytes() == before


def test_a_zarr_chunk_that_is_gone_bad(tmp_path: Path) -> None:
    path = stored(cells(400, list("ABCDE"), "c"), tmp_path, "a", "zarr2 csr")
    chunk = next(entry for entry in (path / "X" / "data").iterdir() if not entry.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(InputError, match=r"a\.zarr' is damaged"):
        list(io.open_atlas([path]).matrix().blocks(20))


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="`path` is a folder, so it must be"):
        io.open_atlas([tmp_path / "empty"])
    with pytest.raises(InputError, match="does not exist"):
        io.open_atlas([tmp_path / "none.h5ad"])
    shutil.rmtree(tmp_path / "empty")
