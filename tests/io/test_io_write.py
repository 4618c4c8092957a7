"""`write`: whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from io_samples import COUNTS, NAMES, on_a_full_disk, refused_by_anndata, tree, x_of
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _atomic, _write


@pytest.mark.parametrize("name", NAMES)
def test_written_and_replaced(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    io.write(adata, tmp_path / name)
    np.testing.assert_array_equal(x_of(tmp_path / name), COUNTS)
    adata.X = 3 * adata.X
    del adata.layers["double"]
    io.write(adata, str(tmp_path / name))
    np.testing.assert_array_equal(x_of(tmp_path / name), 3 * COUNTS)
    assert list(io.read(tmp_path / name).layers) == ["dense"]
    assert os.listdir(tmp_path) == [name]


def test_the_file_is_what_anndata_writes(tmp_path: Path, adata: anndata.AnnData) -> None:
    """Group for group and attribute for attribute."""

    def contents(path: Path) -> dict[str, tuple[dict[str, Any], Any]]:
        found = {}
        with h5py.File(path) as file:
            found["/"] = (dict(file.attrs), None)
            file.visititems(
                lambda name, item: found.update(
                    {name: (sorted(item.attrs), item[()].tolist() if isinstance(item, h5py.Dataset) else None)}
                )
            )
        return found

    for made in (adata, anndata.AnnData(adata.X, uns={"n": 3, "words": ["a", "b"]}, obsm={"X_pca": np.eye(4)})):
        made.write_h5ad(tmp_path / "theirs.h5ad")
        io.write(made, tmp_path / "ours.h5ad")
        assert contents(tmp_path / "ours.h5ad") == contents(tmp_path / "theirs.h5ad")


def test_columns_of_strings_become_categorical(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.obs["batch"] = pd.Series(["x", np.nan, "y", "x"], index=adata.obs_names, dtype=object)
    adata.raw.var["kind"] = pd.Series(["g"] * 6 + ["ab"], index=adata.raw.var_names, dtype=object)
    io.write(adata, tmp_path / "a.h5ad")
    assert list(io.read(tmp_path / "a.h5ad").obs["batch"].cat.categories) == ["x", "y"]
    assert list(io.read(tmp_path / "a.h5ad").raw.var["kind"].cat.categories) == ["ab", "g"]


def test_int64_offsets_are_kept(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.X.indptr = adata.X.indptr.astype(np.int64)
    io.write(adata, tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as file:
        assert file["X/indptr"].dtype == np.int64
        assert file["X/indices"].dtype == np.int32


def test_a_backed_anndata_onto_its_own_file(tmp_path: Path, adata: anndata.AnnData) -> None:
    path = tmp_path / "a.h5ad"
    io.write(adata, path)
    backed = anndata.read_h5ad(path, backed="r")
    backed.obs["sccagn"] = pd.Categorical(list("abab"))
    io.write(backed, path)
    assert Path(backed.filename) == path
    np.testing.assert_array_equal(backed.X[:].toarray(), COUNTS)
    backed.file.close()
    got = io.read(path)
    assert list(got.obs["sccagn"]) == list("abab")
    np.testing.assert_array_equal(got.X.toarray(), COUNTS)
    np.testing.assert_array_equal(got.raw.X, adata.raw.X)


def test_sparse_arrays_can_be_written(tmp_path: Path) -> None:
    io.write(anndata.AnnData(sparse.csr_array(COUNTS)), tmp_path / "a.h5ad")
    np.testing.assert_array_equal(x_of(tmp_path / "a.h5ad"), COUNTS)


@pytest.mark.parametrize("name", NAMES)
def test_results_without_a_matrix(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    alone = anndata.AnnData(obs=adata.obs, var=adata.var, obsm={"X_sccagn": np.eye(4)})
    io.write(alone, tmp_path / name)
    got = io.read(tmp_path / name)
    assert got.X is None
    assert got.shape == (4, 5)
    np.testing.assert_array_equal(got.obsm["X_sccagn"], np.eye(4))


# Failures in the middle


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exists", [False, True])
def test_content_that_cannot_be_stored(tmp_path: Path, adata: anndata.AnnData, name: str, exists: bool) -> None:
    if exists:
        io.write(adata, tmp_path / name)
    before = tree(tmp_path)
    adata.uns["ours"] = object()  # comes after X and layers
    with refused_by_anndata():
        io.write(adata, tmp_path / name)
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == ([name] if exists else [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_the_writer_stops_in_the_middle(
    tmp_path: Path, adata: anndata.AnnData, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    io.write(adata, tmp_path / name)
    before = tree(tmp_path)

    def broken_h5ad(file: h5py.File, key: str, elem: anndata.AnnData) -> None:
        anndata.io.write_elem(file, "X", elem.X)
        raise error

    def broken_zarr(store: Path, elem: anndata.AnnData) -> None:
        (store / "X").mkdir(parents=True)
        raise error

    monkeypatch.setattr(_write, "write_elem", broken_h5ad)
    monkeypatch.setattr(_write, "write_zarr", broken_zarr)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        io.write(adata, tmp_path / name)
    if expected is InputError:
        assert "`path`" in str(caught.value)
        assert "No space left" in str(caught.value)
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == [name]


FULL_DISK = """
path, zarr = sys.argv[1:]
adata = anndata.AnnData(sparse.random(600, 100, 0.3, format="csr", random_state=0))
adata.raw = adata.copy()
adata.obsm["X_pca"] = np.random.default_rng(0).random((600, 50))  # noise, so that zarr cannot compress it
adata.obs["cell_type"] = ["T", "B"] * 300
limited(3000, io.write, adata, zarr)
for limit in range(100, 640_000, 16_000):
    limited(limit, io.write, adata, path)
