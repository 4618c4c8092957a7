"""What operators owe whoever implements them: strides, threads, sizes beyond 2³¹, compilation, and telling misuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from ops_samples import sample
from torch import Tensor

from sccagn_scale.ops import (
    Csr,
    csr_matmul,
    implementations,
    student_t_assign,
    student_t_column_sums,
    student_t_kl,
    student_t_label,
)

needs_extension = pytest.mark.skipif(
    implementations()["csr_matmul"]["cpu"] != "ext", reason="of the compiled operators (`make ext`)"
)


def results(z: Tensor, centroids: Tensor, matrix: Csr, dense: Tensor) -> dict[str, Tensor]:
    """Everything that operators and their gradients give."""
    q = student_t_assign(z, centroids, 3.0)
    sums = student_t_column_sums(z, centroids, 3.0)
    anchor = torch.arange(len(z)) % len(centroids)
    loss = student_t_kl(z, centroids, sums, nu=3.0, anchor=anchor, anchor_share=0.5)
    product = csr_matmul(matrix, dense)
    labels, confidence = student_t_label(z, centroids, 3.0)
    return {
        "q": q,
        "of q": torch.autograd.grad(q.pow(2).sum(), z, retain_graph=True)[0],
        "of q, by centroids": torch.autograd.grad(q.pow(2).sum(), centroids)[0],
        "sums": sums,
        "loss": loss,
        "of the loss": torch.autograd.grad(loss, z, retain_graph=True)[0],
        "of the loss, by centroids": torch.autograd.grad(loss, centroids)[0],
        "labels": labels,
        "confidence": confidence,
        "product": product,
        "of the product": torch.autograd.grad(product.pow(2).sum(), dense)[0],
    }


def inputs(n_obs: int = 10_000) -> tuple[Tensor, Tensor, Csr, Tensor]:
    z, centroids = (t.detach().float().requires_grad_() for t in sample(n_obs, 7, 5))
    random = sp.random(n_obs, 60, 0.1, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    dense = torch.randn(60, 100, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return z, centroids, Csr.from_scipy(random), dense


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
    """A float32 matrix in a file of holes: larger than memory needs to be."""
    with path.open("wb") as file:
        file.truncate(4 * n_rows * n_cols)
    return torch.from_file(str(path), shared=True, size=n_rows * n_cols).view(n_rows, n_cols)


@needs_extension
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
