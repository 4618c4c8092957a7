"""Cells, centroids and matrices for the tests of operators, and all that operators make of them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sccagn_scale.ops import (
    Csr,
    csr_matmul,
    student_t_assign,
    student_t_column_sums,
    student_t_kl,
    student_t_label,
)


def sample(n_obs: int = 9, n_clusters: int = 4, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(n, d, dtype=torch.float64, generator=generator).requires_grad_() for n in (n_obs, n_clusters)
    )


def results(z: Tensor, centroids: Tensor, matrix: Csr, dense: Tensor) -> dict[str, Tensor]:
    """Everything that operators and their gradients give."""
    q = student_t_assign(z, centroids, 3.0)
    sums = student_t_column_sums(z, centroids, 3.0)
    anchor = torch.arange(len(z), device=z.device) % len(centroids)
    loss = student_t_kl(z, centroids, sums, nu=3.0, anchor=anchor, anchor_share=0.5)
    product = csr_matmul(matrix, dense)
    labels, confidence = student_t_label(z, centroids, 3.0)
    return {
        "q": q,
        "of q": torch.autograd.grad(q.pow(2).sum(), z, retain_graph=True)[0],
        "of q, by centroids": torch.autograd.grad(q.pow(2).sum(), centroids)[0],
        "sums": sums,
        "loss": loss,
        "of the loss": torch.autograd.grad(loss, z, retain_graph=True)[0],
        "of the loss, by centroids": torch.autograd.grad(loss, centroids)[0],
        "labels": labels,
        "confidence": confidence,
        "product": product,
        "of the product": torch.autograd.grad(product.pow(2).sum(), dense)[0],
    }


def inputs(n_obs: int = 10_000) -> tuple[Tensor, Tensor, Csr, Tensor]:
    z, centroids = (t.detach().float().requires_grad_() for t in sample(n_obs, 7, 5))
    random = sp.random(n_obs, 60, 0.1, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    dense = torch.randn(60, 100, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return z, centroids, Csr.from_scipy(random), dense
