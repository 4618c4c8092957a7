"""More or fewer clusters, nested in those that there are.

Ward's criterion weighs a cluster by its cells here, for clusters differ in size a thousandfold; those that `merge` of
`_ward` joins are many and small, and count alike. scikit-learn and SciPy know no weights.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sccagn_scale._errors import InputError
from sccagn_scale.clustering._kmeans import kmeans
from sccagn_scale.clustering._labels import by_size, centers
from sccagn_scale.clustering._tree import cut, fall_apart

_PIECES = 64  # of a cluster, at most, that a split can tell apart
_CELLS_OF_A_PIECE = 5  # at least


class WardTree(NamedTuple):
    """Ward's tree (Ward 1963) over m weighted leaves: row i is what made node m + i, in the order of joining."""

    joined: np.ndarray  # int64 [m − 1, 2]
    gaps: np.ndarray  # float64 [m − 1], distance between the centres of the two that were joined


def ward_tree(points: np.ndarray, weights: np.ndarray) -> WardTree:
    """Join leaves [m, d] of so many points each until one is left: O(m³).

    Joined next are the two that add least to the sum of squares within clusters: for a and b that is
    n_a n_b / (n_a + n_b) · ‖µ_a − µ_b‖². What joining a union with others would add follows from what joining its parts
    would have (Lance & Williams 1967).
    """
    m = len(points)
    n, x = weights.astype(np.float64), points.astype(np.float64)
    cost = n[:, None] * n / (n[:, None] + n) * ((x[:, None] - x) ** 2).sum(axis=2)
    np.fill_diagonal(cost, np.inf)
    node = np.arange(m)
    joined, gaps = np.empty((m - 1, 2), np.int64), np.empty(m - 1)
    for step in range(m - 1):
        i, j = np.unravel_index(np.argmin(cost), cost.shape)
        least = max(cost[i, j], 0.0)  # rounding may take it below
        joined[step], gaps[step] = (node[i], node[j]), np.sqrt(least * (n[i] + n[j]) / (n[i] * n[j]))
        k = np.isfinite(cost[i]) & np.isfinite(cost[j])
        cost[i, k] = ((n[k] + n[i]) * cost[i, k] + (n[k] + n[j]) * cost[j, k] - n[k] * least) / (n[k] + n[i] + n[j])
        cost[k, i] = cost[i, k]
        cost[j], cost[:, j] = np.inf, np.inf
        n[i] += n[j]
        node[i] = m + step
    return WardTree(joined, gaps)


def merged(points: np.ndarray, labels: np.ndarray, n_clusters: int) -> np.ndarray:
    """Union that each cluster becomes part of, int64 [n_before], where `n_clusters` are left."""
    return cut(ward_tree(centers(points, labels), np.bincount(labels)).joined, n_clusters)


def divided(points: np.ndarray, labels: np.ndarray, n_clusters: int, *, random_state: int = 0) -> np.ndarray:
    """Part of its own cluster that each point is in, int64 [n_obs], 0 the largest, where there are `n_clusters` parts.

    Each cluster is cut into up to 64 pieces by k-means, which Ward's criterion joins to a tree. The next part to be
    divided is always the one whose own two parts have their centres farthest apart, whatever its size. Pieces have five
    points at least, so that no stray few become a part.

    Raises
    ------
    InputError
        If the clusters have too few cells, or too few that differ, to be divided so often.
    """
    pieces, trees = np.zeros(len(labels), np.int64), []
    for cluster in range(labels.max() + 1):
        rows = np.flatnonzero(labels == cluster)
        own = pieces[rows] = _pieces(points[rows], random_state)
        trees.append(ward_tree(centers(points[rows], own), np.bincount(own)))
    parts = np.zeros_like(pieces)
    for cluster, (tree, is_divided) in enumerate(zip(trees, _divisions(trees, n_clusters), strict=True)):
        rows = np.flatnonzero(labels == cluster)
        parts[rows] = by_size(fall_apart(tree.joined, is_divided)[pieces[rows]])
    return parts


def regrouped(points: np.ndarray, labels: np.ndarray, n_clusters: int, *, random_state: int = 0) -> np.ndarray:
    """Divide clusters, or join them, until there are `n_clusters`: labels int64 [n_obs], 0 the largest.

    See `divided` and `merged`.
    """
    if n_clusters <= labels.max() + 1:
        return by_size(merged(points, labels, n_clusters)[labels])
    parts = divided(points, labels, n_clusters, random_state=random_state)
    return by_size(labels * (parts.max() + 1) + parts)


def _pieces(points: np.ndarray, random_state: int) -> np.ndarray:
    """Piece of each point, int64 [n]; one that is too small becomes part of the nearest."""
    n_pieces = min(_PIECES, len(points) // _CELLS_OF_A_PIECE)
    if n_pieces < 2:
        return np.zeros(len(points), np.int64)
    pieces = kmeans(points, n_pieces, n_init=1, n_iter=10, random_state=random_state)
    while (sizes := np.bincount(pieces)).min() < _CELLS_OF_A_PIECE:
        places, small = centers(points, pieces), int(sizes.argmin())
        away = ((places - places[small]) ** 2).sum(axis=1)
        away[small] = np.inf
        pieces = by_size(np.where(pieces == small, away.argmin(), pieces))
    return pieces


def _divisions(trees: Sequence[WardTree], n_clusters: int) -> list[np.ndarray]:
    """Which nodes of each tree are divided, bool [m − 1] each, where all have `n_clusters` parts."""
    can_be = [_has_gap(tree) for tree in trees]
    most = len(trees) + sum(map(np.count_nonzero, can_be))
    if n_clusters > most:
        raise InputError(
            f"`n_clusters` must be at most {most}, as far as so few cells can be divided; it is {n_clusters}."
        )
    divided = [np.zeros(len(tree.gaps), bool) for tree in trees]
    whole: list[tuple[float, int, int]] = []  # what is not divided yet: −gap, tree, row of the node

    def consider(tree: int, row: int) -> None:
        if row >= 0 and can_be[tree][row]:
            heapq.heappush(whole, (-trees[tree].gaps[row], tree, row))

    for tree in range(len(trees)):
        consider(tree, len(trees[tree].gaps) - 1)
    for _ in range(n_clusters - len(trees)):
        _, tree, row = heapq.heappop(whole)
        divided[tree][row] = True
        for node in trees[tree].joined[row]:
            consider(tree, node - len(trees[tree].gaps) - 1)  # below 0 for a leaf
    return divided


def _has_gap(tree: WardTree) -> np.ndarray:
    """Whether there is any distance within a node, bool [m − 1]."""
    within = np.concatenate([np.zeros(len(tree.gaps) + 1, bool), tree.gaps > 0])
    for row, parts in enumerate(tree.joined, start=len(tree.gaps) + 1):
        within[row] |= within[parts].any()
    return within[len(tree.gaps) + 1 :]
