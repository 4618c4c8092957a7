"""Differences between batches, taken out of principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sccagn_scale._errors import InputError
from sccagn_scale._threads import n_threads

if TYPE_CHECKING:
    from anndata import AnnData

_MOST_CLUSTERS = 100  # of Harmony's own


def select_batches(adata: AnnData, batch_key: str, keep_obs: np.ndarray | None = None) -> np.ndarray:
    """Take the batch of each cell out of an AnnData.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    batch_key
        A column of `obs`, of any type.
    keep_obs
        Cells that passed quality control, bool [n_obs]; None: before it, all of them.

    Returns
    -------
    Number of each such cell's batch, int64 [n], from 0 without gaps.

    Raises
    ------
    InputError
        If there is no such column, a cell has no value in it, or there are fewer than two batches, or more than half as
        many as cells.
    """
    if not isinstance(batch_key, str) or batch_key not in adata.obs:
        there = ", ".join(map(repr, adata.obs)) or "none"
        raise InputError(
            f"`batch_key` must name a column of obs, but there is no {batch_key!r}; the columns are: {there}."
        )
    column = adata.obs[batch_key]
    if isinstance(column, pd.DataFrame):
        raise InputError(f"`batch_key` must name one column of obs, but {column.shape[1]} are called '{batch_key}'.")
    n_missing = int(column.isna().sum())
    if n_missing:
        raise InputError(
            f"`batch_key` = '{batch_key}' must have a value for every cell; {n_missing:,} of {len(column):,} cells "
            "have none. Fill them in, or take those cells out."
        )
    which = ""
    if keep_obs is not None:
        column, which = column[keep_obs], " that pass quality control"
    codes, values = pd.factorize(column)
    if len(values) < 2:
        raise InputError(
            f"`batch_key` = '{batch_key}' must have at least two values among the cells{which}; all "
            f"{len(codes):,} have '{values[0]}'. Leave it out: there is nothing to correct."
        )
    if len(values) > len(codes) / 2:
        raise InputError(
            f"`batch_key` = '{batch_key}' must have at most half as many values as there are cells; it has "
            f"{len(values):,} for the {len(codes):,} cells{which}. Name a column that says where cells come from."
        )
    return codes.astype(np.int64)


def correct_batches(pcs: np.ndarray, batches: np.ndarray, *, random_state: int = 0) -> np.ndarray:
    """Take differences between batches out of principal components with Harmony (Korsunsky et al. 2019).

    Cells are clustered softly, so that every cluster draws on all batches as evenly as it can, and in each cluster the
    batches are moved onto each other; the two take turns. All settings are harmonypy's own. Needs that package.

    Parameters
    ----------
    pcs
        Float [n, n_comps].
    batches
        Batch of each cell, int [n], two or more.
    random_state
        Seed of Harmony's clustering. NumPy's and torch's generators are not touched.

    Returns
    -------
    float32 [n, n_comps]; the same for any number of threads.
    """
    from harmonypy import run_harmony

    n_obs = len(pcs)
    done = run_harmony(
        pcs.T,  # cells in columns: an array of as many cells as components is then read rightly
        {"batch": batches},
        "batch",
        nclust=max(1, min(round(n_obs / 30), _MOST_CLUSTERS)),  # its own rule, which gives none for a dozen cells
        random_state=random_state % 2**31,  # it takes a C int
        ncores=n_threads(),
        verbose=False,
    )
    return np.ascontiguousarray(done.Z_corr, dtype=np.float32)


def correction_memory(n_obs: int, n_comps: int) -> int:
    """Bytes that `correct_batches` takes at its peak, its result included (harmonypy 2.1, measured)."""
    return n_obs * (24 * n_comps + 8 * _MOST_CLUSTERS + 60)
