"""What operators owe whoever implements them: strides, threads, sizes beyond 2³¹, compilation, and telling misuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ops_samples import inputs, results, sample
from torch import Tensor

from sccagn_scale.ops import (
    Csr,
    csr_matmul,
    implementations,
    student_t_assign,
    student_t_column_sums,
    student_t_kl,
)
from sccagn_scale.ops.student_t import student_t_assign_reference
from sccagn_scale.ops.student_t_loss import student_t_kl_reference

needs_extension = pytest.mark.skipif(
    implementations()["csr_matmul"]["cpu"] != "ext", reason="of the compiled operators (`make ext`)"
)


@needs_extension
def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(results(*inputs()))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert [name for name, value in other.items() if not torch.equal(value, found[0][name])] == []


def test_strides_change_nothing() -> None:
    z, centroids, matrix, dense = inputs(50)
    expected = results(z, centroids, matrix, dense)
    strided = [t.detach().T.contiguous().T.requires_grad_() for t in (z, centroids, dense)]
    assert not any(t.is_contiguous() for t in strided)
    found = results(strided[0], strided[1], matrix, strided[2])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def zeros_on_disk(path: Path, n_rows: int, n_cols: int) -> Tensor:
    """A float32 matrix in a file of holes, which takes memory only as it is read."""
    with path.open("wb") as file:
        file.truncate(4 * n_rows * n_cols)
    return torch.from_file(str(path), shared=True, size=n_rows * n_cols).view(n_rows, n_cols)


@needs_extension
@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 12 * 2**30,
    reason="where the file is in memory, it takes 9 GB",
)
def test_cells_beyond_two_to_the_31_values(tmp_path: Path) -> None:
    """All cells lie on the first centroid but the last three, which lie on the second."""
    n_obs, d = 2**31 // 16 + 5, 16
    z = zeros_on_disk(tmp_path / "z", n_obs, d)
    z[-3:] = 1e4
    centroids = torch.stack([torch.zeros(d), torch.full((d,), 1e4)])
    sums = student_t_column_sums(z, centroids)
    torch.testing.assert_close(sums, torch.tensor([n_obs - 3.0, 3.0], dtype=torch.float64))


def test_a_dense_factor_beyond_two_to_the_31_values(tmp_path: Path) -> None:
    n, width = 2**31 // 64 + 5, 64
    dense = zeros_on_disk(tmp_path / "dense", n, width)
    dense[n - 1] = torch.arange(64.0)
    matrix = Csr(torch.tensor([0, 2]), torch.tensor([0, n - 1]), torch.tensor([5.0, 2.0]), n)
    torch.testing.assert_close(csr_matmul(matrix, dense), 2 * torch.arange(64.0)[None])


def test_operators_are_compiled_without_breaks() -> None:
    z, centroids = sample(50, 4, 3)

    def loss(z: Tensor, centroids: Tensor) -> Tensor:
        q = torch.ops.sccagn.student_t_assign(z, centroids, 1.0)
        sums = torch.ops.sccagn.student_t_column_sums(z.detach(), centroids.detach(), 1.0, 0.5)
        return q.square().sum() + torch.ops.sccagn.student_t_kl(z, centroids, sums, 1.0, 0.5, None, 0.0)[0]

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(function(z, centroids), (z, centroids)) for function in (loss, compiled)]
    torch.testing.assert_close(*found)


def csr_parts(**changes: Any) -> tuple[Any, ...]:
    own = {"indptr": torch.tensor([0, 1, 2]), "indices": torch.tensor([0, 2]), "values": torch.ones(2)} | changes
    return own["indptr"], own["indices"], own["values"]


@needs_extension
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": torch.tensor([0, 3])}, "indices must be columns of the matrix, from 0 to before 3"),
        ({"indices": torch.tensor([0, -1])}, "indices must be columns of the matrix"),
        ({"indptr": torch.tensor([0, 2, 1])}, "indptr must rise"),
        ({"indptr": torch.tensor([0, 1, 3])}, "stay within the stored values"),
        ({"indptr": torch.tensor([-1, 1, 2])}, "stay within the stored values"),
        ({"values": torch.ones(3)}, "must make a CSR matrix"),
        ({"values": torch.ones(2, dtype=torch.float64)}, "values the same or uint8 or uint16"),
        ({"indices": torch.tensor([0.0, 1.0])}, "must be int32 or int64"),
    ],
)
@pytest.mark.parametrize("width", [2, 40])
def test_matrices_that_are_none_are_refused(changes: dict[str, Any], message: str, width: int) -> None:
    for operator, arguments in (
        (torch.ops.sccagn.csr_matmul, (3, None, None, None, torch.ones(3, width))),
        (torch.ops.sccagn.csr_matmul_transposed, (3, torch.ones(2, width))),
    ):
        with pytest.raises(RuntimeError, match=message):
            operator(*csr_parts(**changes), *arguments)


@pytest.mark.parametrize(("n_clusters", "d"), [(2, 2), (1024, 64), (1000, 3), (3, 63)])
def test_few_and_many_clusters_and_dimensions(n_clusters: int, d: int) -> None:
    """Float32 of whoever implements them against plain torch in float64."""
    z, centroids = (t.detach() for t in sample(70, n_clusters, d))
    single = [t.float() for t in (z, centroids)]
    q = student_t_assign_reference(z, centroids, 5.0)
    torch.testing.assert_close(student_t_assign(*single, 5.0).double(), q, rtol=1e-4, atol=1e-6)
    sums = q.square().sum(0)
    torch.testing.assert_close(student_t_column_sums(*single, 5.0), sums, rtol=1e-4, atol=1e-6)
    exact = student_t_kl_reference(z, centroids, sums, 5.0, 0.5, None, 0.0)
    ours = torch.ops.sccagn.student_t_kl(*single, sums, 5.0, 0.5, None, 0.0)
    for found, expected in zip(ours, exact, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()


@needs_extension
@pytest.mark.parametrize("anchor", [4, -1])
def test_anchors_that_are_no_cluster_are_refused(anchor: int) -> None:
    z, centroids = sample(3, 4)
    with pytest.raises(RuntimeError, match="anchor must hold clusters, from 0 to before 4"):
        student_t_kl(z, centroids, torch.ones(4), anchor=torch.tensor([0, 1, anchor]), anchor_share=0.5)


@needs_extension
def test_types_that_differ_are_refused() -> None:
    z, centroids = sample(3, 4)
    with pytest.raises(RuntimeError, match="both be float32 or both float64"):
        student_t_assign(z, centroids.float())


@needs_extension
def test_a_result_that_does_not_fit_is_told_as_torch_tells_it() -> None:
    z = torch.zeros(2**23, 2)
    with pytest.raises(RuntimeError, match="memory"):
        torch.ops.sccagn.student_t_assign(z, z, 1.0)  # 2⁴⁸ bytes
