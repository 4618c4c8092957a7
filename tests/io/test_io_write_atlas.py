"""`write_atlas`: X block by block beside the rest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from io_samples import COUNTS, NAMES, on_a_full_disk, read, tree
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _write_atlas
from sccagn_scale.io._write_atlas import RowWriter


def blocks(matrix: sparse.csr_matrix, ends: list[int]) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Rows up to each of `ends`."""
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        yield start, matrix[start:stop]


def annotation(n_obs: int, n_vars: int) -> anndata.AnnData:
    obs = pd.DataFrame({"sccagn": [str(i % 2) for i in range(n_obs)]}, index=[f"cell{i}" for i in range(n_obs)])
    return anndata.AnnData(obs=obs, shape=(n_obs, n_vars), obsm={"X_pca": np.arange(2.0 * n_obs).reshape(n_obs, 2)})


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    zarr_format=st.sampled_from([2, 3]),
    dtype=st.sampled_from(["uint8", "int32", "int64", "float32", "float64"]),
    ends=st.lists(st.integers(0, 40), max_size=4).map(lambda ends: [*sorted(ends), 40]),
    density=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 9),
)
def test_where_blocks_end_changes_nothing(
    name: str, zarr_format: int, dtype: str, ends: list[int], density: float, seed: int
) -> None:
    whole = sparse.random(40, 12, density, format="csr", random_state=seed)
    whole.data = np.ceil(whole.data * 100)
    whole = whole.astype(dtype)
    adata = annotation(40, 12)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with anndata.settings.override(zarr_write_format=zarr_format):
            io.write_atlas(adata, blocks(whole, ends), path)
        assert os.listdir(folder) == [name]
        got = read(path)
        root = zarr.open_group(path, mode="r") if path.is_dir() else h5py.File(path)
        assert root["X/indptr"].dtype == np.int64
        if path.is_dir():
            assert root.metadata.zarr_format == zarr_format
            assert root.metadata.consolidated_metadata is not None
            assert "X/data" in root
        else:
            root.close()
    assert got.X.format == "csr"
    assert got.X.dtype == dtype
    np.testing.assert_array_equal(got.X.toarray(), whole.toarray())
    pd.testing.assert_frame_equal(got.obs, adata.obs)
    np.testing.assert_array_equal(got.obsm["X_pca"], adata.obsm["X_pca"])


def test_the_file_is_what_anndata_writes(tmp_path: Path) -> None:
    """Element for element, in the same encodings; only compressed."""

    def encodings(path: Path) -> dict[str, tuple[str, ...]]:
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: tuple(map(str, sorted(item.attrs.items())))}))
        return found

    whole = sparse.csr_matrix(COUNTS)
    adata = annotation(4, 5)
    io.write_atlas(adata, blocks(whole, [1, 4]), tmp_path / "ours.h5ad")
    adata.X = whole
    adata.write_h5ad(tmp_path / "theirs.h5ad")
    ours = encodings(tmp_path / "ours.h5ad")
    assert ours == encodings(tmp_path / "theirs.h5ad")
    assert "X/data" in ours
    with h5py.File(tmp_path / "ours.h5ad") as file:
        assert file["X/data"].compression == "lzf"
        assert file["X/data"].shuffle


def test_files_are_joined_block_by_block(tmp_path: Path, adata: anndata.AnnData) -> None:
    """Read backed, written anew, read backed."""
    io.write(adata, tmp_path / "a.h5ad")
    source = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    io.write_atlas(source, io.iter_blocks(tmp_path / "a.h5ad", 3), tmp_path / "b.h5ad")
    source.file.close()
    backed = anndata.read_h5ad(tmp_path / "b.h5ad", backed="r")
    np.testing.assert_array_equal(backed.X[1:3].toarray(), COUNTS[1:3])
    assert backed.raw is None
    np.testing.assert_array_equal(backed.layers["dense"], COUNTS)
    assert list(backed.obs["cell_type"]) == ["T", "B", "B", "T"]
    backed.file.close()


