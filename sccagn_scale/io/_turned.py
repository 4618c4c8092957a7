"""A sparse matrix that is stored by columns, read by rows."""

from __future__ import annotations

import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError

from ._check import as_signed, indices_fault
from ._layout import first_line

_HELD = 2**22
"""Stored values that are worked on at once: some 100 MiB."""


class Turned:
    """Rows of a CSC matrix on disk, through a copy by rows that is made when rows are first asked for.

    Columns are gone through in stretches. The values of a stretch, sorted by row, are appended to the files of as many
    ranges of rows as keep a range's values few enough to be held; a range is put in order when it is read. Time and
    disk grow with the stored values, memory does not.

    Parameters
    ----------
    group
        `data`, `indices` and so on, in HDF5 or zarr.
    indptr
        Offsets of the columns, int64 [n_vars + 1].
    n_obs
        Rows.
    scratch
        Folder for the copy, whose files have no names; None: the system's for temporary files.
    """

    def __init__(self, group: Any, indptr: npt.NDArray[np.int64], n_obs: int, scratch: Path | None) -> None:
        self._group, self._indptr, self._n_obs, self._scratch = group, indptr, n_obs, scratch
        n_ranges = max(1, -(-int(indptr[-1]) // _HELD))
        self._width = max(1, -(-n_obs // n_ranges))  # rows of a range
        self._entry = np.dtype([("row", "<i8"), ("column", "<i8"), ("value", group["data"].dtype)])
        self._files: list[Any] = []
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)
        self._known: tuple[int, sparse.csr_matrix] | None = None  # the range that was read last

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows from `start` to before `stop`, sorted."""
        if not self._files:
            self._copy()
        found = []
        for number in range(start // self._width, (stop - 1) // self._width + 1):
            first = number * self._width
            found.append(self._range(number)[max(start - first, 0) : stop - first])
        return sparse.vstack(found, format="csr")

    def _copy(self) -> None:
        try:
            files = [
                self._open.enter_context(tempfile.TemporaryFile(dir=self._scratch))  # noqa: SIM115
                for _ in range(-(-self._n_obs // self._width))
            ]
            column = 0
            while column < len(self._indptr) - 1:
                low = int(self._indptr[column])
                last = int(np.searchsorted(self._indptr, low + _HELD, side="right")) - 1
                last = max(last, column + 1)  # a column of more values than that is held whole
                self._append(files, column, last)
                column = last
            self._files = files
        except OSError as error:
            raise InputError(
                f"`store` has no room for a copy by rows of a matrix that is stored by columns: {first_line(error)}. "
                "Name a folder on another disk, or save the input by rows (CSR)."
            ) from error

    def _append(self, files: list[Any], first: int, last: int) -> None:
        low, high = int(self._indptr[first]), int(self._indptr[last])
        rows = np.asarray(self._group["indices"][low:high])
        fault = indices_fault(rows, self._n_obs)
        if fault is not None:
            raise ValueError(fault)
        entries = np.empty(high - low, self._entry)
        entries["row"] = as_signed(rows)
        entries["column"] = np.repeat(np.arange(first, last), np.diff(self._indptr[first : last + 1]))
        entries["value"] = self._group["data"][low:high]
        number = entries["row"] // self._width
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=len(files)))
        for file, part in zip(files, np.split(entries[order], ends[:-1]), strict=True):
            file.write(part.tobytes())

    def _range(self, number: int) -> sparse.csr_matrix:
        if self._known is not None and self._known[0] == number:
            return self._known[1]
        file = self._files[number]
        file.seek(0)
        entries = np.frombuffer(file.read(), self._entry)
        first = number * self._width
        n_rows = min(self._width, self._n_obs - first)
        order = np.argsort(entries["row"], kind="stable")  # columns came in their order
        indptr = np.concatenate([[0], np.cumsum(np.bincount(entries["row"] - first, minlength=n_rows))])
        values = entries["value"][order]
        if values.dtype == np.float16:  # of which SciPy has no sparse matrices
            values = values.astype(np.float32)
        matrix = sparse.csr_matrix((values, entries["column"][order], indptr), shape=(n_rows, len(self._indptr) - 1))
        self._known = (number, matrix)
        return matrix
