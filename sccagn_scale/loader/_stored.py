"""Cells × genes on disk, read a batch at a time."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale.io import CellStore
from sccagn_scale.ops import Csr


class CellsOnDisk:
    """The network's input in a cell store that is laid out in an order of its own.

    In the order of the graph's parts, the cells of a batch are a few contiguous reads.

    Parameters
    ----------
    store
        Cells × genes.
    order
        Which cell each row of the store is, int64 [n_obs].
    """

    def __init__(self, store: CellStore, order: np.ndarray) -> None:
        self._store = store
        self._place = np.empty(len(order), np.int64)
        self._place[order] = np.arange(len(order))

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self._store.shape

    def __getitem__(self, cells: slice | np.ndarray) -> sp.csr_matrix:
        """Read cells: CSR float32 [n, n_vars]."""
        return self._store.rows(self._place[cells])

    def rows(self, start: int, stop: int) -> Csr:
        """Cells from `start` to before `stop`, in memory."""
        return Csr.from_scipy(self[start:stop])

    def take(self, rows: torch.Tensor) -> Csr:
        """Cells, int64 [n], in that order, in memory."""
        return Csr.from_scipy(self[rows.cpu().numpy()])
