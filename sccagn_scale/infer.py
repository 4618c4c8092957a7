"""Reading the trained network out over the whole graph: exact, no sampling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sccagn_scale.loader import Batch
from sccagn_scale.nn import SCCAGNModule, column_sums
from sccagn_scale.ops import student_t_assign


class Assignment(NamedTuple):
    """Each cell's cluster, and how sure the network is of it."""

    labels: Tensor  # int64 [n]
    confidence: Tensor  # float [n], in (0, 1]


@torch.no_grad()
def embed(module: SCCAGNModule, whole: Batch) -> Tensor:
    """Compute z of every cell [n_obs, n_latent], layer by layer over the full graph; O(n_obs · width) memory.

    z needs only the encoder and the graph network, so neither attention nor the decoder runs.
    """
    was_training = module.training
    module.eval()
    z = module.encode(whole.x, whole.adjacency).z
    module.train(was_training)
    return z


@torch.no_grad()
def assign(z: Tensor, centroids: Tensor, nu: float = 1.0, *, block_size: int = 65_536) -> Assignment:
    """Assign every cell to its likeliest cluster, in blocks: q is never held for more than `block_size` cells."""
    parts = [student_t_assign(block, centroids, nu).max(dim=1) for block in z.split(block_size)]
    return Assignment(torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts]))


@torch.no_grad()
def target_sums(z: Tensor, centroids: Tensor, nu: float = 1.0, *, tau: float = 0.5, block_size: int = 65_536) -> Tensor:
    """Σ_i q_ij^(1/τ) over all cells [n_clusters], in blocks: the global part of the target distribution."""
    total = torch.zeros(len(centroids), dtype=torch.float64, device=z.device)
    for block in z.split(block_size):
        total += column_sums(student_t_assign(block, centroids, nu), tau)
    return total
