"""The clustering that joint training starts from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph, train
from sccagn_scale.config import Config
from sccagn_scale.model._views import View

log = logging.getLogger("sccagn_scale")

_CONSENSUS_UP_TO = 20_000
"""Cells up to which a dozen clusterings and two more graphs take seconds."""

_SKETCH = 10_000
"""Groups of cells on which communities are sought where there are at least twice as many cells."""


def choose_init(config: Config, n_clusters: int | None, n_obs: int) -> train.Init:
    """Choose how centroids are placed, where the configuration leaves that open."""
    if config.init != "auto":
        return config.init
    if n_obs <= _CONSENSUS_UP_TO:
        return "consensus"
    return "leiden" if n_clusters is None else "mixture"


def find_initial(
    pcs: np.ndarray,
    z: np.ndarray,
    adjacency: sp.csr_matrix,
    n_clusters: int | None,
    config: Config,
    *,
    init: train.Init,
    views: Sequence[View] = (),
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
    init
        That of `config`, or what `choose_init` makes of "auto".
    views
        Of `find_views`, for `init="consensus"`.

    Returns
    -------
    Labels int64 [n], and what speaks for K, if that was not given.
    """
    finders, estimate = [], None
    if n_clusters is None or init in ("leiden", "consensus"):
        groups = _sketch(pcs, random_state)
        graphs = [view.adjacency for view in views] if init == "consensus" else [adjacency]
        finders = [train.CommunityFinder(own, random_state, groups=groups) for own in graphs]
    if n_clusters is None:
        estimate = (
            train.estimate_by_mixtures(
                finders[0], z, config.resolution, shrinkage=config.mixture_shrinkage, random_state=random_state
            )
            if init == "consensus"
            else train.estimate_n_clusters(finders[0], config.resolution)
        )
        n_clusters = estimate.n_clusters
        log.info(
            "The number of clusters is estimated as %d (%d to %d are plausible): %s.",
            n_clusters,
            *estimate.plausible,
            estimate.method,
        )

    def mixture(points: np.ndarray) -> np.ndarray:
        return train.mixture(points, n_clusters, shrinkage=config.mixture_shrinkage, random_state=random_state)

    if init == "consensus":
        clusterings = [mixture(points) for view in views for points in view.embeddings]
        clusterings += [finder.into(n_clusters, pcs) for finder in finders]
        return train.consensus(clusterings, n_clusters), estimate
    if init == "leiden":
        return finders[0].into(n_clusters, pcs), estimate
    if init == "mixture":
        return mixture(z), estimate
    if init == "ward":
        return train.ward(z, n_clusters, random_state=random_state), estimate
    return train.kmeans(z, n_clusters, n_init=config.n_init, random_state=random_state), estimate


def _sketch(pcs: np.ndarray, random_state: int) -> np.ndarray | None:
    """Small groups of near cells that stand for them when communities are sought; None where cells are few."""
    n_obs = len(pcs)
    if n_obs < 2 * _SKETCH:
        return None
    return graph.partition(pcs, n_obs // _SKETCH, random_state=random_state)
