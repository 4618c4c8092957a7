"""The clusterings that `accuracy` compares: one function each, and one table.

A function gets cells without a label, name or order that would tell their type (see :mod:`benchmarks._labelled`),
the number of clusters or None, and a seed; it returns one label for each cell, None or NaN where it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks._preprocess import log_expression, principal_components

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Mode = Literal["given", "auto"]
MODES: tuple[Mode, ...] = ("given", "auto")
N_NEIGHBORS = 15  # the cell itself is one of them, as in scanpy
N_SMOOTHINGS = 4
BISECTIONS = 25


def ours(
    adata: AnnData, n_clusters: int | None, seed: int, *, preset: Literal["default", "paper"]
) -> NDArray[np.object_]:
    """sccagn_scale from matrix to clusters."""
    import sccagn_scale

    sccagn_scale.cluster(adata, n_clusters, preset, random_state=seed)
    return np.asarray(adata.obs["sccagn"].astype(object))


def pca_kmeans(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.int32]:
    """k-means (ten starts) on 50 principal components."""
    return _kmeans(principal_components(log_expression(adata), seed=seed), n_clusters, seed)


def scaled_pca_kmeans(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.int32]:
    """The same after z-scoring each gene, values above 10 cut off."""
    import scanpy as sc
    from scipy import sparse

    adata = log_expression(adata)
    adata.X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X  # z-scores have no zeros
    sc.pp.scale(adata, max_value=10)
    return _kmeans(principal_components(adata, seed=seed), n_clusters, seed)


def smoothed_pca_kmeans(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.int32]:
    """k-means on Â⁴·PCs: components of L2-normalised log expression, averaged four times over the cell graph.

    Â = D^-1/2 (A + I) D^-1/2, A being the symmetrised, unweighted graph of the 15 nearest neighbours in the PCs.
    """
    from scipy import sparse
    from sklearn.neighbors import kneighbors_graph
    from sklearn.preprocessing import normalize

    adata = log_expression(adata)
    adata.X = normalize(adata.X)
    pcs = principal_components(adata, seed=seed)
    a = kneighbors_graph(pcs, min(N_NEIGHBORS, adata.n_obs) - 1)
    a = a.maximum(a.T) + sparse.eye_array(adata.n_obs)
    scale = sparse.dia_array((1 / np.sqrt(a.sum(1))[None], 0), shape=a.shape)
    a_hat = (scale @ a @ scale).tocsr()
    for _ in range(N_SMOOTHINGS):
        pcs = a_hat @ pcs
    return _kmeans(pcs, n_clusters, seed)


def gmm(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Gaussian mixture on 50 principal components.

    One covariance for all components: full and diagonal ones did worse on 16 real sets.
    """
    from sklearn.mixture import GaussianMixture

    pcs = principal_components(log_expression(adata), seed=seed).astype(np.float64)
    mixture = GaussianMixture(n_clusters, covariance_type="tied", random_state=seed, reg_covar=1e-4)
    return np.asarray(mixture.fit_predict(pcs))


def leiden(adata: AnnData, n_clusters: int | None, seed: int) -> NDArray[np.object_]:
    """scanpy's neighbors on 50 components, then Leiden at its default resolution of 1."""
    adata = _scanpy_graph(adata, seed)
    return _leiden(adata, 1.0, seed)


def leiden_k(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.object_]:
    """Leiden on the same graph at a resolution, found by bisection, that gives `n_clusters` or comes closest."""
    adata = _scanpy_graph(adata, seed)
    low, high = 0.0, 1.0
    best = labels = _leiden(adata, high, seed)
    while len(set(labels)) < n_clusters and high < 64:
        low, high = high, 2 * high
        labels = _leiden(adata, high, seed)
        best = min(best, labels, key=lambda found: abs(len(set(found)) - n_clusters))
    for _ in range(BISECTIONS):
        if len(set(best)) == n_clusters:
            break
        middle = (low + high) / 2
        labels = _leiden(adata, middle, seed)
        low, high = (middle, high) if len(set(labels)) < n_clusters else (low, middle)
        best = min(best, labels, key=lambda found: abs(len(set(found)) - n_clusters))
    return best


def _kmeans(points: NDArray[Any], n_clusters: int, seed: int) -> NDArray[np.int32]:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(points))


def _scanpy_graph(adata: AnnData, seed: int) -> AnnData:
    import scanpy as sc

    adata = log_expression(adata)
    principal_components(adata, seed=seed)
    sc.pp.neighbors(adata, n_neighbors=min(N_NEIGHBORS, adata.n_obs - 1), use_rep="X_pca", random_state=seed)
    return adata


def _leiden(adata: AnnData, resolution: float, seed: int) -> NDArray[np.object_]:
    import scanpy as sc

    sc.tl.leiden(
        adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed
    )  # fmt: skip
    return np.asarray(adata.obs["leiden"].astype(object))


@dataclass(frozen=True)
class Clustering:
    """A row of the table: the function, and whether it needs the number of clusters, estimates it, or can do both."""

    run: Callable[..., NDArray[Any]]
    modes: tuple[Mode, ...]
    is_ours: bool = False


CLUSTERINGS = {
    "default": Clustering(partial(ours, preset="default"), MODES, is_ours=True),
    "paper": Clustering(partial(ours, preset="paper"), MODES, is_ours=True),
    "pca_kmeans": Clustering(pca_kmeans, ("given",)),
    "scaled_pca_kmeans": Clustering(scaled_pca_kmeans, ("given",)),
    "smoothed_pca_kmeans": Clustering(smoothed_pca_kmeans, ("given",)),
    "gmm": Clustering(gmm, ("given",)),
    "leiden_k": Clustering(leiden_k, ("given",)),
    "leiden": Clustering(leiden, ("auto",)),
}
