"""`read`: 10x files and folders of each version, and what is wrong with some."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
from io_samples import CELLS, COUNTS, GENES, IDS, in_child
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning

Make = Callable[..., Path]
ALL_GENES = ["Gene Expression"] * 5


@pytest.mark.parametrize("version", [2, 3])
def test_hdf5(tenx_hdf5: Make, version: int) -> None:
    got = io.read(tenx_hdf5(version, types=ALL_GENES))
    assert list(got.obs_names) == CELLS
    assert list(got.var_names) == GENES
    assert list(got.var["gene_ids"]) == IDS
    assert got.X.dtype == np.int32
    np.testing.assert_array_equal(got.X.toarray(), COUNTS)


@pytest.mark.parametrize("version", [2, 3])
def test_hdf5_is_read_as_scanpy_reads_it(tenx_hdf5: Make, version: int) -> None:
    path = tenx_hdf5(version, types=ALL_GENES)
    same_as_scanpys(path)


def test_hdf5_of_probes_is_read_as_scanpy_reads_it(tenx_hdf5: Make) -> None:
    path = tenx_hdf5(types=ALL_GENES)
    with h5py.File(path, "a") as file:
        features = file["matrix/features"]
        features["gene_id"] = np.array([f"gene {i}".encode() for i in range(5)])
        features["filtered_probes"] = np.array([True, False, True, True, False])
        features["length"] = np.arange(5)
        features["_all_tag_keys"] = np.array([b"genome"])
        features["target_sets/panel"] = np.array([0, 3])  # of a group, and no column
        file["matrix/filtered_barcodes"] = np.array([1, 0, 1, 1])
    same_as_scanpys(path)


def same_as_scanpys(path: Path) -> None:
    got, expected = io.read(path), scanpy.read_10x_h5(path, gex_only=False)
    pd.testing.assert_frame_equal(got.obs, expected.obs)
    pd.testing.assert_frame_equal(got.var, expected.var)
    np.testing.assert_array_equal(got.X.toarray(), expected.X.toarray())


def test_names_need_not_be_ascii(tenx_hdf5: Make) -> None:
    names = ["TNFα", *GENES[1:]]
    assert list(io.read(tenx_hdf5(genes=names, types=ALL_GENES)).var_names) == names


def test_counts_that_float32_cannot_hold(tenx_hdf5: Make) -> None:
    path = tenx_hdf5(types=ALL_GENES)
    with h5py.File(path, "a") as file:
        file["matrix/data"][0] = 2**24 + 1
    assert io.read(path).X[0, 1] == 2**24 + 1


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("prefix", ["", "GSM1_pbmc_"])
def test_mtx(tenx_mtx: Make, version: int, compress: bool, prefix: str) -> None:
    got = io.read(tenx_mtx(version, compress, prefix, types=ALL_GENES))
    assert list(got.obs_names) == CELLS
    assert list(got.var_names) == GENES
    assert list(got.var["gene_ids"]) == IDS
    assert ("feature_types" in got.var) == (version == 3)
    assert got.X.format == "csr"
    assert got.X.dtype == np.int32
    np.testing.assert_array_equal(got.X.toarray(), COUNTS)


def test_mtx_compressed_in_part(tenx_mtx: Make) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    plain = folder / "features.tsv"
    (folder / "features.tsv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    np.testing.assert_array_equal(io.read(folder).X.toarray(), COUNTS)


def test_mtx_number_types(tenx_mtx: Make) -> None:
    whole = io.read(tenx_mtx(types=ALL_GENES, counts=COUNTS.astype(np.int64) * 2**20))
    assert whole.X.dtype == np.int64
    np.testing.assert_array_equal(whole.X.toarray(), COUNTS.astype(np.int64) * 2**20)
    real = io.read(tenx_mtx(types=ALL_GENES, counts=COUNTS / 3))
    assert real.X.dtype == np.float64
    np.testing.assert_array_equal(real.X.toarray(), COUNTS / 3)


def test_features_of_one_column(tenx_mtx: Make) -> None:
    folder = tenx_mtx()
    (folder / "features.tsv").write_text("".join(f"{name}\n" for name in GENES))
    got = io.read(folder)
    assert list(got.var_names) == list(got.var["gene_ids"]) == GENES


def test_one_of_several_matrices(tenx_mtx: Make) -> None:
    tenx_mtx(prefix="a_", types=ALL_GENES)
    folder = tenx_mtx(prefix="b_", types=ALL_GENES, counts=2 * COUNTS)
    with pytest.raises(InputError, match=r"2 matrices, a_matrix\.mtx, b_matrix\.mtx.*give the path of the one"):
        io.read(folder)
    np.testing.assert_array_equal(io.read(folder / "b_matrix.mtx").X.toarray(), 2 * COUNTS)


def test_a_matrix_beside_its_compressed_self_is_one(tenx_mtx: Make) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    (folder / "matrix.mtx.gz").write_bytes(b"not read")
    np.testing.assert_array_equal(io.read(folder).X.toarray(), COUNTS)


@pytest.mark.parametrize("source", ["hdf5", "mtx"])
def test_antibodies_are_left_out_and_said(tenx_hdf5: Make, tenx_mtx: Make, source: str) -> None:
    path = tenx_hdf5() if source == "hdf5" else tenx_mtx()
    with pytest.warns(InputWarning, match=r"^1 of 5 features are not Gene Expression \(Antibody Capture\)"):
        got = io.read(path)
    assert not got.is_view
    assert list(got.var_names) == GENES[:4]
    np.testing.assert_array_equal(got.X.toarray(), COUNTS[:, :4])


def test_features_none_of_which_is_expression_are_kept(tenx_hdf5: Make) -> None:
    assert io.read(tenx_hdf5(types=["Peaks"] * 5)).n_vars == 5


def test_repeated_symbols_are_made_unique_and_said(tenx_hdf5: Make) -> None:
    path = tenx_hdf5(genes=["A", "B", "A", "A", "C"], types=ALL_GENES)
    with pytest.warns(InputWarning, match=r"2 of 5 gene names .*such as 'A'"):
        got = io.read(path)
    assert list(got.var_names) == ["A", "B", "A-1", "A-2", "C"]


# A .h5 file's matrix is left there


def test_genes_among_other_features_are_found_in_every_file(tenx_hdf5: Make, tmp_path: Path) -> None:
    """The .h5 file has an antibody between its genes, the other one some of these in another order."""
    types = ["Gene Expression", "Antibody Capture", *ALL_GENES[2:]]
    other = anndata.AnnData(sparse.csr_matrix(COUNTS[:, [3, 0, 1]] + 10))
    other.obs_names, other.var_names = [f"other {i}" for i in range(4)], [GENES[3], GENES[0], GENES[1]]
    other.write_h5ad(tmp_path / "other.h5ad")
    path = tenx_hdf5(types=types)
    with pytest.warns(InputWarning, match=r"tenx_v3\.h5: 1 of 5 features are not Gene Expression"):
        matrix = io.open_atlas([path, tmp_path / "other.h5ad"]).matrix()
    assert list(matrix.names) == [GENES[0], GENES[3]]
    expected = np.vstack([COUNTS[:, [0, 3]], COUNTS[:, [0, 3]] + 10])
    np.testing.assert_array_equal(np.vstack([block.toarray() for _, block in matrix.blocks(3)]), expected)
    np.testing.assert_array_equal(matrix.sample([0, 3], 2).toarray(), expected[[0, 1, 3, 4]])
    np.testing.assert_array_equal(matrix.read(2, 7).toarray(), expected[2:7])


def test_a_file_that_has_changed_is_known(tenx_hdf5: Make, tenx_mtx: Make) -> None:
    path, folder = tenx_hdf5(types=ALL_GENES), tenx_mtx(types=ALL_GENES)
    atlas = io.open_atlas([path])
    of_text = io.open_atlas([folder])
    assert atlas.changed_files == of_text.changed_files == []
    path.unlink()
    (folder / "matrix.mtx").unlink()
    assert atlas.changed_files == [path]
    assert of_text.changed_files == [folder]


def test_damage_is_told_with_its_cells(tenx_hdf5: Make) -> None:
    path = tenx_hdf5(types=ALL_GENES)
    with h5py.File(path, "a") as file:
        file["matrix/indices"][-1] = 5
    matrix = io.open_atlas([path]).matrix()
    blocks = matrix.blocks(2)
    np.testing.assert_array_equal(next(blocks)[1].toarray(), COUNTS[:2])
    with pytest.raises(InputError, match=r"tenx_v3\.h5' is damaged.* cells 2 to 3, index 5 is not below 5"):
        next(blocks)


@pytest.mark.parametrize("shape", [(5, 3), (6, 4), (4, 5), (20,)])
def test_a_shape_that_is_not_that_of_the_names(tenx_hdf5: Make, shape: tuple[int, ...]) -> None:
    path = tenx_hdf5(types=ALL_GENES)
    with h5py.File(path, "a") as file:
        del file["matrix/shape"]
        file["matrix/shape"] = np.array(shape)
    with pytest.raises(InputError, match=r"`path` .* is damaged"):
        io.read(path)
    with pytest.raises(InputError, match=r"`path` .* is damaged"):
        io.open_atlas([path]).matrix()


MEASURED = """
import resource, sys
from sccagn_scale import io

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

