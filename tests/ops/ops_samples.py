"""Cells and centroids for the tests of operators."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(n_obs: int = 9, n_clusters: int = 4, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(n, d, dtype=torch.float64, generator=generator).requires_grad_() for n in (n_obs, n_clusters)
    )