@pytest.mark.parametrize("kind", ["hdf5", "zarr2", "zarr3"])
def test_row_offsets_go_past_32_bits(tmp_path: Path, kind: str) -> None:
    rows = sparse.csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], dtype=np.float32))
    file = h5py.File(tmp_path / "a.h5", "w") if kind == "hdf5" else None
    root = file or zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=int(kind[-1]))
    writer = RowWriter(root, (2, 3), np.float32)
    writer._values = 2**31  # as after a few million cells; what was never written takes no room
    writer.append(rows)
    writer.close()
    np.testing.assert_array_equal(root["X/indptr"][1:], [2**31 + 2, 2**31 + 3])
    np.testing.assert_array_equal(root["X/data"][-3:], [1, 2, 3])
    np.testing.assert_array_equal(root["X/indices"][-3:], [0, 2, 1])
    if file:
        file.close()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_of_zarr_grow_with_the_values_and_are_written_once(
    tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, power in (("_SMALLEST_CHUNK", 4), ("_LARGEST_CHUNK", 8), ("_MOST_CHUNKS", 5)):
        monkeypatch.setattr(_write_atlas, name, power)
    whole, writes = _write_atlas._Growing._write, []

    def counted(self: Any, n: int) -> None:
        if n:
            writes.append((self._array.path.rpartition("/")[2], self._n_written, n))
        whole(self, n)

    monkeypatch.setattr(_write_atlas._Growing, "_write", counted)
    for n_obs, chunk in ((50, 16), (500, 64), (50_000, 256)):
        X = sparse.random(n_obs, 12, 0.3, format="csr", random_state=0, dtype=np.float32)
        writes.clear()
        ends = [*range(n_obs // 10, n_obs, n_obs // 10), n_obs]
        with anndata.settings.override(zarr_write_format=zarr_format):
            io.write_atlas(annotation(n_obs, 12), blocks(X, ends), tmp_path / "a.zarr", nnz=X.nnz)
        data = zarr.open_group(tmp_path / "a.zarr", mode="r")["X/data"]
        assert data.chunks == (chunk,)
        assert data.nchunks_initialized == -(-X.nnz // chunk)
        assert all(start % chunk == 0 for _, start, _ in writes)  # none is begun where another write ended in it
        assert (read(tmp_path / "a.zarr").X != X).nnz == 0


# What cannot be done

X = sparse.csr_matrix(COUNTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([(0, X[:2])], "have the 4 rows of `adata`, but end after 2"),
        ([], "have the 4 rows of `adata`, but end after 0"),
        ([(0, X), (4, X[:1])], "4 × 5 of `adata`.*1 × 5 came for row 4"),
        ([(0, X[:2]), (3, X[3:])], "1 × 5 came for row 3 where row 2 was due"),
        ([(0, X[:, :4])], "4 × 4 came for row 0"),
        ([(0, X[:2]), (2, X[2:].astype(np.float32))], "int32.*from row 2 on they are float32"),
        ([(0, X[:2].astype(np.float32)), (2, X[2:].astype(np.int64))], "float32.*from row 2 on they are int64"),
    ],
)
def test_blocks_that_are_not_the_rows(
    tmp_path: Path, name: str, wrong: list[tuple[int, sparse.csr_matrix]], message: str
) -> None:
    io.write(anndata.AnnData(X.copy()), tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"`blocks` must .*{message}"):
        io.write_atlas(annotation(4, 5), wrong, tmp_path / name)
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == [name]


def test_blocks_of_a_narrower_type_are_taken(tmp_path: Path) -> None:
    mixed = [(0, X[:2].astype(np.float64)), (2, X[2:].astype(np.int32))]
    io.write_atlas(annotation(4, 5), mixed, tmp_path / "a.h5ad")
    got = read(tmp_path / "a.h5ad").X
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got.toarray(), COUNTS)


FULL_DISK = """
n_blocks, given = 50, 0

def blocks():
    global given
    rng = np.random.default_rng(0)
    for i in range(n_blocks):
        given += 1
        yield 1000 * i, sparse.csr_matrix(rng.random((1000, 100)))

limited(int(sys.argv[2]), io.write_atlas, anndata.AnnData(shape=(1000 * n_blocks, 100)), blocks(), sys.argv[1])
print(given)
"""


@pytest.mark.parametrize(("name", "limit"), [("a.h5ad", 6_000_000), ("a.zarr", 300_000)])
def test_a_full_disk_ends_the_work_at_once(tmp_path: Path, name: str, limit: int) -> None:
    message, given = on_a_full_disk(FULL_DISK, tmp_path / name, limit)
    assert 1 <= int(given) < 25
    assert "could not be written" in message
    assert "File too large" in message
    assert os.listdir(tmp_path) == []
