"""What every peer gets before it clusters: scanpy's own steps, none of ours, so that a peer is truly one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from pandas import Index

Kind = Literal["counts", "linear", "log"]
N_TOP_GENES = 2000
N_COMPS = 50
LARGEST_LOG = 50.0  # log1p of any count stays far below; a total-normalised cell's largest value far above


def input_kind(adata: AnnData) -> Kind:
    """Tell counts, normalised but unlogged values (TPM, RPM) and logged values apart by the values alone."""
    from scipy import sparse

    values = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
    if values.min(initial=0) < 0:
        raise ValueError("X has negative values; the peers need counts or normalised values, not z-scores")
    if np.array_equal(values, np.round(values)):
        return "counts"
    return "linear" if values.max(initial=0) > LARGEST_LOG else "log"


def log_expression(adata: AnnData) -> AnnData:
    """Log expression of the variable genes: genes in < 3 cells out, totals to their median, log1p, 2,000 HVGs.

    Every step has scanpy's defaults. Values that are logged already are not normalised again. With no more than 2,000
    genes all are kept.
    """
    import scanpy as sc

    adata = adata.copy()
    logged = input_kind(adata) == "log"
    sc.pp.filter_genes(adata, min_cells=3)
    if not logged:
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    if adata.n_vars <= N_TOP_GENES:
        return adata
    sc.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
    return adata[:, adata.var["highly_variable"]].copy()


def log_expression_like(adata: AnnData, reference: AnnData, genes: Index[str]) -> AnnData:
    """Log expression of other cells as that of `reference` is made: with the median of its totals, of its `genes`."""
    import scanpy as sc

    reference = reference.copy()
    sc.pp.filter_genes(reference, min_cells=3)
    adata = adata[:, reference.var_names].copy()
    if input_kind(reference) != "log":
        totals = np.asarray(reference.X.sum(axis=1)).ravel()
        sc.pp.normalize_total(adata, target_sum=float(np.median(totals[totals > 0])))
        sc.pp.log1p(adata)
    return adata[:, genes].copy()


def principal_components(adata: AnnData, *, seed: int) -> NDArray[np.float32]:
    """The first 50 principal components, [n_obs, n_comps], fewer where cells or genes allow no more."""
    import scanpy as sc

    n_comps = min(N_COMPS, adata.n_obs - 1, adata.n_vars - 1)
    sc.pp.pca(adata, n_comps=n_comps, random_state=seed)
    return np.asarray(adata.obsm["X_pca"], dtype=np.float32)


def projected(adata: AnnData, reference: AnnData) -> NDArray[np.float32]:
    """Other cells with the genes of `reference`, on the axes that :func:`principal_components` found for it."""
    axes = reference.varm["PCs"]
    mean = np.asarray(reference.X.mean(axis=0)).reshape(1, -1)
    return np.asarray(adata.X @ axes - mean @ axes, dtype=np.float32)
