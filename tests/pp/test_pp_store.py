"""A matrix kept in a cell store: the same blocks as without, made once, and made anew when it no longer fits."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from sccagn_scale import pp
from sccagn_scale._errors import InputError
from sccagn_scale.io import CellStore, StoredMatrix, add_results, open_atlas
from sccagn_scale.pp import same_matrices, select_matrix

pytestmark = pytest.mark.usefixtures("small_blocks", "threads")

COUNTS = np.random.default_rng(0).negative_binomial(0.1, 0.003, (30, 300))  # one value in twelve is above 255


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been read block by block so far."""
    seen: list[str] = []
    read = StoredMatrix.blocks

    def counting(self: StoredMatrix, block_size: int) -> Iterator[Any]:
        seen.extend(str(path) for path, _ in self.parts)
        return read(self, block_size)

    monkeypatch.setattr(StoredMatrix, "blocks", counting)
    return seen


def backed(path: Path, values: np.ndarray | None = None) -> ad.AnnData:
    """Write values, if any are given, and open the file."""
    if values is not None:
        ad.AnnData(sp.csr_matrix(values)).write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


def passed(matrix: pp.Expression) -> list[tuple[int, sp.csr_matrix]]:
    return list(matrix.each(lambda start, block: (start, block)))


def dense(matrix: pp.Expression) -> np.ndarray:
    return np.concatenate([block.toarray() for _, block in passed(matrix)])


@pytest.mark.parametrize("values", [COUNTS.astype("f4"), COUNTS.astype("i4"), COUNTS * 0.1, -COUNTS])
def test_blocks_are_those_kept_in_memory(tmp_path: Path, values: np.ndarray) -> None:
    in_memory = select_matrix(backed(tmp_path / "cells.h5ad", values))
    stored = select_matrix(backed(tmp_path / "cells.h5ad"), store=tmp_path / "store")
    assert (stored.shape, stored.nnz) == (in_memory.shape, in_memory.nnz)
    for _ in range(2):
        for (start, block), (expected_start, expected) in zip(passed(stored), passed(in_memory), strict=True):
            assert start == expected_start
            assert block.has_canonical_format
            for name in ("data", "indices", "indptr"):
                found, wanted = getattr(block, name), getattr(expected, name)
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted)


def test_the_input_is_read_once_for_all(tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    path = tmp_path / "cells.h5ad"
    backed(path, COUNTS)
    for _ in range(2):
        matrix = select_matrix(backed(path), store=tmp_path / "store")
        for _ in range(2):
            np.testing.assert_array_equal(dense(matrix), COUNTS)
    assert reads == [str(path)]
    assert caplog.messages == [f"The counts are taken from the cell store '{tmp_path / 'store'}'."]
    np.testing.assert_array_equal(CellStore.open(tmp_path / "store").read(0, 30).toarray(), COUNTS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (COUNTS[:, :7], r"size was \d+ and is \d+"),
        (COUNTS.astype(np.float32), r"size was \d+ and is \d+"),
        (None, r"mtime_ns was \d+ and is 5"),
    ],
)
def test_a_changed_input_is_read_anew(
    tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture, changed: np.ndarray | None, message: str
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))
    backed(path, changed)
    if changed is None:
        os.utime(path, ns=(5, 5))
    for _ in range(2):
        np.testing.assert_array_equal(
            dense(select_matrix(backed(path), store=store)), COUNTS if changed is None else changed
        )
    assert len(reads) == 2
    assert caplog.messages[1:] == [f"The counts are taken from the cell store '{store}'."]
    assert re.fullmatch(rf"The cell store '{store}' is made anew: files {path} {message}\.", caplog.messages[0])


def annotated(path: Path, column: str) -> None:
    """Write another column, and the matrix as it was."""
    adata = ad.read_h5ad(path)
    adata.obs[column] = column
    add_results(adata, path)


def test_results_in_the_input_leave_its_store_good(tmp_path: Path, reads: list[str]) -> None:
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))
    before = path.stat().st_mtime_ns
    for column in ("one", "two"):
        with same_matrices(path, store):
            annotated(path, column)
        np.testing.assert_array_equal(dense(select_matrix(backed(path), store=store)), COUNTS)
    assert len(reads) == 1
    assert path.stat().st_mtime_ns != before
    annotated(path, "three")  # by others: who knows of what else
    with same_matrices(path, store):
        annotated(path, "four")
    dense(select_matrix(backed(path), store=store))
    assert len(reads) == 2


def test_a_failed_write_leaves_the_store_as_it_was(tmp_path: Path, reads: list[str]) -> None:
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))
    with pytest.raises(RuntimeError), same_matrices(path, store):
        raise RuntimeError
    dense(select_matrix(backed(path), store=store))
    assert len(reads) == 1


def test_a_store_that_cannot_be_written_costs_no_results(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))

    def fail(*_: object) -> None:
        raise InputError("`store` could not be written: Read-only file system.")

    monkeypatch.setattr("sccagn_scale.pp._matrix.write_made_from", fail)
    with same_matrices(path, store):
        annotated(path, "one")
    assert caplog.messages == ["The cell store will be made anew: `store` could not be written: Read-only file system."]
    assert "one" in ad.read_h5ad(path).obs
    dense(select_matrix(backed(path), store=store))
    assert len(reads) == 2


