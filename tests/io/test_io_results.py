"""`write_copy` and `add_results`: all but the matrices replaced, and the matrices left as they are stored."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from atlas_samples import store
from io_samples import COUNTS, dense, on_a_full_disk, read, refused_by_anndata, tree
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError

KINDS = ["h5ad gzip", "zarr 2", "zarr 2 apart", "zarr 3", "zarr 3 apart"]


@pytest.fixture
def results(adata: anndata.AnnData) -> anndata.AnnData:
    """The same cells and genes without a matrix; every other part has something new."""
    made = anndata.AnnData(obs=adata.obs.copy(), var=adata.var.copy())
    made.obs["sccagn"] = list("abab")
    made.obs["sccagn_confidence"] = np.linspace(0, 1, 4)
    made.var["highly_variable"] = np.arange(5) < 2
    made.uns["sccagn"] = {"params": {"n_clusters": 2}}
    made.obsm["X_sccagn"] = np.arange(12.0).reshape(4, 3)
    made.varm["PCs"] = np.arange(10.0).reshape(5, 2)
    made.obsp["distances"] = sparse.csr_matrix(np.triu(np.ones((4, 4)), 1))
    made.varp["likeness"] = np.eye(5)
    return made


def check(path: Path, results: anndata.AnnData) -> None:
    """Matrices as the fixture `adata` has them; the rest as `results`, and nothing else."""
    got = read(path)
    np.testing.assert_array_equal(dense(got.X), COUNTS)
    assert sorted(got.layers) == ["dense", "double"]
    np.testing.assert_array_equal(dense(got.layers["double"]), 2 * COUNTS)
    np.testing.assert_array_equal(dense(got.raw.X), -np.hstack([COUNTS, COUNTS[:, :2]]))
    pd.testing.assert_frame_equal(got.obs, results.obs)
    pd.testing.assert_frame_equal(got.var, results.var)
    assert got.uns == results.uns
    for name in ("obsm", "varm", "obsp", "varp"):
        stored, expected = getattr(got, name), getattr(results, name)
        assert set(stored) == set(expected)
        for key in expected:
            np.testing.assert_array_equal(dense(stored[key]), dense(expected[key]))


def chunks(path: Path) -> dict[str, Any]:
    """What lies on the disk of every matrix, undecoded."""
    if path.is_dir():
        return {name: found for name, found in tree(path).items() if name.split("/")[0] in ("X", "layers", "raw")}
    found = {}

    def look(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if name.split("/")[0] in ("X", "layers", "raw") and isinstance(item, h5py.Dataset):
            if item.chunks is None:
                found[name] = item[()].tolist()
            else:
                places = [item.id.get_chunk_info(i) for i in range(item.id.get_num_chunks())]
                found[name] = [
                    (at.chunk_offset, item.id.read_direct_chunk(at.chunk_offset), at.byte_offset) for at in places
                ]

    with h5py.File(path) as file:
        file.visititems(look)
    return found


def put(results: anndata.AnnData, source: Path, in_place: bool, **options: Any) -> Path:
    """Put results beside the matrices of a file, there or in a copy, and say where."""
    if in_place:
        io.add_results(results, str(source), **options)
        return source
    copy = source.with_name(f"b{source.suffix}")
    io.write_copy(results, str(source), str(copy), **options)
    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [False, True])
def test_parts_that_are_not_named_stay(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str, in_place: bool
) -> None:
    adata.obsm["X_old"] = np.ones((4, 2))
    adata.obsp["connectivities"] = sparse.eye(4, format="csr")
    source = store(adata, tmp_path / "a", kind)
    few = io.open_atlas(source, parts=("obs", "var", "uns")).adata
    assert not few.obsm
    assert not few.obsp
    few.obs["new"], few.uns["new"] = "a", 1
    found = read(put(few, source, in_place, parts=("obs", "uns")))
    assert (found.obs["new"].unique().tolist(), found.uns["new"]) == (["a"], 1)
    np.testing.assert_array_equal(found.obsm["X_old"], np.ones((4, 2)))
    assert (found.obsp["connectivities"] != adata.obsp["connectivities"]).nnz == 0
    assert (found.X != adata.X).nnz == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [False, True])
def test_all_but_the_matrices_is_replaced(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str, in_place: bool
) -> None:
    adata.obsm["X_old"] = np.ones((4, 2))
    adata.uns["old"] = "gone"
    source = store(adata, tmp_path / "a", kind)
    before, stored = tree(tmp_path), chunks(source)
    path = put(results, source, in_place)
    if not in_place:
        assert {name: found for name, found in tree(tmp_path).items() if not name.startswith("b.")} == before
    check(path, results)
    assert isinstance(read(path).obs["sccagn"].dtype, pd.CategoricalDtype)
    assert len(stored) >= 7
    assert chunks(path) == stored
    assert set(os.listdir(tmp_path)) == {source.name, path.name}
    if path.suffix == ".h5ad":
        backed = anndata.read_h5ad(path, backed="r")
        assert list(backed.obs["sccagn"]) == list("abab")
        np.testing.assert_array_equal(backed.X[:].toarray(), COUNTS)
        backed.file.close()
    else:
        root = zarr.open_group(path, mode="r")
        assert root.metadata.zarr_format == int(kind[5])
        assert (root.metadata.consolidated_metadata is None) == kind.endswith("apart")
        assert "X_sccagn" in root["obsm"]
        assert "X_old" not in root["obsm"]


def test_a_copy_takes_the_place_of_what_is_there(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData
) -> None:
    for kind in ("h5ad", "zarr 3"):
        source = store(adata, tmp_path / "a", kind)
        path = tmp_path / f"b{source.suffix}"
        io.write(anndata.AnnData(np.ones((7, 2), dtype=np.float32)), path)
        path.chmod(path.stat().st_mode & ~0o007)
        mode = path.stat().st_mode
        io.write_copy(results, source, path)
        check(path, results)
        assert path.stat().st_mode == mode


def test_the_matrices_of_results_are_not_looked_at(tmp_path: Path, adata: anndata.AnnData) -> None:
    source = store(adata, tmp_path / "a")
    backed = anndata.read_h5ad(source, backed="r")
    del backed.layers["double"]
    backed.obs["sccagn"] = list("abab")
    io.add_results(backed, source)
    backed.file.close()
    check(source, backed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_shares_no_file_with_its_source(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str
) -> None:
    """What is changed in one of them later must not change in the other."""
    source = store(adata, tmp_path / "a", kind)
    copy = tmp_path / f"b{source.suffix}"
    io.write_copy(results, source, copy)
    for file in [copy] if copy.is_file() else [path for path in copy.rglob("*") if path.is_file()]:
        assert file.stat().st_nlink == 1


def test_files_of_matrices_in_a_folder_are_kept(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData
) -> None:
    path = store(adata, tmp_path / "a", "zarr 3 apart")

    def inodes() -> dict[str, int]:
        parts = [file for part in ("X", "layers", "raw") for file in (path / part).rglob("*") if file.is_file()]
        return {str(file): file.stat().st_ino for file in parts}

    before = inodes()
    io.add_results(results, path)
    assert inodes() == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_matrix_behind_a_link_comes_along(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, in_place: bool
) -> None:
    path = store(adata, tmp_path / "a", "zarr 2 apart")
    (path / "X").rename(tmp_path / "elsewhere")
    (path / "X").symlink_to(tmp_path / "elsewhere")
    if in_place:
        io.add_results(results, path)
    else:
        io.write_copy(results, path, tmp_path / "b.zarr")
    check(path if in_place else tmp_path / "b.zarr", results)


def test_a_matrix_that_cannot_be_looked_into_is_not_lost(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(adata, tmp_path / "a", "zarr 2 apart")
    before, scandir = tree(tmp_path), os.scandir

    def denied(folder: Any = ".") -> Any:
        if str(folder) == str(path / "X"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"could not be written.*Permission denied"):
        io.add_results(results, path)
    monkeypatch.undo()
    assert tree(tmp_path) == before


def test_without_hard_links_they_are_copied(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(adata, tmp_path / "a", "zarr 2 apart")
    stored, link = chunks(path), os.link

    def no_links(source: Path, target: Path) -> None:
        if not str(source).endswith(".partial"):  # zarr's own
            raise PermissionError(1, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", no_links)
    io.add_results(results, path)
    check(path, results)
    assert chunks(path) == stored


@pytest.mark.parametrize("kind", ["h5ad", "zarr 2"])
def test_links_and_permissions_are_kept(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str
) -> None:
    (tmp_path / "real").mkdir()
    path = store(adata, tmp_path / "real" / "a", kind)
    path.chmod(0o750)
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path)
    io.add_results(results, link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    check(path, results)
    assert os.listdir(tmp_path / "real") == [path.name]


def test_room_is_used_again(tmp_path: Path) -> None:
    """But for strings: 32 bytes a cell for every time."""
    n = 2000
    adata = anndata.AnnData(sparse.csr_matrix((n, 3)), obsm={"X_pca": np.random.default_rng(0).random((n, 50))})
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    size = path.stat().st_size
    for _ in range(5):
        io.add_results(adata, path)
    assert path.stat().st_size < size + 5 * 32 * n + 100_000


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_a_file_from_before_anndata_07(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"] = COUNTS.astype(np.float32)
        for name, n in (("obs", 4), ("var", 5)):
            file[name] = np.array([(f"{name}{i}".encode(), i) for i in range(n)], dtype=[("index", "S9"), ("i", "i8")])
    results = anndata.AnnData(obs=pd.DataFrame({"sccagn": list("abab")}, index=list("pqrs")), shape=(4, 5))
    io.write_copy(results, tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    got = anndata.read_h5ad(tmp_path / "b.h5ad")  # without the warnings that the old encoding would raise
    np.testing.assert_array_equal(got.X, COUNTS)
    assert list(got.obs["sccagn"]) == list("abab")
    assert list(got.obs_names) == list("pqrs")


# What cannot be done


@pytest.mark.parametrize("kind", ["h5ad", "zarr 3"])
def test_other_cells_are_refused(tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str) -> None:
    path = store(adata, tmp_path / "a", kind)
    before = tree(tmp_path)
    for wrong in (results[:3].copy(), results[:, :4].copy()):
        with pytest.raises(InputError, match=rf"`adata`.*`path`.*{wrong.n_obs} × {wrong.n_vars}.*4 × 5"):
            io.add_results(wrong, path)
        with pytest.raises(InputError, match=r"`adata`.*`source`"):
            io.write_copy(wrong, path, tmp_path / f"b{path.suffix}")
    assert tree(tmp_path) == before


def test_another_kind_is_refused(tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData) -> None:
    for kind, other in (("h5ad", "b.zarr"), ("zarr 2", "b.h5ad")):
        source = store(adata, tmp_path / "a", kind)
        with pytest.raises(InputError, match=rf"`path` must end in \{source.suffix}, .*'.*{other}'"):
            io.write_copy(results, source, tmp_path / other)
        assert not (tmp_path / other).exists()


def test_what_is_no_anndata_is_refused(tmp_path: Path, tenx_hdf5: Any, results: anndata.AnnData) -> None:
    tenx = tenx_hdf5()
    (tmp_path / "a.zarr").mkdir()
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)["x"] = np.arange(3)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"`source` must be .* is a 10x matrix"):
        io.write_copy(results, tenx, tmp_path / "b.h5ad")
    with pytest.raises(InputError, match=r"`path` must be .* is a 10x matrix"):
        io.add_results(results, tenx)
    with pytest.raises(InputError, match=r"is damaged.*obs"):
        io.add_results(results, tmp_path / "a.zarr")
    with pytest.raises(InputError, match="does not exist"):
        io.add_results(results, tmp_path / "none.h5ad")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["h5ad", "zarr 3"])
def test_content_that_cannot_be_stored(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str
) -> None:
    path = store(adata, tmp_path / "a", kind)
    before = tree(tmp_path)
    results.uns["ours"] = object()
    with refused_by_anndata():
        io.add_results(results, path)
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == [path.name]


FULL_DISK = """
from pathlib import Path

