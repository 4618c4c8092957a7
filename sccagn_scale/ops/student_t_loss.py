"""The clustering loss of soft assignments, and its gradients, in one pass over the cells (DEC, Xie et al. 2016).

    s_ij = q_ij^(1/τ),   p_ij ∝ s_ij² / Σ_i s_ij,   p ← (1 − a) p + a · onehot(anchor)
    L = 1/n Σ_ij p_ij (log p_ij − log q_ij)

with q of `student_t_assign`, the column sums Σ_i s_ij over all cells given, and p treated as constant. Then

    ∂L/∂z_i = Σ_j c_ij (z_i − μ_j),   ∂L/∂μ_j = −Σ_i c_ij (z_i − μ_j),   c_ij = (ν+1)/ν · (p_ij − q_ij) / (n · t_ij)

Forward computes both gradients along with the loss, so q and p need not outlive a block of cells; the reference, in
plain torch, holds them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sccagn_scale.ops.student_t import check, check_tau, gradients, kernel, only_once

torch.library.define(
    "sccagn::student_t_kl",
    "(Tensor z, Tensor centroids, Tensor column_sums, float nu, float tau, Tensor? anchor, float anchor_share)"
    " -> (Tensor, Tensor, Tensor)",
)


def student_t_kl(
    z: Tensor,
    centroids: Tensor,
    column_sums: Tensor,
    *,
    nu: float = 1.0,
    tau: float = 0.5,
    anchor: Tensor | None = None,
    anchor_share: float = 0.0,
) -> Tensor:
    """KL(P‖Q), mean over cells, of the sharpened target P against the soft assignments Q.

    Parameters
    ----------
    z, centroids, nu
        See `student_t_assign`.
    column_sums
        Σ_i q_ij^(1/τ) over all cells [n_clusters], from `student_t_column_sums`.
    tau
        Temperature of the target, above 0.
    anchor, anchor_share
        A cluster for each cell, int64 [n_obs], and its share a of the target, 0 to 1.

    Returns
    -------
    The loss, a scalar; zero without cells. Gradients flow to `z` and `centroids`, once.

    Raises
    ------
    ValueError
        As `student_t_assign` does, or for column sums, temperature or anchors that do not fit.
    """
    check(z, centroids, nu)
    check_tau(tau)
    if column_sums.shape != (len(centroids),):
        raise ValueError(
            f"`column_sums` must have one sum for each of {len(centroids)} clusters; it is {list(column_sums.shape)}."
        )
    if anchor is not None and anchor.shape != (len(z),):
        raise ValueError(f"`anchor` must have one cluster for each of {len(z)} cells; it is {list(anchor.shape)}.")
    if not 0 <= anchor_share <= 1:
        raise ValueError(f"`anchor_share` must be between 0 and 1; it is {anchor_share}.")
    if not anchor_share:
        anchor = None
    return torch.ops.sccagn.student_t_kl(z, centroids, column_sums, nu, tau, anchor, anchor_share)[0]


@torch.library.register_fake("sccagn::student_t_kl")
def _fake(z: Tensor, centroids: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(()), z.new_empty(z.shape), z.new_empty(centroids.shape)


def student_t_kl_reference(
    z: Tensor,
    centroids: Tensor,
    column_sums: Tensor,
    nu: float,
    tau: float,
    anchor: Tensor | None,
    anchor_share: float,
) -> tuple[Tensor, Tensor, Tensor]:
    found = kernel(z, centroids, nu)
    log_q = found.log_q(nu)
    sums = column_sums.double().clamp_min(torch.finfo(torch.float64).tiny)
    p = torch.softmax(2 / tau * log_q - sums.log().to(z.dtype), dim=1)
    if anchor is not None:
        p = torch.lerp(p, torch.nn.functional.one_hot(anchor, len(centroids)).to(p.dtype), anchor_share)
    n = max(len(z), 1)
    loss = (torch.xlogy(p, p) - p * log_q).sum() / n
    return loss, *gradients(z, centroids, (nu + 1) / nu * (p - log_q.exp()) * found.inverse_t / n)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    only_once()
    grad_z, grad_centroids = ctx.saved_tensors
    return grad * grad_z, grad * grad_centroids, None, None, None, None, None


torch.library.impl("sccagn::student_t_kl", "default", student_t_kl_reference)
torch.library.register_autograd("sccagn::student_t_kl", _backward, setup_context=_setup)
