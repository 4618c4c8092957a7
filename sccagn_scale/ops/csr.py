"""Sparse × dense: Y = A·B for a constant CSR matrix A and a dense B that is learned.

    ∂L/∂B = Aᵀ · ∂L/∂Y

The same operator serves the input layer (cells × genes times weights), the reconstruction loss and the aggregation over
the cell graph.

The reference sums embeddings: row i of Y is the sum of the rows of B that row i of A stores, weighted by its values.
torch has vectorised kernels for just that, faster on the CPU than its CSR product (MKL's), SciPy's and torch-sparse's;
`python -m benchmarks sparse` has the figures. The gradient is another such product, of the transpose: scattering into
the gradient, as torch's own CSR backward does, is several times slower. A matrix makes its transpose when a gradient
first asks for it, so that one that is only multiplied forward never has one. Where `csr_matmul_transposed` is compiled,
nothing is transposed: columns of the gradient are divided among threads, so that none waits for another.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sccagn_scale.ops._implementation import is_compiled

torch.library.define(
    "sccagn::csr_matmul",
    "(Tensor indptr, Tensor indices, Tensor values, int n_cols, Tensor? t_indptr, Tensor? t_indices, Tensor? t_values,"
    " Tensor dense) -> Tensor",
)
torch.library.define(
    "sccagn::csr_matmul_transposed",
    "(Tensor indptr, Tensor indices, Tensor values, int n_cols, Tensor dense) -> Tensor",
)


@dataclass(frozen=True, eq=False)
class Csr:
    """A constant sparse matrix [n_rows, n_cols], CSR, and its transpose once that is asked for, CSR too."""

    indptr: Tensor  # int64 [n_rows + 1]: stored values may be more than 2³¹
    indices: Tensor  # int32 or int64 [nnz]
    values: Tensor  # float, or uint8 or uint16 counts [nnz]
    n_cols: int
    symmetric: bool = False
    # how to get the transpose, once there is one; it refers back weakly, as a cycle would keep memory until collected
    _transposed: list[Callable[[], Csr | None]] = field(default_factory=list, repr=False)

    @classmethod
    def from_scipy(cls, matrix: sp.csr_matrix, *, symmetric: bool = False, dtype: torch.dtype = torch.float32) -> Csr:
        """Share (where dtypes allow) a scipy CSR matrix; a `symmetric` one is its own transpose."""
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.indices),
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
        return self._pair(self._make_transpose()) if known is None else known

    def prepare(self) -> None:
        """Make the transpose now if the gradient of a product with this matrix will need one."""
        if self._needs_transpose():
            _ = self.T

    def _needs_transpose(self) -> bool:
        return self.symmetric or not is_compiled("csr_matmul_transposed", self.values.device.type)

    def _pair(self, transpose: Csr) -> Csr:
        # weakly one way, so that a batch is freed when it is dropped and not when cycles are collected
        transpose._transposed[:] = [weakref.ref(self)]
        self._transposed[:] = [lambda: transpose]
        return transpose

    def _make_transpose(self) -> Csr:
        device = self.values.device
        if device.type != "cpu" and len(self.indices) < 2**31:  # torch sorts no more on a GPU
            return self._sorted_by_column()
        # SciPy counts, where torch would sort
        arrays = (self.values.cpu().numpy(), self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        return Csr.from_scipy(sp.csr_matrix(arrays, self.shape).T.tocsr(), dtype=self.values.dtype).to(device)

    def _sorted_by_column(self) -> Csr:
        order = self.indices.argsort(stable=True)
        columns = torch.arange(self.n_cols + 1, device=self.indices.device, dtype=self.indices.dtype)
        indptr = torch.searchsorted(self.indices[order], columns)  # unlike bincount, it asks the GPU for no number
        return Csr(indptr, self.row_of_value()[order], self.values[order], self.shape[0])

    def rows(self, start: int, stop: int) -> Csr:
        """Rows from `start` to before `stop`, which share the stored values."""
        indptr = self.indptr[start : stop + 1]
        low, high = int(indptr[0]), int(indptr[-1])
        return Csr(indptr - low, self.indices[low:high], self.values[low:high], self.n_cols)

    def take(self, rows: Tensor) -> Csr:
        """Copy rows, int64 [n], in that order."""
        lengths = self.indptr.diff()[rows]
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        n_values = int(indptr[-1])
        shift = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], lengths, output_size=n_values)
        where = torch.arange(n_values, device=rows.device) + shift
        return Csr(indptr, self.indices[where], self.values[where], self.n_cols)

    @property
    def edge_index(self) -> Tensor:
        """PyG's `edge_index` [2, nnz], source → target: row i that stores column j is the edge j → i."""
        return torch.stack([self.indices.long(), self.row_of_value()])

    def row_of_value(self) -> Tensor:
        """Row of every stored value, int64 [nnz]."""
        rows = torch.arange(self.shape[0], device=self.indptr.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.indices))

    def to(self, device: torch.device) -> Csr:
        """Copy to a device; a symmetric matrix stays one matrix."""
        if self.indptr.device == device:
            return self
        indptr, indices, values = (part.to(device) for part in (self.indptr, self.indices, self.values))
        return Csr(indptr, indices, values, self.n_cols, self.symmetric)

    def to_dense(self) -> Tensor:
        """Fill in the zeros: [n_rows, n_cols]."""
        dense = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        return dense.index_put_((self.row_of_value(), self.indices.long()), self.values, accumulate=True)


