"""Losses against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nn_samples import N_OBS, N_VARS, cells
from scipy.stats import entropy
from torch import Tensor

from sccagn_scale.nn import (
    discriminator_loss,
    generator_loss,
    kl_divergence,
    reconstruction,
    target_distribution,
)
from sccagn_scale.ops import student_t_assign, student_t_column_sums


def soft(n_obs: int = 50, n_clusters: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_obs, n_clusters, dtype=torch.float64, generator=generator).softmax(1)


def sharpened(q: np.ndarray, tau: float) -> np.ndarray:
    s = q ** (1 / tau)
    p = s**2 / s.sum(0)
    return p / p.sum(1, keepdims=True)


def test_reconstruction_of_sparse_cells_is_the_dense_loss_and_gradient() -> None:
    batch = cells()
    torch.manual_seed(0)
    output = torch.nn.Linear(7, N_VARS).double()
    hidden = torch.randn(N_OBS, 7, dtype=torch.float64, requires_grad=True)
    learned = (hidden, output.weight, output.bias)
    losses = [reconstruction(hidden, output, x) for x in (batch.sparse, batch.dense)]
    assert losses[0].item() == pytest.approx((output(hidden) - batch.dense).square().sum(1).mean().item(), abs=1e-12)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(loss, learned) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_reconstruction_passes_gradcheck() -> None:
    batch = cells(9)
    torch.manual_seed(0)
    output = torch.nn.Linear(3, N_VARS).double()
    hidden = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)

    def loss(*_: Tensor) -> Tensor:  # gradcheck changes the parameters in place
        return reconstruction(hidden, output, batch.sparse)

    assert torch.autograd.gradcheck(loss, (hidden, output.weight, output.bias))


def test_reconstruction_of_cells_rebuilt_without_error_is_zero() -> None:
    output = torch.nn.Linear(N_VARS, N_VARS).double()
    with torch.no_grad():
        output.weight.copy_(torch.eye(N_VARS))
        output.bias.zero_()
    batch = cells()
    assert reconstruction(batch.dense, output, batch.sparse).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0, 2.0])
def test_target_is_the_formula(tau: float) -> None:
    q = soft()
    p = target_distribution(q, tau)
    np.testing.assert_allclose(p.numpy(), sharpened(q.numpy(), tau), atol=1e-12)


def test_a_lower_temperature_is_surer() -> None:
    q = soft()
    confidence = [target_distribution(q, tau).max(1).values.mean().item() for tau in (2.0, 1.0, 0.5, 0.25)]
    assert confidence == sorted(confidence)
    assert confidence[0] < confidence[-1]


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
def test_batches_with_the_sums_of_all_cells_give_the_target_of_all_cells(tau: float) -> None:
    q = soft()
    batches = q.split(13)
    sums = q.pow(1 / tau).sum(0)
    joined = torch.cat([target_distribution(batch, tau, sums) for batch in batches])
    torch.testing.assert_close(joined, target_distribution(q, tau))


def test_a_target_is_a_constant() -> None:
    q = soft().requires_grad_()
    assert not target_distribution(q).requires_grad


def test_a_cluster_of_which_nothing_is_left_is_no_target() -> None:
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(target_distribution(q, column_sums=q.sum(0)), q)


def test_certain_assignments_stay_finite() -> None:
    q = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    p = target_distribution(q)
    torch.testing.assert_close(p, q)
    assert kl_divergence(p, q).item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(kl_divergence(p, q.flip(0)))


def test_the_smallest_temperature_allowed_is_no_nan() -> None:
    q = torch.full((5, 30), 1 / 30)
    torch.testing.assert_close(target_distribution(q, 0.01, q.double().pow(100).sum(0)), q)


def test_a_cluster_out_of_reach_is_no_target() -> None:
    """q is below the smallest float32 there; the column sums are not below the smallest float64."""
    z, centroids = 0.1 * torch.randn(50, 200, generator=torch.manual_seed(0)), torch.zeros(2, 200)
    centroids[1, 0] = 60
    q = student_t_assign(z, centroids, 200.0)
    sums = student_t_column_sums(z, centroids, 200.0)
    assert not q[:, 1].any()
    assert (sums > 0).all()
    for column_sums in (sums, None):
        torch.testing.assert_close(target_distribution(q, 0.5, column_sums), q)


def test_kl_divergence_is_scipys_mean_over_rows() -> None:
    p, q = soft(seed=1), soft(seed=2)
    expected = entropy(p.numpy(), q.numpy(), axis=1).mean()
    assert kl_divergence(p, q).item() == pytest.approx(expected, rel=1e-12)
    assert kl_divergence(p, p).item() == pytest.approx(0, abs=1e-12)


def test_kl_divergence_counts_no_cluster_that_the_target_leaves_out() -> None:
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]])
    assert kl_divergence(p, q).item() == pytest.approx(math.log(4))


def test_adversarial_losses_of_an_undecided_and_of_a_sure_critic() -> None:
    undecided, sure = torch.zeros(5, 1), torch.full((5, 1), 20.0)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(math.log(2))
    assert generator_loss(undecided).item() == pytest.approx(math.log(2))
    assert discriminator_loss(sure, -sure).item() == pytest.approx(0, abs=1e-6)
    assert discriminator_loss(-sure, sure).item() == pytest.approx(20, rel=1e-6)
    assert generator_loss(sure).item() == pytest.approx(0, abs=1e-6)
    assert generator_loss(-sure).item() == pytest.approx(20, rel=1e-6)
