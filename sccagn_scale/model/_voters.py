"""Clusterings of few cells that vote: over three cell graphs, mixtures in every embedding and communities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sccagn_scale import train
from sccagn_scale.config import Config
from sccagn_scale.model._views import View


def clusterings_of(
    view: View, finder: train.CommunityFinder, n_clusters: int, pcs: np.ndarray, config: Config, random_state: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Cluster the cells as one view shows them: a mixture for each embedding, and Leiden communities of the graph."""
    mixtures = [
        train.mixture(points, n_clusters, shrinkage=config.mixture_shrinkage, random_state=random_state)
        for points in view.embeddings
    ]
    return mixtures, finder.into(n_clusters, pcs)


class Voters:
    """Views of few cells, and what their clusterings agree on.

    Parameters
    ----------
    pcs
        Principal components [n, n_comps] of the cells.
    views
        Of `find_views`. All are held.
    judge
        Finds communities of one cell graph, which may be that of a view.
    config
        The settings.
    random_state
        Seed of every clustering.
    """

    def __init__(
        self,
        pcs: np.ndarray,
        views: Iterable[View],
        judge: train.CommunityFinder,
        *,
        config: Config,
        random_state: int,
    ) -> None:
        self._pcs, self._views, self._config, self._seed = pcs, list(views), config, random_state
        self._finders = [
            judge if view.adjacency is judge.adjacency else train.CommunityFinder(view.adjacency, random_state)
            for view in self._views
        ]

    def elect(self, n_clusters: int) -> np.ndarray:
        """Let mixtures and communities of `n_clusters` vote: labels int64 [n], 0 the largest."""
        voters = []
        for view, finder in zip(self._views, self._finders, strict=True):
            mixtures, communities = clusterings_of(view, finder, n_clusters, self._pcs, self._config, self._seed)
            voters += [*mixtures, communities]
        return train.consensus(voters, n_clusters)

    def regroup(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Divide or join clusters in every embedding, made round there, and let those vote.

        Raises
        ------
        InputError
            If the clusters cannot be divided so often.
        """
        voters = []
        for points in (points for view in self._views for points in view.embeddings):
            round_points = points @ train.rounding(points, labels)
            voters.append(train.regrouped(round_points, labels, n_clusters, random_state=self._seed))
        return train.consensus(voters, n_clusters)
