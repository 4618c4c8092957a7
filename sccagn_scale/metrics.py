"""How well clusters match known types.

Nothing that trains may import this: labels are for judging a finished result only.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sccagn_scale._crosstab import crosstab
from sccagn_scale._errors import InputError

__all__ = ["cluster_accuracy", "contingency", "evaluate"]

UNASSIGNED = "(none)"
"""How cells without a cluster are called in a contingency table."""


def evaluate(truth: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Compare clusters with known types.

    Cells whose type is missing are left out. Cells without a cluster count as one more cluster, so that a method cannot
    gain by leaving out the cells that are hard to place.

    Parameters
    ----------
    truth
        Type of each cell, [n_obs]; NaN or None where it is not known.
    labels
        Cluster of each cell in the same order, [n_obs]; NaN or None where it has none.

    Returns
    -------
    `nmi` (normalised by the arithmetic mean of the entropies), `ari`, `ami`, `completeness` and `accuracy`
    (see :func:`cluster_accuracy`). All are at most 1, which is a perfect match; `ari` and `ami` are about 0 for
    random clusters.

    Raises
    ------
    InputError
        When the two differ in length or no cell has a known type.
    """
    from sklearn import metrics as sk

    true, found = _codes(truth, labels)[:2]
    with warnings.catch_warnings():
        # scikit-learn takes integers with many distinct values for a regression target, and says so.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        return {
            "nmi": float(sk.normalized_mutual_info_score(true, found, average_method="arithmetic")),
            "ari": float(sk.adjusted_rand_score(true, found)),
            "ami": float(sk.adjusted_mutual_info_score(true, found, average_method="arithmetic")),
            "completeness": float(sk.completeness_score(true, found)),
            "accuracy": _accuracy(true, found),
        }


def cluster_accuracy(truth: ArrayLike, labels: ArrayLike) -> float:
    """Share of cells in the right cluster, when clusters and types are paired as favourably as possible.

    Each cluster is paired with at most one type and each type with at most one cluster (Hungarian algorithm). Cells
    of a cluster that is left without a type count as wrong.

    Parameters
    ----------
    truth
        Type of each cell, [n_obs]; cells where it is missing are left out.
    labels
        Cluster of each cell in the same order, [n_obs]; cells without one count as one cluster of their own.

    Returns
    -------
    A number in (0, 1].

    Raises
    ------
    InputError
        When the two differ in length or no cell has a known type.
    """
    return _accuracy(*_codes(truth, labels)[:2])


def contingency(truth: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Count the cells of each cluster (rows) that are of each type (columns).

    Parameters
    ----------
    truth
        Type of each cell, [n_obs]; cells where it is missing are left out.
    labels
        Cluster of each cell in the same order, [n_obs]; cells without one are the row "(none)".

    Returns
    -------
    Cell counts, [clusters, types], both in the order of a categorical's categories and sorted otherwise.

    Raises
    ------
    InputError
        When the two differ in length or no cell has a known type.
    """
    true, found, types, clusters = _codes(truth, labels)
    table = crosstab(found, true, (len(clusters), len(types)))
    frame = pd.DataFrame(table, index=pd.Index(clusters, name="cluster"), columns=pd.Index(types, name="type"))
    return frame.iloc[np.flatnonzero(table.any(axis=1)), np.flatnonzero(table.any(axis=0))]


def _codes(truth: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp], list[Any], list[Any]]:
    """Number the types and the clusters of all cells whose type is known; the names come with them."""
    true, types = _factorize(truth, "truth")
    found, clusters = _factorize(labels, "labels")
    if len(true) != len(found):
        raise InputError(
            f"`truth` and `labels` must name the same cells, but have {len(true):,} and {len(found):,} entries; "
            "take both from one AnnData."
        )
    known = true >= 0
    if not known.any():
        raise InputError(f"`truth` must name the type of at least one cell, but all {len(true):,} entries are missing.")
    if (found < 0).any():
        found = np.where(found < 0, len(clusters), found)
        clusters = [*clusters, UNASSIGNED]
    return true[known], found[known], types, clusters


def _factorize(values: ArrayLike, name: str) -> tuple[NDArray[np.intp], list[Any]]:
    if isinstance(values, pd.Series | pd.Index | pd.Categorical):
        column = pd.Series(values)
    else:
        array = np.asarray(values)
        if array.ndim != 1:
            raise InputError(f"`{name}` must hold one entry for each cell, but its shape is {array.shape}.")
        # Texts as objects, and from what was given: numpy makes one text of everything, so that NaN would be a type.
        column = pd.Series(values, dtype=object) if array.dtype.kind in "OU" else pd.Series(array)
    if column.dtype == np.float16:  # pandas has no index of them
        column = column.astype(np.float32)
    categories = pd.Categorical(column)
    return np.asarray(categories.codes, dtype=np.intp), list(categories.categories)


def _accuracy(true: NDArray[np.intp], found: NDArray[np.intp]) -> float:
    from scipy.optimize import linear_sum_assignment

    table = crosstab(found, true, (found.max() + 1, true.max() + 1))
    return int(table[linear_sum_assignment(table, maximize=True)].sum()) / len(true)
