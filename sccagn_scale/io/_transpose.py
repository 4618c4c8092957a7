"""A matrix whose values come in another order into one stored by rows, in bounded memory."""

from __future__ import annotations

import errno
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError, first_line
from sccagn_scale.io._atomic import Hdf5File, replacing_hdf5
from sccagn_scale.io._stored import StoredRows, supported

_N_HELD = 2**21
"""Values held at a time, at least; each takes 70 bytes at most on its way."""

_PER_ROOT = 64
"""Values held at a time for each of the root of their number. Every piece that is read is written to every range of
rows: if both grow so, a write has as many values, 4,096, of whatever number, and there are the fewer of them."""

_HELD_VALUE = 70  # bytes

Int64s = npt.NDArray[np.int64]


class Entries(NamedTuple):
    """Some stored values of a matrix, and where they stand in it; arrays of one length."""

    rows: Int64s
    columns: npt.NDArray[Any]
    values: npt.NDArray[Any]

    @classmethod
    def none(cls, dtype: np.dtype[Any]) -> Entries:
        """No values of a type."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, dtype))

    def are_by_rows(self) -> bool:
        """Whether they come row after row, and within a row by rising columns."""
        down, right = np.diff(self.rows), np.diff(self.columns.astype(np.int64))
        return not (down < 0).any() and not (right[down == 0] < 0).any()


class Source(Protocol):
    """A matrix in a file whose values can only be gone through in their order there."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    nnz: int
    n_bytes: int
    described: str  # which it is and how it is stored, for messages

    @property
    def is_by_rows(self) -> bool:
        """Whether its values seem to come row after row, and within a row by rising columns."""

    def rows(self, most: int) -> Iterator[Int64s]:
        """Go through the rows of the values, at most so many at a time."""

    def entries(self, most: int) -> Iterator[Entries]:
        """Go through the values, at most so many at a time."""

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to so many of the values; none that are damaged."""


class Copies(NamedTuple):
    """Bytes that matrices not stored by rows take before their rows can be read."""

    kept: int = 0  # on disk, for as long as the matrix is used
    making: int = 0  # on disk beside these, while one is made
    memory: int = 0  # while one is made


def together(copies: Iterable[Copies]) -> Copies:
    """What several take that are made one after another."""
    kept, making, memory = zip(Copies(), *copies, strict=True)
    return Copies(sum(kept), max(making), max(memory))


def copies_of(source: Source, *, is_by_rows: bool | None = None) -> Copies:
    """What `copied` takes; unless told otherwise, if its values are in the order in which they seem to be."""
    entry, row_offsets = _entry(source).itemsize, 8 * source.shape[0]
    kept = source.nnz * (entry - np.dtype("i4").itemsize) + row_offsets
    making = 0 if (source.is_by_rows if is_by_rows is None else is_by_rows) else source.nnz * entry
    return Copies(kept, making, _HELD_VALUE * _n_held(source) + row_offsets)


def copied(source: Source, folder: Path, *, room_for: Iterable[Copies] = ()) -> StoredRows:
    """Write a matrix as CSR into a new file.

    Values that come row after row are gone through once. Others are gone through twice: to count those of each row;
    then, by ranges of rows that fit in memory, into a file where every range has its place, and from there, range by
    range, into the result, its indices sorted. Held are the row offsets, 8 bytes a cell, and up to 150 MB, or more from
    10⁹ values on: 1.6 GB of 10¹¹.

    Parameters
    ----------
    source
        The matrix.
    folder
        Takes the file, and for values that do not come row after row, on the way, another one of about the same size.
    room_for
        What else has to find room there.

    Raises
    ------
    InputError
        If the matrix is damaged, or `folder` cannot take the file.
    """
    others = list(room_for)
    target = folder / f"{len(list(folder.iterdir()))}.h5"
    if not source.is_by_rows or not _written(source, target, others, is_by_rows=True):
        _written(source, target, others, is_by_rows=False)
    return StoredRows(target, "X")


def picked(source: Source, firsts: Int64s, stops: Int64s) -> sparse.csr_matrix:
    """Read a few stretches of the rows as CSR, in one pass over all values and without a copy of them.

    Parameters
    ----------
    source
        The matrix.
    firsts, stops
        The first row of each stretch and the one after its last, in rising order; they do not overlap.

    Raises
    ------
    InputError
        If the matrix is damaged.
    """
    moves = np.cumsum(stops - firsts) - stops  # of the stretches, into the result
    dtype = supported(source.dtype)
    found = [Entries.none(dtype)]
    for rows, columns, values in source.entries(_n_held(source)):
        within = np.searchsorted(firsts, rows, side="right") - 1
        at = np.flatnonzero((within >= 0) & (rows < stops[within]))
        found.append(Entries(rows[at] + moves[within[at]], columns[at], values[at].astype(dtype)))
    cells, genes, chosen = (np.concatenate(part) for part in zip(*found, strict=True))
    shape = int((stops - firsts).sum()), source.shape[1]
    return sparse.csr_matrix((chosen, (cells, genes)), shape=shape)


def _n_held(source: Source) -> int:
    return max(_N_HELD, _PER_ROOT * math.isqrt(source.nnz))


def _entry(source: Source) -> np.dtype[Any]:
    """A value on its way: its row, counted from its range's first, and its column."""
    return np.dtype([("row", "i4"), ("column", "i4"), ("value", supported(source.dtype))])


