"""The clustering that joint training starts from, and the number of clusters if nobody gave it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import faiss
import igraph
import numpy as np
import scipy.sparse as sp
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering

from sccagn_scale._errors import InputError
from sccagn_scale.train._mixture import shrunk_mixture
from sccagn_scale.train._tree import cut

Init = Literal["auto", "leiden", "ward", "mixture", "consensus", "kmeans"]

RESOLUTIONS = np.geomspace(0.05, 4.0, 20)
"""Where the number of communities is read off when K is estimated."""

_LEIDEN_ITERATIONS = 4
_BISECTIONS = 16
_SETTLING_ROUNDS = 5

_BLOCK = 262_144  # cells that are worked on at once

_PATIENCE = 8  # numbers of clusters that may score less in a row

_WARD_UP_TO = 5000
_WARD_SEEDS = 2000


class Estimate(NamedTuple):
    """A number of clusters, and what speaks for it."""

    n_clusters: int
    method: str
    candidates: np.ndarray  # int64 [n_candidates], rising
    scores: np.ndarray  # float64 [n_candidates]; the estimate has the highest
    plausible: tuple[int, int]  # smallest and largest candidate whose score is nearly as high


class CommunityFinder:
    """Leiden communities (Traag et al. 2019) of one cell graph at any resolution.

    Modularity depends on a graph only through the weights between groups of cells and their degrees. So where the cells
    of a small group stay together, Leiden needs to see no more than the groups, which takes seconds for a million cells
    in 10,000 of them; what that joined wrongly along the borders, `settled` then mends cell by cell.

    Parameters
    ----------
    graph
        Symmetric weights [n_obs, n_obs] without self-loops.
    random_state
        Seed of every run.
    groups
        Group of every cell, int [n_obs], whose cells stay together; None: every cell is on its own.

    Attributes
    ----------
    adjacency
        The graph of the cells.
    """

    def __init__(self, graph: sp.csr_matrix, random_state: int = 0, *, groups: np.ndarray | None = None) -> None:
        self.adjacency = graph
        self._degrees = np.asarray(graph.sum(axis=1), dtype=np.float64).ravel()
        self._total = self._degrees.sum() or 1.0
        self._groups = groups
        if groups is not None:
            graph = _between(graph, groups)
        upper = sp.triu(graph, k=1).tocoo()
        # igraph takes pairs twice as fast as it takes an array
        edges = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
        self._graph = igraph.Graph(n=graph.shape[0], edges=edges)
        self._weights = upper.data.tolist()
        self._node_degrees = np.asarray(graph.sum(axis=1), dtype=np.float64).ravel().tolist()
        self._seed = random_state
        self._found: dict[float, np.ndarray] = {}  # every search starts from the seed and ends alike

    def at(self, resolution: float) -> np.ndarray:
        """Find communities at one resolution: labels int64 [n_obs], 0 the largest."""
        if resolution not in self._found:
            self._found[resolution] = self._search(resolution)
        labels = self._found[resolution]
        return by_size(labels if self._groups is None else labels[self._groups])

    def _search(self, resolution: float) -> np.ndarray:
        """Community of every cell, or group of cells."""
        igraph.set_random_number_generator(random.Random(self._seed))
        try:
            # modularity, written as the Potts model with degrees for node weights: edges inside a group then count
            # through its degree alone
            found = self._graph.community_leiden(
                "CPM",
                weights=self._weights,
                resolution=resolution / self._total,
                node_weights=self._node_degrees,
                n_iterations=_LEIDEN_ITERATIONS,
            ).membership
        finally:
            igraph.set_random_number_generator(random)
        return np.asarray(found, dtype=np.int64)

    def modularity(self, labels: np.ndarray, resolution: float) -> float:
        """Modularity of a clustering at a resolution (Reichardt & Bornholdt 2006)."""
        inside = 0.0
        for start, block in _row_blocks(self.adjacency):
            own = np.repeat(labels[start : start + block.shape[0]], np.diff(block.indptr))
            inside += block.data[own == labels[block.indices]].sum(dtype=np.float64)
        expected = np.square(np.bincount(labels, weights=self._degrees) / self._total).sum()
        return float(inside / self._total - resolution * expected)

    def settled(self, labels: np.ndarray, resolution: float) -> np.ndarray:
        """Move cells to the neighbouring community with the largest gain in modularity, while there is a gain.

        Returns
        -------
        Labels int64 [n_obs] of the same number of communities, of no lower modularity.
        """
        best = self.modularity(labels, resolution)
        for _ in range(_SETTLING_ROUNDS):
            moved = self._moved(labels, resolution)
            now = self.modularity(moved, resolution)
            if now <= best or _n_used(moved) < _n_used(labels):
                break
            labels, best = moved, now
        return labels

    def _moved(self, labels: np.ndarray, resolution: float) -> np.ndarray:
        moved = labels.copy()
        member, of_communities = _one_hot(labels), np.bincount(labels, weights=self._degrees)
        for start, block in _row_blocks(self.adjacency):
            weights = (block @ member).tocsr()  # of every cell to the communities next to it
            cells = np.repeat(np.arange(start, start + block.shape[0]), np.diff(weights.indptr))
            community, degree = weights.indices, self._degrees[cells]
            own = community == labels[cells]
            others = of_communities[community] - np.where(own, degree, 0)
            gain = weights.data - resolution * degree * others / self._total
            order = np.lexsort((own, gain, cells))  # the best of each cell last; where gains tie, its own
            has = np.flatnonzero(np.diff(weights.indptr))
            moved[start + has] = community[order][weights.indptr[1:][has] - 1]
        return moved

    def into(self, n_clusters: int, points: np.ndarray) -> np.ndarray:
        """Find exactly `n_clusters` communities.

        The resolution is bisected. Where no resolution gives that number, the next finer clustering is taken and its
        communities are merged by Ward's criterion on their centres in `points` [n_obs, d]. Components of the graph
        that outnumber `n_clusters` are merged the same way. Communities of groups of cells are settled at the end.
        """
        low, high = float(RESOLUTIONS[0]) / 10, float(RESOLUTIONS[-1])
        finer = self.at(high)
        while finer.max() + 1 < n_clusters and high < 1e6:
            low, high = high, 4 * high
            finer = self.at(high)
        for _ in range(_BISECTIONS):
            if finer.max() + 1 == n_clusters:
                break
            middle = float(np.sqrt(low * high))
            labels = self.at(middle)
            if labels.max() + 1 >= n_clusters:
                high, finer = middle, labels
            else:
                low = middle
        labels = merge(points, finer, n_clusters)
        return by_size(labels if self._groups is None else self.settled(labels, high))


def _n_used(labels: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(labels)))


def _row_blocks(graph: sp.csr_matrix) -> Iterator[tuple[int, sp.csr_matrix]]:
    for start in range(0, graph.shape[0], _BLOCK):
        yield start, graph[start : start + _BLOCK]


def _between(graph: sp.csr_matrix, groups: np.ndarray) -> sp.csr_matrix:
    """Weights between groups of cells [n_groups, n_groups]."""
    member = _one_hot(groups)
    total = sp.csr_matrix((member.shape[1], member.shape[1]), dtype=graph.dtype)
    for start, block in _row_blocks(graph):
        total = total + member[start : start + _BLOCK].T @ (block @ member)
    return total.tocsr()


def _one_hot(labels: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)))


def estimate_n_clusters(finder: CommunityFinder, resolution: float = 0.5) -> Estimate:
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
    The estimate, at least 2. `plausible` spans the candidates within 1 % of its score.
    """
    best: dict[int, float] = {}
    for at in sorted({*RESOLUTIONS.tolist(), resolution}):
        labels = finder.at(at)
        n_found = int(labels.max()) + 1
        if n_found >= 2:
            best[n_found] = max(best.get(n_found, -np.inf), finder.modularity(labels, resolution))
    if not best:
        raise InputError("`n_clusters` cannot be estimated: the cells form one group at every resolution. Give it.")
    return _estimate(best, f"modularity of Leiden clusterings at resolution {resolution:g}")


