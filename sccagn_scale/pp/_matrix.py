"""Cells × genes, gone through block by block, as often as preprocessing needs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.sparse as sp

from sccagn_scale._errors import InputError
from sccagn_scale._progress import SILENT_STAGE, Stage
from sccagn_scale._threads import ahead, mapped
from sccagn_scale.io import (
    Atlas,
    CellStore,
    CellStoreWriter,
    Copies,
    PackedRows,
    StoredMatrix,
    check_replaceable,
    file_facts,
    find_matrix,
    open_atlas,
    row_range,
    write_made_from,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from distributed import Client

    from sccagn_scale.pp._dask import OnCluster

Block = tuple[int, sp.csr_matrix]
T = TypeVar("T")
OfCells = Sequence[np.ndarray]
Work = Callable[[int, sp.csr_matrix, OfCells], T]

log = logging.getLogger("sccagn_scale")

BLOCK_SIZE = 4096
"""Cells in a block: some 5 million values of a usual data set."""

_MEASURABLE = 0.5
"""Seconds from which a rate says something of the input."""


@dataclass(frozen=True, eq=False)
class Expression:
    """A matrix of expression values and the names of its genes.

    Nothing is computed on the whole matrix at once, so work needs a block's memory beyond what holds the values: the
    AnnData, as it is; or, for what is in files, a copy in the smallest types that hold the values, made in the first
    pass, in memory or in a cell store. Counts then take 3 or 4 bytes each where float32 and int32 take 8.
    """

    shape: tuple[int, int]
    nnz: int  # values stored
    names: pd.Index
    where: str  # in the AnnData, for messages
    choices: str  # what else `layer` could be
    files: tuple[tuple[Path, int], ...]  # where it is in files: each, and its first cell; no block has cells of two
    _source: _Held | _Packed | _Stored | OnCluster
    _stage: Stage = SILENT_STAGE
    _stored: StoredMatrix | None = None  # in the files, where it is in such

    @property
    def is_on_disk(self) -> bool:
        """Whether it is in files."""
        return self._stored is not None

    def value_size(self) -> float:
        """Find out how many bytes the copy takes for a value beside its gene: some values of every file are read."""
        return 1.0 if self._stored is None else self._stored.value_size()

    @property
    def copies(self) -> Copies:
        """What has yet to be copied of what is not stored by rows, before the first pass."""
        return Copies() if self._stored is None else self._stored.copies

    def each(self, work: Callable[..., T], *of_cells: np.ndarray) -> Iterator[T]:
        """Go through the cells and work on each block in the thread that makes it, several at a time where they may be.

        A block is CSR float32 [≤ 4,096, n_vars], sorted, no zeros stored, free to change. float32 holds whole numbers
        up to 2^24 exactly: more than any UMI count.

        Parameters
        ----------
        work
            Takes a block's first row, the block, and the block's part of each of `of_cells`. Must not depend on other
            blocks, nor, since it may run elsewhere, on what is large.
        of_cells
            Arrays [n_obs, ...].
        """
        seen, begun = 0, time.perf_counter()
        for n_cells, done in self._source.each(partial(_counted, work), of_cells):
            seen += n_cells
            seconds = time.perf_counter() - begun
            told = {}
            if seconds > _MEASURABLE:
                told["cells/s a pass"] = round(seen / seconds)
                if self._stored is not None and self._source.is_reading:
                    told["MB/s"] = round(self._stored.n_bytes * seen / self.shape[0] / seconds / 1e6)
            self._stage.advance(n_cells, **told)
            yield done


def select_matrix(
    adata: AnnData | Atlas,
    layer: str | None = None,
    store: Path | None = None,
    *,
    client: Client | None = None,
    stage: Stage = SILENT_STAGE,
) -> Expression:
    """Take the expression matrix out of an AnnData, in memory or backed by a file, or out of an atlas on disk.

    Parameters
    ----------
    adata
        Annotated cells × genes; not changed.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.
    store
        Folder of the cell store in which what is read from files is kept; taken up if it is there and of just this
        input, else made anew in the first pass. None: what is read is kept in memory. Not used for data in memory.
    client
        Of a Dask cluster, whose workers then read the files, keep the counts in their memory and work on them.
    stage
        Told of every block, with cells and, while files are read, megabytes in a second.

    Raises
    ------
    InputError
        If there is no such layer, or the matrix is empty or holds no numbers.
    """
    stored = _in_files(adata, layer)
    if stored is None:
        assert not isinstance(adata, Atlas)
        return _in_memory(adata, layer, stage)
    source: _Packed | _Stored | OnCluster = _Packed(lambda: stored.blocks(BLOCK_SIZE))
    if client is not None:
        from sccagn_scale.pp._dask import OnCluster

        source = OnCluster(stored, client, BLOCK_SIZE)
    elif store is not None:
        source = _Stored(stored, store, _origin(stored, layer))
    return Expression(
        stored.shape,
        stored.nnz,
        stored.names if isinstance(adata, Atlas) else adata.var_names,  # which may have been renamed since
        stored.where,
        stored.choices,
        stored.parts,
        source,
        stage,
        stored,
    )


def holds_cells(store: Path, adata: AnnData | Atlas, layer: str | None = None) -> bool:
    """Whether a cell store is whole and of just this input, so that `select_matrix` takes it up."""
    try:
        made_from = CellStore.open(store).made_from
    except InputError:
        return False
    stored = _in_files(adata, layer)
    return stored is not None and _difference(made_from, _origin(stored, layer)) is None


def _in_files(adata: AnnData | Atlas, layer: str | None) -> StoredMatrix | None:
    """The matrix if it is in files; None: it is in memory."""
    if isinstance(adata, Atlas):
        return adata.matrix(layer)
    return open_atlas([adata.filename]).matrix() if layer is None and adata.isbacked else None


def _in_memory(adata: AnnData, layer: str | None, stage: Stage) -> Expression:
    matrix, names, where, choices = find_matrix(adata, layer)
    if 0 in matrix.shape:
        raise InputError(f"The input is empty: {where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes.")
    if matrix.dtype.kind not in "buif":
        raise InputError(f"{where} must hold real numbers; its values are of type {matrix.dtype}.")
    if np.ma.isMaskedArray(matrix):
        raise InputError(f"{where} must not be a masked array, as there is no rule for masked values; fill them.")
    nnz = matrix.nnz if sp.issparse(matrix) else matrix.shape[0] * matrix.shape[1]
    return Expression(matrix.shape, nnz, names, where, choices, (), _Held(matrix), stage)


def _origin(stored: StoredMatrix, layer: str | None) -> dict[str, Any]:
    """What a cell store is made from; with a change in any of it the cells may be others."""
    files = {str(path.resolve()): file_facts(path) for path, _ in stored.parts}
    order = list(files)  # cells stand in the order of the files
    return {"files": files, "order": order, "layer": layer, "shape": list(stored.shape), "dtype": str(stored.dtype)}


@contextmanager
def same_matrices(path: Path, store: Path | None) -> Iterator[None]:
    """Let a file be written in the block, its matrices as they were, and have the cell store made of it know it again.

    A store of another input, or of what the file was before others wrote it, stays as it is. So does one that cannot be
    written, which is logged: it is made anew next time.

    Parameters
    ----------
    path
        The file, or the folder of a `.zarr`.
    store
        Folder of the cell store; None: there is none.
    """
    if store is None:
        yield
        return
    name, before = str(path.resolve()), file_facts(path)
    yield
    try:
        made_from = CellStore.open(store).made_from
        if made_from.get("files", {}).get(name) == before:
            write_made_from(store, made_from | {"files": made_from["files"] | {name: file_facts(path)}})
    except InputError as error:
        log.info("The cell store will be made anew: %s", error)


def _counted(work: Callable[..., T], start: int, block: sp.csr_matrix, of_cells: OfCells) -> tuple[int, T]:
    """Work on a block that starts at a cell; with the number of its cells."""
    n_cells = block.shape[0]  # the block may be changed by the work
    return n_cells, work(start, block, *of_cells)


def _on_part(work: Work[T], start: int, block: sp.csr_matrix, of_cells: OfCells) -> T:
    """Work on a block with its part of arrays of all cells."""
    return work(start, block, [array[start : start + block.shape[0]] for array in of_cells])


def rows_of_blocks(matrix: StoredMatrix, block_size: int) -> Iterator[tuple[int, int]]:
    """First cell, and the one after the last, of every block as `StoredMatrix.blocks` has them."""
    firsts = [first for _, first in matrix.parts]
    for first, end in zip(firsts, [*firsts[1:], matrix.shape[0]], strict=True):
        for start in range(first, end, block_size):
            yield start, min(start + block_size, end)


def tidy(block: sp.csr_matrix) -> sp.csr_matrix:
    """CSR float32 in canonical form, sharing nothing with what was given."""
    arrays = (block.data.astype(np.float32), block.indices.astype(np.int32), block.indptr.copy())
    csr = sp.csr_matrix(arrays, shape=block.shape)
    csr.sum_duplicates()
    if not csr.data.all():
        csr.eliminate_zeros()
    return csr


class _Held:
    """Blocks of a matrix in memory, sparse or dense; one that is not sparse by rows is copied in the first pass."""

    is_reading = False

    def __init__(self, matrix: Any) -> None:
        self._rows = matrix

    def each(self, work: Work[T], of_cells: OfCells) -> Iterator[T]:
        if sp.issparse(self._rows):
            self._rows = self._rows.tocsr()
        return mapped(
            lambda start: _on_part(work, start, self._block(start), of_cells), range(0, self._rows.shape[0], BLOCK_SIZE)
        )

    def _block(self, start: int) -> sp.csr_matrix:
        end = min(start + BLOCK_SIZE, self._rows.shape[0])
        if sp.issparse(self._rows):
            return tidy(row_range(self._rows, start, end))
        rows = self._rows[start:end]
        if hasattr(rows, "compute"):  # of Dask, whose chunks may be sparse
            rows = rows.compute()
        # SciPy has no sparse float16
        return tidy(sp.csr_matrix(rows.astype(np.float32, copy=False)))


class _Packed:
    """Blocks of a file, read in the first pass and kept small in memory."""

    def __init__(self, read: Callable[[], Iterator[Block]]) -> None:
        self._read = read
        self._kept: list[tuple[int, PackedRows]] = []
        self._is_complete = False

    @property
    def is_reading(self) -> bool:
        """Whether blocks come from the files."""
        return not self._is_complete

    def each(self, work: Work[T], of_cells: OfCells) -> Iterator[T]:
        if self._is_complete:
            return mapped(lambda kept: _on_part(work, kept[0], kept[1].read(0, kept[1].shape[0]), of_cells), self._kept)
        return ahead(self._first(self._read(), work, of_cells))

    def _first(self, blocks: Iterator[Block], work: Work[T], of_cells: OfCells) -> Iterator[T]:
        self._kept = []
        for start, stored in blocks:
            block = tidy(stored)
            self._kept.append((start, PackedRows.of(block)))
            yield _on_part(work, start, block, of_cells)
        self._is_complete = True


class _Stored:
    """Blocks of a file, written to a cell store in the first pass and read from that ever after.

    Parameters
    ----------
    matrix
        In files.
    folder
        The store. One that is there is taken for the blocks if it was made from the same, and else made anew.
    made_from
        What the blocks depend on.
    """

    def __init__(self, matrix: StoredMatrix, folder: Path, made_from: dict[str, Any]) -> None:
        self._matrix, self._folder, self._made_from = matrix, folder, made_from
        self._store = _reusable(folder, made_from)

    @property
    def is_reading(self) -> bool:
        """Whether blocks come from the files."""
        return self._store is None

    def each(self, work: Work[T], of_cells: OfCells) -> Iterator[T]:
        store = self._store
        if store is None:
            return ahead(self._first(self._matrix.blocks(BLOCK_SIZE), work, of_cells))
        return mapped(
            lambda rows: _on_part(work, rows[0], store.read(*rows), of_cells), rows_of_blocks(self._matrix, BLOCK_SIZE)
        )

    def _first(self, blocks: Iterator[Block], work: Work[T], of_cells: OfCells) -> Iterator[T]:
        with CellStoreWriter(self._folder, self._matrix.shape[1], self._made_from) as writer:
            for start, stored in blocks:
                block = tidy(stored)
                writer.append(block)
                yield _on_part(work, start, block, of_cells)
        store = CellStore.open(self._folder)
        difference = _difference(store.made_from, self._made_from)
        if difference is not None:
            raise InputError(
                f"`store` '{self._folder}' was replaced by another run at the same time: {difference}. Give each input "
                "a store of its own."
            )
        self._store = store


def _reusable(folder: Path, made_from: dict[str, Any]) -> CellStore | None:
    """The store in a folder, if it is whole and was made from the same; if another is there, why not is logged."""
    try:
        store = CellStore.open(folder)
        difference = _difference(store.made_from, made_from)
    except InputError as error:
        difference = str(error).removesuffix(".")
    if difference is None:
        log.info("The counts are taken from the cell store %r.", str(folder))
        return store
    check_replaceable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        log.info("The cell store %r is made anew: %s.", str(folder), difference)
    return None


def _difference(was: Any, now: Any, name: str = "") -> str | None:
    """Say what differs first between two JSON values; None if nothing does."""
    if isinstance(was, dict) and isinstance(now, dict):
        each = (_difference(was.get(key), now.get(key), f"{name} {key}".strip()) for key in now | was)
        return next((difference for difference in each if difference is not None), None)
    if isinstance(was, dict) or isinstance(now, dict):
        return f"{name} is {'new' if was is None else 'no longer part of it'}"
    return None if was == now else f"{name} was {was} and is {now}"
