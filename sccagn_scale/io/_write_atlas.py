"""An AnnData that grows by rows: X appended block by block, beside annotation that is in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import numpy.typing as npt
from anndata.io import write_elem, write_zarr
from scipy import sparse

from sccagn_scale._errors import InputError
from sccagn_scale.io._atomic import Hdf5File, replacing, replacing_hdf5
from sccagn_scale.io._blocks import Block
from sccagn_scale.io._names import plain_strings
from sccagn_scale.io._write import check_writable, without_x, write_to_hdf5, writing

if TYPE_CHECKING:
    import zarr

# On counts lzf after shuffling leaves 2.3 bytes of 8 per value; gzip leaves 1.7 in about one and a half times the time.
# A chunk of 256 KiB, while it is being filled, stays in HDF5's cache.
_HDF5 = {"compression": "lzf", "shuffle": True, "chunks": (2**16,)}

# Every chunk of zarr is a file, so that there should be some thousands. None is written before it is whole, as it would
# be written anew with every block that ends in it; shards would be too.
_SMALLEST_CHUNK, _LARGEST_CHUNK, _MOST_CHUNKS = 18, 24, 12  # powers of two


def write_atlas(adata: anndata.AnnData, blocks: Iterable[Block], path: str | os.PathLike[str], *, nnz: int = 0) -> None:
    """Write an AnnData whose `X` comes block by block, so that `path` always holds something whole.

    One block is in memory at a time, and of `X` its row offsets, 8 bytes a cell; for zarr also the values and indices
    of a chunk that is not yet whole, at most 2²⁴ of each. Otherwise as `write`.

    Parameters
    ----------
    adata
        All of the file but `X` and `raw`, which are not written if it has them.
    blocks
        As `iter_blocks` yields them: a block's first row, and the block as CSR [n, n_vars], in the order of the cells
        of `adata`. Values are stored in the type of the first block.
    path
        A name ending in `.h5ad` or `.zarr`; a file or store of that name is replaced.
    nnz
        About how many values the blocks have in all, by which zarr's chunks are chosen.

    Raises
    ------
    InputError
        If `path` cannot be written, the disk fills up on the way, or `blocks` are not the rows of `adata` in order or
        hold values that the type of the first block cannot.
    """
    path = Path(path)
    check_writable(path, "path")
    plain_strings(adata)
    rest = without_x(adata)
    with writing(path):
        if path.suffix.lower() == ".h5ad":
            with replacing_hdf5(path) as file:
                write_to_hdf5(rest, file)
                _write_x(file, blocks, adata.shape, nnz)
        else:
            _write_zarr(rest, blocks, path, nnz)


def _write_zarr(rest: anndata.AnnData, blocks: Iterable[Block], path: Path, nnz: int) -> None:
    import zarr

    with replacing(path) as fresh:
        write_zarr(fresh, rest)
        root = zarr.open_group(fresh, mode="r+", use_consolidated=False)
        _write_x(root, blocks, rest.shape, nnz)
        zarr.consolidate_metadata(root.store)


def _write_x(root: h5py.Group | zarr.Group, blocks: Iterable[Block], shape: tuple[int, int], nnz: int) -> None:
    writer, dtype, n_rows = None, np.dtype(np.float32), 0
    for start, block in blocks:
        if writer is None:
            dtype = block.dtype
            writer = RowWriter(root, shape, dtype, nnz=nnz)
        n_rows += block.shape[0]
        if start + block.shape[0] != n_rows or block.shape[1] != shape[1] or n_rows > shape[0]:
            raise InputError(
                f"`blocks` must be the {shape[0]} × {shape[1]} of `adata` in order, but {block.shape[0]} × "
                f"{block.shape[1]} came for row {start} where row {n_rows - block.shape[0]} was due."
            )
        if not np.can_cast(block.dtype, dtype):
            raise InputError(
                f"`blocks` must hold values that fit into {dtype}, the type of the first, but from row {start} on they "
                f"are {block.dtype}; convert them to one type."
            )
        writer.append(block)
    if n_rows != shape[0]:
        raise InputError(f"`blocks` must have the {shape[0]} rows of `adata`, but end after {n_rows}.")
    if writer is not None:
        writer.close()


class RowWriter:
    """X as a CSR matrix [n_obs, n_vars] in AnnData's encoding, to which blocks of rows are appended.

    `indptr` is int64 throughout, as a few million cells pass 2³¹ values. In zarr, chunks are written when they are
    whole, and the last one by `close`.

    Parameters
    ----------
    root
        Where there is no X yet.
    shape, dtype
        Of X.
    nnz
        About how many values there will be, by which zarr's chunks are chosen.
    """

    def __init__(
        self, root: h5py.Group | zarr.Group, shape: tuple[int, int], dtype: npt.DTypeLike, *, nnz: int = 0
    ) -> None:
        is_hdf5 = isinstance(root, h5py.Group)
        chunk = 2 ** min(max((nnz >> _MOST_CHUNKS).bit_length(), _SMALLEST_CHUNK), _LARGEST_CHUNK)
        storage: dict[str, Any] = _HDF5 if is_hdf5 else {"chunks": (chunk,), "shards": None}
        empty = sparse.csr_matrix(shape, dtype=dtype)
        write_elem(root, "X", empty, dataset_kwargs={**storage, "indptr_dtype": np.int64})
        group: Any = root["X"]
        self._root = root
        self._data, self._indices, self._indptr = (
            _Growing(group[part], 1 if is_hdf5 else chunk) for part in ("data", "indices", "indptr")
        )
        self._indptr.append(np.zeros(1, np.int64))
        self._values = 0

    def append(self, block: sparse.csr_matrix) -> None:
        """Write `block`, CSR [n, n_vars] with sorted indices, below the rows already there."""
        self._data.append(block.data)
        self._indices.append(block.indices)
        self._indptr.append(block.indptr[1:].astype(np.int64) + self._values)
        self._values += block.nnz
        if isinstance(self._root, Hdf5File):
            self._root.check()

    def close(self) -> None:
        """Write what was held back."""
        for part in (self._data, self._indices, self._indptr):
            part.close()


class _Growing:
    """An array on disk that is written from its start, in multiples of so many values."""

    def __init__(self, array: Any, step: int) -> None:
        self._array, self._step = array, step
        self._n_written = self._n_waiting = 0
        self._waiting: list[npt.NDArray[Any]] = []

    def append(self, values: npt.NDArray[Any]) -> None:
        self._waiting.append(values)
        self._n_waiting += len(values)
        self._write(self._n_waiting // self._step * self._step)

    def close(self) -> None:
        self._write(self._n_waiting)

    def _write(self, n: int) -> None:
        if n == 0:
            return
        values, end = np.concatenate(self._waiting), self._n_written + n
        if end > self._array.shape[0]:
            self._array.resize((end,))
        self._array[self._n_written : end] = values[:n]
        self._waiting, self._n_waiting, self._n_written = [values[n:].copy()], self._n_waiting - n, end