class _OutOfOrderError(Exception):
    """Values do not come row after row."""


def _written(source: Source, target: Path, others: list[Copies], *, is_by_rows: bool) -> bool:
    """Whether the values are in `target` now: not if they are not in the order in which they should be."""
    takes = copies_of(source, is_by_rows=is_by_rows)
    kept, making, _ = together([takes, *others])
    n_bytes = kept + making
    try:
        if shutil.disk_usage(target.parent).free < n_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if is_by_rows:
            with replacing_hdf5(target) as file:
                _copy(source, file)
        else:
            _transpose(source, target, takes.making)
    except _OutOfOrderError:
        return False
    except OSError as error:
        raise InputError(
            f"{str(target.parent)!r} could not take the rows of {source.described}: {first_line(error)}; give a folder "
            f"with {n_bytes / 1e9:.1f} GB free, as `scratch` or in the environment as TMPDIR."
        ) from error
    return True


def _copy(source: Source, file: Hdf5File) -> None:
    """Write values as CSR in `file["X"]` that come row after row.

    Raises
    ------
    _OutOfOrderError
        If they do not.
    """
    data, indices = _arrays(source, file)
    indptr = np.zeros(source.shape[0] + 1, np.int64)
    low, last = 0, (0, 0)
    for entries in source.entries(_n_held(source)):
        rows, columns, values = entries
        if (rows[0], columns[0]) < last or not entries.are_by_rows():
            raise _OutOfOrderError
        high, last = low + len(rows), (rows[-1], columns[-1])
        data[low:high], indices[low:high] = values, columns
        np.add.at(indptr, rows + 1, 1)
        low = high
        file.check()
    file["X/indptr"] = np.cumsum(indptr, out=indptr)


def _transpose(source: Source, target: Path, n_bytes: int) -> None:
    """Write values as CSR that come in any order, by way of another file beside the result, of so many bytes."""
    with tempfile.TemporaryFile(dir=target.parent) as ranges:
        os.posix_fallocate(ranges.fileno(), 0, max(n_bytes, 1))  # where a quota is full, that shows now
        indptr = _row_offsets(source)
        bounds = _bounds(indptr, _n_held(source))
        _distribute(source, indptr, bounds, ranges)
        with replacing_hdf5(target) as file:
            _gather(source, indptr, bounds, ranges, file)


def _arrays(source: Source, file: Hdf5File) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Begin a CSR matrix in AnnData's encoding, `file["X"]`: its values and their columns, to be filled."""
    group = file.create_group("X")
    group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", source.shape
    data = group.create_dataset("data", (source.nnz,), supported(source.dtype))
    return data, group.create_dataset("indices", (source.nnz,), np.int32)


def _row_offsets(source: Source) -> Int64s:
    indptr = np.zeros(source.shape[0] + 1, np.int64)
    for rows in source.rows(_n_held(source)):
        np.add.at(indptr, rows + 1, 1)
    return np.cumsum(indptr, out=indptr)


def _bounds(indptr: Int64s, n_held: int) -> Int64s:
    """First rows of ranges that have at most `n_held` values, or one row, and in the end the number of rows."""
    bounds = [0]
    while bounds[-1] < len(indptr) - 1:
        stop = int(np.searchsorted(indptr, indptr[bounds[-1]] + n_held, side="right")) - 1
        bounds.append(max(stop, bounds[-1] + 1))
    return np.array(bounds)


def _distribute(source: Source, indptr: Int64s, bounds: Int64s, ranges: BinaryIO) -> None:
    """Put every value into its range's place in `ranges`, where they stay in their order."""
    entry = _entry(source)
    filled = indptr[bounds[:-1]]
    for rows, columns, values in source.entries(_n_held(source)):
        within = np.searchsorted(bounds, rows, side="right") - 1
        entries = np.empty(len(rows), entry)
        entries["row"], entries["column"], entries["value"] = rows - bounds[within], columns, values
        # of the smallest type, which NumPy sorts in linear time
        entries = entries[np.argsort(within.astype(np.min_scalar_type(len(bounds))), kind="stable")]
        counts = np.bincount(within, minlength=len(bounds) - 1)
        stops = np.cumsum(counts)
        for into in np.flatnonzero(counts):
            ranges.seek(int(filled[into]) * entry.itemsize)
            ranges.write(entries[stops[into] - counts[into] : stops[into]].data)
        filled += counts


def _gather(source: Source, indptr: Int64s, bounds: Int64s, ranges: BinaryIO, file: Hdf5File) -> None:
    """Write the ranges under one another as CSR in `file["X"]`."""
    entry, n_vars = _entry(source), source.shape[1]
    data, indices = _arrays(source, file)
    file["X/indptr"] = indptr
    for first, last in itertools.pairwise(bounds):
        low, high = int(indptr[first]), int(indptr[last])
        ranges.seek(low * entry.itemsize)
        entries = np.frombuffer(ranges.read((high - low) * entry.itemsize), entry)
        if (entries["column"][1:] < entries["column"][:-1]).any():
            entries = entries[np.argsort(entries["column"], kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(entries["column"], minlength=n_vars))])
        parts = (np.ascontiguousarray(entries["value"]), np.ascontiguousarray(entries["row"]), offsets)
        rows = sparse.csc_matrix(parts, shape=(int(last - first), n_vars)).tocsr()
        data[low:high], indices[low:high] = rows.data, rows.indices
        file.check()
