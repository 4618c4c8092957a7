"""A matrix stored by columns into one stored by rows, in bounded memory."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError, first_line

from ._atomic import replacing_hdf5
from ._check import indices_fault
from ._chunks import read_range
from ._layout import damaged
from ._stored import StoredRows, supported

_N_HELD = 2**21
"""Values held at a time; each takes 70 bytes at most on its way."""

Int64s = npt.NDArray[np.int64]


def transposed(columns: StoredRows, folder: Path) -> StoredRows:
    """Write CSC as CSR into a new file, its indices sorted.

    The values are gone through twice: once to count those of each row; then, by ranges of rows that fit in memory, into
    a file where every range has its place, and from there, range by range, into the result. Held are the row offsets,
    8 bytes a cell, and up to 150 MB.

    Parameters
    ----------
    columns
        The matrix.
    folder
        Takes the file, and on the way another one of about the same size.

    Raises
    ------
    InputError
        If the matrix is damaged, or `folder` cannot take the file.
    """
    n_bytes = columns.nnz * _entry(columns).itemsize
    try:
        target = folder / f"{len(list(folder.iterdir()))}.h5"
        with tempfile.TemporaryFile(dir=folder) as ranges:
            os.posix_fallocate(ranges.fileno(), 0, max(n_bytes, 1))  # a full disk shows now
            with columns.opened() as group:
                indptr = _row_offsets(columns, group)
                bounds = _bounds(indptr)
                _distribute(columns, group, indptr, bounds, ranges)
            with replacing_hdf5(target) as file:
                _gather(columns, indptr, bounds, ranges, file.create_group("X"))
    except OSError as error:
        raise InputError(
            f"{str(folder)!r} could not take the rows of /{columns.name} of {str(columns.path)!r}, which is stored by "
            f"columns (CSC): {first_line(error)}; give a folder with {2 * n_bytes / 1e9:.1f} GB free, as `scratch` or "
            "in the environment as TMPDIR."
        ) from error
    return StoredRows(target, "X")


def _entry(columns: StoredRows) -> np.dtype[Any]:
    """A value on its way: its row, counted from its range's first, and its column."""
    return np.dtype([("row", "i4"), ("column", "i4"), ("value", supported(columns.dtype))])


def _pieces(columns: StoredRows, group: Any, *parts: str) -> Iterator[tuple[int, int, list[npt.NDArray[Any]]]]:
    """Go through stored values: the first and the one after the last, and what `parts` has of them."""
    for low in range(0, columns.nnz, _N_HELD):
        high = min(low + _N_HELD, columns.nnz)
        try:
            arrays = [read_range(group[part], low, high) for part in parts]
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged_at(columns, group, low, high, first_line(error)) from error
        yield low, high, arrays


def _damaged_at(columns: StoredRows, group: Any, low: int, high: int, reason: str) -> InputError:
    first, last = np.searchsorted(columns.indptr(group), (low, high - 1), side="right") - 1
    return damaged(columns.path, f"all cells' genes {first} to {last}, {reason}")


def _row_offsets(columns: StoredRows, group: Any) -> Int64s:
    n_obs = columns.shape[0]
    indptr = np.zeros(n_obs + 1, np.int64)
    for low, high, (rows,) in _pieces(columns, group, "indices"):
        fault = indices_fault(rows, n_obs)
        if fault is not None:
            raise _damaged_at(columns, group, low, high, fault)
        np.add.at(indptr, rows.astype(np.int64) + 1, 1)
    return np.cumsum(indptr, out=indptr)


def _bounds(indptr: Int64s) -> Int64s:
    """First rows of ranges that have at most `_N_HELD` values, or one row, and in the end the number of rows."""
    bounds = [0]
    while bounds[-1] < len(indptr) - 1:
        stop = int(np.searchsorted(indptr, indptr[bounds[-1]] + _N_HELD, side="right")) - 1
        bounds.append(max(stop, bounds[-1] + 1))
    return np.array(bounds)


def _distribute(columns: StoredRows, group: Any, indptr: Int64s, bounds: Int64s, ranges: BinaryIO) -> None:
    """Put every value into its range's place in `ranges`, where they stay ordered by column."""
    entry, n_vars = _entry(columns), columns.shape[1]
    column_offsets = columns.indptr(group)
    filled = indptr[bounds[:-1]]
    for low, high, (rows, values) in _pieces(columns, group, "indices", "data"):
        rows = rows.astype(np.int64)
        within = np.searchsorted(bounds, rows, side="right") - 1
        entries = np.empty(high - low, entry)
        entries["row"] = rows - bounds[within]
        offsets = column_offsets.clip(low, high)
        entries["column"] = np.repeat(np.arange(n_vars), offsets[1:] - offsets[:-1])
        entries["value"] = values
        # of the smallest type, which NumPy sorts in linear time
        entries = entries[np.argsort(within.astype(np.min_scalar_type(len(bounds))), kind="stable")]
        counts = np.bincount(within, minlength=len(bounds) - 1)
        stops = np.cumsum(counts)
        for into in np.flatnonzero(counts):
            ranges.seek(int(filled[into]) * entry.itemsize)
            ranges.write(entries[stops[into] - counts[into] : stops[into]].data)
        filled += counts


def _gather(columns: StoredRows, indptr: Int64s, bounds: Int64s, ranges: BinaryIO, group: h5py.Group) -> None:
    """Write the ranges under one another as CSR, in AnnData's encoding."""
    entry, n_vars = _entry(columns), columns.shape[1]
    group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", columns.shape
    group["indptr"] = indptr
    data = group.create_dataset("data", (columns.nnz,), entry["value"])
    indices = group.create_dataset("indices", (columns.nnz,), np.int32)
    for first, last in itertools.pairwise(bounds):
        low, high = int(indptr[first]), int(indptr[last])
        ranges.seek(low * entry.itemsize)
        entries = np.frombuffer(ranges.read((high - low) * entry.itemsize), entry)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(entries["column"], minlength=n_vars))])
        parts = (np.ascontiguousarray(entries["value"]), np.ascontiguousarray(entries["row"]), offsets)
        rows = sparse.csc_matrix(parts, shape=(int(last - first), n_vars)).tocsr()
        data[low:high], indices[low:high] = rows.data, rows.indices
