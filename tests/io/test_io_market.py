"""A 10x folder's `matrix.mtx` as part of an atlas: gone through in pieces, and copied by rows."""

from __future__ import annotations

import gzip
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata
import hypothesis.strategies as st
import numpy as np
import pytest
from atlas_samples import gathered
from hypothesis import given
from io_samples import CELLS, COUNTS, GENES, in_child
from scipy import sparse
from scipy.io import mmread

from sccagn_scale import io
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.io import _atomic, _market, _transpose

ALL_GENES = ["Gene Expression"] * 5
HEAD = "%%MatrixMarket matrix coordinate {} general\n%\n{} {} {}\n"
ORDERS = ["cells", "falling", "genes", "any", "halves"]


def folder_of(matrix: sparse.coo_matrix, folder: Path, order: str = "cells", *, compressed: bool = False) -> Path:
    """Write cells × genes as 10x does, by cells or in another order; "halves" has half of the genes first."""
    n_obs, n_vars = matrix.shape
    keys = {
        "cells": (matrix.col, matrix.row),
        "falling": (-matrix.col, matrix.row),
        "genes": (matrix.row, matrix.col),
        "any": (np.random.default_rng(0).random(matrix.nnz),),
        "halves": (matrix.row, matrix.col >= n_vars // 2),
    }
    field = "integer" if matrix.dtype.kind in "iu" else "real"
    lines = [
        f"{matrix.col[i] + 1} {matrix.row[i] + 1} {matrix.data[i].item()!r}\n" for i in np.lexsort(keys[order]).tolist()
    ]
    text = HEAD.format(field, n_vars, n_obs, matrix.nnz) + "".join(lines)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "barcodes.tsv").write_text("".join(f"c{i}\n" for i in range(n_obs)))
    (folder / "features.tsv").write_text("".join(f"id{i}\tg{i}\tGene Expression\n" for i in range(n_vars)))
    path = folder / ("matrix.mtx.gz" if compressed else "matrix.mtx")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    return folder


def random_cells(seed: int, shape: tuple[int, int], *, density: float = 0.3, real: bool = False) -> sparse.coo_matrix:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 1000, shape) * (rng.random(shape) < density)
    return sparse.coo_matrix(values / 7 if real else values)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    order=st.sampled_from(ORDERS),
    n_held=st.sampled_from([1, 7, 50, 10_000]),
    looked_at=st.sampled_from([1, 5, 10_000]),
    compressed=st.booleans(),
    real=st.booleans(),
)
def test_any_order_gives_what_scipy_reads(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int],
    density: float,
    order: str,
    n_held: int,
    looked_at: int,
    compressed: bool,
    real: bool,
) -> None:
    cells = random_cells(seed, shape, density=density, real=real)
    folder = folder_of(cells, tmp_path_factory.mktemp("mtx"), order, compressed=compressed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_transpose, "_N_HELD", n_held)
        patched.setattr(_transpose, "_PER_ROOT", 0)
        patched.setattr(_market, "_LOOKED_AT", looked_at)
        matrix = io.open_atlas([folder], scratch=folder).matrix()
        assert (matrix.shape, matrix.nnz) == (shape, cells.nnz)
        assert matrix.dtype == (np.float64 if real else np.int32)
        firsts = np.arange(0, shape[0] - 1, 3)
        sample = matrix.sample(firsts.tolist(), 2)
        got = gathered(matrix, 7)
    expected = mmread(next(folder.glob("matrix.mtx*"))).T.tocsr()
    np.testing.assert_array_equal(got.toarray(), expected.toarray())
    picked = (firsts[:, None] + np.arange(2)).ravel()
    np.testing.assert_array_equal(sample.toarray(), expected[picked].toarray())


@pytest.mark.parametrize(("order", "making"), [("cells", 0), ("genes", 12), ("any", 12), ("falling", 12)])
def test_the_copy_is_what_was_planned(scratch: Path, tmp_path: Path, order: str, making: int) -> None:
    cells = random_cells(0, (400, 60))
    matrix = io.open_atlas([folder_of(cells, tmp_path / "a", order)], scratch=scratch).matrix()
    assert matrix.copies[:2] == (8 * cells.nnz + 8 * 400, making * cells.nnz)
    kept = matrix.copies.kept
    matrix.sample([0, 50], 10)
    assert list(scratch.iterdir()) == []  # none was made
    got = matrix.read(0, 400)
    np.testing.assert_array_equal(got.toarray(), cells.toarray())
    assert got.has_sorted_indices
    (copy,) = scratch.rglob("*.h5")
    assert copy.stat().st_size == pytest.approx(kept, abs=8192)
    assert matrix.copies == (0, 0, 0)