def csr_matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """Multiply a constant CSR matrix with a dense one.

    Parameters
    ----------
    matrix
        A [n_rows, n_cols].
    dense
        B [n_cols, width], float32 or float64, of A's device, and of its dtype unless that holds counts.

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
    differentiates = dense.requires_grad and torch.is_grad_enabled()
    t = matrix.T if differentiates and matrix._needs_transpose() else None
    return torch.ops.sccagn.csr_matmul(
        matrix.indptr,
        matrix.indices,
        matrix.values,
        matrix.n_cols,
        t and t.indptr,
        t and t.indices,
        t and t.values,
        dense,
    )


@torch.library.register_fake("sccagn::csr_matmul")
def _fake(indptr: Tensor, *others: Any) -> Tensor:
    dense = others[-1]
    return dense.new_empty(indptr.shape[0] - 1, dense.shape[1])


@torch.library.register_fake("sccagn::csr_matmul_transposed")
def _fake_transposed(indptr: Tensor, indices: Tensor, values: Tensor, n_cols: int, dense: Tensor) -> Tensor:
    return dense.new_empty(n_cols, dense.shape[1])


def csr_matmul_reference(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    n_cols: int,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_values: Tensor | None,
    dense: Tensor,
) -> Tensor:
    if not len(indices):  # which embedding_bag refuses where B has no rows
        return dense.new_zeros(len(indptr) - 1, dense.shape[1])
    if len(indices) >= 2**31:  # it takes offsets of the indices' type
        indices = indices.long()
    return embedding_bag(
        indices,
        dense.contiguous(),
        indptr.to(indices.dtype),
        mode="sum",
        per_sample_weights=values.to(dense.dtype),
        include_last_offset=True,
    )


def csr_matmul_transposed_reference(
    indptr: Tensor, indices: Tensor, values: Tensor, n_cols: int, dense: Tensor
) -> Tensor:
    t = Csr(indptr, indices, values.to(dense.dtype), n_cols).T
    return csr_matmul_reference(t.indptr, t.indices, t.values, t.n_cols, None, None, None, dense)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    indptr, indices, values, ctx.n_cols, t_indptr, t_indices, t_values, _ = inputs
    ctx.save_for_backward(indptr, indices, values, t_indptr, t_indices, t_values)
    ctx.n_rows = output.shape[0]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    indptr, indices, values, t_indptr, t_indices, t_values = ctx.saved_tensors
    if t_indptr is None:
        grad = torch.ops.sccagn.csr_matmul_transposed(indptr, indices, values, ctx.n_cols, grad)
    else:
        grad = torch.ops.sccagn.csr_matmul(t_indptr, t_indices, t_values, ctx.n_rows, indptr, indices, values, grad)
    return None, None, None, None, None, None, None, grad


def _setup_transposed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    indptr, indices, values, ctx.n_cols, _ = inputs
    ctx.save_for_backward(indptr, indices, values)


def _backward_transposed(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    indptr, indices, values = ctx.saved_tensors
    grad = torch.ops.sccagn.csr_matmul(indptr, indices, values, ctx.n_cols, None, None, None, grad)
    return None, None, None, None, grad


torch.library.impl("sccagn::csr_matmul", "default", csr_matmul_reference)
torch.library.impl("sccagn::csr_matmul_transposed", "default", csr_matmul_transposed_reference)
torch.library.register_autograd("sccagn::csr_matmul", _backward, setup_context=_setup)
torch.library.register_autograd("sccagn::csr_matmul_transposed", _backward_transposed, setup_context=_setup_transposed)
