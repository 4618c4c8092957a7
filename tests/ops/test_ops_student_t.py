"""Soft assignment against closed forms, the plain formula and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_samples import sample
from torch import Tensor

from sccagn_scale.ops import implementations, student_t, student_t_assign

NUS = [0.5, 1.0, 3.0]


def formula(z: Tensor, centroids: Tensor, nu: float) -> Tensor:
    kernel = (1 + (z[:, None] - centroids).square().sum(2) / nu) ** (-(nu + 1) / 2)
    return kernel / kernel.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("nu", "expected"),
    [
        (1.0, [2 / 3, 1 / 3]),  # t = 1, 2; t^-1
        (3.0, [16 / 25, 9 / 25]),  # t = 1, 4/3; t^-2
        (0.5, [3**0.75 / (1 + 3**0.75), 1 / (1 + 3**0.75)]),  # t = 1, 3; t^-0.75
    ],
)
def test_a_cell_on_one_of_two_centroids(nu: float, expected: list[float]) -> None:
    q = student_t_assign(torch.zeros(1, 1), torch.tensor([[0.0], [1.0]]), nu)
    torch.testing.assert_close(q, torch.tensor([expected]))


def test_two_dimensions_by_hand() -> None:
    q = student_t_assign(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]]))
    weights = torch.tensor([1 / 3, 1 / 5, 1 / 10])
    torch.testing.assert_close(q[0], weights / weights.sum())


@pytest.mark.parametrize("nu", NUS)
def test_values_and_gradients_are_those_of_the_formula(nu: float) -> None:
    z, centroids = sample()
    cotangent = torch.rand(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = student_t_assign(z, centroids, nu), formula(z, centroids, nu)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (z, centroids), cotangent), torch.autograd.grad(theirs, (z, centroids), cotangent)
    )


@pytest.mark.parametrize("nu", NUS)
def test_gradcheck(nu: float) -> None:
    assert torch.autograd.gradcheck(lambda *args: student_t_assign(*args, nu), sample(4, 3, 2))


def test_opcheck() -> None:
    z, centroids = sample(4, 3, 2)
    q = student_t_assign(z, centroids).detach()
    for operator, arguments in (
        (torch.ops.sccagn.student_t_assign, (z, centroids, 1.0)),
        (torch.ops.sccagn.student_t_assign_backward, (q, z.detach(), centroids.detach(), q, 1.0)),
    ):
        assert set(torch.library.opcheck(operator.default, arguments).values()) == {"SUCCESS"}


def test_blocks_of_the_distances_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, centroids = sample(50, 7, 3)
    whole = student_t.student_t_assign_reference(z, centroids, 1.0)
    for most in (1, 7 * 9, 7 * 50):
        monkeypatch.setattr(student_t, "_CDIST_PAIRS", most)
        torch.testing.assert_close(student_t.student_t_assign_reference(z, centroids, 1.0), whole, rtol=0, atol=0)


def test_second_derivatives_are_refused() -> None:
    z, centroids = sample(4, 3, 2)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(student_t_assign(z, centroids).square().sum(), z, create_graph=True)


@given(st.integers(0, 20), st.integers(1, 8), st.integers(1, 5), st.floats(1e-3, 1e6), st.sampled_from(NUS))
def test_rows_sum_to_one_and_the_nearest_centroid_wins(
    n_obs: int, n_clusters: int, d: int, spread: float, nu: float
) -> None:
    z, centroids = (spread * t.detach().float() for t in sample(n_obs, n_clusters, d, seed=n_obs))
    q = student_t_assign(z, centroids, nu)
    assert q.shape == (n_obs, n_clusters)
    assert q.dtype == torch.float32
    assert (q >= 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(n_obs))
    if n_obs:
        # not the other way round: among centroids far nearer than ν all q are alike to float32
        nearest = (z[:, None] - centroids).norm(dim=2).argmin(1, keepdim=True)
        torch.testing.assert_close(q.gather(1, nearest).squeeze(1), q.max(1).values)


@pytest.mark.parametrize("far", [1e3, 1e10, 1e18, 1e30])
def test_far_cells_neither_overflow_nor_vanish(far: float) -> None:
    z = torch.tensor([[far, 0.0], [-far, far], [0.0, 0.0]], requires_grad=True)
    centroids = torch.tensor([[0.0, 0.0], [1.0, 1.0], [far, 0.0]], requires_grad=True)
    q = student_t_assign(z, centroids)
    torch.testing.assert_close(q.sum(1), torch.ones(3))
    assert q[0, 2] > 0.99
    q.square().sum().backward()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(centroids.grad).all()


def test_small_distances_survive_a_common_offset() -> None:
    """‖z‖² + ‖μ‖² − 2zμᵀ in float32 would lose them altogether."""
    z, centroids = torch.tensor([[30_000.0]]), torch.tensor([[30_000.0], [30_000.5]])
    torch.testing.assert_close(student_t_assign(z, centroids), torch.tensor([[5 / 9, 4 / 9]]))


def test_gradients_survive_a_common_offset() -> None:
    """A sum of coordinates minus another would leave a few digits of them, or none."""
    rng = torch.Generator().manual_seed(0)
    z, centroids = 30_000 + torch.rand(50, 3, generator=rng), 30_000 + torch.rand(4, 3, generator=rng)
    grad = torch.rand(50, 4, generator=rng)
    found = []
    for dtype in (torch.float32, torch.float64):
        points = [t.detach().to(dtype).requires_grad_() for t in (z, centroids)]
        (student_t_assign(*points) * grad.to(dtype)).sum().backward()
        found.append([point.grad.double() for point in points])  # type: ignore[union-attr]
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-4 * double.abs().max().item())


def test_identical_points_are_shared_evenly_without_a_pull() -> None:
    z = torch.ones(5, 3, requires_grad=True)
    centroids = torch.ones(4, 3, requires_grad=True)
    q = student_t_assign(z, centroids)
    torch.testing.assert_close(q, torch.full((5, 4), 0.25))
    (q * torch.arange(4.0)).sum().backward()
    assert not z.grad.any()
    assert not centroids.grad.any()


def test_one_cluster_takes_all() -> None:
    z, centroids = sample(6, 1)
    q = student_t_assign(z, centroids)
    assert q.tolist() == [[1.0]] * 6
    q.square().sum().backward()
    assert not z.grad.any()


def test_no_cells() -> None:
    z, centroids = sample(0, 3)
    q = student_t_assign(z, centroids)
    assert q.shape == (0, 3)
    q.sum().backward()
    assert centroids.grad.tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize("shapes", [((3, 2), (4, 3)), ((3,), (4, 3)), ((3, 2), (2,))])
def test_wrong_shapes_are_told(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"`z` \[n_obs, d\] and `centroids` \[n_clusters, d\] must share d"):
        student_t_assign(*(torch.ones(shape) for shape in shapes))


def test_no_clusters_are_told() -> None:
    with pytest.raises(ValueError, match="at least one cluster"):
        student_t_assign(torch.ones(3, 2), torch.ones(0, 2))


@pytest.mark.parametrize("nu", [0.0, -1.0, float("nan")])
def test_degrees_of_freedom_must_be_positive(nu: float) -> None:
    with pytest.raises(ValueError, match="`nu` must be above 0"):
        student_t_assign(torch.ones(1, 1), torch.ones(1, 1), nu)


def test_implementations_name_every_operator_and_notice_an_extension() -> None:
    before = implementations()
    assert set(before) >= {"csr_matmul", "student_t_assign", "student_t_kl", "student_t_label"}
    assert all(set(devices) == {"cpu", "cuda"} for devices in before.values())
    assert {name for devices in before.values() for name in devices.values()} <= {"reference", "ext"}
    if before["csr_matmul"]["cuda"] == "reference":
        with torch.library._scoped_library("sccagn", "IMPL") as library:
            library.impl("csr_matmul", lambda *args: args[-1], "CUDA")
            after = implementations()
        before["csr_matmul"]["cuda"] = "ext"
        assert after == before
