"""Operators on a GPU, compiled or not, against the CPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from ops_samples import inputs, results, sample

from sccagn_scale.ops import Csr, student_t_column_sums, student_t_kl

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")


def on_gpu(n_obs: int) -> dict[str, torch.Tensor]:
    z, centroids, matrix, dense = inputs(n_obs)
    moved = [t.detach().to(GPU).requires_grad_() for t in (z, centroids, dense)]
    return results(moved[0], moved[1], matrix.to(GPU), moved[2])


@pytest.mark.parametrize("n_obs", [1, 127, 128, 10_000])
def test_results_are_those_of_the_cpu(n_obs: int) -> None:
    expected = results(*inputs(n_obs))
    for name, found in on_gpu(n_obs).items():
        torch.testing.assert_close(found.cpu(), expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_same_input_gives_the_same_bits() -> None:
    first, second = on_gpu(10_000), on_gpu(10_000)
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


@pytest.mark.parametrize(("n_clusters", "d"), [(2, 2), (1024, 64), (33, 1), (100, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_and_many_clusters_and_dimensions(n_clusters: int, d: int, dtype: torch.dtype) -> None:
    exact = [t.detach() for t in sample(300, n_clusters, d)]
    found = []
    for z, centroids in (exact, [t.to(GPU, dtype) for t in exact]):
        sums = student_t_column_sums(z, centroids, 5.0)
        found.append(torch.ops.sccagn.student_t_kl(z, centroids, sums, 5.0, 0.5, None, 0.0))
    for expected, ours in zip(*found, strict=True):
        assert (ours.cpu().double() - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("far", [1e3, 1e15, 1e25])
def test_far_cells_stay_finite(far: float) -> None:
    z = torch.tensor([[far, 0.0], [-far, far], [0.0, 0.0]], device=GPU, requires_grad=True)
    centroids = torch.tensor([[0.0, 0.0], [1.0, 1.0], [far / 2, 0.0]], device=GPU, requires_grad=True)
    loss = student_t_kl(z, centroids, student_t_column_sums(z, centroids))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(centroids.grad).all()


def test_counts_and_narrow_indices() -> None:
    indptr, indices = torch.tensor([0, 2, 2, 3], dtype=torch.int32), torch.tensor([0, 3, 1], dtype=torch.int32)
    values, dense = torch.tensor([200, 3, 7], dtype=torch.uint8), torch.rand(4, 70)
    expected = torch.ops.sccagn.csr_matmul(indptr, indices, values, 4, None, None, None, dense)
    moved = [t.to(GPU) for t in (indptr, indices, values)]
    product = torch.ops.sccagn.csr_matmul(*moved, 4, None, None, None, dense.to(GPU))
    torch.testing.assert_close(product.cpu(), expected)


def test_no_cells_and_no_values() -> None:
    z, centroids = (t.detach().to(GPU) for t in sample(0, 3))
    assert student_t_kl(z, centroids, torch.ones(3, device=GPU)).item() == 0
    empty = Csr(torch.zeros(5, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0), 3).to(GPU)
    dense = torch.ones(3, 2, device=GPU)
    product = torch.ops.sccagn.csr_matmul(empty.indptr, empty.indices, empty.values, 3, None, None, None, dense)
    assert not product.any()
