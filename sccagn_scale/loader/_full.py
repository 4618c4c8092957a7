"""Everything at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale.loader._batch import Batch, rows
from sccagn_scale.ops import Csr


class FullLoader:
    """The whole graph as the one batch of an epoch.

    Parameters
    ----------
    x
        Cells × genes, CSR, or cells × components.
    adjacency
        Â of the whole graph, symmetric.
    device
        Where the batch goes.
    """

    def __init__(self, x: sp.csr_matrix | np.ndarray, adjacency: sp.csr_matrix, device: torch.device) -> None:
        n_obs = adjacency.shape[0]
        graph = Csr.from_scipy(adjacency, symmetric=True).to(device)
        self._batch = Batch(rows(x, device), graph, torch.arange(n_obs, device=device), n_obs)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self._batch
