"""The clustering that joint training starts from."""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph, train
from sccagn_scale.config import Config

log = logging.getLogger("sccagn_scale")

_SKETCH = 10_000
"""Groups of cells on which communities are sought where there are at least twice as many cells."""


def find_initial(
    pcs: np.ndarray,
    z: np.ndarray,
    adjacency: sp.csr_matrix,
    n_clusters: int | None,
    config: Config,
    *,
    random_state: int,
) -> tuple[np.ndarray, train.Estimate | None]:
    """Cluster the cells before joint training, and settle K where it is not given.

    Parameters
    ----------
    pcs, z
        Principal components [n, n_comps] and embedding [n, n_latent] of the cells.
    adjacency
        The cell graph [n, n].
    n_clusters
        K, or None.

    Returns
    -------
    Labels int64 [n], and what speaks for K, if that was not given.
    """
    init = config.init if config.init != "auto" else "leiden" if n_clusters is None else "mixture"
    finder, estimate = None, None
    if n_clusters is None or init == "leiden":
        finder = train.CommunityFinder(adjacency, random_state, groups=_sketch(pcs, random_state))
    if n_clusters is None:
        assert finder is not None
        estimate = train.estimate_n_clusters(finder, config.resolution)
        n_clusters = estimate.n_clusters
        log.info(
            "The number of clusters is estimated as %d (%d to %d are plausible): %s.",
            n_clusters,
            *estimate.plausible,
            estimate.method,
        )
    if finder is not None and init == "leiden":
        return finder.into(n_clusters, pcs), estimate
    if init == "ward":
        return train.ward(z, n_clusters, random_state=random_state), estimate
    if init == "mixture":
        shrinkage = config.mixture_shrinkage
        return train.mixture(z, n_clusters, shrinkage=shrinkage, random_state=random_state), estimate
    return train.kmeans(z, n_clusters, n_init=config.n_init, random_state=random_state), estimate


def _sketch(pcs: np.ndarray, random_state: int) -> np.ndarray | None:
    """Small groups of near cells that stand for them when communities are sought; None where cells are few."""
    n_obs = len(pcs)
    if n_obs < 2 * _SKETCH:
        return None
    return graph.partition(pcs, n_obs // _SKETCH, random_state=random_state)
