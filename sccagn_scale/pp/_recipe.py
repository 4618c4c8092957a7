"""Quality control, normalisation, gene selection and scaling. Every function keeps zeros zero, so CSR stays CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize
from sklearn.utils.sparsefuncs import inplace_column_scale, inplace_row_scale, mean_variance_axis

from sccagn_scale._errors import InputError
from sccagn_scale.config import InputKind
from sccagn_scale.pp._matrix import Expression

T = TypeVar("T")

_ROUNDING = 1e-10
"""Variance over squared mean below which a gene is constant but for rounding."""


class Kept(NamedTuple):
    """Which cells and genes pass quality control."""

    obs: np.ndarray  # bool [n_obs]
    var: np.ndarray  # bool [n_vars]
    totals: np.ndarray  # float64 [n_obs], of each cell over the genes that passed


def quality_control(
    matrix: Expression, n_detected: np.ndarray, *, min_cells_frac: float = 0.01, min_genes_frac: float = 0.01
) -> Kept:
    """Choose the genes seen in enough cells, then the cells that show enough of those genes.

    Parameters
    ----------
    matrix
        Cells × genes.
    n_detected
        Cells in which each gene is not zero [n_vars].
    min_cells_frac
        A gene must be detected in more than this fraction of the cells.
    min_genes_frac
        A cell must show more than this fraction of the genes that passed.

    Raises
    ------
    InputError
        If no gene or no cell passes; names the threshold.
    """
    n_obs, n_vars = matrix.shape
    keep_var = n_detected > min_cells_frac * n_obs
    if not keep_var.any():
        raise InputError(
            f"`min_cells_frac` = {min_cells_frac:g} filters out all {n_vars:,} genes: the most widespread is "
            f"detected in {n_detected.max() / n_obs:.2%} of the cells. Lower it, or check the input."
        )
    totals, per_cell = cell_sums(matrix, keep_var)
    keep_obs = per_cell > min_genes_frac * keep_var.sum()
    if not keep_obs.any():
        raise InputError(
            f"`min_genes_frac` = {min_genes_frac:g} filters out all {n_obs:,} cells: the richest shows "
            f"{per_cell.max() / keep_var.sum():.2%} of the genes. Lower it, or check the input."
        )
    return Kept(keep_obs, keep_var, totals)


def cell_sums(matrix: Expression, keep_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Total, and number of genes detected, of every cell over some genes: both float64 [n_obs]."""
    chosen, counted = keep_var.astype(np.float64), keep_var.astype(np.int32)

    def sums(_: int, block: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        total = block @ chosen
        block.data = np.ones(block.nnz, np.int8)
        return total, (block @ counted).astype(np.float64)

    totals, detected = zip(*matrix.each(sums), strict=True)
    return np.concatenate(totals), np.concatenate(detected)


@dataclass(frozen=True, eq=False)
class LogExpression:
    """Log expression of the cells that passed quality control, made anew from the matrix in every pass."""

    matrix: Expression
    keep_obs: np.ndarray  # bool [n_obs]
    totals: np.ndarray  # float64 [n_obs]
    kind: InputKind
    target_sum: float

    def every(self, step: int) -> LogExpression:
        """Of every `step`-th of the cells that passed, from the first on."""
        if step == 1:
            return self
        keep = np.zeros_like(self.keep_obs)
        keep[np.flatnonzero(self.keep_obs)[::step]] = True
        return replace(self, keep_obs=keep)

    def blocks(self, genes: np.ndarray | None = None) -> Iterator[sp.csr_matrix]:
        """Go through the cells: CSR float32 [≤ 4,096, all or the chosen genes].

        Parameters
        ----------
        genes
            Positions of the genes wanted, in the order wanted; all if None.
        """
        return self.each(lambda block: block, genes)

    def each(self, work: Callable[[sp.csr_matrix], T], genes: np.ndarray | None = None) -> Iterator[T]:
        """Go through the cells as `blocks` does and work on each block; see `Expression.each`."""

        logged = partial(_logged, genes=genes, kind=self.kind, target_sum=self.target_sum, work=work)
        return self.matrix.each(logged, self.keep_obs, self.totals)


def _logged(
    _: int,
    block: sp.csr_matrix,
    keep: np.ndarray,
    totals: np.ndarray,
    *,
    genes: np.ndarray | None,
    kind: InputKind,
    target_sum: float,
    work: Callable[[sp.csr_matrix], T],
) -> T:
    if not keep.all():
        block = block[keep]
    if genes is not None:
        block = block[:, genes]
        if (np.diff(genes) < 0).any():
            block.sort_indices()
    if kind != "log":
        normalize_total(block, totals[keep], target_sum)
        log1p(block)
    return work(block)


def median_total(totals: np.ndarray) -> float:
    """Median of the totals above zero; 1 if there are none."""
    filled = totals[totals > 0]
    return float(np.median(filled)) if len(filled) else 1.0


def normalize_total(matrix: sp.csr_matrix, totals: np.ndarray, target_sum: float) -> None:
    """Scale cells, in place, from their totals [n_obs] to a common one. Cells without counts stay as they are."""
    factors = np.divide(target_sum, totals, out=np.ones_like(totals), where=totals > 0)
    inplace_row_scale(matrix, factors.astype(matrix.dtype))


def log1p(matrix: sp.csr_matrix) -> None:
    """Take ln(1 + x) of every value, in place."""
    np.log1p(matrix.data, out=matrix.data)


class Moments(NamedTuple):
    """Of the genes in a block of cells."""

    n: int  # cells
    mean: np.ndarray  # [n_vars]
    variance: np.ndarray  # [n_vars]


def moments(block: sp.csr_matrix) -> Moments:
    """Mean and variance of every gene of a block [n, n_vars]; zeros without cells."""
    if not block.shape[0]:
        return Moments(0, *np.zeros((2, block.shape[1])))
    return Moments(block.shape[0], *mean_variance_axis(block, axis=0))


def highest_std_genes(blocks: Iterable[Moments], n_top_genes: int, among: np.ndarray) -> np.ndarray:
    """Choose the genes of highest standard deviation.

    Parameters
    ----------
    blocks
        Of all cells, normalised and logged.
    n_top_genes
        How many to choose at most. Constant genes are never chosen.
    among
        Positions of the genes to choose from, rising.

    Returns
    -------
    Positions in `among`, sorted, int64.
    """
    n, mean, squares = 0, np.zeros(1), np.zeros(1)
    for n_new, mean_new, variance_new in blocks:  # joined as in Chan et al. (1983)
        if not n_new:
            continue
        shift = mean_new.astype(np.float64) - mean
        mean = mean + shift * n_new / (n + n_new)
        squares = squares + variance_new.astype(np.float64) * n_new + shift**2 * (n * n_new / (n + n_new))
        n += n_new
    variance, mean = squares[among] / n, mean[among]
    order = np.argsort(-variance, kind="stable")[:n_top_genes]
    return np.sort(order[variance[order] > _ROUNDING * mean[order] ** 2])


def maxima(block: sp.csr_matrix) -> np.ndarray:
    """Largest value of every gene of a block [n, n_vars]; zeros without cells."""
    return block.max(axis=0).toarray().ravel() if block.shape[0] else np.zeros(block.shape[1], block.dtype)


def gene_maxima(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Join the maxima of blocks: float32 [n_vars], 1 for genes without a value."""
    largest = np.max(list(blocks), axis=0)
    return np.where(largest > 0, largest, 1).astype(np.float32)


def scale_to_unit(matrix: sp.csr_matrix, maxima: np.ndarray) -> None:
    """Divide by each gene's maximum [n_vars], then bring each cell to unit length, in place.

    Both keep zeros zero, unlike z-scoring. A cell without any of the genes stays zero.
    """
    inplace_column_scale(matrix, 1 / maxima)
    unit_length(matrix)


def unit_length(matrix: sp.csr_matrix) -> None:
    """Bring every cell to Euclidean length 1, in place."""
    if matrix.shape[0]:  # a block may have no cell that passed quality control
        normalize(matrix, norm="l2", axis=1, copy=False)
