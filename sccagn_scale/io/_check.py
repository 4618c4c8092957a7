"""What no reader checks: that a stored matrix holds numbers, and that its indices stay inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse


def matrix_fault(matrix: Any) -> str | None:
    """Say what is wrong with a matrix that was read; None if nothing is.

    SciPy tests the lengths only. An index out of bounds crashes compiled code much later, or worse, does not.
    """
    if matrix.dtype.kind not in "buif":
        return f"its values are of type {matrix.dtype}, not numbers"
    if not sparse.issparse(matrix):
        return None
    n_major, n_minor = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    if len(matrix.data) != len(matrix.indices):
        return f"it has {len(matrix.data)} values but {len(matrix.indices)} indices"
    return indptr_fault(matrix.indptr, n_major, len(matrix.indices)) or indices_fault(matrix.indices, n_minor)


def indptr_fault(indptr: npt.NDArray[Any], n_major: int, nnz: int) -> str | None:
    """Say what is wrong with `indptr` [n_major + 1] over `nnz` stored values; None if nothing is."""
    if len(indptr) != n_major + 1:
        return f"indptr has {len(indptr)} entries where {n_major + 1} belong"
    # compared rather than subtracted: the difference of unsigned numbers is never negative
    if indptr[0] != 0 or indptr[-1] != nnz or (indptr[1:] < indptr[:-1]).any():
        return f"indptr does not rise from 0 to the {nnz} stored values"
    return None


def indices_fault(indices: npt.NDArray[Any], n_minor: int) -> str | None:
    """Say which of `indices` [nnz] is not in [0, n_minor); None if all are."""
    if len(indices) == 0:
        return None
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < 0 or highest >= n_minor:
        return f"index {lowest if lowest < 0 else highest} is not below {n_minor}"
    return None


def as_signed(indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Unsigned indices, which SciPy cannot compute with, as signed ones; without a copy from 32 bits on.

    Writers in other languages store them. Only for indices that passed the checks above.
    """
    if indices.dtype.kind != "u":
        return indices
    return indices.astype(np.int32) if indices.dtype.itemsize < 4 else indices.view(f"i{indices.dtype.itemsize}")
