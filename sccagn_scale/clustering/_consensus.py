"""What several clusterings of the same cells agree on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from sccagn_scale._crosstab import crosstab
from sccagn_scale.clustering._labels import by_size

_ROUNDS = 10
_TIE = 0.5  # of a vote, for the cluster that a cell has already
_BLOCK = 65_536  # cells whose votes are counted at once


def consensus(clusterings: Sequence[np.ndarray], n_clusters: int) -> np.ndarray:
    """Let clusterings vote on every cell.

    Clusterings number their clusters as they please. So the one that agrees most with the others (adjusted Rand index)
    is taken for a reference, the clusters of each are matched with its clusters so that as many cells as possible agree
    (Kuhn 1955), and a cell goes where most put it; where votes tie, it stays. What comes of that is the next reference,
    until nothing changes. Errors that clusterings do not share are outvoted (Dudoit & Fridlyand 2003).

    Parameters
    ----------
    clusterings
        At least one, int [n_obs] each, of clusters 0 … n_clusters − 1.
    n_clusters
        Clusters of each.

    Returns
    -------
    Labels int64 [n_obs], 0 the largest cluster. Should the vote leave a cluster empty, those of the reference that it
    began with.
    """
    clusterings = [by_size(labels) for labels in clusterings]  # so that no tie hangs on how clusters were numbered
    agreement = np.zeros(len(clusterings))
    for i, j in combinations(range(len(clusterings)), 2):
        agreement[[i, j]] += _agreement(clusterings[i], clusterings[j])
    first = clusterings[int(np.argmax(agreement))]
    reference = first
    for _ in range(_ROUNDS):
        matched = [_matched(labels, reference, n_clusters) for labels in clusterings]
        voted = np.concatenate(
            [
                _elected([labels[i : i + _BLOCK] for labels in matched], reference[i : i + _BLOCK], n_clusters)
                for i in range(0, len(first), _BLOCK)
            ]
        )
        if np.array_equal(voted, reference):
            break
        reference = voted
    voted = by_size(reference)
    return voted if voted.max() == first.max() else first


def _elected(voters: Sequence[np.ndarray], reference: np.ndarray, n_clusters: int) -> np.ndarray:
    """Cluster that most put each cell in, int64 [n]; where votes tie, that of the reference."""
    cells = np.arange(len(reference))
    votes = np.zeros((len(reference), n_clusters), np.float32)
    votes[cells, reference] = _TIE
    for labels in voters:
        votes[cells, labels] += 1
    return votes.argmax(axis=1)


def most_stable(kinds: Sequence[Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
    """Choose, of several kinds of clusterings, the one whose clusterings agree most with one another.

    Where each kind has clustered the same views of the cells, one that finds what is there finds it in every view
    (stability as in Lange et al. 2004; adjusted Rand index, the mean over pairs).

    Parameters
    ----------
    kinds
        At least two clusterings of each, int [n_obs] each.

    Returns
    -------
    That kind; where several agree as much, the first of them.
    """
    agreement = [np.mean([_agreement(*pair) for pair in combinations(kind, 2)]) for kind in kinds]
    return kinds[int(np.argmax(agreement))]


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985), as scikit-learn computes it, without its checks of the labels."""
    common = crosstab(one, other, (one.max() + 1, other.max() + 1))
    # ordered pairs of a cell with another or itself; Python's whole numbers do not overflow
    every, together = len(one) ** 2, int(np.square(common).sum())
    in_one, in_other = (int(np.square(common.sum(axis=axis)).sum()) for axis in (1, 0))
    only_one, only_other = in_one - together, in_other - together
    if only_one == only_other == 0:
        return 1.0
    both, neither = together - len(one), every - in_one - in_other + together
    largest = (both + only_one) * (only_one + neither) + (both + only_other) * (only_other + neither)
    return 2.0 * (both * neither - only_one * only_other) / largest


def _matched(labels: np.ndarray, reference: np.ndarray, n_clusters: int) -> np.ndarray:
    """Renumber the clusters so that as many cells as possible are numbered as in the reference."""
    common = crosstab(labels, reference, (n_clusters, n_clusters))
    return linear_sum_assignment(common, maximize=True)[1][labels]
