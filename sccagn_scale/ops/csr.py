"""Sparse × dense: Y = A·B for a constant CSR matrix A and a dense B that is learned.

    ∂L/∂B = Aᵀ · ∂L/∂Y

A has its transpose as CSR too, made when first a gradient needs it, so that the gradient is another CSR product with
contiguous rows: scattering into the gradient, as torch's own CSR backward does, is several times slower on the CPU. The
same operator serves the input layer (cells × genes times weights), the reconstruction loss and the aggregation over the
cell graph.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
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
    """A constant sparse matrix [n_rows, n_cols], CSR, and its transpose once that is asked for, CSR too."""

    indptr: Tensor  # int64 [n_rows + 1]
    indices: Tensor  # int64 [nnz]
    values: Tensor  # float [nnz]
    n_cols: int
    symmetric: bool = False
    # how to get the transpose, once there is one; it knows its origin weakly, or memory would wait for the collector
    _transposed: list[Callable[[], Csr | None]] = field(default_factory=list, repr=False)

    @classmethod
    def from_scipy(cls, matrix: sp.csr_matrix, *, symmetric: bool = False, dtype: torch.dtype = torch.float32) -> Csr:
        """Share (where dtypes allow) a scipy CSR matrix; a `symmetric` one is its own transpose."""
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.indices.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.data).to(dtype),
            matrix.shape[1],
            symmetric,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.indptr) - 1, self.n_cols

    @property
    def T(self) -> Csr:
        """The transpose, computed once."""
        if self.symmetric:
            return self
        known = self._transposed[0]() if self._transposed else None
        return self._pair(self._transpose()) if known is None else known

    def _pair(self, transpose: Csr) -> Csr:
        transpose._transposed[:] = [weakref.ref(self)]
        self._transposed[:] = [lambda: transpose]
        return transpose

    def _transpose(self) -> Csr:
        n_rows, n_cols = self.shape
        if self.indptr.is_cpu:  # many times faster than sorting
            parts = (self.values.numpy(), self.indices.numpy(), self.indptr.numpy())
            return Csr.from_scipy(sp.csr_matrix(parts, shape=self.shape).T.tocsr(), dtype=self.values.dtype)
        order = self.indices.argsort(stable=True)
        indptr = self.indptr.new_zeros(n_cols + 1)
        indptr[1:] = torch.bincount(self.indices, minlength=n_cols).cumsum(0)
        return Csr(indptr, self.row_of_value()[order], self.values[order], n_rows)

    def head(self, n_rows: int) -> Csr:
        """The first rows [n_rows, n_cols], sharing memory."""
        if n_rows == self.shape[0]:
            return self
        indptr = self.indptr[: n_rows + 1]
        n_stored = int(indptr[-1])
        return Csr(indptr, self.indices[:n_stored], self.values[:n_stored], self.n_cols)

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
        moved = self._moved(device)
        if not self.symmetric and (known := self._transposed[0]() if self._transposed else None):
            moved._pair(known._moved(device))
        return moved

    def _moved(self, device: torch.device) -> Csr:
        indptr, indices, values = (part.to(device) for part in (self.indptr, self.indices, self.values))
        return Csr(indptr, indices, values, self.n_cols, self.symmetric)

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
    if torch.is_grad_enabled() and dense.requires_grad:
        t = matrix.T
    else:  # an empty one will do, and the real one may be as large as the input
        n_rows, n_cols = matrix.shape
        t = Csr(matrix.indptr.new_zeros(n_cols + 1), matrix.indices[:0], matrix.values[:0], n_rows)
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
