"""A matrix stored by columns into one stored by rows, in bounded memory."""

from __future__ import annotations

import errno
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError, first_line
from sccagn_scale.io._atomic import replacing_hdf5
from sccagn_scale.io._chunks import read_range
from sccagn_scale.io._layout import as_damaged
from sccagn_scale.io._stored import StoredRows, supported

_N_HELD = 2**21
"""Values held at a time, at least; each takes 70 bytes at most on its way."""

_PER_ROOT = 64
"""Values held at a time for each of the root of their number. Every piece that is read is written to every range of
rows: if both grow so, a write has as many values, 4,096, of whatever number, and there are the fewer of them."""

_HELD_VALUE = 70  # bytes

Int64s = npt.NDArray[np.int64]


class Copies(NamedTuple):
    """Bytes that matrices stored by columns take before their rows can be read."""

    kept: int = 0  # on disk, for as long as the matrix is used
    making: int = 0  # on disk beside these, while one is made
    memory: int = 0  # while one is made


def together(copies: Iterable[Copies]) -> Copies:
    """What several take that are made one after another."""
    kept, making, memory = zip(Copies(), *copies, strict=True)
    return Copies(sum(kept), max(making), max(memory))


def copies_of(columns: StoredRows) -> Copies:
    """What `transposed` takes."""
    entry, row_offsets = _entry(columns).itemsize, 8 * columns.shape[0]
    kept = columns.nnz * (entry - np.dtype("i4").itemsize) + row_offsets
    return Copies(kept, columns.nnz * entry, _HELD_VALUE * _n_held(columns) + row_offsets)


def transposed(columns: StoredRows, folder: Path, *, room_for: Iterable[Copies] = ()) -> StoredRows:
    """Write CSC as CSR into a new file, its indices sorted.

    The values are gone through twice: once to count those of each row; then, by ranges of rows that fit in memory, into
    a file where every range has its place, and from there, range by range, into the result. Held are the row offsets,
    8 bytes a cell, and up to 150 MB, or more from 10⁹ values on: 1.6 GB of 10¹¹.

    Parameters
    ----------
    columns
        The matrix.
    folder
        Takes the file, and on the way another one of about the same size.
    room_for
        What else has to find room there.

    Raises
    ------
    InputError
        If the matrix is damaged, or `folder` cannot take the file.
    """
    takes = copies_of(columns)
    kept, making, _ = together([takes, *room_for])
    n_bytes = kept + making
    try:
        if shutil.disk_usage(folder).free < n_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        target = folder / f"{len(list(folder.iterdir()))}.h5"
        with tempfile.TemporaryFile(dir=folder) as ranges:
            os.posix_fallocate(ranges.fileno(), 0, max(takes.making, 1))  # where a quota is full, that shows now
            with columns.opened() as group:
                indptr = _row_offsets(columns, group)
                bounds = _bounds(indptr, _n_held(columns))
                _distribute(columns, group, indptr, bounds, ranges)
            with replacing_hdf5(target) as file:
                _gather(columns, indptr, bounds, ranges, file.create_group("X"))
    except OSError as error:
        raise InputError(
            f"{str(folder)!r} could not take the rows of /{columns.name} of {str(columns.path)!r}, which is stored by "
            f"columns (CSC): {first_line(error)}; give a folder with {n_bytes / 1e9:.1f} GB free, as `scratch` or "
            "in the environment as TMPDIR."
        ) from error
    return StoredRows(target, "X")


def picked(columns: StoredRows, firsts: Int64s, stops: Int64s) -> sparse.csr_matrix:
    """Read a few stretches of the rows of CSC as CSR, in one pass over all values and without a copy of them.

    Parameters
    ----------
    columns
        The matrix.
    firsts, stops
        The first row of each stretch and the one after its last, in rising order; they do not overlap.

    Raises
    ------
    InputError
        If the matrix is damaged.
    """
    moves = np.cumsum(stops - firsts) - stops  # of the stretches, into the result
    found = [(np.zeros(0, supported(columns.dtype)), moves[:0], moves[:0])]
    with columns.opened() as group:
        offsets = columns.indptr(group)
        for low, _, (rows, values) in _pieces(columns, group, "indices", "data"):
            within = np.searchsorted(firsts, rows, side="right") - 1
            at = np.flatnonzero((within >= 0) & (rows < stops[within]))
            genes = np.searchsorted(offsets, low + at, side="right") - 1
            found.append((values[at].astype(found[0][0].dtype), rows[at].astype(np.int64) + moves[within[at]], genes))
    chosen, cells, genes = (np.concatenate(part) for part in zip(*found, strict=True))
    shape = int((stops - firsts).sum()), columns.shape[1]
    return sparse.csr_matrix((chosen, (cells, genes)), shape=shape)


def _n_held(columns: StoredRows) -> int:
    return max(_N_HELD, _PER_ROOT * math.isqrt(columns.nnz))


def _entry(columns: StoredRows) -> np.dtype[Any]:
    """A value on its way: its row, counted from its range's first, and its column."""
    return np.dtype([("row", "i4"), ("column", "i4"), ("value", supported(columns.dtype))])


def _pieces(columns: StoredRows, group: Any, *parts: str) -> Iterator[tuple[int, int, list[npt.NDArray[Any]]]]:
    """Go through stored values: the first and the one after the last, and their `parts`: "indices" before others."""
    n_held = _n_held(columns)
    for low in range(0, columns.nnz, n_held):
        high = min(low + n_held, columns.nnz)
        offsets = columns.indptr(group)
        first, last = np.searchsorted(offsets, (low, high - 1), side="right") - 1
        with as_damaged(columns.path, f"all cells' genes {first} to {last}, "):
            arrays = [read_range(group[part], low, high) for part in parts]
            fault = columns.fault_in(arrays[0], offsets.clip(low, high) - low)
            if fault is not None:
                raise ValueError(fault)
        yield low, high, arrays


def _row_offsets(columns: StoredRows, group: Any) -> Int64s:
    indptr = np.zeros(columns.shape[0] + 1, np.int64)
    for _, _, (rows,) in _pieces(columns, group, "indices"):
        np.add.at(indptr, rows.astype(np.int64) + 1, 1)
    return np.cumsum(indptr, out=indptr)


def _bounds(indptr: Int64s, n_held: int) -> Int64s:
    """First rows of ranges that have at most `n_held` values, or one row, and in the end the number of rows."""
    bounds = [0]
    while bounds[-1] < len(indptr) - 1:
        stop = int(np.searchsorted(indptr, indptr[bounds[-1]] + n_held, side="right")) - 1
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