"""


def test_a_full_disk(tmp_path: Path, adata: anndata.AnnData) -> None:
    io.write(adata, tmp_path / "a.h5ad")
    io.write(adata, tmp_path / "a.zarr")
    before = tree(tmp_path)
    lines = on_a_full_disk(FULL_DISK, tmp_path / "a.h5ad", tmp_path / "a.zarr")
    assert all("could not be written" in line and "File too large" in line for line in lines)
    assert ["a.zarr" in line for line in lines] == [True] + [False] * 40
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.zarr"]


pieces = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=40)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(before=pieces, after=pieces, start=st.integers(0, 250), length=st.integers(0, 250))
def test_what_is_written_after_a_failure_is_read_back(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], start: int, length: int
) -> None:
    expected = bytearray(600)
    with tempfile.TemporaryDirectory() as folder, _atomic._PatientFile(Path(folder) / "a", "w+") as file:
        for i, (offset, content) in enumerate(before + after):
            if i == len(before):
                file.failure = OSError(errno.ENOSPC, "No space left on device")
            file.seek(offset)
            assert file.write(content) == len(content)
            expected[offset : offset + len(content)] = content
        got = bytearray(length)
        file.seek(start)
        file.readinto(got)
        assert os.path.getsize(file.name) == max((at + len(content) for at, content in before if content), default=0)
    assert got == expected[start : start + length]


def test_an_hdf5_file_written_by_hand(tmp_path: Path) -> None:
    with _atomic.replacing_hdf5(tmp_path / "a.h5") as file:
        file["x"] = np.arange(3)
        assert not (tmp_path / "a.h5").exists()
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["x"]) == [0, 1, 2]
    with pytest.raises(TypeError), _atomic.replacing_hdf5(tmp_path / "a.h5") as file:
        file.create_dataset("x", data=[object()])
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["x"]) == [0, 1, 2]
    with _atomic.replacing_hdf5(tmp_path / "b.h5", tmp_path / "a.h5") as file:
        file["y"] = file["x"][:] + 1
    for name, content in (("a.h5", {"x": [0, 1, 2]}), ("b.h5", {"x": [0, 1, 2], "y": [1, 2, 3]})):
        with h5py.File(tmp_path / name) as file:
            assert {key: item[:].tolist() for key, item in file.items()} == content
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("values", [["a", "b", "c"], ["a", "b", "a"], ["a", "b", None]])
def test_columns_of_pandas_own_strings_are_written(tmp_path: Path, values: list[str | None]) -> None:
    adata = anndata.AnnData(np.eye(3, dtype=np.float32))
    adata.raw = adata
    for frame in (adata.obs, adata.var, adata.raw.var):
        frame["text"] = pd.array(values, dtype="string")
    io.write(adata, tmp_path / "a.h5ad")
    back = io.read(tmp_path / "a.h5ad")
    for frame in (back.obs, back.var, back.raw.var):
        assert frame["text"].astype(object).where(frame["text"].notna(), None).tolist() == values


def test_a_view_with_pandas_own_strings_stays_one(tmp_path: Path) -> None:
    adata = anndata.AnnData(np.eye(3, dtype=np.float32))
    adata.obs["text"] = pd.array(["a", "b", "c"], dtype="string")
    view = adata[:2]
    io.write(view, tmp_path / "a.h5ad")
    assert view.is_view
    assert isinstance(adata.obs["text"].dtype, pd.StringDtype)
    assert io.read(tmp_path / "a.h5ad").obs["text"].tolist() == ["a", "b"]


def test_frames_and_raw_have_ordinary_names_too(tmp_path: Path) -> None:
    adata = anndata.AnnData(np.eye(3, dtype=np.float32))
    adata.obs_names, adata.var_names = (pd.Index(list("abc"), dtype="string") for _ in range(2))
    adata.obsm["frame"] = pd.DataFrame({"x": [1, 2, 3]}, index=adata.obs_names)
    adata.raw = adata
    io.write(adata, tmp_path / "a.h5ad")
    back = io.read(tmp_path / "a.h5ad").copy()
    assert back.obs_names.tolist() == back.obsm["frame"].index.tolist() == back.raw.var_names.tolist() == list("abc")
    adata.copy()


def test_nul_goes_into_zarr_only(tmp_path: Path, adata: anndata.AnnData) -> None:
    adata.obs_names = [f"{name}\0" for name in adata.obs_names]
    io.write(adata, tmp_path / "a.zarr")
    column = anndata.AnnData(adata.X)
    column.obs["a\0b"] = 1.0
    refusal = r"`path` .*a\.h5ad' could not be written, as HDF5 stores no .* NUL: .* write to a \.zarr folder\.$"
    for refused in (adata, io.read(tmp_path / "a.zarr"), column):
        with pytest.raises(InputError, match=refusal):
            io.write(refused, tmp_path / "a.h5ad")
        assert os.listdir(tmp_path) == ["a.zarr"]


def test_what_is_no_anndata_or_path(tmp_path: Path, adata: anndata.AnnData) -> None:
    for wrong in ("x", None, adata.X):
        with pytest.raises(InputError, match=r"`adata` must be an AnnData, as .* gives it; it is of type "):
            io.write(wrong, tmp_path / "a.h5ad")
    for wrong in (None, 5, adata):
        with pytest.raises(InputError, match=r"`path` must be the path of a file or folder, .* of type "):
            io.write(adata, wrong)
    assert os.listdir(tmp_path) == []
