"""From the matrix as it came to the matrix that is clustered."""

from sccagn_scale.pp._input import InputKind, recognize, select_matrix, stored_dtype
from sccagn_scale.pp._pca import Projection, fit_pca
from sccagn_scale.pp._recipe import (
    Kept,
    constant_genes,
    gene_maxima,
    highest_std_genes,
    log1p,
    normalize_total,
    quality_control,
    scale_to_unit,
    unit_length,
)

__all__ = [
    "InputKind",
    "Kept",
    "Projection",
    "constant_genes",
    "fit_pca",
    "gene_maxima",
    "highest_std_genes",
    "log1p",
    "normalize_total",
    "quality_control",
    "recognize",
    "scale_to_unit",
    "select_matrix",
    "stored_dtype",
    "unit_length",
]
