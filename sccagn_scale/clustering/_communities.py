"""Communities of a cell graph."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import igraph
import numpy as np
import scipy.sparse as sp

from sccagn_scale.clustering._labels import BLOCK, by_size, one_hot
from sccagn_scale.clustering._ward import merge

LEAST_RESOLUTION, LARGEST_RESOLUTION = 0.05, 4.0
"""Between these, nearly every graph of cells goes from one community to more than there are types."""

_GENERATOR = threading.Lock()  # igraph has one for all threads
_LEIDEN_ITERATIONS = 4
_BISECTIONS = 16
_REFINING_ROUNDS = 5


class CommunityFinder:
    """Leiden communities (Traag et al. 2019) of one cell graph at any resolution.

    Modularity depends on a graph only through the weights between groups of cells and their degrees. So where the cells
    of a small group stay together, Leiden needs to see no more than the groups, which takes seconds for a million cells
    in 10,000 of them; what that joined wrongly along the borders, `refined` then mends cell by cell.

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
        self._inhabited: slice | np.ndarray = slice(None)  # groups that have a cell
        if groups is not None:
            self._inhabited = np.bincount(groups) > 0
            graph = _between(graph, groups)
        upper = sp.triu(graph, k=1).tocoo()
        # igraph takes pairs twice as fast as it takes an array
        edges = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
        self._graph = igraph.Graph(n=graph.shape[0], edges=edges)
        self._weights = upper.data.tolist()
        self._node_degrees = np.asarray(graph.sum(axis=1), dtype=np.float64).ravel().tolist()
        self._seed = random_state
        self._found: dict[float, np.ndarray] = {}  # every search starts from the seed and ends alike

    def at_resolution(self, resolution: float) -> np.ndarray:
        """Find communities at one resolution: labels int64 [n_obs], 0 the largest."""
        labels = self._search(resolution)
        return by_size(labels if self._groups is None else labels[self._groups])

    def _n_at(self, resolution: float) -> int:
        """Number of communities that `at_resolution` finds, without a label for every cell."""
        return _n_used(self._search(resolution)[self._inhabited])

    def _search(self, resolution: float) -> np.ndarray:
        """Community of every cell, or group of cells."""
        if resolution in self._found:
            return self._found[resolution]
        with _GENERATOR:
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
        self._found[resolution] = np.asarray(found, dtype=np.int64)
        return self._found[resolution]

    def modularity(self, labels: np.ndarray, resolution: float) -> float:
        """Modularity of a clustering at a resolution (Reichardt & Bornholdt 2006)."""
        inside = 0.0
        for start, block in _row_blocks(self.adjacency):
            own = np.repeat(labels[start : start + block.shape[0]], np.diff(block.indptr))
            inside += block.data[own == labels[block.indices]].sum(dtype=np.float64)
        expected = np.square(np.bincount(labels, weights=self._degrees) / self._total).sum()
        return float(inside / self._total - resolution * expected)

    def refined(self, labels: np.ndarray, resolution: float) -> np.ndarray:
        """Move cells to the neighbouring community with the largest gain in modularity, while there is a gain.

        Returns
        -------
        Labels int64 [n_obs] of the same number of communities, of no lower modularity.
        """
        best = self.modularity(labels, resolution)
        for _ in range(_REFINING_ROUNDS):
            moved = self._moved(labels, resolution)
            now = self.modularity(moved, resolution)
            if now <= best or _n_used(moved) < _n_used(labels):
                break
            labels, best = moved, now
        return labels

    def _moved(self, labels: np.ndarray, resolution: float) -> np.ndarray:
        moved = labels.copy()
        member, of_communities = one_hot(labels), np.bincount(labels, weights=self._degrees)
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
        that outnumber `n_clusters` are merged the same way. Communities of groups of cells are refined at the end.
        """
        low, high = LEAST_RESOLUTION / 10, LARGEST_RESOLUTION
        while self._n_at(high) < n_clusters and high < 1e6:
            low, high = high, 4 * high
        for _ in range(_BISECTIONS):
            if self._n_at(high) == n_clusters:
                break
            middle = float(np.sqrt(low * high))
            if self._n_at(middle) >= n_clusters:
                high = middle
            else:
                low = middle
        labels = merge(points, self.at_resolution(high), n_clusters)
        return by_size(labels if self._groups is None else self.refined(labels, high))


def _n_used(labels: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(labels)))


def _row_blocks(graph: sp.csr_matrix) -> Iterator[tuple[int, sp.csr_matrix]]:
    for start in range(0, graph.shape[0], BLOCK):
        yield start, graph[start : start + BLOCK]


def _between(graph: sp.csr_matrix, groups: np.ndarray) -> sp.csr_matrix:
    """Weights between groups of cells [n_groups, n_groups]."""
    member = one_hot(groups)
    total = sp.csr_matrix((member.shape[1], member.shape[1]), dtype=graph.dtype)
    for start, block in _row_blocks(graph):
        total = total + member[start : start + BLOCK].T @ (block @ member)
    return total.tocsr()
