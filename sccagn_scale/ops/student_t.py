"""Student-t soft assignment of cells to centroids (van der Maaten & Hinton 2008; DEC, Xie et al. 2016).

    t_ij = 1 + ‖z_i − μ_j‖² / ν
    q_ij = t_ij^−(ν+1)/2 / Σ_j' t_ij'^−(ν+1)/2

With g the gradient of the loss by q, and a_ij = q_ij · (g_ij − Σ_j' q_ij' g_ij'):

    ∂L/∂z_i = Σ_j c_ij (z_i − μ_j),   ∂L/∂μ_j = −Σ_i c_ij (z_i − μ_j),   c_ij = −(ν+1)/ν · a_ij / t_ij
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

torch.library.define("sccagn::student_t_assign", "(Tensor z, Tensor centroids, float nu) -> Tensor")


def student_t_assign(z: Tensor, centroids: Tensor, nu: float = 1.0) -> Tensor:
    """Assign every cell softly to every centroid.

    Parameters
    ----------
    z
        Embedding [n_obs, n_latent].
    centroids
        Cluster centres [n_clusters, n_latent], same dtype and device.
    nu
        Degrees of freedom, above 0; small values have heavy tails.

    Returns
    -------
    q [n_obs, n_clusters], rows sum to one.

    Raises
    ------
    ValueError
        If the widths differ or `nu` is not positive.
    """
    if z.dim() != 2 or centroids.dim() != 2 or z.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"`z` [n_obs, d] and `centroids` [n_clusters, d] must share d; "
            f"they are {list(z.shape)} and {list(centroids.shape)}."
        )
    if not nu > 0:
        raise ValueError(f"`nu` must be above 0; it is {nu}.")
    return torch.ops.sccagn.student_t_assign(z, centroids, nu)


@torch.library.register_fake("sccagn::student_t_assign")
def _fake(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    return z.new_empty(z.shape[0], centroids.shape[0])


def _kernel(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    # exact differences: ‖z‖² + ‖μ‖² − 2zμᵀ loses the small distances, on which q depends most
    squared = torch.cdist(z, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    return 1 + squared / nu  # t [n_obs, n_clusters]


@torch.library.impl("sccagn::student_t_assign", "default")
def _reference(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    # in logarithms: far cells would underflow to 0 / 0
    return torch.softmax(-(nu + 1) / 2 * _kernel(z, centroids, nu).log(), dim=1)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output)
    ctx.nu = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    z, centroids, q = ctx.saved_tensors
    inner = q * (grad - (q * grad).sum(dim=1, keepdim=True))
    c = -(ctx.nu + 1) / ctx.nu * inner / _kernel(z, centroids, ctx.nu)  # [n_obs, n_clusters]
    # Σ_j c_ij (z_i − μ_j) = z_i Σ_j c_ij − (cμ)_i, so nothing of shape n_obs × n_clusters × d is formed
    grad_z = z * c.sum(dim=1, keepdim=True) - c @ centroids
    grad_centroids = centroids * c.sum(dim=0)[:, None] - c.T @ z
    return grad_z, grad_centroids, None


torch.library.register_autograd("sccagn::student_t_assign", _backward, setup_context=_setup)
