"""The clustering that joint training starts from."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph, train
from sccagn_scale.config import Config
from sccagn_scale.model._graph import Judges
from sccagn_scale.model._views import FEW_CELLS, View

log = logging.getLogger("sccagn_scale")

_SKETCH = 10_000
"""Groups of cells on which communities are sought where there are at least twice as many cells."""


def choose_init(config: Config, n_clusters: int | None, n_obs: int) -> train.Init:
    """Choose how centroids are placed, where the configuration leaves that open."""
    if config.init != "auto":
        return config.init
    return "leiden" if n_clusters is None and n_obs > FEW_CELLS else "consensus"


def find_initial(
    pcs: np.ndarray,
    z: np.ndarray,
    adjacency: sp.csr_matrix,
    n_clusters: int | None,
    config: Config,
    *,
    judges: Judges | None = None,
    init: train.Init,
    views: Iterable[View] = (),
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
    config
        The settings.
    judges
        Of `find_judges`, where K is not given.
    init
        That of `config`, or what `choose_init` makes of "auto".
    views
        Of `find_views`, for `init="consensus"`; each is let go of before the next is asked for.

    Returns
    -------
    Labels int64 [n], and what speaks for K, if that was not given.
    """
    estimate = judge = None
    if n_clusters is None:
        assert judges is not None
        judge = train.CommunityFinder(judges.adjacency, random_state)
        estimate = _estimate(judge, judges, z, config, init, random_state)
        n_clusters = estimate.n_clusters
    if init in ("leiden", "consensus"):
        groups = _sketch(pcs, random_state)
        if judge is not None and judges is not None and judges.adjacency is adjacency:
            finder = judge
        else:
            finder = train.CommunityFinder(adjacency, random_state, groups=groups)
        if init == "leiden":
            return finder.into(n_clusters, pcs), estimate
        if init == "consensus":
            mixtures, communities = [], []
            for own, embeddings in views:
                mixtures += [_mixture(points, n_clusters, config, random_state) for points in embeddings]
                over = finder if own is adjacency else train.CommunityFinder(own, random_state, groups=groups)
                communities.append(over.into(n_clusters, pcs))
                del own, embeddings, over  # before the next graph is made
            if len(z) <= FEW_CELLS:
                return train.consensus(mixtures + communities, n_clusters), estimate
            voters = train.steadiest([mixtures, communities])
            log.info(
                "Over three cell graphs, %s agree more: the first clusters are theirs.",
                "mixtures of Gaussians" if voters is mixtures else "Leiden communities",
            )
            return train.consensus(voters, n_clusters), estimate
    if init == "mixture":
        return _mixture(z, n_clusters, config, random_state), estimate
    if init == "ward":
        return train.ward(z, n_clusters, random_state=random_state), estimate
    return train.kmeans(z, n_clusters, n_init=config.n_init, random_state=random_state), estimate


def _mixture(points: np.ndarray, n_clusters: int, config: Config, random_state: int) -> np.ndarray:
    return train.mixture(points, n_clusters, shrinkage=config.mixture_shrinkage, random_state=random_state)


def _estimate(
    finder: train.CommunityFinder,
    judges: Judges,
    z: np.ndarray,
    config: Config,
    init: train.Init,
    random_state: int,
) -> train.Estimate:
    """Estimate the number of clusters, and say so."""
    if init == "consensus" and len(z) <= FEW_CELLS:
        estimate = train.estimate_by_mixtures(
            finder, z[judges.cells], config.resolution, shrinkage=config.mixture_shrinkage, random_state=random_state
        )
    else:
        estimate = train.estimate_n_clusters(finder, config.resolution)
    if judges.note:
        estimate = estimate._replace(method=f"{estimate.method}; {judges.note}")
    low, high = estimate.plausible
    others = f" ({low} to {high} are plausible)" if low != high else ""
    log.info("The number of clusters is estimated as %d%s: %s.", estimate.n_clusters, others, estimate.method)
    return estimate


def _sketch(pcs: np.ndarray, random_state: int) -> np.ndarray | None:
    """Small groups of near cells that stand for them when communities are sought; None where cells are few."""
    n_obs = len(pcs)
    if n_obs < 2 * _SKETCH:
        return None
    return graph.partition(pcs, n_obs // _SKETCH, random_state=random_state)
