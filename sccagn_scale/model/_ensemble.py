"""An ensemble of clusterings of few cells: over three cell graphs, mixtures in every embedding and communities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sccagn_scale import clustering
from sccagn_scale.config import Config
from sccagn_scale.model._views import View


def mixtures_of(points: np.ndarray, config: Config, random_state: int) -> clustering.Mixtures:
    """Mixtures as the configuration has them."""
    return clustering.Mixtures(points, shrinkage=config.mixture_shrinkage, random_state=random_state)


class Ensemble:
    """Views of few cells, and what their clusterings agree on (cluster ensembles as in Strehl & Ghosh 2002).

    Parameters
    ----------
    pcs
        Principal components [n, n_comps] of the cells.
    views
        Of `find_views`. All are held.
    finder
        Finds communities of one cell graph, which may be that of a view.
    mixtures
        In one embedding, which may be that of a view.
    config
        The settings.
    random_state
        Seed of every clustering.
    """

    def __init__(
        self,
        pcs: np.ndarray,
        views: Iterable[View],
        finder: clustering.CommunityFinder,
        mixtures: clustering.Mixtures,
        *,
        config: Config,
        random_state: int,
    ) -> None:
        self._pcs, self._seed = pcs, random_state
        self._views = [
            (
                [
                    mixtures if points is mixtures.points else mixtures_of(points, config, random_state)
                    for points in view.embeddings
                ],
                finder
                if view.adjacency is finder.adjacency
                else clustering.CommunityFinder(view.adjacency, random_state),
            )
            for view in views
        ]

    def consensus(self, n_clusters: int) -> np.ndarray:
        """Let mixtures and communities of `n_clusters` vote: labels int64 [n], 0 the largest."""
        clusterings = []
        for mixtures, finder in self._views:
            clusterings += [*(own.into(n_clusters) for own in mixtures), finder.into(n_clusters, self._pcs)]
        return clustering.consensus(clusterings, n_clusters)

    def regrouped(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Divide or join clusters in every embedding, sphered there, and let those vote.

        Raises
        ------
        InputError
            If the clusters cannot be divided so often.
        """
        clusterings = []
        for points in (own.points for mixtures, _ in self._views for own in mixtures):
            sphered = points @ clustering.sphering(points, labels)
            clusterings.append(clustering.regrouped(sphered, labels, n_clusters, random_state=self._seed))
        return clustering.consensus(clusterings, n_clusters)