h5ad, store, copy = map(Path, sys.argv[1:])
results = anndata.AnnData(shape=(600, 100))
results.obsm["X_pca"] = np.random.default_rng(0).random((600, 50))  # noise, so that zarr cannot compress it

limited(3000, io.add_results, results, store)
size = h5ad.stat().st_size
for limit in (*range(100, size, size // 4), *range(size, size + 240_000, 8_000)):
    limited(limit, io.add_results, results, h5ad)
    limited(limit, io.write_copy, results, h5ad, copy)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    adata = anndata.AnnData(sparse.random(600, 100, 0.3, format="csr", random_state=0))
    paths = [tmp_path / "a.h5ad", tmp_path / "a.zarr"]
    for path in paths:
        io.write(adata, path)
    before = tree(tmp_path)
    lines = on_a_full_disk(FULL_DISK, *paths, tmp_path / "b.h5ad")
    assert len(lines) > 60
    assert all("could not be written" in line and "File too large" in line for line in lines)
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.zarr"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_pandas_own_strings(
    tmp_path: Path, adata: anndata.AnnData, results: anndata.AnnData, kind: str
) -> None:
    names = adata.obs_names.tolist()
    with anndata.settings.override(allow_write_nullable_strings=True):
        adata.obs_names, adata.var_names = (index.astype("string") for index in (adata.obs_names, adata.var_names))
        path = store(adata, tmp_path / "a", kind)
    opened = io.open_atlas(path).adata
    for name in ("obs", "uns", "obsm"):
        setattr(opened, name, getattr(results, name))
    opened.obs_names = opened.obs_names.astype("string")
    io.add_results(opened, path)
    assert read(path).obs_names.tolist() == names
    whole = io.read(path)
    whole.obs_names = whole.obs_names.astype("string")
    io.write(whole, path)
    assert read(path).obs["sccagn"].tolist() == list("abab")


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_strings_of_pandas_own_type_in_uns_and_obsm_stay(tmp_path: Path, ending: str) -> None:
    """AnnData reads them, and refuses to write them unless told to."""
    markers = pd.DataFrame({"gene": pd.array(["a", None, "c"], dtype="string")}, index=["0", "1", "2"])
    adata = anndata.AnnData(np.ones((3, 2), np.float32), obsm={"frame": markers.copy()}, uns={"markers": markers})
    source = tmp_path / f"in{ending}"
    io.write(adata, source)
    held = io.read(source)
    held.obs["new"] = [1, 2, 3]
    io.write_copy(held, source, tmp_path / f"copy{ending}")
    io.add_results(held, source)
    io.write(held, tmp_path / f"new{ending}")
    for path in (source, tmp_path / f"copy{ending}", tmp_path / f"new{ending}"):
        again = io.read(path)
        assert again.obs["new"].tolist() == [1, 2, 3]
        for frame in (again.uns["markers"], again.obsm["frame"]):
            assert frame["gene"].isna().tolist() == [False, True, False]
            assert frame["gene"][["0", "2"]].tolist() == ["a", "c"]
    assert not anndata.settings.allow_write_nullable_strings
