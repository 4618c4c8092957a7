"""Quality control, normalisation, gene selection and scaling. Every function keeps zeros zero, so CSR stays CSR."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize
from sklearn.utils.sparsefuncs import inplace_column_scale, inplace_row_scale, mean_variance_axis

from sccagn_scale._errors import InputError


class Kept(NamedTuple):
    """Which cells and genes pass quality control."""

    obs: np.ndarray  # bool [n_obs]
    var: np.ndarray  # bool [n_vars]


def quality_control(matrix: sp.csr_matrix, min_cells_frac: float = 0.01, min_genes_frac: float = 0.01) -> Kept:
    """Choose the genes seen in enough cells, then the cells that show enough of those genes.

    Parameters
    ----------
    matrix
        Cells × genes, CSR, zeros not stored.
    min_cells_frac
        A gene must be detected in more than this fraction of the cells.
    min_genes_frac
        A cell must show more than this fraction of the genes that passed.

    Raises
    ------
    InputError
        If no gene or no cell passes; names the threshold.
    """
    n_obs = matrix.shape[0]
    detected = np.bincount(matrix.indices, minlength=matrix.shape[1])
    keep_var = detected > min_cells_frac * n_obs
    if not keep_var.any():
        raise InputError(
            f"`min_cells_frac` = {min_cells_frac:g} filters out all {matrix.shape[1]:,} genes: the most widespread is "
            f"detected in {detected.max() / n_obs:.2%} of the cells. Lower it, or check the input."
        )
    per_cell = np.bincount(
        np.repeat(np.arange(n_obs), np.diff(matrix.indptr)), weights=keep_var[matrix.indices], minlength=n_obs
    )
    keep_obs = per_cell > min_genes_frac * keep_var.sum()
    if not keep_obs.any():
        raise InputError(
            f"`min_genes_frac` = {min_genes_frac:g} filters out all {n_obs:,} cells: the richest shows "
            f"{per_cell.max() / keep_var.sum():.2%} of the genes. Lower it, or check the input."
        )
    return Kept(keep_obs, keep_var)


def normalize_total(matrix: sp.csr_matrix, target_sum: float | None = None) -> float:
    """Scale every cell, in place, to the same total, and return that total.

    Parameters
    ----------
    matrix
        Cells × genes, CSR float. Cells without counts stay as they are.
    target_sum
        The common total; the median of the non-empty cells if None.
    """
    totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    filled = totals > 0
    target = target_sum if target_sum is not None else float(np.median(totals[filled])) if filled.any() else 1.0
    factors = np.divide(target, totals, out=np.ones_like(totals), where=filled)
    inplace_row_scale(matrix, factors.astype(matrix.dtype))
    return target


def log1p(matrix: sp.csr_matrix) -> None:
    """Take ln(1 + x) of every value, in place."""
    np.log1p(matrix.data, out=matrix.data)


def highest_std_genes(matrix: sp.csr_matrix, n_top_genes: int) -> np.ndarray:
    """Choose the genes of highest standard deviation.

    Parameters
    ----------
    matrix
        Cells × genes, normalised and logged.
    n_top_genes
        How many to choose at most. Constant genes are never chosen.

    Returns
    -------
    Sorted column indices, int64.
    """
    _, variance = mean_variance_axis(matrix, axis=0)
    order = np.argsort(-variance, kind="stable")[:n_top_genes]
    return np.sort(order[variance[order] > 0])


def constant_genes(matrix: sp.csr_matrix) -> np.ndarray:
    """Tell which genes have one and the same value in every cell: bool [n_vars]. Zeros must not be stored."""
    detected = np.bincount(matrix.indices, minlength=matrix.shape[1])
    full = detected == matrix.shape[0]
    lowest, highest = (getattr(matrix, end)(axis=0).toarray().ravel() for end in ("min", "max"))
    return (detected == 0) | (full & (lowest == highest))


def gene_maxima(matrix: sp.csr_matrix) -> np.ndarray:
    """Largest value of each gene [n_vars], 1 for genes without any."""
    largest = matrix.max(axis=0).toarray().ravel()
    return np.where(largest > 0, largest, 1).astype(matrix.dtype)


def scale_to_unit(matrix: sp.csr_matrix, maxima: np.ndarray) -> None:
    """Divide by each gene's maximum [n_vars], then bring each cell to unit length, in place.

    Both keep zeros zero, unlike z-scoring. A cell without any of the genes stays zero.
    """
    inplace_column_scale(matrix, 1 / maxima)
    unit_length(matrix)


def unit_length(matrix: sp.csr_matrix) -> None:
    """Bring every cell to Euclidean length 1, in place."""
    normalize(matrix, norm="l2", axis=1, copy=False)
