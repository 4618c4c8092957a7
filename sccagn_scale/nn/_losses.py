"""The losses of scCAGN, each a mean over the cells of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sccagn_scale.nn._layers import NodeFeatures
from sccagn_scale.ops import csr_matmul


def target_distribution(q: Tensor, tau: float = 0.5, column_sums: Tensor | None = None) -> Tensor:
    """Sharpen soft assignments into the target p_ij ∝ s_ij² / Σ_i s_ij with s = q^(1/τ).

    Parameters
    ----------
    q
        Soft assignments [n, n_clusters].
    tau
        Temperature, above 0; below 1 sharpens, 1 gives DEC's target (Xie et al. 2016).
    column_sums
        Σ_i s_ij over all cells [n_clusters]; see `student_t_column_sums`; those of the rows given if None.

    Returns
    -------
    p [n, n_clusters], rows sum to one, detached: a target is a constant.
    """
    log_s = q.detach().log() / tau
    sums = (
        log_s.logsumexp(0)
        if column_sums is None
        else column_sums.clamp_min(torch.finfo(column_sums.dtype).tiny).log().to(q.dtype)
    )
    # a cluster so far away that q is 0 is no target, whatever its sum, which may be of smaller numbers
    return torch.softmax((2 * log_s - sums).masked_fill(q == 0, -torch.inf), dim=1)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q), mean over rows [n, n_clusters]."""
    return F.kl_div(q.clamp_min(torch.finfo(q.dtype).tiny).log(), p, reduction="batchmean")


def reconstruction(hidden: Tensor, output: torch.nn.Linear, x: NodeFeatures) -> Tensor:
    """‖x̂ − x‖² of a cell, mean over cells, for x̂ = h Vᵀ + b.

    Summed over genes, not averaged: cells have unit length, so this is the unexplained share of a cell's norm whatever
    the number of genes, and its weight against the adversarial loss does not depend on G.
    For CSR x the dense x̂ is never formed:

        Σ‖x̂ − x‖² = Σ h (VᵀV) hᵀ + 2 Σ h·Vᵀb + n ‖b‖² − 2 [Σ h·(XV) + Σ Xb] + ‖X‖²

    Parameters
    ----------
    hidden
        Last hidden layer h [n, n_hidden].
    output
        The linear layer with weight V [n_input, n_hidden] and bias b.
    x
        What to reconstruct [n, n_input].
    """
    n = hidden.shape[0]
    if isinstance(x, Tensor):
        return (output(hidden) - x).square().sum() / n
    v, b = output.weight, output.bias
    quadratic = ((hidden @ (v.T @ v)) * hidden).sum() + 2 * (hidden @ (v.T @ b)).sum() + n * b.dot(b)
    cross = (hidden * csr_matmul(x, v)).sum() + csr_matmul(x, b[:, None]).sum()
    return (quadratic - 2 * cross + x.values.square().sum()) / n


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator, from the logits of prior draws and of latent vectors [n, 1]."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    return 0.5 * (F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, zeros))


def generator_loss(fake: Tensor) -> Tensor:
    """Binary cross-entropy of an encoder that wants its latent vectors [n, 1] taken for prior draws."""
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
