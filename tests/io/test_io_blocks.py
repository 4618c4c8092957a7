"""`iter_blocks`: the blocks put together are the matrix, from wherever, in bounded memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata.io import write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from io_samples import COUNTS
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError

HELD = ["memory csr", "memory csc", "memory dense", "backed", "h5ad csr", "h5ad csc", "h5ad dense"]


def collected(source: object, block_size: int, layer: str | None = None) -> sparse.csr_matrix:
    """All blocks under one another, after a look at each."""
    blocks, expected_start = [], 0
    for start, block in io.iter_blocks(source, block_size, layer=layer):
        assert start == expected_start
        assert isinstance(block, sparse.csr_matrix)
        block.check_format(full_check=True)
        assert 0 < block.shape[0] <= block_size
        blocks.append(block)
        expected_start += block.shape[0]
    assert all(block.shape[0] == block_size for block in blocks[:-1])
    return sparse.vstack(blocks, format="csr")


@st.composite
def matrices(draw: st.DrawFn) -> sparse.csr_matrix:
    n_obs, n_vars = draw(st.integers(1, 30)), draw(st.integers(1, 12))
    dtype = draw(st.sampled_from(["int8", "uint16", "int32", "int64", "float32", "float64", "bool"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(1, 100, (n_obs, n_vars)) * (rng.random((n_obs, n_vars)) < draw(st.sampled_from([0, 0.2, 1])))
    return sparse.csr_matrix(values.astype(dtype))


@settings(max_examples=80, deadline=None)
@given(matrix=matrices(), block_size=st.integers(1, 35), held=st.sampled_from(HELD))
def test_blocks_are_the_matrix(matrix: sparse.csr_matrix, block_size: int, held: str) -> None:
    where, _, kind = held.partition(" ")
    adata = anndata.AnnData(matrix.toarray() if kind == "dense" else matrix.asformat(kind or "csr"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5ad"
        if where != "memory":
            adata.write_h5ad(path)
        source = {"memory": adata, "backed": None}.get(where, path) or anndata.read_h5ad(path, backed="r")
        got = collected(source, block_size)
        if where == "backed":
            source.file.close()
    assert got.dtype == matrix.dtype
    np.testing.assert_array_equal(got.toarray(), matrix.toarray())


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", None])
def test_layers(tmp_path: Path, adata: anndata.AnnData, suffix: str | None) -> None:
    source = adata
    if suffix is not None:
        source = tmp_path / f"a{suffix}"
        io.write(adata, source)
    raw = -np.hstack([COUNTS, COUNTS[:, :2]]).astype(float)
    for block_size in (1, 3, 100):
        np.testing.assert_array_equal(collected(source, block_size).toarray(), COUNTS)
        np.testing.assert_array_equal(collected(source, block_size, "dense").toarray(), COUNTS)
        np.testing.assert_array_equal(collected(source, block_size, "raw").toarray(), raw)
    with pytest.raises(InputError, match=r"`layer` must be one of None \(X\), 'd.*', 'd.*', 'raw', but is 'spliced'\."):
        io.iter_blocks(source, layer="spliced")


@pytest.mark.parametrize("on_disk", [False, True])
def test_no_such_layer_without_any(tmp_path: Path, adata: anndata.AnnData, on_disk: bool) -> None:
    bare = anndata.AnnData(obs=adata.obs, var=adata.var)
    io.write(bare, tmp_path / "a.h5ad")
    for layer in (None, "raw", "counts"):
        with pytest.raises(InputError, match=r"`layer` must be one of none, as there is no matrix, but is"):
            io.iter_blocks(tmp_path / "a.h5ad" if on_disk else bare, layer=layer)


def test_an_x_that_is_stored_as_nothing(tmp_path: Path, adata: anndata.AnnData) -> None:
    """As AnnData has stored it for some time."""
    path = tmp_path / "a.h5ad"
    io.write(adata, path)
    with h5py.File(path, "r+") as file:
        write_elem(file, "X", None)
    with pytest.raises(InputError, match=r"`layer` must be one of 'd.*', 'd.*', 'raw', but is None\."):
        io.iter_blocks(path)
    assert None not in io.open_atlas(path).layers


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_layer_called_raw_goes_first(tmp_path: Path, adata: anndata.AnnData, on_disk: bool) -> None:
    adata.layers["raw"] = 7 * adata.X
    io.write(adata, tmp_path / "a.h5ad")
    got = collected(tmp_path / "a.h5ad" if on_disk else adata, 2, "raw")
    np.testing.assert_array_equal(got.toarray(), 7 * COUNTS)


def test_csc_in_a_file_is_transposed(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.X = sparse.csc_matrix(COUNTS)
    io.write(adata, tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for source in (tmp_path / "a.h5ad", backed, adata):
        np.testing.assert_array_equal(collected(source, 3).toarray(), COUNTS)
        np.testing.assert_array_equal(collected(source, 3, "double").toarray(), 2 * COUNTS)
    backed.file.close()


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_a_backed_anndata(tmp_path: Path, mode: str, kind: str) -> None:
    io.write(anndata.AnnData(COUNTS if kind == "dense" else sparse.csr_matrix(COUNTS)), tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed=mode)
    np.testing.assert_array_equal(collected(backed, 3).toarray(), COUNTS)
    np.testing.assert_array_equal(collected(backed[[2, 0]], 3).toarray(), COUNTS[[2, 0]])
    backed.file.close()


def test_a_view(adata: anndata.AnnData) -> None:
    np.testing.assert_array_equal(collected(adata[[3, 1], [0, 4]], 1).toarray(), COUNTS[[3, 1]][:, [0, 4]])


def test_a_block_is_the_callers_own(adata: anndata.AnnData) -> None:
    for layer in (None, "dense"):
        for _, block in io.iter_blocks(adata, layer=layer):
            block.data[:] = -1
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    np.testing.assert_array_equal(adata.layers["dense"], COUNTS)


def test_no_cells_no_blocks(tmp_path: Path) -> None:
    io.write(anndata.AnnData(sparse.csr_matrix((0, 3), dtype=np.float32)), tmp_path / "a.h5ad")
    assert list(io.iter_blocks(tmp_path / "a.h5ad")) == []


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_float16_becomes_float32(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 0.1], [3, 0]], dtype=np.float16)
    path = tmp_path / "a.h5ad"
    io.write(anndata.AnnData(values if kind == "dense" else sparse.csr_matrix(values.astype(np.float32))), path)
    if kind == "csr":  # as other languages may write it
        with h5py.File(path, "a") as file:
            stored = file["X/data"][:]
            del file["X/data"]
            file["X/data"] = stored.astype(np.float16)
    got = collected(path, 1)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.toarray(), values.astype(np.float32))


def test_old_files(tmp_path: Path, adata: anndata.AnnData) -> None:
    """AnnData before 0.7 had other attributes, and raw.X at the top."""
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "a") as file:
        file.attrs.clear()
        file.move("raw/X", "raw.X")
        del file["raw"]
        shape = file["X"].attrs["shape"]
        file["X"].attrs.clear()
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", shape
    np.testing.assert_array_equal(collected(path, 3).toarray(), COUNTS)
    assert collected(path, 3, "raw").shape == (4, 7)


@pytest.mark.filterwarnings("ignore")  # AnnData remarks on every part of it
def test_a_real_old_file() -> None:
    path = Path(str(files("scanpy") / "datasets" / "10x_pbmc68k_reduced.h5ad"))
    whole = io.read(path)
    np.testing.assert_array_equal(collected(path, 99).toarray(), whole.X)
    assert (collected(path, 99, "raw") != whole.raw.X).nnz == 0


def test_unsigned_offsets_and_indices(tmp_path: Path, adata: anndata.AnnData) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "a") as file:
        for name, dtype in (("indices", "u4"), ("indptr", "u8")):
            stored = file["X"][name][:]
            del file["X"][name]
            file["X"][name] = stored.astype(dtype)
    np.testing.assert_array_equal(collected(path, 3).toarray(), COUNTS)


@pytest.mark.parametrize(("dtype", "n_vars"), [("u1", 250), ("u2", 60_000)])
def test_narrow_unsigned_indices(tmp_path: Path, dtype: str, n_vars: int) -> None:
    """Half of which are negative where they are seen as signed."""
    values = sparse.random(30, n_vars, 200 / (30 * n_vars), format="csr", random_state=0, dtype=np.float32)
    values.sort_indices()
    path = tmp_path / "a.h5ad"
    anndata.AnnData(values).write_h5ad(path)
    with h5py.File(path, "a") as file:
        stored = file["X/indices"][:]
        del file["X/indices"]
        file["X/indices"] = stored.astype(dtype)
    assert (collected(path, 7) != values).nnz == 0
    assert (values != io.read(path).X).nnz == 0


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_memory_is_bounded_by_the_block(tmp_path: Path, kind: str) -> None:
    n_obs, n_vars, block_size = 8000, 200, 400
    values = sparse.random(n_obs, n_vars, 0.5, format="csr", random_state=0, dtype=np.float32)
    whole = n_obs * n_vars * 4
    io.write(anndata.AnnData(values if kind == "csr" else values.toarray()), tmp_path / "a.h5ad")
    del values
    tracemalloc.start()
    total = sum(block.nnz for _, block in io.iter_blocks(tmp_path / "a.h5ad", block_size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == n_obs * n_vars // 2
    assert peak < whole / 3


def test_the_file_is_closed_at_the_end_and_on_leaving_early(tmp_path: Path, adata: anndata.AnnData) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    assert len(list(io.iter_blocks(path, 1))) == 4
    for _ in io.iter_blocks(path, 1):
        break
    with h5py.File(path, "a") as file:  # refused while it is open to read
        assert "X" in file


# What cannot be read


@pytest.mark.parametrize("block_size", [0, -1, 2.5, "10", True, None])
def test_block_size(adata: anndata.AnnData, block_size: object) -> None:
    with pytest.raises(InputError, match="`block_size` must be a whole number of at least 1; it is"):
        io.iter_blocks(adata, block_size)


def test_10x_is_refused(tenx_hdf5: Callable[..., Path], tenx_mtx: Callable[..., Path]) -> None:
    for path in (tenx_hdf5(), tenx_mtx()):
        with pytest.raises(InputError, match=r"`source` must be a \.h5ad file .* is a 10x matrix"):
            io.iter_blocks(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        io.iter_blocks(tmp_path / "none.h5ad")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.2, 0.5, 0.8, 0.99])
def test_truncated(tmp_path: Path, adata: anndata.AnnData, fraction: float) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(InputError, match="`path`"):
        io.iter_blocks(path)


@pytest.mark.parametrize(
    ("name", "position", "value"), [("indptr", 2, 9), ("indptr", 0, 1), ("indptr", -1, 3), ("indptr", 1, -2)]
)
def test_bad_offsets_are_found_by_the_call(
    tmp_path: Path, adata: anndata.AnnData, name: str, position: int, value: int
) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["X"][name][position] = value
    with pytest.raises(InputError, match=r"`path` .* is damaged.*in /X, indptr does not rise"):
        io.iter_blocks(tmp_path / "a.h5ad")


@pytest.mark.parametrize("missing", ["X/indptr", "X/data", "X/indices"])
def test_missing_parts(tmp_path: Path, adata: anndata.AnnData, missing: str) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file[missing]
    with pytest.raises(InputError, match=r"`path` .* is damaged"):
        list(io.iter_blocks(tmp_path / "a.h5ad"))


def test_a_bad_index_ends_the_block_it_is_in(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["X/indices"][-1] = 5
    blocks = io.iter_blocks(tmp_path / "a.h5ad", 2)
    assert next(blocks)[0] == 0
    with pytest.raises(InputError, match=r"`path` .*cells 2 to 3, index 5 is not below 5"):
        next(blocks)


def test_a_broken_chunk_ends_the_block_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    values = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "/", anndata.AnnData(values), dataset_kwargs={"compression": "gzip"})
        del file["X"]
        stored = file.create_dataset("X", data=values, chunks=(8, 64), compression="gzip", fletcher32=True)
        offset, size = stored.id.get_chunk_info(7).byte_offset, stored.id.get_chunk_info(7).size
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 0xFF
    path.write_bytes(content)
    blocks = io.iter_blocks(path, 8)
    with pytest.raises(InputError, match=r"`path` .*cells 56 to 63, "):
        list(blocks)


def test_a_matrix_of_text(tmp_path: Path, adata: anndata.AnnData) -> None:
    io.write(adata, tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        anndata.io.write_elem(file, "layers/words", np.full(adata.shape, "high"))
        anndata.io.write_elem(file, "layers/table", adata.obs)
    with pytest.raises(InputError, match="`layer` must hold numbers"):
        io.iter_blocks(tmp_path / "a.h5ad", layer="words")
    with pytest.raises(InputError, match="/layers/table is no matrix"):
        io.iter_blocks(tmp_path / "a.h5ad", layer="table")


def test_columns_are_transposed_in_more_ranges_than_a_byte_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sccagn_scale.io._transpose._N_HELD", 4)
    monkeypatch.setattr("sccagn_scale.io._transpose._PER_ROOT", 0)
    columns = sparse.random(700, 6, 0.5, "csc", random_state=np.random.default_rng(0))
    anndata.AnnData(columns).write_h5ad(tmp_path / "a.h5ad")
    blocks = [block.toarray() for _, block in io.iter_blocks(tmp_path / "a.h5ad", 100)]
    np.testing.assert_array_equal(np.concatenate(blocks), columns.toarray())


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">f2"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_the_other_order_of_bytes(tmp_path: Path, dtype: str, kind: str) -> None:
    values = np.array([[0, 1, 2], [3, 0, 256]])
    anndata.AnnData(values if kind == "dense" else sparse.csr_matrix(values).asformat(kind)).write_h5ad(
        tmp_path / "a.h5ad"
    )
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        name = "X" if kind == "dense" else "X/data"
        stored, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        file[name] = stored.astype(dtype)
        file[name].attrs.update(attributes)
    ((_, block),) = io.iter_blocks(tmp_path / "a.h5ad", 10)
    np.testing.assert_array_equal(block.toarray(), values)
    assert block.dtype.isnative
    matrix = io.open_atlas(tmp_path / "a.h5ad").matrix()
    assert matrix.dtype.isnative
    np.testing.assert_array_equal(matrix.read(0, 2).toarray(), values)
