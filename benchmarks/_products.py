"""Sparse × dense, forward and backward by the dense factor: what is multiplied, and by which means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import scipy.sparse as sp
    from torch import Tensor

# Rows, columns, share of stored values, columns of the dense factor: genes of a batch of cells.
GENES = (2048, 2000, 0.08, 100)

Steps = tuple[Callable[[], "Tensor"], Callable[[], "Tensor"]]
"""Forward and backward."""


def factors(n_rows: int, n_cols: int, density: float, width: int) -> tuple[sp.csr_matrix, Tensor, Tensor]:
    """The sparse factor, the dense one, and the gradient by their product: uniform numbers, always the same."""
    import numpy as np
    import scipy.sparse as sp
    import torch

    matrix = sp.random(n_rows, n_cols, density, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(n_cols, width, generator=generator)
    return matrix, dense, torch.rand(n_rows, width, generator=generator)


def by_operator(matrix: sp.csr_matrix, dense: Tensor, cotangent: Tensor) -> Steps:
    """Our operators. If a transpose is made, it is a part of backward, as in training."""
    import torch

    from sccagn_scale.ops import Csr, csr_matmul, implementations

    held = Csr.from_scipy(matrix).to(dense.device)
    parts = (held.indptr, held.indices, held.values, held.n_cols)
    if implementations()["csr_matmul_transposed"][dense.device.type] == "ext":
        return lambda: csr_matmul(held, dense), lambda: torch.ops.sccagn.csr_matmul_transposed(*parts, cotangent)
    return lambda: csr_matmul(held, dense), lambda: csr_matmul(Csr(*parts).T, cotangent)


def by_torch_csr(matrix: sp.csr_matrix, dense: Tensor, cotangent: Tensor) -> Steps:
    """Torch's own sparse tensors."""
    import warnings

    import torch

    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    arrays = [torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data)]
    held = torch.sparse_csr_tensor(*arrays, matrix.shape, check_invariants=False).to(dense.device)
    return differentiated(lambda b: held @ b, dense, cotangent)


def by_dense(matrix: sp.csr_matrix, dense: Tensor, cotangent: Tensor) -> Steps:
    """As if nothing were sparse."""
    import torch

    filled = torch.from_numpy(matrix.toarray()).to(dense.device)
    return differentiated(lambda b: filled @ b, dense, cotangent)


def differentiated(product: Callable[[Tensor], Tensor], dense: Tensor, cotangent: Tensor) -> Steps:
    """Forward without a graph, and backward through a graph that stands."""
    import torch

    leaf = dense.clone().requires_grad_()
    output = product(leaf)
    return lambda: product(dense), lambda: torch.autograd.grad(output, leaf, cotangent, retain_graph=True)[0]