def estimate_by_mixtures(finder: CommunityFinder, mixtures: Mixtures, resolution: float = 0.5) -> Estimate:
    """Estimate the number of clusters as that of the mixture which the cell graph bears out best.

    As `estimate_n_clusters`, but the clusterings are mixtures of 2, 3, … Gaussians, until eight in a row have had less
    modularity than the best. That the graph did not make the clusterings that it judges counts against those that
    follow its noise.
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
    if not best:
        raise InputError("`n_clusters` cannot be estimated: the cells form one group. Give it.")
    return _estimate(best, f"modularity of Gaussian mixtures at resolution {resolution:g}")


def _estimate(best: dict[int, float], method: str) -> Estimate:
    """Choose among numbers of clusters by the score of each one's best clustering."""
    candidates = np.array(sorted(best))
    scores = np.array([best[k] for k in candidates])
    near = candidates[scores >= scores.max() - 0.01 * abs(scores.max())]
    return Estimate(int(candidates[np.argmax(scores)]), method, candidates, scores, (int(near.min()), int(near.max())))


def kmeans(
    points: np.ndarray, n_clusters: int, *, n_init: int = 20, n_iter: int = 100, random_state: int = 0
) -> np.ndarray:
    """Cluster by k-means, the best of `n_init` restarts: labels int64 [n_obs], 0 the largest."""
    points = np.ascontiguousarray(points, np.float32)
    model = faiss.Kmeans(
        points.shape[1],
        n_clusters,
        niter=n_iter,
        nredo=n_init,
        seed=random_state % 2**31,  # FAISS has no more
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, 100_000 // n_clusters),
    )
    model.train(points)
    return by_size(model.assign(points)[1])


def ward(points: np.ndarray, n_clusters: int, *, random_state: int = 0) -> np.ndarray:
    """Cluster by Ward's minimum-variance criterion (Ward 1963): labels int64 [n_obs], 0 the largest.

    Unlike k-means it does not favour clusters of equal size, which cell types are not. Beyond 5,000 cells it joins the
    2,000 centres of a k-means, for its memory is quadratic.
    """
    return _Ward(points, random_state).into(n_clusters)


