"""`read`: AnnData in .h5ad and .zarr, whatever the matrix is; and everything that is no such file."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from io_samples import dense
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning

# SciPy has no sparse float16
DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "bool"]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, dtype) for kind in ("csr", "csc", "dense") for dtype in DTYPES if kind == "dense" or dtype != "f2"],
)
def test_a_matrix_stays_as_it_is_stored(tmp_path: Path, kind: str, dtype: str) -> None:
    values = np.array([[0, 1, 0], [1, 0, 1]]).astype(dtype)
    matrix = values if kind == "dense" else sparse.csr_matrix(values).asformat(kind)
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")

    got = io.read(tmp_path / "a.h5ad").X

    assert got.dtype == np.dtype(dtype)
    assert (got.format if sparse.issparse(got) else "dense") == kind
    np.testing.assert_array_equal(dense(got), values)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_everything_in_the_file_comes_back(tmp_path: Path, adata: anndata.AnnData, suffix: str) -> None:
    io.write(adata, tmp_path / f"a{suffix}")
    got = io.read(str(tmp_path / f"a{suffix}"))
    assert list(got.obs_names) == list(adata.obs_names)
    assert list(got.var_names) == list(adata.var_names)
    assert list(got.obs["cell_type"]) == ["T", "B", "B", "T"]
    pairs = [(got.X, adata.X), (got.raw.X, adata.raw.X), *((got.layers[k], adata.layers[k]) for k in adata.layers)]
    for ours, theirs in pairs:
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(dense(ours), dense(theirs))


@pytest.mark.parametrize(("indices", "indptr"), [("i8", "i8"), ("i4", "i8"), ("i4", "i4"), ("u4", "u8")])
def test_index_types_are_kept(tmp_path: Path, adata: anndata.AnnData, indices: str, indptr: str) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    retype(path, indices=indices, indptr=indptr)
    got = io.read(path).X
    assert got.indices.dtype == np.dtype(indices.replace("u", "i"))
    assert got.indptr.dtype == np.dtype(indptr.replace("u", "i"))
    np.testing.assert_array_equal((got @ np.eye(5)), dense(adata.X))


def retype(path: Path, **dtypes: str) -> None:
    with h5py.File(path, "a") as file:
        for name, dtype in dtypes.items():
            values = file["X"][name][:].astype(dtype)
            del file["X"][name]
            file["X"][name] = values


def test_a_h5_file_is_told_by_its_content(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(tmp_path / "a.h5")
    np.testing.assert_array_equal(dense(io.read(tmp_path / "a.h5").X), dense(adata.X))


def test_the_extension_may_be_in_capitals(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(tmp_path / "A.H5AD")
    assert io.read(tmp_path / "A.H5AD").shape == adata.shape


def test_no_x_is_read(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    got = io.read(tmp_path / "a.h5ad")
    assert got.X is None
    assert set(got.layers) == {"double", "dense"}


def test_repeated_names_are_made_unique_and_said(tmp_path: Path) -> None:
    made = anndata.AnnData(np.eye(4, 3, dtype=np.float32))
    made.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["obs/_index"][:] = ["a", "b", "a", "a"]
        file["var/_index"][:] = ["g", "g", "g-1"]
    with pytest.warns(InputWarning) as caught:
        got = io.read(tmp_path / "a.h5ad")
    assert [str(w.message).split(" (")[0] for w in caught] == [
        "2 of 4 cell names repeat an earlier one",
        "1 of 3 gene names repeat an earlier one",
    ]
    assert {w.filename for w in caught} == {__file__}
    assert list(got.obs_names) == ["a", "b", "a-1", "a-2"]
    assert list(got.var_names) == ["g", "g-2", "g-1"]


def test_names_made_unique_beside_a_column_of_the_old_ones_are_written(tmp_path: Path) -> None:
    made = anndata.AnnData(np.eye(4, 3, dtype=np.float32))
    made.obs.index.name, made.var.index.name = "barcode", "gene"
    made.obs["barcode"], made.var["gene"] = made.obs_names, made.var_names
    made.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        for frame, name in (("obs", "barcode"), ("var", "gene")):
            file[f"{frame}/{name}"][1] = "0"
    with pytest.warns(InputWarning, match="made unique"):
        got = io.read(tmp_path / "a.h5ad")
    io.write(got, tmp_path / "b.h5ad")
    written = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert list(written.obs_names) == ["0", "0-1", "2", "3"]
    assert list(written.obs["barcode"]) == ["0", "0", "2", "3"]
    assert list(written.var["gene"]) == ["0", "0", "2"]


def test_warnings_of_others_are_not_hidden(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    original = anndata.read_h5ad

    def noisy(path: Path) -> anndata.AnnData:
        warnings.warn("an old format", FutureWarning, stacklevel=1)
        return original(path)

    monkeypatch.setattr(anndata, "read_h5ad", noisy)
    with pytest.warns(FutureWarning, match="an old format"):
        assert io.read(tmp_path / "a.h5ad").shape == adata.shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FutureWarning, match="an old format"):  # and is not taken for a damaged file
            io.read(tmp_path / "a.h5ad")


# What cannot be read


def fails(path: Path, match: str) -> BaseException | None:
    """Assert that reading ends with one sentence that fits `match`; the cause."""
    with pytest.raises(InputError, match=match) as caught:
        io.read(path)
    message = str(caught.value)
    assert "`path`" in message
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value.__cause__


def test_missing_file(tmp_path: Path) -> None:
    assert isinstance(fails(tmp_path / "none.h5ad", "does not exist"), FileNotFoundError)
    (tmp_path / "file").touch()
    assert isinstance(fails(tmp_path / "file" / "a.h5ad", "does not exist"), NotADirectoryError)
    fails(tmp_path / ("a" * 300 + ".h5ad"), "cannot be opened: .*too long")


@pytest.mark.parametrize("name", ["a.csv", "a.h5ad.gz", "a.loom", "a"])
def test_unknown_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    fails(tmp_path / name, f"must be a .h5ad file.*{name}")


def test_a_folder_of_other_things(tmp_path: Path) -> None:
    fails(tmp_path, "holds nothing")
    (tmp_path / "notes.txt").touch()
    fails(tmp_path, r"is a folder.*notes\.txt")


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"<html>not found</html>"])
def test_not_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5ad").write_bytes(content)
    assert isinstance(fails(tmp_path / "a.h5ad", "must be an HDF5 file"), OSError)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_truncated_h5ad(tmp_path: Path, adata: anndata.AnnData, fraction: float) -> None:
    adata.write_h5ad(tmp_path / "whole.h5ad")
    whole = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: int(len(whole) * fraction)])
    assert isinstance(fails(tmp_path / "cut.h5ad", "truncated or damaged"), OSError)


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    fails(tmp_path / "a.h5", "must hold an AnnData or a 10x matrix.* holds weights")


@pytest.mark.parametrize("missing", ["obs", "X/indptr", "X/data", "obs/_index"])
def test_h5ad_without_a_part(tmp_path: Path, adata: anndata.AnnData, missing: str) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file[missing]
    assert fails(tmp_path / "a.h5ad", "is damaged") is not None


@pytest.mark.parametrize(
    ("name", "position", "value", "complaint"),
    [
        ("indices", 2, 5, "index 5 is not below 5"),
        ("indices", 0, -1, "index -1 is not below 5"),
        ("indptr", 1, 7, "indptr does not rise"),
        ("indptr", -1, 1, "indptr does not rise|index"),
    ],
)
def test_indices_that_leave_the_matrix(
    tmp_path: Path, adata: anndata.AnnData, name: str, position: int, value: int, complaint: str
) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["X"][name][position] = value
    fails(tmp_path / "a.h5ad", complaint)


def test_indices_of_csc_layers_are_checked_by_column(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["layers/double/indices"][0] = 4  # there are 4 cells, though 5 genes
    fails(tmp_path / "a.h5ad", re.escape("layers['double'], index 4 is not below 4"))


def test_indices_of_raw_are_checked_by_its_own_genes(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.raw = anndata.AnnData(sparse.csr_matrix(adata.raw.X), obs=adata.obs, var=adata.raw.var)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["raw/X/indices"][0] = 6  # the last of its 7 genes, though X has 5
    assert io.read(tmp_path / "a.h5ad").raw.shape == (4, 7)
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["raw/X/indices"][0] = 7
    fails(tmp_path / "a.h5ad", re.escape("raw.X, index 7 is not below 7"))


def test_a_matrix_of_text(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file["layers/dense"]
        anndata.io.write_elem(file, "layers/dense", np.full(adata.shape, "high"))
    fails(tmp_path / "a.h5ad", "not numbers")


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: shutil.rmtree(store / "obs"),
        lambda store: (store / "X" / ".zattrs").write_text("{"),
        lambda store: shutil.rmtree(store / "X" / "indices"),
        lambda store: (store / "X" / "indptr" / "0").unlink(),  # zarr takes a missing chunk for zeros
    ],
)
def test_damaged_zarr(tmp_path: Path, adata: anndata.AnnData, damage: Callable[[Path], object]) -> None:
    store = tmp_path / "a.zarr"
    io.write(adata, store)
    (store / ".zmetadata").unlink()
    damage(store)
    fails(store, "is damaged")


def test_running_out_of_memory_is_no_damage(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> anndata.AnnData:
        raise MemoryError

    adata.write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(anndata, "read_h5ad", full)
    with pytest.raises(MemoryError):
        io.read(tmp_path / "a.h5ad")


@pytest.mark.parametrize("error", [MemoryError, ImportError])
@pytest.mark.parametrize("part", ["io._stored._n_missing", "io._stored.read_range", "io._columns.read_range"])
def test_what_a_stored_matrix_lacks_to_be_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: type[Exception]
) -> None:
    def failing(*_: object) -> None:
        raise error

    kind = sparse.csc_matrix if "columns" in part else sparse.csr_matrix
    anndata.AnnData(kind(np.eye(3, dtype=np.float32))).write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(f"sccagn_scale.{part}", failing)
    with pytest.raises(error):
        io.open_atlas(tmp_path / "a.h5ad").matrix().read(0, 2)


def test_what_the_system_has_against_opening_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(np.ones((2, 2), np.float32)).write_h5ad(path)

    def locked(*_: object) -> None:
        raise OSError(37, "Unable to synchronously open file (unable to lock file, errno = 37)")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(InputError, match=r"cannot be opened: .*unable to lock file"):
        io.read(path)


@pytest.mark.parametrize("wrong", [None, 5, b"a.h5ad", ["a.h5ad"]])
def test_what_is_no_path(wrong: object) -> None:
    for read in (io.read, lambda path: io.read_parts(path, ("obs",))):
        with pytest.raises(InputError, match=r"`path` must be the path of a file or folder, .* of type "):
            read(wrong)
