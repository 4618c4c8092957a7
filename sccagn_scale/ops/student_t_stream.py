"""Column sums, labels and confidence of soft assignments in blocks: q [n_obs, n_clusters] is never held as a whole.

q is that of `student_t_assign`. The reference goes through the cells in blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sccagn_scale.ops.student_t import check, check_tau, kernel

BLOCK_SIZE = 65_536  # cells

torch.library.define("sccagn::student_t_column_sums", "(Tensor z, Tensor centroids, float nu, float tau) -> Tensor")
torch.library.define("sccagn::student_t_label", "(Tensor z, Tensor centroids, float nu) -> (Tensor, Tensor)")


class Assignment(NamedTuple):
    """Each cell's cluster, and how sure that is."""

    labels: Tensor  # int64 [n_obs]
    confidence: Tensor  # float [n_obs], in (0, 1]


@torch.no_grad()
def student_t_column_sums(z: Tensor, centroids: Tensor, nu: float = 1.0, *, tau: float = 0.5) -> Tensor:
    """Σ_i q_ij^(1/τ) over all cells: the one global quantity of the target. Those of batches add up.

    Parameters
    ----------
    z, centroids, nu
        See `student_t_assign`.
    tau
        Temperature of the target, above 0.

    Returns
    -------
    [n_clusters], float64, since powers of small q leave float32 where τ is small; no gradient.

    Raises
    ------
    ValueError
        As `student_t_assign` does, or if `tau` is not positive.
    """
    check(z, centroids, nu)
    check_tau(tau)
    return torch.ops.sccagn.student_t_column_sums(z, centroids, nu, tau)


@torch.no_grad()
def student_t_label(z: Tensor, centroids: Tensor, nu: float = 1.0) -> Assignment:
    """Give every cell its likeliest cluster, the first of equals.

    Parameters
    ----------
    z, centroids, nu
        See `student_t_assign`.

    Returns
    -------
    argmax_j q_ij and max_j q_ij; no gradient.

    Raises
    ------
    ValueError
        As `student_t_assign` does.
    """
    check(z, centroids, nu)
    return Assignment(*torch.ops.sccagn.student_t_label(z, centroids, nu))


@torch.library.register_fake("sccagn::student_t_column_sums")
def _fake_column_sums(z: Tensor, centroids: Tensor, nu: float, tau: float) -> Tensor:
    return z.new_empty(centroids.shape[0], dtype=torch.float64)


@torch.library.register_fake("sccagn::student_t_label")
def _fake_label(z: Tensor, centroids: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape[0], dtype=torch.int64), z.new_empty(z.shape[0])


def student_t_column_sums_reference(z: Tensor, centroids: Tensor, nu: float, tau: float) -> Tensor:
    total = torch.zeros(len(centroids), dtype=torch.float64, device=z.device)
    for block in z.split(BLOCK_SIZE):
        total += (kernel(block, centroids, nu).log_q(nu).double() / tau).exp().sum(dim=0)
    return total


def student_t_label_reference(z: Tensor, centroids: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    best = [kernel(block, centroids, nu).log_q(nu).exp().max(dim=1) for block in z.split(BLOCK_SIZE)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


torch.library.impl("sccagn::student_t_column_sums", "default", student_t_column_sums_reference)
torch.library.impl("sccagn::student_t_label", "default", student_t_label_reference)
