"""The clustering that joint training starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from sccagn_scale import clustering, graph
from sccagn_scale._errors import InputError
from sccagn_scale.config import Config, Init
from sccagn_scale.model._ensemble import Ensemble, mixtures_of
from sccagn_scale.model._graph import ScoringGraph
from sccagn_scale.model._views import FEW_CELLS, View

log = logging.getLogger("sccagn_scale")

_SKETCH = 10_000
"""Groups of cells on which communities are sought where there are at least twice as many cells."""

_VOTE, _ONE = "consensus", "one cluster"

_DIVIDED_FROM = 900
"""Cells from which on the clusters of the estimate are divided where more are wanted: of so many, numbers of clusters
are scored over all 15 neighbours."""


class Initial(NamedTuple):
    """The clustering that joint training starts from, and how it came about."""

    labels: np.ndarray  # int64 [n]
    estimate: clustering.Estimate | None
    """What speaks for the number of clusters, if that was not given."""

    method: str
    """One of `Init`, but for "auto"; "consensus of mixtures" or "consensus of communities", where it is one kind that
    votes; "divided" or "joined", for parts or unions of the clusters that the data support; "one cluster"."""

    n_supported: int | None = None
    """Clusters that the data support best, if another number was given and this one was looked for."""

    @property
    def facts(self) -> dict[str, Any]:
        """How it came about, of plain types."""
        return {"method": self.method} | ({} if self.n_supported is None else {"n_supported": self.n_supported})


def choose_init(config: Config, n_clusters: int | None, n_obs: int) -> Init:
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
    find_scoring: Callable[[], ScoringGraph],
    init: Init,
    views: Iterable[View] = (),
    random_state: int,
) -> Initial:
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
    find_scoring
        Finds the graph in which numbers of clusters are scored, where they are.
    init
        That of `config`, or what `choose_init` makes of "auto".
    views
        Of `find_views`, for `init="consensus"`; of many cells each is let go of before the next is asked for.
    """
    if init == "consensus" and len(z) <= FEW_CELLS:
        return _of_few(pcs, z, n_clusters, config, find_scoring(), views, random_state)
    estimate = finder = None
    if n_clusters is None:
        scoring = find_scoring()
        finder = clustering.CommunityFinder(scoring.adjacency, random_state)
        estimate = _announced(clustering.estimate_by_communities(finder, config.resolution), scoring)
        n_clusters = estimate.n_clusters
        if n_clusters == 1:
            return Initial(np.zeros(len(z), np.int64), estimate, _ONE)
    if init == "mixture":
        return Initial(mixtures_of(z, config, random_state).into(n_clusters), estimate, init)
    if init == "ward":
        return Initial(clustering.ward(z, n_clusters, random_state=random_state), estimate, init)
    if init == "kmeans":
        labels = clustering.kmeans(z, n_clusters, n_init=config.n_init, random_state=random_state)
        return Initial(labels, estimate, init)
    groups = _sketch(pcs, random_state)
    if init == "leiden":
        if finder is None or finder.adjacency is not adjacency:
            finder = clustering.CommunityFinder(adjacency, random_state, groups=groups)
        return Initial(finder.into(n_clusters, pcs), estimate, init)
    mixtures, communities = [], []
    for view in views:
        finder = clustering.CommunityFinder(view.adjacency, random_state, groups=groups)
        mixtures += [mixtures_of(points, config, random_state).into(n_clusters) for points in view.embeddings]
        communities.append(finder.into(n_clusters, pcs))
        del view, finder  # before the next graph is made
    stablest = clustering.most_stable([mixtures, communities])
    log.info(
        "%s agree more over the three cell graphs: they give the first clusters.",
        "Gaussian mixtures" if stablest is mixtures else "Leiden communities",
    )
    kind = "mixtures" if stablest is mixtures else "communities"
    return Initial(clustering.consensus(stablest, n_clusters), estimate, f"consensus of {kind}")


def _of_few(
    pcs: np.ndarray,
    z: np.ndarray,
    n_clusters: int | None,
    config: Config,
    scoring: ScoringGraph,
    views: Iterable[View],
    random_state: int,
) -> Initial:
    """Take what a dozen clusterings agree on, into as many clusters as are wanted or as the data support.

    The two may differ. A mixture of more components than there are types spends the further ones on the types with most
    cells, whose inner shape is worth most likelihood. So where more are wanted than the data support, the supported
    clusters are divided; but not of a few hundred cells, among which a handful decides what is far apart.
    Where fewer are wanted, it is the vote or unions of those clusters: whichever has the higher modularity, by which
    the number is estimated too.
    """
    finder = clustering.CommunityFinder(scoring.adjacency, random_state)
    mixtures = mixtures_of(z, config, random_state)
    ensemble = Ensemble(pcs, views, finder, mixtures, config=config, random_state=random_state)
    if not isinstance(scoring.cells, slice):
        mixtures = mixtures_of(z[scoring.cells], config, random_state)

    def estimate() -> clustering.Estimate:
        return clustering.estimate_by_mixtures(finder, mixtures, config.resolution)

    if n_clusters is None:
        found = _announced(estimate(), scoring)
        if found.n_clusters == 1:
            return Initial(np.zeros(len(z), np.int64), found, _ONE)
        return Initial(ensemble.consensus(found.n_clusters), found, _VOTE)
    supported = estimate().best_division
    if supported is None or n_clusters == supported:
        return Initial(ensemble.consensus(n_clusters), None, _VOTE)
    if n_clusters > supported and len(z) < _DIVIDED_FROM:
        return Initial(ensemble.consensus(n_clusters), None, _VOTE, supported)
    try:
        nested = ensemble.regrouped(ensemble.consensus(supported), n_clusters)
    except InputError:  # cells that are too few to be divided so often
        log.info("The estimated clusters cannot be divided into %d: %d are fitted from the start.", *[n_clusters] * 2)
        return Initial(ensemble.consensus(n_clusters), None, _VOTE, supported)
    if n_clusters > supported:
        log.info("The data support %d clusters best: these are divided into %d.", supported, n_clusters)
        return Initial(nested, None, "divided", supported)
    voted = ensemble.consensus(n_clusters)
    of_nested, of_voted = (finder.modularity(own[scoring.cells], config.resolution) for own in (nested, voted))
    if of_nested <= of_voted:
        return Initial(voted, None, _VOTE, supported)
    log.info("The data support %d clusters best: these are joined into %d.", supported, n_clusters)
    return Initial(nested, None, "joined", supported)


def _announced(estimate: clustering.Estimate, scoring: ScoringGraph) -> clustering.Estimate:
    """Say how many clusters there are, and what speaks for that."""
    if scoring.note:
        estimate = estimate._replace(method=f"{estimate.method} {scoring.note}")
    if estimate.n_clusters == 1:
        log.warning(
            "The cells seem to be of one kind: no division scores higher than all of them together (%s). To divide "
            "them all the same, give `n_clusters` or a higher `resolution`.",
            estimate.method,
        )
        return estimate
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
