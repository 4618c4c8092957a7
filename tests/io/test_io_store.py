"""The cell store: rows come back as they went in, and what is no whole store is refused."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from io_samples import on_a_full_disk, tree
from scipy import sparse

from sccagn_scale._errors import InputError
from sccagn_scale.io import CellStore, CellStoreWriter
from sccagn_scale.io._store import PackedRows, write_made_from

MADE_FROM = {"files": {"/cells.h5ad": {"size": 3}}, "layer": None}
COUNTS = [0.0] * 6 + [1.0, 2.0, 254.0, 255.0, 256.0, 300.0, -1.0, 2.0**24 - 1, 2.0**24, 2.0**24 + 2]
OTHERS = [0.5, 1e-40, -255.5, 3e38, float("inf"), float("nan")]
DENSE = st.sampled_from([COUNTS, [0.0, 0.0, 3.0], COUNTS + OTHERS, [0.0, *OTHERS]]).flatmap(
    lambda values: arrays(
        np.float32, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12), elements=st.sampled_from(values)
    )
)


def csr(dense: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.asarray(dense, dtype=np.float32))


def write(folder: Path, blocks: Sequence[sparse.csr_matrix]) -> CellStore:
    with CellStoreWriter(folder, blocks[0].shape[1], MADE_FROM) as writer:
        for block in blocks:
            writer.append(block)
    return CellStore.open(folder)


def assert_same(found: sparse.csr_matrix, expected: sparse.csr_matrix) -> None:
    """Bit for bit, in the same types."""
    assert isinstance(found, sparse.csr_matrix)
    assert found.shape == expected.shape
    assert found.data.view(np.uint32).tolist() == expected.data.view(np.uint32).tolist()
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.indptr.tolist() == expected.indptr.tolist()
    assert (found.data.dtype, found.indices.dtype) == (np.float32, np.int32)
    assert found.__dict__["_has_canonical_format"]
    assert found.__dict__["_has_sorted_indices"]


@given(dense=DENSE, data=st.data())
def test_rows_are_those_of_scipy(dense: np.ndarray, data: st.DataObject) -> None:
    n_obs = len(dense)
    cut = data.draw(st.integers(0, n_obs))
    start = data.draw(st.integers(0, n_obs))
    stop = data.draw(st.integers(start, n_obs))
    positions = np.array(data.draw(st.lists(st.integers(0, max(n_obs - 1, 0)), max_size=15 * (n_obs > 0))), np.int32)
    matrix = csr(dense)
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder) / "store", [matrix[:cut], matrix[cut:]])
        for held in (store, PackedRows.of(matrix)):
            assert (held.shape, held.nnz) == (matrix.shape, matrix.nnz)
            assert_same(held.read(start, stop), matrix[start:stop])
            assert_same(held.rows(positions), matrix[positions])
            assert_same(held.rows(np.arange(n_obs)), matrix)


@given(dense=DENSE)
def test_what_is_read_is_the_callers_own(dense: np.ndarray) -> None:
    matrix = csr(dense)
    given_away = matrix.copy()
    packed = PackedRows.of(given_away)
    for block in (given_away, packed.read(0, len(dense))):
        block.data[:], block.indices[:], block.indptr[:] = 7, 0, 0
    assert_same(packed.read(0, len(dense)), matrix)


@pytest.mark.parametrize(("n_vars", "width"), [(1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_the_widest_column_is_kept_in_the_fewest_bytes(tmp_path: Path, n_vars: int, width: int) -> None:
    matrix = sparse.csr_matrix(([9.0], ([1], [n_vars - 1])), shape=(3, n_vars), dtype=np.float32)
    store = write(tmp_path / "store", [matrix])
    assert_same(store.read(0, 3), matrix)
    assert (tmp_path / "store" / "indices").stat().st_size == width


@pytest.mark.parametrize(
    ("values", "n_bytes"),
    [([1, 2, 255] * 8, 1 * 24), ([1, 2, 255] * 8 + [256], 1 * 25 + 12), ([0.5, 1.5] * 4, 4 * 8)],
    ids=["counts", "one large", "fractions"],
)
def test_bytes_on_disk(tmp_path: Path, values: list[float], n_bytes: int) -> None:
    store = write(tmp_path / "store", [csr([values]), csr([[0.0] * len(values)])])
    assert store.n_bytes == n_bytes + len(values) + 3 * 8
    on_disk = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert on_disk == store.n_bytes + (tmp_path / "store" / "store.json").stat().st_size


def test_blocks_of_either_kind_follow_each_other(tmp_path: Path) -> None:
    """The first with values decides how they are kept; the others lose nothing."""
    counts, fractions = csr([[0, 3, 5]] * 8 + [[0, 3, 300]]), csr([[0.25, 0, -7.5]] * 5)
    nothing = csr(np.zeros((2, 3)))
    for name, blocks in {"counts": [nothing, counts, fractions], "fractions": [nothing, fractions, counts]}.items():
        store = write(tmp_path / name, blocks)
        assert_same(store.read(0, 16), sparse.vstack(blocks, format="csr"))
        assert (tmp_path / name / "values").stat().st_size == store.nnz * (1 if name == "counts" else 4)


def test_it_knows_what_it_was_made_from(tmp_path: Path) -> None:
    assert write(tmp_path / "store", [csr([[1, 0]])]).made_from == MADE_FROM


def test_what_it_was_made_from_can_be_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, matrix = tmp_path / "store", csr([[1, 0], [300, 2]])
    write(folder, [matrix])
    write_made_from(folder, {"layer": "counts"})
    assert CellStore.open(folder).made_from == {"layer": "counts"}
    assert_same(CellStore.open(folder).read(0, 2), matrix)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sccagn_scale.io._store.replacing", full)
    with pytest.raises(InputError, match=r"`store` '.*store' could not be written: .*No space left"):
        write_made_from(folder, {})
    assert CellStore.open(folder).made_from == {"layer": "counts"}


def test_a_store_without_cells(tmp_path: Path) -> None:
    with CellStoreWriter(tmp_path / "store", 5, {}):
        pass
    store = CellStore.open(tmp_path / "store")
    assert (store.shape, store.nnz, store.n_bytes) == ((0, 5), 0, 8)
    assert store.read(0, 0).shape == (0, 5)


def test_reading_holds_what_is_asked_for_and_no_more(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).poisson(0.3, (20_000, 50)).astype(np.float32)
    write(tmp_path / "store", [csr(dense)])
    tracemalloc.start()
    try:
        store = CellStore.open(tmp_path / "store")
        store.read(10_000, 10_010)
        store.rows([5, 19_999, 0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < store.n_bytes / 4


def test_offsets_beyond_two_to_the_31(tmp_path: Path) -> None:
    """The files are holes but for their ends: 3 · 2³⁰ values between those of the first cell and those of the last."""
    folder, matrix = tmp_path / "store", csr([[*range(1, 9), 256], [0] * 9, [-3, *range(9, 17)]])
    write(folder, [matrix])
    first, n_between = 9, 3 * 2**30
    for name in ("indices", "values"):
        with open(folder / name, "r+b") as file:
            content = file.read()
            file.truncate(first + n_between)
            file.seek(first + n_between)
            file.write(content[first:])
    np.array([0, first, first + n_between, n_between + 2 * first], "<i8").tofile(folder / "indptr")
    np.array([first - 1, first + n_between], "<i8").tofile(folder / "large_at")
    header = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(header | {"nnz": n_between + 2 * first}))
    store = CellStore.open(folder)
    assert store.nnz > 2**31
    assert_same(store.read(2, 3), matrix[2:])
    assert_same(store.read(0, 1), matrix[:1])
    assert_same(store.rows([2, 0, 2]), matrix[[2, 0, 2]])


def test_offsets_are_written_beyond_two_to_the_31(tmp_path: Path) -> None:
    """As though 3 · 2³⁰ values had been written before."""
    with CellStoreWriter(tmp_path / "store", 9, {}) as writer:
        writer._nnz = 3 * 2**30
        for _ in range(2):
            writer.append(csr([[*range(1, 9), 256]]))
    before = 3 * 2**30
    assert np.fromfile(tmp_path / "store" / "indptr", "<i8").tolist() == [0, before + 9, before + 18]
    assert np.fromfile(tmp_path / "store" / "large_at", "<i8").tolist() == [before + 8, before + 17]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4), (4, 4)])
def test_cells_outside(tmp_path: Path, start: int, stop: int) -> None:
    store = write(tmp_path / "store", [csr(np.eye(3))])
    with pytest.raises(InputError, match=rf"`start` and `stop` must lie .* within 0 to 3, but are {start} and {stop}"):
        store.read(start, stop)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 3], "lie within 0 to 2, but go from 0 to 3"),
        ([-1, 1], "lie within 0 to 2, but go from -1 to 1"),
        ([0.0, 1.0], "whole numbers in one dimension, but are float64"),
        ([True, False, True], "but are bool"),
        ([[0], [1]], r"of shape \(2, 1\)"),
    ],
)
def test_positions_that_are_none(tmp_path: Path, positions: list, message: str) -> None:
    store = write(tmp_path / "store", [csr(np.eye(3))])
    with pytest.raises(InputError, match=rf"`positions` must .*{message}"):
        store.rows(positions)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(InputError, match=r"`store` must name a cell store.*has no store\.json"):
            CellStore.open(path)


@pytest.mark.parametrize("part", ["indptr", "indices", "values", "large_at", "large"])
@pytest.mark.parametrize("change", ["missing", "shorter", "longer"])
def test_a_part_that_is_not_as_the_header_says(tmp_path: Path, part: str, change: str) -> None:
    write(tmp_path / "store", [csr([[1.0] * 9 + [300]] * 20)])
    path = tmp_path / "store" / part
    size = path.stat().st_size
    if change == "missing":
        path.unlink()
        message = f"No such file.*{part}"
    else:
        os.truncate(path, size + (1 if change == "longer" else -1))
        message = f"{part} has {path.stat().st_size} bytes where {size} belong"
    with pytest.raises(InputError, match=f"`store` .* damaged or incomplete: .*{message}"):
        CellStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1, but .* version 2"),
        ({"format": "another"}, "but .* is of 'another'"),
        ({"nnz": None}, "damaged"),
        ({"nnz": -1}, "damaged"),
        ({"shape": [3]}, "damaged"),
        ({"values": "text"}, "damaged"),
        ({"made_from": 3}, "damaged"),
    ],
)
def test_a_wrong_header(tmp_path: Path, change: dict, message: str) -> None:
    write(tmp_path / "store", [csr(np.eye(3))])
    path = tmp_path / "store" / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"`store` .*{message}"):
        CellStore.open(tmp_path / "store")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "3", '{"format": "sccagn_scale cell store"', "\udc80"])
def test_a_header_that_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path / "store", [csr(np.eye(3))])
    (tmp_path / "store" / "store.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"`store` .*(damaged|cannot be opened)"):
        CellStore.open(tmp_path / "store")


def test_offsets_that_fall(tmp_path: Path) -> None:
    write(tmp_path / "store", [csr(np.eye(3))])
    np.array([0, 2, 1, 3], "<i8").tofile(tmp_path / "store" / "indptr")
    with pytest.raises(InputError, match="indptr does not rise"):
        CellStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (csr(np.eye(4)), "with 3 genes, but is float32 with 4"),
        (csr(np.eye(3)).astype(np.float64), "must be float32 .* but is float64"),
        (sparse.csr_matrix((np.ones(2, "f4"), [2, 0], [0, 2]), shape=(1, 3)), "unsorted or with duplicates"),
        (sparse.csr_matrix((np.ones(2, "f4"), [1, 1], [0, 2]), shape=(1, 3)), "unsorted or with duplicates"),
    ],
)
def test_a_block_that_does_not_belong_leaves_nothing(tmp_path: Path, block: sparse.csr_matrix, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / "store", [csr(np.eye(3)), block])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("of the input"), GeneratorExit()])
def test_a_store_broken_off_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "store", [csr(np.eye(3))])
    before = tree(tmp_path)

    def broken_off() -> None:
        with CellStoreWriter(tmp_path / "store", 2, {}) as writer:
            writer.append(csr(np.eye(2)))
            raise error

    with pytest.raises(type(error)) as raised:
        broken_off()
    assert raised.value is error
    assert tree(tmp_path) == before


def test_a_store_takes_the_place_of_another(tmp_path: Path) -> None:
    old = write(tmp_path / "store", [csr(np.eye(3))])
    (tmp_path / "empty").mkdir()
    for name in ("store", "empty", "new/folder"):
        assert_same(write(tmp_path / name, [csr([[2, 0]])]).read(0, 1), csr([[2, 0]]))
    assert_same(old.read(0, 3), csr(np.eye(3)))  # whoever reads it is not disturbed
    assert sorted(os.listdir(tmp_path)) == ["empty", "new", "store"]


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("a")
    (tmp_path / "file").write_text("a")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"`store` must not be a folder of other things, but '.*thesis' is no cell"):
        CellStoreWriter(tmp_path / "thesis", 3, {})
    with pytest.raises(InputError, match=r"`store` must name a folder, but '.*file' is a file"):
        CellStoreWriter(tmp_path / "file", 3, {})
    assert tree(tmp_path) == before


FULL_DISK = """
block = sparse.random(200, 100, 0.3, format="csr", random_state=0, dtype=np.float32)