class _Ward:
    """Ward's clusters of the same points [n_obs, d], of any number: the tree is made when it is first cut."""

    def __init__(self, points: np.ndarray, random_state: int) -> None:
        self._points, self._seed = points, random_state
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def n_leaves(self) -> int:
        """Most clusters there can be, unless more are asked for."""
        return len(self._tree(0)[1]) + 1

    def into(self, n_clusters: int) -> np.ndarray:
        """Cut the tree: labels int64 [n_obs], 0 the largest."""
        leaves, joined = self._tree(n_clusters)
        return by_size(cut(joined, n_clusters)[leaves])

    def _tree(self, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
        """Leaf of each point, int64 [n_obs], and how m leaves are joined, int64 [m - 1, 2]; see `cut`."""
        n_obs = len(self._points)
        n_seeds = n_obs if n_obs <= _WARD_UP_TO else min(n_obs, max(_WARD_SEEDS, 2 * n_clusters))
        if n_seeds not in self._made:
            leaves, places = np.arange(n_obs), self._points
            if n_obs > _WARD_UP_TO:
                leaves = kmeans(places, n_seeds, n_init=1, n_iter=10, random_state=self._seed)
                places = centers(places, leaves)
            self._made[n_seeds] = leaves, hierarchy.ward(places.astype(np.float64))[:, :2].astype(np.int64)
        return self._made[n_seeds]


def ward_memory(n_obs: int) -> int:
    """Bytes that `ward`, and `Mixtures` with it, takes for a while: distances of all pairs in float64, and a copy."""
    return 8 * (n_obs if n_obs <= _WARD_UP_TO else _WARD_SEEDS) ** 2


class Mixtures:
    """Clusterings by mixtures of so many Gaussians as are wanted, each started from Ward's clusters of the same tree.

    See `shrunk_mixture`.

    Parameters
    ----------
    points
        [n_obs, d].
    shrinkage
        Strength, above 0.
    random_state
        Seed of every one.
    """

    def __init__(self, points: np.ndarray, *, shrinkage: float = 1.0, random_state: int = 0) -> None:
        self.points, self._shrinkage, self._seed = points, shrinkage, random_state
        self._ward = _Ward(points, random_state)

    @property
    def most(self) -> int:
        """Most components there can be, unless more are asked for."""
        return self._ward.n_leaves

    def into(self, n_clusters: int) -> np.ndarray:
        """Find labels int64 [n_obs], 0 the largest; Ward's, should a component lose all its points."""
        labels = self.at_most(n_clusters)
        return labels if labels.max() + 1 == n_clusters else self._ward.into(n_clusters)

    def at_most(self, n_clusters: int) -> np.ndarray:
        """The same, but of fewer clusters then."""
        start = self._ward.into(n_clusters)
        return by_size(shrunk_mixture(self.points, start, shrinkage=self._shrinkage, random_state=self._seed))


def merge(points: np.ndarray, labels: np.ndarray, n_clusters: int) -> np.ndarray:
    """Merge clusters by Ward's criterion on their centres in `points` until `n_clusters` are left."""
    if labels.max() + 1 <= n_clusters:
        return labels
    # scipy's fcluster would give fewer where distances tie
    return AgglomerativeClustering(n_clusters).fit_predict(centers(points, labels))[labels]


def centers(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the points of each cluster: float32 [n_clusters, d]."""
    n_clusters = int(labels.max()) + 1
    sizes = np.maximum(np.bincount(labels, minlength=n_clusters), 1)
    return ((_one_hot(labels).T @ points) / sizes[:, None]).astype(np.float32)


def by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters by falling size, ties by first appearance; empty ones vanish."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]


def rounding(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the symmetric T [d, d] that makes the clusters of points·T round: covariance one within them, over all.

    The Student-t kernel knows no directions. Where clusters are long and flat, cells at the ends of one are nearer to
    the centre of another.

    Parameters
    ----------
    points
        [n_obs, d].
    labels
        Cluster of each, int [n_obs].

    Returns
    -------
    T = Σ^-1/2, float32. A direction with hardly any variance is stretched at most √1000 times as far as the widest.
    """
    middles = centers(points, labels)
    scatter = np.zeros((points.shape[1], points.shape[1]))
    for i in range(0, len(points), _BLOCK):
        rows = slice(i, i + _BLOCK)
        away = (points[rows] - middles[labels[rows]]).astype(np.float64)
        scatter += away.T @ away
    values, vectors = np.linalg.eigh(scatter / len(points))
    spread = points.var(axis=0, dtype=np.float64).sum()
    if values[-1] <= np.finfo(np.float32).eps * spread:  # every cell lies on its centre, but for rounding
        return np.eye(points.shape[1], dtype=np.float32)
    return ((vectors / np.sqrt(np.maximum(values, 1e-3 * values[-1]))) @ vectors.T).astype(np.float32)
