"""A small graph of cells and a small network for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sccagn_scale.graph import adjacency, neighbors, normalized
from sccagn_scale.nn import SCCAGNModule, Target
from sccagn_scale.ops import Csr, student_t_column_sums

N_OBS, N_VARS, N_LATENT = 24, 10, 8


class Cells(NamedTuple):
    """The same cells as CSR and dense, and their Â as CSR and dense; all float64."""

    sparse: Csr
    dense: Tensor  # [n, n_vars]
    adjacency: Csr
    a: Tensor  # [n, n]


def cells(n_obs: int = N_OBS, order: np.ndarray | None = None) -> Cells:
    """Make cells of unit length; `order` permutes them."""
    rng = np.random.default_rng(0)
    values = rng.random((n_obs, N_VARS)) * (rng.random((n_obs, N_VARS)) < 0.4)
    values[:, 0] += 0.1
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    weights = normalized(adjacency(neighbors(values, 5)))
    if order is not None:
        values, weights = values[order], weights[order][:, order]
    matrix = Csr.from_scipy(weights, symmetric=True, dtype=torch.float64)
    rows = Csr.from_scipy(sp.csr_matrix(values), dtype=torch.float64)
    return Cells(rows, torch.from_numpy(values), matrix, matrix.to_dense())


def network(**options: Any) -> SCCAGNModule:
    """Make a network in float64, the same for the same options."""
    torch.manual_seed(0)
    sizes = {"n_hidden": (12, 16, 16), "n_latent": N_LATENT} | options
    return SCCAGNModule(N_VARS, **sizes).double()


def clustering(module: SCCAGNModule, n_clusters: int = 3) -> SCCAGNModule:
    """Give a network its centroids."""
    torch.manual_seed(1)
    module.set_centroids(torch.randn(n_clusters, module.encoder[-1].out_features, dtype=torch.float64))
    assert module.head is not None
    module.head.double()
    return module


def own_target(
    module: SCCAGNModule,
    x: Csr | Tensor,
    adjacency: Csr,
    *,
    nu: float = 1.0,
    tau: float = 0.5,
    n_seeds: int | None = None,
) -> Target:
    """Make the target of a batch that is all there is: its sums are those of its own seeds, and it has no anchor."""
    assert module.centroids is not None
    with torch.no_grad():
        z = module.encode(x, adjacency, n_seeds).z
        sums = student_t_column_sums(z, module.centroids, nu, tau=tau)
    return Target(nu, tau, 0.0, torch.zeros(len(z), dtype=torch.int64), sums)