matrix, before = io.open_atlas([sys.argv[1]]).matrix(), peak()
total = sum(int(block.sum()) for _, block in matrix.blocks(1024))
print(total, matrix.nnz, peak() - before)
"""


def test_a_pass_holds_a_block_at_a_time(tmp_path: Path) -> None:
    n_obs, per_cell = 60_000, 200  # 12 million values: 144 MB as SciPy holds them
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group.create_dataset("data", data=np.ones(n_obs * per_cell, np.int32), compression="gzip", chunks=(80_000,))
        indices = np.tile(np.arange(per_cell, dtype=np.int64), n_obs)
        group.create_dataset("indices", data=indices, compression="gzip", chunks=(80_000,))
        group["indptr"], group["shape"] = per_cell * np.arange(n_obs + 1), np.array([per_cell, n_obs], np.int32)
        group["barcodes"] = np.array([f"cell {i}".encode() for i in range(n_obs)])
        names = np.array([f"gene {i}".encode() for i in range(per_cell)])
        group["features/id"] = group["features/name"] = names
        group["features/feature_type"] = np.array([b"Gene Expression"] * per_cell)
    total, nnz, kib = map(int, in_child(MEASURED, path).split())
    assert total == nnz == n_obs * per_cell
    assert kib < 60_000


# What cannot be read


def test_several_genomes(tenx_hdf5: Make) -> None:
    path = tenx_hdf5(2, genomes=("hg19", "mm10"))
    with pytest.raises(InputError, match=r"`path` .* a matrix for each of hg19, mm10"):
        io.read(path)


@pytest.mark.parametrize("missing", ["features", "features/name", "shape"])
def test_hdf5_without_a_part(tenx_hdf5: Make, missing: str) -> None:
    path = tenx_hdf5()
    with h5py.File(path, "a") as file:
        del file["matrix"][missing]
    with pytest.raises(InputError, match="`path`"):
        io.read(path)


def test_hdf5_indices_that_leave_the_matrix(tenx_hdf5: Make) -> None:
    path = tenx_hdf5()
    with h5py.File(path, "a") as file:
        file["matrix/indices"][0] = 5
    with pytest.raises(InputError, match=r"`path` .* is damaged"):
        io.read(path)


@pytest.mark.parametrize("missing", ["features.tsv", "barcodes.tsv"])
def test_mtx_without_a_part(tenx_mtx: Make, missing: str) -> None:
    folder = tenx_mtx()
    (folder / missing).unlink()
    with pytest.raises(InputError, match=rf"`path` must have {missing}.* beside matrix\.mtx"):
        io.read(folder)


def test_mtx_sizes_that_disagree(tenx_mtx: Make) -> None:
    folder = tenx_mtx()
    (folder / "barcodes.tsv").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"matrix\.mtx is 5 × 4 where features\.tsv has 5 lines and barcodes\.tsv 2"):
        io.read(folder)


@pytest.mark.parametrize("name", ["matrix.mtx", "features.tsv", "barcodes.tsv"])
@pytest.mark.parametrize("fraction", [0, 0.3, 0.7])
def test_mtx_truncated(tenx_mtx: Make, name: str, fraction: float) -> None:
    file = tenx_mtx() / name
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * fraction)])
    with pytest.raises(InputError, match="`path`"):
        io.read(file.parent)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
@pytest.mark.parametrize("damage", ["empty", "cut", "tail", "other"])
def test_mtx_corrupt_gz(tenx_mtx: Make, name: str, damage: str) -> None:
    file = tenx_mtx(compress=True) / name
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "tail": whole[:-4], "other": b"hello"}[damage])
    with pytest.raises(InputError, match="`path`") as caught:
        io.read(file.parent)
    assert "\n" not in str(caught.value)
