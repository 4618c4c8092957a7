"""Sparse × dense: Y = A·B for a constant CSR matrix A and a dense B that is learned.

    ∂L/∂B = Aᵀ · ∂L/∂Y

A carries its transpose as CSR too, so that the gradient is another CSR product with contiguous rows: scattering into
the gradient, as torch's own CSR backward does, is several times slower on the CPU. The same operator serves the input
layer (cells × genes times weights), the reconstruction loss and the aggregation over the cell graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

torch.library.define(
    "sccagn::csr_matmul",
    "(Tensor indptr, Tensor indices, Tensor values, Tensor t_indptr, Tensor t_indices, Tensor t_values, Tensor dense)"
    " -> Tensor",
)


@dataclass(frozen=True, eq=False)
class Csr:
    """A constant sparse matrix [n_rows, n_cols] with its transpose, both CSR."""

    indptr: Tensor  # int64 [n_rows + 1]
    indices: Tensor  # int64 [nnz]
    values: Tensor  # float [nnz]
    n_cols: int
    _transposed: list[Csr] = field(default_factory=list, repr=False)

    @classmethod
    def from_scipy(cls, matrix: sp.csr_matrix, *, symmetric: bool = False, dtype: torch.dtype = torch.float32) -> Csr:
        """Share (where dtypes allow) a scipy CSR matrix, and make its transpose unless it is `symmetric`."""
        forward = cls._one_way(matrix, dtype)
        if symmetric:
            forward._transposed.append(forward)
        else:
            backward = cls._one_way(matrix.T.tocsr(), dtype)
            forward._transposed.append(backward)
            backward._transposed.append(forward)
        return forward

    @classmethod
    def _one_way(cls, matrix: sp.csr_matrix, dtype: torch.dtype) -> Csr:
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.indices.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.data).to(dtype),
            matrix.shape[1],
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.indptr) - 1, self.n_cols

    @property
    def T(self) -> Csr:
        """The transpose, shared, not computed."""
        return self._transposed[0]

    @property
    def edge_index(self) -> Tensor:
        """PyG's `edge_index` [2, nnz], source → target: row i that stores column j is the edge j → i."""
        return torch.stack([self.indices, self.row_of_value()])

    def row_of_value(self) -> Tensor:
        """Row of every stored value, int64 [nnz]."""
        rows = torch.arange(self.shape[0], device=self.indptr.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.indices))

    def to(self, device: torch.device) -> Csr:
        """Copy to a device; a symmetric matrix stays one matrix."""
        if self.indptr.device == device:
            return self
        forward = self._moved(device)
        if self.T is self:
            forward._transposed.append(forward)
        else:
            backward = self.T._moved(device)
            forward._transposed.append(backward)
            backward._transposed.append(forward)
        return forward

    def _moved(self, device: torch.device) -> Csr:
        return Csr(self.indptr.to(device), self.indices.to(device), self.values.to(device), self.n_cols)

    def to_dense(self) -> Tensor:
        """Fill in the zeros: [n_rows, n_cols]."""
        dense = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        return dense.index_put_((self.row_of_value(), self.indices), self.values, accumulate=True)


def csr_matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """Multiply a constant CSR matrix with a dense one.

    Parameters
    ----------
    matrix
        A [n_rows, n_cols].
    dense
        B [n_cols, width], same dtype and device.

    Returns
    -------
    A·B [n_rows, width]; gradients flow to `dense` only.

    Raises
    ------
    ValueError
        If the inner dimensions differ.
    """
    if dense.dim() != 2 or dense.shape[0] != matrix.n_cols:
        raise ValueError(
            f"`dense` must be [{matrix.n_cols}, width] to follow {matrix.shape}; it is {list(dense.shape)}."
        )
    t = matrix.T
    return torch.ops.sccagn.csr_matmul(
        matrix.indptr, matrix.indices, matrix.values, t.indptr, t.indices, t.values, dense
    )


@torch.library.register_fake("sccagn::csr_matmul")
def _fake(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    t_indptr: Tensor,
    t_indices: Tensor,
    t_values: Tensor,
    dense: Tensor,
) -> Tensor:
    return dense.new_empty(indptr.shape[0] - 1, dense.shape[1])


@torch.library.impl("sccagn::csr_matmul", "default")
def _reference(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    t_indptr: Tensor,
    t_indices: Tensor,
    t_values: Tensor,
    dense: Tensor,
) -> Tensor:
    shape = (indptr.shape[0] - 1, t_indptr.shape[0] - 1)
    with warnings.catch_warnings():  # torch calls its CSR support a beta; what is used of it here is tested
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, values, shape, check_invariants=False) @ dense


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    indptr, indices, values, t_indptr, t_indices, t_values = ctx.saved_tensors
    grad = torch.ops.sccagn.csr_matmul(t_indptr, t_indices, t_values, indptr, indices, values, grad.contiguous())
    return None, None, None, None, None, None, grad


torch.library.register_autograd("sccagn::csr_matmul", _backward, setup_context=_setup)
