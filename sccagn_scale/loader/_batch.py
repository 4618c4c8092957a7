"""The record that every loader yields, and what they share in making it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sccagn_scale.loader._stored import CellsOnDisk
from sccagn_scale.nn import NodeFeatures, RowSource
from sccagn_scale.ops import Csr

Cells: TypeAlias = sp.csr_matrix | np.ndarray | CellsOnDisk
"""What the network sees of all cells: genes, in memory or on disk, or components."""


class Batch(NamedTuple):
    """n cells and edges among them."""

    x: NodeFeatures  # [n, n_input]
    adjacency: Csr  # [n, n], weights of the whole graph's Â, scaled to the sums of its rows
    n_id: Tensor  # int64 [n], which cells these are
    n_seeds: int  # the first so many are trained on; the others are there for their neighbours' sake


class WholeGraph(NamedTuple):
    """All n_obs cells and all edges, to read out over."""

    x: NodeFeatures | RowSource  # [n_obs, n_input]
    adjacency: Csr  # Â [n_obs, n_obs], symmetric


class Loader(Protocol):
    """Yields the batches of one epoch each time it is iterated."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def whole_graph(x: Cells, adjacency: sp.csr_matrix, device: torch.device) -> WholeGraph:
    """Bring all cells and their Â to a device; cells on disk stay there."""
    graph = Csr.from_scipy(adjacency, symmetric=True).to(device)
    return WholeGraph(x if isinstance(x, CellsOnDisk) else rows(x, device), graph)


def rows(x: sp.csr_matrix | np.ndarray, device: torch.device) -> NodeFeatures:
    """Bring cells × genes (CSR) or cells × components to a device."""
    return torch.from_numpy(x).to(device) if isinstance(x, np.ndarray) else Csr.from_scipy(x).to(device)


def with_row_sums(values: np.ndarray, row: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Scale the weights of edges so that those of each row add up to what its edges in the whole graph do.

    A batch lacks many of them. With the weights left as they are, a layer would give a cell less in training than when
    it is read out over the whole graph, and centroids learned on the one would not fit the other.

    Parameters
    ----------
    values, row
        Weight, above 0, and row of every edge of the batch [nnz]; every row has at least one.
    sums
        Sum of each row of Â [n].
    """
    kept = np.bincount(row, values, minlength=len(sums))  # float64
    return values * (sums / kept).astype(values.dtype)[row]
