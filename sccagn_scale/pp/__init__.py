"""From the matrix as it came to the matrix that is clustered."""

from sccagn_scale.pp._harmony import correct_batches, correction_memory, select_batches
from sccagn_scale.pp._input import KINDS, Scan, recognize, scan
from sccagn_scale.pp._matrix import BLOCK_SIZE, Expression, holds_cells, same_matrices, select_matrix
from sccagn_scale.pp._pca import Projection, fit_pca, fit_pca_twice, rms_length
from sccagn_scale.pp._recipe import (
    Kept,
    LogExpression,
    Moments,
    cell_sums,
    gene_maxima,
    highest_std_genes,
    log1p,
    maxima,
    median_total,
    moments,
    normalize_total,
    quality_control,
    scale_to_unit,
    unit_length,
)

__all__ = [
    "BLOCK_SIZE",
    "KINDS",
    "Expression",
    "Kept",
    "LogExpression",
    "Moments",
    "Projection",
    "Scan",
    "cell_sums",
    "correct_batches",
    "correction_memory",
    "fit_pca",
    "fit_pca_twice",
    "gene_maxima",
    "highest_std_genes",
    "holds_cells",
    "log1p",
    "maxima",
    "median_total",
    "moments",
    "normalize_total",
    "quality_control",
    "recognize",
    "rms_length",
    "same_matrices",
    "scale_to_unit",
    "scan",
    "select_batches",
    "select_matrix",
    "unit_length",
]
