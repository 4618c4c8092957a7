"""Counts of two groupings at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def crosstab(rows: NDArray[np.integer], columns: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Count what is in each group of the one and each of the other (a contingency table).

    Parameters
    ----------
    rows, columns
        Both groups of everything counted, whole numbers from 0, [n].
    shape
        Groups of the one and of the other.

    Returns
    -------
    Counts, int64 of that shape.
    """
    n_rows, n_columns = shape
    pairs = rows.astype(np.int64, copy=False) * n_columns + columns  # codes of a categorical may be int8
    return np.bincount(pairs, minlength=n_rows * n_columns).reshape(shape)
