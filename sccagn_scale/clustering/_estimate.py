"""How many clusters there are, if nobody said so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sccagn_scale.clustering._communities import LARGEST_RESOLUTION, LEAST_RESOLUTION, CommunityFinder
from sccagn_scale.clustering._mixtures import Mixtures

RESOLUTIONS = np.geomspace(LEAST_RESOLUTION, LARGEST_RESOLUTION, 20)
"""Where the number of communities is read off."""

_PATIENCE = 8  # numbers of clusters that may score less in a row


class Estimate(NamedTuple):
    """A number of clusters, and what speaks for it.

    All cells as one cluster are a candidate too, of which every graph has the score 1 − resolution. A division has to
    have more: noise, whose neighbours are many and weak, has none that does.
    """

    n_clusters: int
    method: str
    candidates: np.ndarray  # int64 [n_candidates], rising
    scores: np.ndarray  # float64 [n_candidates]; the estimate has the highest
    plausible: tuple[int, int]  # smallest and largest candidate whose score is nearly as high

    @property
    def best_division(self) -> int | None:
        """The candidate of two clusters or more that has the highest score; None if cells could not be divided."""
        scores = np.where(self.candidates > 1, self.scores, -np.inf)
        return int(self.candidates[np.argmax(scores)]) if np.isfinite(scores).any() else None


def estimate_by_communities(finder: CommunityFinder, resolution: float = 0.5) -> Estimate:
    """Estimate the number of clusters as that of the best clustering of the cell graph.

    Clusterings of many sizes are found by running Leiden over a range of resolutions, and all are scored alike: by
    their modularity at one fixed `resolution`. That is 0.5, at which communities have to be twice as well separated as
    at the customary 1, which splits cell types.

    Parameters
    ----------
    finder
        Of the cell graph.
    resolution
        Of the score; higher values lead to more clusters.

    Returns
    -------
    The estimate. `plausible` spans the candidates within 1 % of its score.
    """
    best: dict[int, float] = {}
    for at in sorted({*RESOLUTIONS.tolist(), resolution}):
        labels = finder.at_resolution(at)
        n_found = int(labels.max()) + 1
        if n_found >= 2:
            best[n_found] = max(best.get(n_found, -np.inf), finder.modularity(labels, resolution))
    return _estimate(best, "Leiden clusterings", resolution)


def estimate_by_mixtures(finder: CommunityFinder, mixtures: Mixtures, resolution: float = 0.5) -> Estimate:
    """Estimate the number of clusters as that of the mixture which the cell graph bears out best.

    As `estimate_by_communities`, but the clusterings are mixtures of 2, 3, … Gaussians, until eight in a row have had
    less modularity than the best. The graph did not make the clusterings that it scores, which counts against those
    that follow its noise. Where none has more than all cells together, communities are looked at before the cells count
    as one cluster: mixtures may miss how they part.
    """
    best: dict[int, float] = {}
    chosen, n_clusters = 2, 2
    while n_clusters <= min(chosen + _PATIENCE, mixtures.most):
        labels = mixtures.at_most(n_clusters)
        n_found = int(labels.max()) + 1
        if n_found >= 2:
            best[n_found] = max(best.get(n_found, -np.inf), finder.modularity(labels, resolution))
            chosen = max(best, key=lambda k: best[k])
        n_clusters += 1
    if max(best.values(), default=-np.inf) <= 1 - resolution:
        return estimate_by_communities(finder, resolution)
    return _estimate(best, "Gaussian mixtures", resolution)


def _estimate(best: dict[int, float], clusterings: str, resolution: float) -> Estimate:
    """Choose among one cluster and more by the score of each number's best clustering."""
    best = {1: 1 - resolution, **best}
    method = f"modularity of {clusterings} at resolution {resolution:g}"
    candidates = np.array(sorted(best))
    scores = np.array([best[k] for k in candidates])
    near = candidates[scores >= scores.max() - 0.01 * abs(scores.max())]
    return Estimate(int(candidates[np.argmax(scores)]), method, candidates, scores, (int(near.min()), int(near.max())))