def test_results_in_the_input_make_no_store(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    backed(path, COUNTS)
    for store in (None, tmp_path / "store"):
        with same_matrices(path, store):
            annotated(path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_work_may_change_its_block(tmp_path: Path) -> None:
    matrix = select_matrix(backed(tmp_path / "cells.h5ad", COUNTS), store=tmp_path / "store")
    for _ in range(2):
        list(matrix.each(lambda start, block: block.data.fill(7)))
    np.testing.assert_array_equal(dense(matrix), COUNTS)


def test_another_layer_of_the_same_file_is_another_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    other = sp.csr_matrix(COUNTS[::-1].copy())
    ad.AnnData(sp.csr_matrix(COUNTS), layers={"other": other}).write_h5ad(tmp_path / "cells.h5ad")
    atlas = open_atlas(tmp_path / "cells.h5ad")
    for layer, expected in ((None, COUNTS), ("other", COUNTS[::-1]), (None, COUNTS)):
        np.testing.assert_array_equal(dense(select_matrix(atlas, layer, tmp_path / "store")), expected)
    assert [message.partition("made anew: ")[2] for message in caplog.messages] == [
        "layer was None and is other.",
        "layer was other and is None.",
    ]


def test_another_file_of_the_same_cells_is_another_input(
    tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    for name in ("a.h5ad", "b.h5ad"):
        dense(select_matrix(backed(tmp_path / name, COUNTS), store=tmp_path / "store"))
    assert len(reads) == 2
    (message,) = caplog.messages
    assert re.search(r"made anew: files .*[ab]\.h5ad is (new|no longer part of it)\.$", message)


def test_a_damaged_store_is_made_anew(tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))
    os.truncate(store / "values", 3)
    np.testing.assert_array_equal(dense(select_matrix(backed(path), store=store)), COUNTS)
    assert len(reads) == 2
    assert len(caplog.messages) == 1
    assert "values has 3 bytes" in caplog.messages[0]
    assert CellStore.open(store).nnz == np.count_nonzero(COUNTS)


def test_a_first_pass_that_was_broken_off_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    matrix = select_matrix(backed(tmp_path / "cells.h5ad", COUNTS), store=tmp_path / "out" / "store")
    blocks = matrix.each(lambda start, block: block)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert os.listdir(tmp_path / "out") == []
    with pytest.raises(ZeroDivisionError):
        list(matrix.each(lambda start, block: 1 // (8 - start)))
    assert os.listdir(tmp_path / "out") == []
    for _ in range(2):
        np.testing.assert_array_equal(dense(matrix), COUNTS)
    assert os.listdir(tmp_path / "out") == ["store"]


def test_a_matrix_in_memory_makes_no_store(tmp_path: Path) -> None:
    matrix = select_matrix(ad.AnnData(sp.csr_matrix(COUNTS)), store=tmp_path / "store")
    np.testing.assert_array_equal(dense(matrix), COUNTS)
    assert not (tmp_path / "store").exists()


def test_a_folder_of_other_things_is_refused_before_the_first_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    with pytest.raises(InputError, match="`store` must not be a folder of other things"):
        select_matrix(backed(tmp_path / "cells.h5ad", COUNTS), store=tmp_path)
    assert caplog.messages == []


def test_a_store_that_cannot_be_written_is_still_read(tmp_path: Path, reads: list[str]) -> None:
    path, store = tmp_path / "cells.h5ad", tmp_path / "store"
    dense(select_matrix(backed(path, COUNTS), store=store))
    store.chmod(0o500)
    np.testing.assert_array_equal(dense(select_matrix(backed(path), store=store)), COUNTS)
    assert len(reads) == 1
    os.utime(path, ns=(5, 5))
    with pytest.raises(InputError, match="`store` must not be write-protected"):
        select_matrix(backed(path), store=store)
    store.chmod(0o700)


def test_the_same_files_in_another_order_are_another_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, values in zip(paths, (COUNTS, COUNTS[::-1]), strict=True):
        backed(path, values)
        adata = ad.read_h5ad(path)
        adata.obs_names = [f"{path.stem}{i}" for i in range(adata.n_obs)]
        adata.write_h5ad(path)
    for order in (paths, paths[::-1], paths[::-1]):
        found = dense(select_matrix(open_atlas(order), store=tmp_path / "store"))
        expected = np.vstack([COUNTS if path == paths[0] else COUNTS[::-1] for path in order])
        np.testing.assert_array_equal(found, expected)
    assert re.search(r"made anew: order was \[.*a\.h5ad.*\] and is \[.*b\.h5ad", caplog.messages[0])
    assert "taken from the cell store" in caplog.messages[1]


def test_a_store_that_another_run_replaced_meanwhile(tmp_path: Path) -> None:
    mine, others = (select_matrix(backed(tmp_path / f"{i}.h5ad", COUNTS), store=tmp_path / "store") for i in range(2))
    ongoing = mine.each(lambda start, block: None)
    original = CellStore.open

    def later(folder: Path) -> CellStore:  # the other one ends between our writing and our reading
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CellStore, "open", original)
            dense(others)
        return original(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CellStore, "open", later)
        with pytest.raises(InputError, match=r"`store` '.*' was replaced by another run at the same time: files .* is"):
            list(ongoing)


@pytest.mark.parametrize("kept", ["memory", "store"])
def test_a_copy_by_rows_is_made_where_an_interruption_is_heard(
    tmp_path: Path, copying: list[threading.Thread], kept: str
) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    ad.AnnData(sp.csc_matrix(values)).write_h5ad(tmp_path / "columns.h5ad")
    store = tmp_path / "store" if kept == "store" else None
    matrix = select_matrix(open_atlas([tmp_path / "columns.h5ad"]), store=store)
    (block,) = matrix.each(lambda start, block: block)
    np.testing.assert_array_equal(block.toarray(), values)
    assert copying == [threading.current_thread()]
