"""Cells × genes, gone through block by block, as often as preprocessing needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp

from sccagn_scale._errors import InputError
from sccagn_scale._threads import ahead, mapped
from sccagn_scale.io import iter_blocks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Block = tuple[int, sp.csr_matrix]
T = TypeVar("T")

BLOCK_SIZE = 4096
"""Cells in a block: some 5 million values of a usual data set."""


@dataclass(frozen=True, eq=False)
class Expression:
    """A matrix of expression values and the names of its genes.

    Nothing is computed on the whole matrix at once, so work needs a block's memory beyond what holds the values: the
    AnnData, as it is; or, for one that is backed by a file, a copy in the smallest types that hold the values, made in
    the first pass. Counts then take 3 or 4 bytes each where float32 and int32 take 8.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]  # of the values as they are stored
    names: pd.Index
    where: str  # in the AnnData, for messages
    choices: str  # what else `layer` could be
    _source: _Held | _Packed

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Go through the cells: CSR float32 [≤ 4,096, n_vars], sorted, no zeros stored, free to change.

        float32 holds whole numbers up to 2^24 exactly: more than any UMI count.
        """
        return self.each(lambda start, block: block)

    def each(self, work: Callable[[int, sp.csr_matrix], T]) -> Iterator[T]:
        """Go through the cells and work on each block in the thread that makes it, several at a time where they may be.

        Parameters
        ----------
        work
            Takes a block's first row and the block, as `blocks` gives it. Must not depend on other blocks.
        """
        return self._source.each(work)


def select_matrix(adata: AnnData, layer: str | None = None) -> Expression:
    """Take the expression matrix out of an AnnData, in memory or backed by a file.

    Parameters
    ----------
    adata
        Annotated cells × genes; not changed.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

    Raises
    ------
    InputError
        If there is no such layer, or the matrix is empty or holds no numbers.
    """
    matrix, names, where = _locate(adata, layer)
    if 0 in matrix.shape:
        raise InputError(f"The input is empty: {where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes.")
    if not (np.issubdtype(matrix.dtype, np.number) or matrix.dtype == bool):
        raise InputError(f"{where} must hold numbers; its values are of type {matrix.dtype}.")
    if layer is None and adata.isbacked:
        source: _Held | _Packed = _Packed(lambda: iter_blocks(adata, BLOCK_SIZE))
    else:
        source = _Held(matrix.tocsr() if sp.issparse(matrix) else matrix)
    return Expression(matrix.shape, np.dtype(matrix.dtype), names, where, _choices(adata), source)


def _locate(adata: AnnData, layer: str | None) -> tuple[Any, pd.Index, str]:
    """Matrix, gene names, and where they stand."""
    if layer is None:
        matrix, names, where = adata.X, adata.var_names, "X"
    elif layer in adata.layers:
        matrix, names, where = adata.layers[layer], adata.var_names, f"layers['{layer}']"
    elif layer == "raw" and adata.raw is not None:
        matrix, names, where = adata.raw.X, adata.raw.var_names, "raw.X"
    else:
        raise InputError(f"`layer` must be one of {_choices(adata)}; there is no '{layer}'.")
    if matrix is None:
        raise InputError(f"`layer` points at {where}, which holds no matrix; choose one of {_choices(adata)}.")
    return matrix, names, where


def _choices(adata: AnnData) -> str:
    names = ["None (X)"] if adata.X is not None else []
    names += [f"'{name}'" for name in adata.layers]
    if adata.raw is not None and "raw" not in adata.layers:
        names.append("'raw'")
    return ", ".join(names)


def _tidy(block: sp.csr_matrix) -> sp.csr_matrix:
    """CSR float32 in canonical form, sharing nothing with what was given."""
    arrays = (block.data.astype(np.float32), block.indices.astype(np.int32), block.indptr.copy())
    csr = sp.csr_matrix(arrays, shape=block.shape)
    csr.sum_duplicates()
    if not csr.data.all():
        csr.eliminate_zeros()
    return csr


class _Held:
    """Blocks of a matrix in memory, sparse (CSR) or dense."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def each(self, work: Callable[[int, sp.csr_matrix], T]) -> Iterator[T]:
        return mapped(lambda start: work(start, self._block(start)), range(0, self._rows.shape[0], BLOCK_SIZE))

    def _block(self, start: int) -> sp.csr_matrix:
        block = self._rows[start : start + BLOCK_SIZE]
        # SciPy has no sparse float16
        return _tidy(sp.csr_matrix(block if sp.issparse(block) else block.astype(np.float32, copy=False)))


class _Packed:
    """Blocks of a file, read in the first pass and kept small."""

    def __init__(self, read: Callable[[], Iterator[Block]]) -> None:
        self._read = read
        self._kept: list[tuple[int, _Small]] = []
        self._is_complete = False

    def each(self, work: Callable[[int, sp.csr_matrix], T]) -> Iterator[T]:
        if self._is_complete:
            return mapped(lambda kept: work(kept[0], kept[1].unpacked()), self._kept)
        return ahead(self._first(work))

    def _first(self, work: Callable[[int, sp.csr_matrix], T]) -> Iterator[T]:
        self._kept = []
        for start, stored in self._read():
            block = _tidy(stored)
            self._kept.append((start, _Small.of(block)))
            yield work(start, block)
        self._is_complete = True


class _Small(NamedTuple):
    """A tidy block in the smallest types that hold it; counts above 255, which are rare, stand apart."""

    values: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    large_at: np.ndarray
    large: np.ndarray
    n_vars: int

    @classmethod
    def of(cls, block: sp.csr_matrix) -> _Small:
        values = block.data
        large_at = np.empty(0, np.int64)
        if np.array_equal(values, np.rint(values)):
            is_large = (values > np.iinfo(np.uint8).max) | (values < 0)
            if 8 * np.count_nonzero(is_large) < len(values):
                large_at = np.flatnonzero(is_large)
                values = np.where(is_large, 0, values).astype(np.uint8)
        indices = block.indices.astype(np.min_scalar_type(max(block.shape[1] - 1, 0)))
        values = values.copy() if values is block.data else values  # the block may be changed by who gets it
        return cls(values, indices, block.indptr.copy(), large_at, block.data[large_at], block.shape[1])

    def unpacked(self) -> sp.csr_matrix:
        values = self.values.astype(np.float32)
        values[self.large_at] = self.large
        shape = (len(self.indptr) - 1, self.n_vars)
        block = sp.csr_matrix((values, self.indices.astype(np.int32), self.indptr.copy()), shape=shape)
        block.has_sorted_indices = block.has_canonical_format = True  # or SciPy would look again
        return block
