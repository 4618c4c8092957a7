"""Student-t soft assignment of cells to centroids (van der Maaten & Hinton 2008; DEC, Xie et al. 2016).

    t_ij = 1 + ‖z_i − μ_j‖² / ν
    q_ij = t_ij^−(ν+1)/2 / Σ_j' t_ij'^−(ν+1)/2

With g the gradient of the loss by q, and a_ij = q_ij · (g_ij − Σ_j' q_ij' g_ij'):

    ∂L/∂z_i = Σ_j c_ij (z_i − μ_j),   ∂L/∂μ_j = −Σ_i c_ij (z_i − μ_j),   c_ij = −(ν+1)/ν · a_ij / t_ij
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

torch.library.define("sccagn::student_t_assign", "(Tensor z, Tensor centroids, float nu) -> Tensor")
torch.library.define(
    "sccagn::student_t_assign_backward",
    "(Tensor grad, Tensor z, Tensor centroids, Tensor q, float nu) -> (Tensor, Tensor)",
)


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
        If the widths differ, `nu` is not positive or there is no centroid.
    """
    check(z, centroids, nu)
    return torch.ops.sccagn.student_t_assign(z, centroids, nu)


def check(z: Tensor, centroids: Tensor, nu: float) -> None:
    """Refuse what no Student-t operator can work on."""
    if z.dim() != 2 or centroids.dim() != 2 or z.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"`z` [n_obs, d] and `centroids` [n_clusters, d] must share d; "
            f"they are {list(z.shape)} and {list(centroids.shape)}."
        )
    if not nu > 0:
        raise ValueError(f"`nu` must be above 0; it is {nu}.")
    if not len(centroids):
        raise ValueError("`centroids` [n_clusters, d] is empty; there must be at least one cluster.")


def check_tau(tau: float) -> None:
    """Refuse what is no temperature of a target."""
    if not tau > 0:
        raise ValueError(f"`tau` must be above 0; it is {tau}.")


@torch.library.register_fake("sccagn::student_t_assign")
def _fake(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    return z.new_empty(z.shape[0], centroids.shape[0])


@torch.library.register_fake("sccagn::student_t_assign_backward")
def _fake_backward(grad: Tensor, z: Tensor, centroids: Tensor, q: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(centroids.shape)


class Kernel(NamedTuple):
    """What is needed of t, each [n_obs, n_clusters]."""

    log_t: Tensor
    inverse_t: Tensor

    def log_q(self, nu: float) -> Tensor:
        """log q; in logarithms, as far cells would underflow to 0 / 0."""
        return torch.log_softmax(-(nu + 1) / 2 * self.log_t, dim=1)


def kernel(z: Tensor, centroids: Tensor, nu: float) -> Kernel:
    """Measure every cell against every centroid."""
    t = 1 + _distances(z, centroids).square() / nu
    if torch.isfinite(t).all():
        return Kernel(t.log(), t.reciprocal())
    # squares that overflow: distances are divided by the largest coordinate first; t = scale² (1 / scale² + …)
    scale = max(points.double().abs().max().item() for points in (z, centroids))
    rest = scale**-2 + _distances(z.double() / scale, centroids.double() / scale).square() / nu
    far = Kernel(rest.log() + 2 * math.log(scale), rest.reciprocal() / scale / scale)
    is_far = t.isinf()  # and not NaN
    return Kernel(
        torch.where(is_far, far.log_t.to(z.dtype), t.log()), torch.where(is_far, far.inverse_t.to(z.dtype), 1 / t)
    )


_CDIST_PAIRS = 2**30
"""On a GPU torch takes one block of threads for each pair, of which it can have 2³¹."""


def _distances(z: Tensor, centroids: Tensor) -> Tensor:
    # exact differences: ‖z‖² + ‖μ‖² − 2zμᵀ loses the small distances, on which q depends most
    blocks = z.split(max(1, _CDIST_PAIRS // len(centroids)))
    parts = [torch.cdist(block, centroids, compute_mode="donot_use_mm_for_euclid_dist") for block in blocks]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gradients(z: Tensor, centroids: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_j c_ij (z_i − μ_j) and −Σ_i c_ij (z_i − μ_j); nothing of shape n_obs × n_clusters × d is formed.

    Both are the same wherever the origin is: amid the centroids no large numbers cancel.
    """
    origin = centroids.mean(dim=0)
    z, centroids = (z - origin).contiguous(), (centroids - origin).contiguous()
    return z * c.sum(dim=1, keepdim=True) - c @ centroids, centroids * c.sum(dim=0)[:, None] - c.T @ z


def only_once() -> None:
    """Refuse to be differentiated a second time: the derivatives of these gradients are not written."""
    if torch.is_grad_enabled():
        raise RuntimeError("Student-t operators have no second derivatives; leave `create_graph` out.")


def student_t_assign_reference(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    return kernel(z, centroids, nu).log_q(nu).exp()


def student_t_assign_backward_reference(
    grad: Tensor, z: Tensor, centroids: Tensor, q: Tensor, nu: float
) -> tuple[Tensor, Tensor]:
    inner = q * (grad - (q * grad).sum(dim=1, keepdim=True))
    return gradients(z, centroids, -(nu + 1) / nu * inner * kernel(z, centroids, nu).inverse_t)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output)
    ctx.nu = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    only_once()
    z, centroids, q = ctx.saved_tensors
    return (*torch.ops.sccagn.student_t_assign_backward(grad, z, centroids, q, ctx.nu), None)


torch.library.impl("sccagn::student_t_assign", "default", student_t_assign_reference)
torch.library.impl("sccagn::student_t_assign_backward", "default", student_t_assign_backward_reference)
torch.library.register_autograd("sccagn::student_t_assign", _backward, setup_context=_setup)