def test_cells_that_come_again_take_the_room_of_any_order(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_market, "_LOOKED_AT", 20)
    monkeypatch.setattr(_transpose, "_N_HELD", 200)
    monkeypatch.setattr(_transpose, "_PER_ROOT", 0)
    cells = random_cells(0, (50, 20))
    matrix = io.open_atlas([folder_of(cells, tmp_path / "a", "halves")], scratch=scratch).matrix()
    assert matrix.copies.making == 0  # as far as was seen
    room = SimpleNamespace(free=matrix.copies.kept)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: room)
        with pytest.raises(InputError, match=r"rows of .*matrix\.mtx', which is text: .*No space left"):
            matrix.read(0, 1)
    assert list(scratch.rglob("*.h5")) == []
    np.testing.assert_array_equal(matrix.read(0, 50).toarray(), cells.toarray())
    assert len(list(scratch.rglob("*.h5"))) == 1


def test_values_that_come_twice_are_kept(scratch: Path, tmp_path: Path) -> None:
    """They are added up where cells are prepared, as those of other files are."""
    folder = folder_of(sparse.coo_matrix(np.eye(3, dtype=np.int64)), tmp_path / "a")
    (folder / "matrix.mtx").write_text(HEAD.format("integer", 3, 3, 3) + "1 1 5\n1 1 2\n3 2 1\n")
    got = io.open_atlas([folder], scratch=scratch).matrix().read(0, 3)
    assert list(got.data) == [5, 2, 1]
    np.testing.assert_array_equal(got.toarray(), io.read(folder).X.toarray())


def test_whoever_has_it_pickled_makes_no_other_copy(scratch: Path, tmp_path: Path) -> None:
    cells = random_cells(0, (30, 8))
    atlas = io.open_atlas([folder_of(cells, tmp_path / "a")], scratch=scratch)
    there = pickle.loads(pickle.dumps(atlas.matrix()))
    shutil.rmtree(tmp_path / "a")
    np.testing.assert_array_equal(there.read(5, 20).toarray(), cells.toarray()[5:20])


def test_genes_among_other_features_beside_another_file(
    tenx_mtx: Callable[..., Path], tmp_path: Path, scratch: Path
) -> None:
    folder = tenx_mtx(types=["Gene Expression", "Antibody Capture", *ALL_GENES[2:]])
    other = anndata.AnnData(sparse.csr_matrix(COUNTS[:, [3, 0, 1]] + 10))
    other.obs_names, other.var_names = [f"other {i}" for i in range(4)], [GENES[3], GENES[0], GENES[1]]
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.warns(InputWarning, match="1 of 5 features are not Gene Expression"):
        matrix = io.open_atlas([folder, tmp_path / "other.h5ad"], scratch=scratch).matrix()
    expected = np.vstack([COUNTS[:, [0, 3]], COUNTS[:, [0, 3]] + 10])
    np.testing.assert_array_equal(matrix.sample([0, 3], 2).toarray(), expected[[0, 1, 3, 4]])
    np.testing.assert_array_equal(gathered(matrix, 3).toarray(), expected)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEAD.format("integer", 5, 4, 2) + "2 1 3\n4 1 1\n\n \n", id="empty lines in the end"),
        pytest.param(HEAD.format("integer", 5, 4, 2) + "2 1 3\n4 1 1", id="no end of the last line"),
        pytest.param(HEAD.format("integer", 5, 4, 2) + "\n2 1 3\n\n \n\n4 1 1\n", id="empty lines between"),
        pytest.param(HEAD.format("unsigned-integer", 5, 4, 2) + "2 1 3\n4 1 1\n", id="unsigned"),
        pytest.param(HEAD.format("double", 5, 4, 2) + "2 1 3\n4 1 1\n", id="double"),
        pytest.param(HEAD.format("integer", 5, 4, 2).replace("\n", "\r\n") + "2 1 3\r\n4 1 1\r\n", id="CRLF"),
        pytest.param(HEAD.format("integer", 5, 4, 2).replace("%\n", '%metadata_json: {"a": 1}\n\n') + "2 1 3\n4 1 1\n"),
        pytest.param(HEAD.format("real", 5, 4, 2) + "  2\t1 3e0\n4   1 1.0\n", id="spaces"),
    ],
)
@pytest.mark.parametrize("n_held", [1, 2, 3, 4, 1000])
def test_what_text_may_look_like(
    tenx_mtx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, text: str, n_held: int
) -> None:
    monkeypatch.setattr(_transpose, "_N_HELD", n_held)  # pieces end anywhere
    monkeypatch.setattr(_transpose, "_PER_ROOT", 0)
    folder = tenx_mtx(types=ALL_GENES)
    (folder / "matrix.mtx").write_bytes(text.encode())
    expected = np.zeros((4, 5))
    expected[0, [1, 3]] = 3, 1
    np.testing.assert_array_equal(io.open_atlas([folder]).matrix().read(0, 4).toarray(), expected)
    np.testing.assert_array_equal(io.read(folder).X.toarray(), expected)


