"""The clusterings that `accuracy` compares: one function each, and one table.

A function gets cells without a label, name or order that would tell their type (see :mod:`benchmarks._labelled`),
the number of clusters or None, and a seed; it returns one label for each cell, None or NaN where it has none, alone or
in a :class:`Shared` or :class:`Confident`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from benchmarks._outcome import peak_rss_mb
from benchmarks._preprocess import input_kind, log_expression, principal_components

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from sklearn.cluster import KMeans

    from sccagn_scale.config import Preset

Mode = Literal["given", "auto"]
MODES: tuple[Mode, ...] = ("given", "auto")
N_NEIGHBORS = 15  # the cell itself is one of them, as in scanpy
N_SMOOTHINGS = 4
BISECTIONS = 25
SCVI_EPOCHS, SCVI_BATCHES = 100, 3000
SCRATCH = "SCCAGN_BENCH_SCRATCH"
"""Environment variable: a folder in which methods may leave what others on the same set can use too."""


class Shared(NamedTuple):
    """Labels, and what was spent on them earlier, for another method."""

    labels: NDArray[Any]
    seconds: float
    peak_rss_mb: float
    """Peak memory of the process that did so."""


class Confident(NamedTuple):
    """Labels, and how sure the method is of each: the larger, the surer; NaN for a cell without a label."""

    labels: NDArray[Any]
    confidence: NDArray[np.floating]


def ours(
    adata: AnnData,
    n_clusters: int | None,
    seed: int,
    *,
    preset: Preset = "default",
    changes: dict[str, Any] | None = None,
    batch_key: str | None = None,
) -> Confident:
    """sccagn_scale from matrix to clusters."""
    import dataclasses

    import sccagn_scale

    config = dataclasses.replace(sccagn_scale.Config.preset(preset), **(changes or {}))
    sccagn_scale.cluster(adata, n_clusters, config, batch_key=batch_key, random_state=seed)
    return Confident(np.asarray(adata.obs["sccagn"].astype(object)), adata.obs["sccagn_confidence"].to_numpy())


def reclustered(adata: AnnData, n_clusters: int, seed: int) -> Confident:
    """The number estimated, and its clusters split or merged to the number given without training again."""
    import sccagn_scale

    ours(adata, None, seed)
    key = sccagn_scale.recluster(adata, n_clusters, random_state=seed)
    return Confident(np.asarray(adata.obs[key].astype(object)), adata.obs[f"{key}_confidence"].to_numpy())


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
    return _closest(lambda resolution: _leiden(adata, resolution, seed), n_clusters)


def louvain(adata: AnnData, n_clusters: int | None, seed: int) -> NDArray[np.int64]:
    """Louvain on scanpy's graph at resolution 1, by igraph."""
    return _louvain(adata, seed)(1.0)