def write(folder):
    with io.CellStoreWriter(folder, 100, {"why": "x" * 600}) as writer:
        for _ in range(5):
            writer.append(block)

for limit in (4, 500, 5_000, 20_000, 100_000):
    limited(limit, write, sys.argv[1])
"""


def test_a_full_disk(tmp_path: Path) -> None:
    write(tmp_path / "store", [csr(np.eye(3))])
    before = tree(tmp_path)
    lines = on_a_full_disk(FULL_DISK, tmp_path / "store")
    assert len(lines) == 5
    assert all("`store`" in line and "could not be written" in line and "File too large" in line for line in lines)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("read_from", [1, 2**40])
def test_large_and_small_stretches_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_from: int
) -> None:
    monkeypatch.setattr("sccagn_scale.io._store._READ_FROM", read_from)
    matrix = sparse.random(40, 30, 0.4, format="csr", dtype=np.float32, random_state=0)
    matrix.data = np.rint(1000 * matrix.data)
    with CellStoreWriter(tmp_path / "store", 30, {}) as writer:
        writer.append(matrix)
    store = CellStore.open(tmp_path / "store")
    assert (store.read(3, 31) != matrix[3:31]).nnz == 0
    positions = np.array([5, 6, 7, 30, 2, 2])
    assert (store.rows(positions) != matrix[positions]).nnz == 0


def test_what_the_system_gives_in_pieces_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sccagn_scale.io._store._READ_FROM", 1)
    matrix = csr(np.random.default_rng(0).random((40, 30)))
    store, whole = write(tmp_path / "store", [matrix]), os.preadv

    def some(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:1000]], offset)

    monkeypatch.setattr(os, "preadv", some)
    assert_same(store.read(2, 38), matrix[2:38])
    os.truncate(tmp_path / "store" / "values", 2000)
    with pytest.raises(InputError, match=r"`store` '.*store' is damaged or incomplete: values has become shorter"):
        store.read(2, 38)