def test_a_gene_that_many_cells_have_is_no_sign_of_order(tmp_path: Path) -> None:
    cells = sparse.coo_matrix(np.ones((2**16, 2), np.int64))
    matrix = io.open_atlas([folder_of(cells, tmp_path / "a", "genes")]).matrix()
    assert matrix.copies.making == 12 * 2**17


def test_other_files_in_the_folder_are_no_change(tenx_mtx: Callable[..., Path]) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    atlas = io.open_atlas([folder], scratch=folder)
    assert atlas.matrix().read(0, 1).shape == (1, 5)
    (folder / "notes.txt").write_text("of the run")
    assert atlas.changed_files == []
    (folder / "barcodes.tsv").write_text("".join(f"other {i}\n" for i in range(4)))
    assert atlas.changed_files == [folder]


def test_the_copy_is_made_where_an_interruption_is_heard(
    tmp_path: Path, scratch: Path, copying: list[threading.Thread]
) -> None:
    paths = [folder_of(random_cells(i, (30, 8)), tmp_path / f"{i}" / "a") for i in range(2)]
    for i, path in enumerate(paths):
        (path / "barcodes.tsv").write_text("".join(f"{i} {cell}\n" for cell in range(30)))
    matrix = io.open_atlas(paths, scratch=scratch).matrix()
    assert sum(block.shape[0] for _, block in matrix.blocks(7)) == 60
    assert copying == [threading.current_thread()] * 2


@pytest.mark.parametrize("order", ["cells", "genes"])
def test_a_copy_that_has_failed_ends_with_the_piece(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """`check` is what raises a full disk and an interruption."""
    n_checks = 0

    def check(self: object) -> None:
        nonlocal n_checks
        n_checks += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(_transpose, "_N_HELD", 100)
    monkeypatch.setattr(_transpose, "_PER_ROOT", 0)
    monkeypatch.setattr(_atomic.Hdf5File, "check", check)
    matrix = io.open_atlas([folder_of(random_cells(0, (400, 60)), tmp_path / "a", order)], scratch=scratch).matrix()
    with pytest.raises(KeyboardInterrupt):
        matrix.read(0, 1)
    assert n_checks == 1
    assert list(scratch.rglob("*.h5")) == []


MEASURED = """
import resource, sys
from sccagn_scale import io

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

matrix = io.open_atlas([sys.argv[1]], scratch=sys.argv[2]).matrix()
planned, before = matrix.copies.memory, peak()
total = sum(int(block.sum()) for _, block in matrix.blocks(1024))
print(total, matrix.nnz, peak() - before, planned)
"""


def test_a_pass_holds_a_piece_at_a_time(tmp_path: Path) -> None:
    n_obs, per_cell = 60_000, 200  # 12 million values: 144 MB as SciPy holds them, 192 on the way
    cells = (f"{gene + 1} {{0}} 1\n" for gene in range(per_cell))
    of_a_cell = "".join(cells)
    with gzip.open(tmp_path / "matrix.mtx.gz", "wt", compresslevel=1) as file:
        file.write(HEAD.format("integer", per_cell, n_obs, n_obs * per_cell))
        for cell in range(1, n_obs + 1):
            file.write(of_a_cell.format(cell))
    (tmp_path / "barcodes.tsv").write_text("".join(f"{i}\n" for i in range(n_obs)))
    (tmp_path / "features.tsv").write_text("".join(f"{i}\n" for i in range(per_cell)))
    total, nnz, kib, planned = map(int, in_child(MEASURED, tmp_path, tmp_path).split())
    assert total == nnz == n_obs * per_cell
    assert kib * 1024 < planned < 200e6


# What cannot be read


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_too_small_for_what_it_announces(tmp_path: Path, compressed: bool) -> None:
    folder = folder_of(random_cells(0, (30, 8)), tmp_path / "a", compressed=compressed)
    file = folder / ("matrix.mtx.gz" if compressed else "matrix.mtx")
    text = HEAD.format("integer", 8, 30, 10**12) + "2 1 3\n"
    file.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    for read in (io.read, lambda path: io.open_atlas([path]).matrix()):
        with pytest.raises(
            InputError, match=r"is damaged.*: it announces 1000000000000 values, for which it is too small"
        ):
            read(folder)


def test_what_cannot_be_opened_is_no_damage(tenx_mtx: Callable[..., Path]) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    (folder / "matrix.mtx").unlink()
    (folder / "matrix.mtx").mkdir()
    with pytest.raises(InputError, match=r"`path` .*matrix\.mtx' cannot be opened: .*Is a directory"):
        io.open_atlas([folder])


def test_a_matrix_replaced_by_one_of_another_size(tmp_path: Path) -> None:
    folder = folder_of(random_cells(0, (30, 8)), tmp_path / "a")
    atlas = io.open_atlas([folder])
    folder_of(random_cells(0, (40, 8)), folder)
    with pytest.raises(InputError, match="is 40 × 8 but must be 30 × 8"):
        atlas.matrix()


def test_reals_are_numbers(tenx_mtx: Callable[..., Path]) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    (folder / "matrix.mtx").write_text(HEAD.format("real", 5, 4, 1) + "2 1 1,5\n")
    for read in (io.read, lambda path: io.open_atlas([path]).matrix().read(0, 1)):
        with pytest.raises(InputError, match="line 4 is not three numbers"):
            read(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2 1 3\n6 1 1\n", "line 5: Row index out of bounds"),
        ("2 1 3\n4 0 1\n", "line 5: Column index out of bounds"),
        ("2 1 3\n4 1 x\n", "line 5 is not three whole numbers"),
        ("2 1 3\n\n \n4 1 1.5\n", "line 7 is not three whole numbers"),
        ("2 1 3\n4 1 1e3\n", "line 5 is not three whole numbers"),
        ("2 1 3\n4 1 1 of\n", "line 5 is not three whole numbers"),
        ("2 1 3\n\n \n4 9 1\n", "line 7: Column index out of bounds"),
        ("2 1 3\n4 1 2147483648\n", "it has a value of 2147483648, which is no count; save the matrix as .h5ad"),
        ("2 1 3\n4 1 99999999999999999999\n", "line 5: Integer out of range"),
        ("2 1\n4 1 1\n", "line 4: Invalid integer value"),
        ("2 1 3\n", "it announces 2 values but has 1"),
        ("", "it announces 2 values but has 0"),
        ("2 1 3\n4 1 1\n4 2 1\n", "it announces 2 values but has more"),
        ("2 1 3\n" + "4" * 1001, "line 5 has more than 1000 characters"),
    ],
)
@pytest.mark.parametrize("n_held", [1, 1000])
def test_damage_is_told_with_its_line(
    tenx_mtx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, text: str, reason: str, n_held: int
) -> None:
    monkeypatch.setattr(_transpose, "_N_HELD", n_held)
    monkeypatch.setattr(_transpose, "_PER_ROOT", 0)
    folder = tenx_mtx(types=ALL_GENES)
    (folder / "matrix.mtx").write_text(HEAD.format("integer", 5, 4, 2) + text)
    matrix = io.open_atlas([folder]).matrix()
    with pytest.raises(InputError, match=rf"`path` '.*matrix\.mtx' is damaged.*: {reason}") as caught:
        matrix.read(0, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "tail", "other"])
