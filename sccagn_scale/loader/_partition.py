"""A few parts of the graph at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale.loader._batch import Batch, Cells, rows, with_row_sums
from sccagn_scale.ops import Csr


class PartitionLoader:
    """Batches made of a few parts of the graph, drawn anew each epoch (Cluster-GCN, Chiang et al. 2019).

    Many neighbours of a cell are in its own part. The parts that share a batch change from epoch to epoch. Every batch
    carries the edges among its cells, their weights scaled to the sums that its rows have in the whole graph, and every
    cell is in one batch of an epoch.

    Parameters
    ----------
    x
        Cells × genes, CSR or on disk, or cells × components.
    adjacency
        Â of the whole graph, symmetric.
    parts
        Part of every cell, int [n_obs]; see `sccagn_scale.graph.partition`.
    batch_size
        Cells in a batch, about: parts are drawn until it is reached.
    device
        Where the batches go.
    generator
        Draws the order of the parts.
    """

    def __init__(
        self,
        x: Cells,
        adjacency: sp.csr_matrix,
        parts: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        self._x, self._cut = x, _Induced(adjacency)
        self._sums = np.asarray(adjacency.sum(axis=1)).ravel()
        order = np.argsort(parts, kind="stable")
        sizes = np.bincount(parts)
        self._parts = [part for part in np.split(order, np.cumsum(sizes)[:-1]) if len(part)]
        self._n_batches = min(max(1, round(len(parts) / batch_size)), len(self._parts))
        self._device = device
        self._generator = generator

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Batch]:
        drawn = [self._parts[i] for i in self._generator.permutation(len(self._parts))]
        # parts differ in size: cut the sequence of parts where the running number of cells is nearest to even shares,
        # and leave every batch at least one part
        reached = np.cumsum([0, *(len(part) for part in drawn)])
        shares = reached[-1] * np.arange(1, self._n_batches) / self._n_batches
        nearest = np.searchsorted((reached[1:] + reached[:-1]) / 2, shares)
        earlier = np.arange(self._n_batches - 1)
        nearest = np.maximum.accumulate(nearest - earlier)
        cuts = np.clip(nearest, 1, len(drawn) - self._n_batches + 1) + earlier
        for group in np.split(np.arange(len(drawn)), cuts):
            yield self._take(np.sort(np.concatenate([drawn[i] for i in group])))

    def _take(self, n_id: np.ndarray) -> Batch:
        cut = self._cut(n_id)
        row = np.repeat(np.arange(len(n_id)), np.diff(cut.indptr))
        cut.data = with_row_sums(cut.data, row, self._sums[n_id])
        return Batch(
            rows(self._x[n_id], self._device),
            Csr.from_scipy(cut).to(self._device),
            torch.from_numpy(n_id).to(self._device),
            len(n_id),
        )


class _Induced:
    """Cuts subgraphs out of a graph: all edges among some cells.

    Parameters
    ----------
    adjacency
        Weights of the whole graph [n_obs, n_obs].
    """

    def __init__(self, adjacency: sp.csr_matrix) -> None:
        self._adjacency = adjacency
        # kept between calls, so that a cut costs what its cells' edges cost, and not a pass over all cells
        self._position = np.full(adjacency.shape[0], -1, adjacency.indices.dtype)

    def __call__(self, n_id: np.ndarray) -> sp.csr_matrix:
        """Cut: cells n_id [n], distinct, in any order -> [n, n], numbered by their place in n_id."""
        n = len(n_id)
        cut = self._adjacency[n_id]
        self._position[n_id] = np.arange(n)
        columns = self._position[cut.indices]
        self._position[n_id] = -1
        inside = columns >= 0
        before = np.zeros(len(inside) + 1, cut.indptr.dtype)
        np.cumsum(inside, out=before[1:])
        return sp.csr_matrix((cut.data[inside], columns[inside], before[cut.indptr]), shape=(n, n))