def louvain_k(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Louvain on the same graph at a resolution, found as in :func:`leiden_k`."""
    return _closest(_louvain(adata, seed), n_clusters)


def leiden_jaccard(adata: AnnData, n_clusters: int | None, seed: int) -> NDArray[np.object_]:
    """Leiden at resolution 1 on the graph of 15 nearest neighbours, an edge's weight the share of neighbours in common.

    Neighbours of a cell are those listed and itself; the share is that of Jaccard (Levine et al. 2015).
    """
    from scipy import sparse
    from sklearn.neighbors import kneighbors_graph

    adata = log_expression(adata)
    pcs = principal_components(adata, seed=seed)
    listed = kneighbors_graph(pcs, min(N_NEIGHBORS, adata.n_obs) - 1)
    joined = listed.maximum(listed.T)
    listed = (listed + sparse.eye_array(adata.n_obs)).tocsr()
    shared = ((listed @ listed.T).multiply(joined)).tocsr()
    shared.data /= 2 * listed.nnz / adata.n_obs - shared.data
    adata.obsp["jaccard"] = shared
    return _leiden(adata, 1.0, seed, obsp="jaccard")


def dec(adata: AnnData, n_clusters: int, seed: int) -> NDArray[np.object_]:
    """An autoencoder of genes without a graph, clustered as in DEC (Xie et al. 2016): our parts, most switched off."""
    from sccagn_scale import Config, cluster

    config = Config(
        input_kind=input_kind(adata),
        input_rep="genes",
        phi=0.0,
        fusion="none",
        weight_adversarial=0.0,
        n_latent=10,
        nu=1.0,
        tau=1.0,
        init="kmeans",
        round_clusters=False,
        anchor_share=0.0,
        weight_clustering=0.1,
        whiten=False,
        pretrain_steps=300,
        learning_rate=1e-3,
        joint_steps=200,
        settle_epochs=5,
    )
    adata = adata.copy()
    cluster(adata, n_clusters, config, random_state=seed)
    return np.asarray(adata.obs["sccagn"].astype(object))


def scvi_kmeans(adata: AnnData, n_clusters: int, seed: int) -> Shared:
    """k-means on scVI's latent space."""
    latent, *spent = _scvi_latent(adata, seed)
    return Shared(_kmeans(latent, n_clusters, seed), *spent)


def scvi_ward(adata: AnnData, n_clusters: int, seed: int) -> Shared:
    """Ward's clustering of scVI's latent space."""
    from sklearn.cluster import AgglomerativeClustering

    latent, *spent = _scvi_latent(adata, seed)
    return Shared(AgglomerativeClustering(n_clusters).fit_predict(latent), *spent)


def scvi_leiden(adata: AnnData, n_clusters: int | None, seed: int) -> Shared:
    """scanpy's neighbors on scVI's latent space, Leiden at resolution 1."""
    import scanpy as sc

    latent, *spent = _scvi_latent(adata, seed)
    adata.obsm["X_scvi"] = latent
    sc.pp.neighbors(adata, n_neighbors=min(N_NEIGHBORS, adata.n_obs - 1), use_rep="X_scvi", random_state=seed)
    return Shared(_leiden(adata, 1.0, seed), *spent)


def _scvi_latent(adata: AnnData, seed: int) -> tuple[NDArray[np.float32], float, float]:
    """scVI (Lopez et al. 2018) on the counts of the variable genes: ten dimensions, all its defaults but the length.

    The length is 100 epochs, fewer where that is more than 3,000 batches. What is trained for one method is kept for
    the next, in the folder that the environment variable names; the seconds and the memory that it took come along.
    """
    import hashlib
    import os
    import time
    from pathlib import Path

    if input_kind(adata) != "counts":
        raise ValueError("scVI needs counts")
    chosen = adata[:, log_expression(adata).var_names].copy()
    key = hashlib.sha256(np.ascontiguousarray(chosen.X.data).tobytes() + str((chosen.shape, seed)).encode()).hexdigest()
    kept = Path(os.environ[SCRATCH]) / f"scvi_{key[:16]}.npz" if SCRATCH in os.environ else None
    if kept is not None and kept.exists():
        with np.load(kept) as found:
            return found["latent"], float(found["seconds"]), float(found["peak_rss_mb"])
    import scvi

    start = time.perf_counter()
    scvi.settings.seed = seed
    scvi.settings.verbosity = 40  # errors only
    scvi.model.SCVI.setup_anndata(chosen)
    model = scvi.model.SCVI(chosen, n_latent=10)
    batches = max(1, round(0.9 * chosen.n_obs / 128))  # a tenth is held out
    epochs = min(SCVI_EPOCHS, SCVI_BATCHES // batches)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    latent = np.asarray(model.get_latent_representation(), dtype=np.float32)
    if kept is not None:
        being_written = kept.with_suffix(f".{os.getpid()}.npz")  # another process may look for it
        spent = {"seconds": time.perf_counter() - start, "peak_rss_mb": peak_rss_mb()}
        np.savez(being_written, latent=latent, **spent)
        os.replace(being_written, kept)
    return latent, 0.0, 0.0


def fitted_kmeans(points: NDArray[Any], n_clusters: int, seed: int) -> KMeans:
    """k-means, the best of ten starts."""
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=10, random_state=seed).fit(points)


def _kmeans(points: NDArray[Any], n_clusters: int, seed: int) -> NDArray[np.int32]:
    return np.asarray(fitted_kmeans(points, n_clusters, seed).labels_)


def _scanpy_graph(adata: AnnData, seed: int) -> AnnData:
    import scanpy as sc

    adata = log_expression(adata)
    principal_components(adata, seed=seed)
    sc.pp.neighbors(adata, n_neighbors=min(N_NEIGHBORS, adata.n_obs - 1), use_rep="X_pca", random_state=seed)
    return adata


def _leiden(adata: AnnData, resolution: float, seed: int, *, obsp: str | None = None) -> NDArray[np.object_]:
    import scanpy as sc

    sc.tl.leiden(
        adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed, obsp=obsp
    )
    return np.asarray(adata.obs["leiden"].astype(object))


def _louvain(adata: AnnData, seed: int) -> Callable[[float], NDArray[np.int64]]:
    """Gives the labels at a resolution."""
    import random

    import igraph
    from scipy import sparse

    edges = sparse.triu(_scanpy_graph(adata, seed).obsp["connectivities"], k=1).tocoo()
    graph = igraph.Graph(n=adata.n_obs, edges=np.column_stack([edges.row, edges.col]))

    def labels_at(resolution: float) -> NDArray[np.int64]:
        igraph.set_random_number_generator(random.Random(seed))
        return np.asarray(graph.community_multilevel(weights=edges.data, resolution=resolution).membership)

    return labels_at


def _closest(labels_at: Callable[[float], NDArray[Any]], n_clusters: int) -> NDArray[Any]:
    """The labels at a resolution, found by bisection, that gives `n_clusters` or comes closest."""
    low, high = 0.0, 1.0
    best = labels = labels_at(high)
    while len(set(labels)) < n_clusters and high < 64:
        low, high = high, 2 * high
        labels = labels_at(high)
        best = min(best, labels, key=lambda found: abs(len(set(found)) - n_clusters))
    for _ in range(BISECTIONS):
        if len(set(best)) == n_clusters:
            break
        middle = (low + high) / 2
        labels = labels_at(middle)
        low, high = (middle, high) if len(set(labels)) < n_clusters else (low, middle)
        best = min(best, labels, key=lambda found: abs(len(set(found)) - n_clusters))
    return best


@dataclass(frozen=True)
class Clustering:
    """A row of the table: the function, and whether it needs the number of clusters, estimates it, or can do both."""

    run: Callable[..., NDArray[Any] | Shared | Confident]
    modes: tuple[Mode, ...]
    is_ours: bool = False


CLUSTERINGS = {
    "default": Clustering(partial(ours, preset="default"), MODES, is_ours=True),
    "paper": Clustering(partial(ours, preset="paper"), MODES, is_ours=True),
    "reclustered": Clustering(reclustered, ("given",), is_ours=True),
    "pca_kmeans": Clustering(pca_kmeans, ("given",)),
    "scaled_pca_kmeans": Clustering(scaled_pca_kmeans, ("given",)),
    "smoothed_pca_kmeans": Clustering(smoothed_pca_kmeans, ("given",)),
    "gmm": Clustering(gmm, ("given",)),
    "leiden_k": Clustering(leiden_k, ("given",)),
    "louvain_k": Clustering(louvain_k, ("given",)),
    "dec": Clustering(dec, ("given",)),
    "scvi_kmeans": Clustering(scvi_kmeans, ("given",)),
    "scvi_ward": Clustering(scvi_ward, ("given",)),
    "leiden": Clustering(leiden, ("auto",)),
    "louvain": Clustering(louvain, ("auto",)),
    "leiden_jaccard": Clustering(leiden_jaccard, ("auto",)),
    "scvi_leiden": Clustering(scvi_leiden, ("auto",)),
}
