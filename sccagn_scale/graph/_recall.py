"""How well an approximate search of neighbours matches the exact one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sccagn_scale._errors import InputError


def knn_recall(indices: ArrayLike, reference: ArrayLike) -> float:
    """Share of the true nearest neighbours that an approximate search found.

    Parameters
    ----------
    indices
        Neighbours found, [n_obs, k]; −1 where the search found fewer. Both arrays list the cell itself, or neither.
    reference
        Neighbours by exact search for the same cells, [n_obs, k].

    Returns
    -------
    A number in [0, 1]. Neighbours are compared by their number, so that of two equally distant cells only the one
    in `reference` counts.

    Raises
    ------
    InputError
        When the arrays are not two-dimensional, differ in their number of rows, or `reference` is empty.
    """
    found, exact = np.asarray(indices), np.asarray(reference)
    if found.ndim != 2 or exact.ndim != 2 or len(found) != len(exact):
        raise InputError(
            "`indices` and `reference` must be two-dimensional with one row for each cell, but their shapes are "
            f"{found.shape} and {exact.shape}; search both for the same cells."
        )
    wanted = exact >= 0
    if not wanted.any():
        raise InputError(f"`reference` must list at least one neighbour, but its shape is {exact.shape}.")
    hits = 0
    for rows in (slice(i, i + 4096) for i in range(0, len(exact), 4096)):  # [4096, k, k] comparisons at a time
        hit = (exact[rows, :, None] == found[rows, None, :]).any(axis=2)
        hits += int((hit & wanted[rows]).sum())
    return hits / int(wanted.sum())
