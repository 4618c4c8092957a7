"""The clustering loss in one pass: against its formula put together from parts, and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_samples import sample
from torch import Tensor
from torch.nn.functional import one_hot

from sccagn_scale.ops import student_t_column_sums, student_t_kl


def formula(
    z: Tensor, centroids: Tensor, sums: Tensor, nu: float, tau: float, anchor: Tensor | None, share: float
) -> Tensor:
    q = (1 + (z[:, None] - centroids).square().sum(2) / nu) ** (-(nu + 1) / 2)
    q = q / q.sum(1, keepdim=True)
    p = q.detach() ** (2 / tau) / sums
    p = p / p.sum(1, keepdim=True)
    if anchor is not None:
        p = (1 - share) * p + share * one_hot(anchor, len(centroids)).to(p.dtype)
    return (torch.xlogy(p, p) - p * q.log()).sum() / len(z)


@given(
    st.integers(1, 80),
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([0.5, 1.0, 24.0]),
    st.sampled_from([0.3, 0.5, 2.0]),
    st.sampled_from([None, 0.25, 0.9, 1.0]),
)
def test_value_and_gradients_are_those_of_the_formula(
    n_obs: int, n_clusters: int, d: int, nu: float, tau: float, share: float | None
) -> None:
    z, centroids = sample(n_obs, n_clusters, d, seed=n_obs + n_clusters)
    sums = student_t_column_sums(z, centroids, nu, tau=tau)
    anchor = None if share is None else torch.arange(n_obs) % n_clusters
    options = {"nu": nu, "tau": tau, "anchor": anchor, "anchor_share": share or 0.0}
    ours = student_t_kl(z, centroids, sums, **options)
    theirs = formula(z, centroids, sums, nu, tau, anchor, share or 0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(3 * loss, (z, centroids)) for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nu", [1.0, 24.0])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_float32_is_near_float64(nu: float, share: float) -> None:
    z, centroids = sample(5000, 12, 24)
    anchor = torch.arange(5000) % 12
    results = []
    for dtype in (torch.float32, torch.float64):
        own = [t.detach().to(dtype).requires_grad_() for t in (z, centroids)]
        sums = student_t_column_sums(*own, nu)
        loss = student_t_kl(*own, sums, nu=nu, anchor=anchor, anchor_share=share)
        results.append([t.double() for t in (loss, *torch.autograd.grad(loss, own))])
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).norm() < 2e-5 * exact.norm()


def test_gradcheck() -> None:
    z, centroids = sample(4, 3, 2)

    def loss(centroids: Tensor) -> Tensor:
        # with all of a cell's target on its anchor the target does not move with the centroids
        return student_t_kl(z.detach(), centroids, torch.ones(3), anchor=torch.tensor([0, 1, 2, 0]), anchor_share=1.0)

    assert torch.autograd.gradcheck(loss, centroids)


def test_opcheck() -> None:
    arguments = (*sample(4, 3, 2), torch.ones(3, dtype=torch.float64), 1.0, 0.5, torch.tensor([0, 1, 2, 0]), 0.5)
    checked = torch.library.opcheck(torch.ops.sccagn.student_t_kl.default, arguments)
    assert set(checked.values()) == {"SUCCESS"}


def test_a_target_equal_to_the_assignment_costs_nothing_and_pulls_nowhere() -> None:
    """With τ = 2 and even sums the target is q itself."""
    z, centroids = sample(20, 4)
    loss = student_t_kl(z, centroids, torch.ones(4), tau=2.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert z.grad.abs().max() < 1e-12


def test_a_cell_between_two_centroids_by_hand() -> None:
    """q = ½, ½; anchored altogether the loss is log 2 and the pull ½ · (ν+1)/ν · (z − µ) / t to each side."""
    z = torch.zeros(1, 1, requires_grad=True)
    loss = student_t_kl(z, torch.tensor([[-1.0], [1.0]]), torch.ones(2), anchor=torch.tensor([0]), anchor_share=1.0)
    assert loss.item() == pytest.approx(0.6931472)
    loss.backward()
    assert z.grad.item() == pytest.approx(0.5 * 2 * 1 / 2 + 0.5 * 2 * 1 / 2)


@pytest.mark.parametrize("far", [1e3, 1e15, 1e25])
def test_far_cells_neither_overflow_nor_vanish(far: float) -> None:
    z = torch.tensor([[far, 0.0], [-far, far], [0.0, 0.0]], requires_grad=True)
    centroids = torch.tensor([[0.0, 0.0], [1.0, 1.0], [far / 2, 0.0]], requires_grad=True)
    loss = student_t_kl(z, centroids, student_t_column_sums(z, centroids))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(centroids.grad).all()


def test_a_cluster_of_which_nothing_is_left_costs_nothing() -> None:
    """Powers of small q leave even float64, where the temperature is low."""
    z, centroids = torch.tensor([[0.0, 0.1], [0.1, 0.0]]).requires_grad_(), torch.tensor([[0.0, 0.0], [99.0, 0.0]])
    sums = student_t_column_sums(z, centroids, tau=0.01)
    assert sums[0] > 0
    assert sums[1] == 0
    loss = student_t_kl(z, centroids, sums, tau=0.01)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-3)
    assert torch.isfinite(z.grad).all()


def test_no_cells_cost_nothing() -> None:
    z, centroids = sample(0, 3)
    loss = student_t_kl(z, centroids, torch.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert not centroids.grad.any()


def test_second_derivatives_are_refused() -> None:
    z, centroids = sample()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(student_t_kl(z, centroids, torch.ones(4)), z, create_graph=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column_sums": torch.ones(3)}, r"`column_sums` must have one sum for each of 4 clusters; it is \[3\]"),
        ({"tau": 0.0}, "`tau` must be above 0; it is 0.0"),
        ({"nu": -1.0}, "`nu` must be above 0; it is -1.0"),
        ({"anchor": torch.zeros(3, dtype=torch.int64), "anchor_share": 0.5}, "`anchor` must have one cluster for each"),
        ({"anchor": torch.zeros(9, dtype=torch.int64), "anchor_share": 1.5}, "`anchor_share` must be between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, object], message: str) -> None:
    z, centroids = sample()
    arguments = {"column_sums": torch.ones(4)} | changes
    with pytest.raises(ValueError, match=message):
        student_t_kl(z, centroids, **arguments)  # type: ignore[arg-type]