def test_damaged_compression_is_told(tmp_path: Path, damage: str) -> None:
    folder = folder_of(random_cells(0, (300, 80)), tmp_path / "a", compressed=True)
    file = folder / "matrix.mtx.gz"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "tail": whole[:-4], "other": b"hello"}[damage])
    with pytest.raises(InputError, match=r"`path` '.*matrix\.mtx\.gz' is damaged"):
        io.open_atlas([folder]).matrix().read(0, 300)


@pytest.mark.parametrize(
    "kind",
    ["array integer general", "coordinate pattern general", "coordinate real symmetric", "coordinate complex general"],
)
def test_other_kinds_of_matrices_are_refused(tenx_mtx: Callable[..., Path], kind: str) -> None:
    folder = tenx_mtx(types=ALL_GENES)
    sizes = "5 4" if kind.startswith("array") else "5 4 0"
    (folder / "matrix.mtx").write_text(f"%%MatrixMarket matrix {kind}\n{sizes}\n")
    for read in (io.read, lambda path: io.open_atlas([path])):
        with pytest.raises(InputError, match=rf"matrix\.mtx' must be 'coordinate integer general'.*but is '{kind}'"):
            read(folder)


def test_a_sample_of_values_does_without_the_damaged(tenx_mtx: Callable[..., Path]) -> None:
    folder = tenx_mtx(types=ALL_GENES, counts=COUNTS.astype(np.int64) * 300)
    assert io.open_atlas([folder]).matrix().value_size() == pytest.approx(4, abs=2)
    (folder / "matrix.mtx").write_text(HEAD.format("integer", 5, 4, 2) + "2 x 3\n")
    assert io.open_atlas([folder]).matrix().value_size() == 1
    assert list(io.open_atlas([folder]).obs.index) == CELLS
