"""A matrix that is stored by columns, gone through in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sccagn_scale.io._chunks import read_range
from sccagn_scale.io._layout import as_damaged
from sccagn_scale.io._stored import StoredRows
from sccagn_scale.io._transpose import Entries


class StoredColumns:
    """The values of CSC in a file, in the order of their columns."""

    is_by_rows = False

    def __init__(self, stored: StoredRows) -> None:
        self._stored = stored
        self.shape, self.dtype, self.nnz, self.n_bytes = stored.shape, stored.dtype, stored.nnz, stored.n_bytes
        self.described = f"/{stored.name} of {str(stored.path)!r}, which is stored by columns (CSC)"

    def rows(self, most: int) -> Iterator[npt.NDArray[np.int64]]:
        """Go through the rows of the values, at most so many at a time; the values are not read.

        Raises
        ------
        InputError
            If they are damaged; the message names their genes.
        """
        with self._stored.opened() as group:
            for _, (rows,) in self._pieces(group, most, "indices"):
                yield rows.astype(np.int64)

    def entries(self, most: int) -> Iterator[Entries]:
        """Go through the values, at most so many at a time.

        Raises
        ------
        InputError
            If they are damaged; the message names their genes.
        """
        with self._stored.opened() as group:
            for offsets, (rows, values) in self._pieces(group, most, "indices", "data"):
                columns = np.repeat(np.arange(self.shape[1]), np.diff(offsets))
                yield Entries(rows.astype(np.int64), columns, values)

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to about so many of the values, from all over the matrix; none that are damaged."""
        return self._stored.some_values(most)

    def _pieces(self, group: Any, most: int, *parts: str) -> Iterator[tuple[npt.NDArray[np.int64], list[Any]]]:
        """Where in a piece the columns begin [n_vars + 1], and its `parts`: "indices" before others."""
        for low in range(0, self.nnz, most):
            high = min(low + most, self.nnz)
            offsets = self._stored.indptr(group)
            first, last = np.searchsorted(offsets, (low, high - 1), side="right") - 1
            within = offsets.clip(low, high) - low
            with as_damaged(self._stored.path, f"all cells' genes {first} to {last}, "):
                arrays = [read_range(group[part], low, high) for part in parts]
                fault = self._stored.fault_in(arrays[0], within)
                if fault is not None:
                    raise ValueError(fault)
            yield within, arrays
