"""Clusterings of few cells that vote: over three cell graphs, mixtures in every embedding and communities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sccagn_scale import train
from sccagn_scale.config import Config
from sccagn_scale.model._views import View


def mixtures_of(points: np.ndarray, config: Config, random_state: int) -> train.Mixtures:
    """Mixtures as the configuration has them."""
    return train.Mixtures(points, shrinkage=config.mixture_shrinkage, random_state=random_state)


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
        judge: train.CommunityFinder,
        mixtures: train.Mixtures,
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
                judge if view.adjacency is judge.adjacency else train.CommunityFinder(view.adjacency, random_state),
            )
            for view in views
        ]

    def elect(self, n_clusters: int) -> np.ndarray:
        """Let mixtures and communities of `n_clusters` vote: labels int64 [n], 0 the largest."""
        voters = []
        for mixtures, finder in self._views:
            voters += [*(own.into(n_clusters) for own in mixtures), finder.into(n_clusters, self._pcs)]
        return train.consensus(voters, n_clusters)

    def regroup(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Divide or join clusters in every embedding, made round there, and let those vote.

        Raises
        ------
        InputError
            If the clusters cannot be divided so often.
        """
        voters = []
        for points in (own.points for mixtures, _ in self._views for own in mixtures):
            round_points = points @ train.rounding(points, labels)
            voters.append(train.regrouped(round_points, labels, n_clusters, random_state=self._seed))
        return train.consensus(voters, n_clusters)
