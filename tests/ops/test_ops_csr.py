"""Sparse × dense: values, gradients and sharing against dense torch."""

from __future__ import annotations

import weakref
from itertools import pairwise, product

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale.ops import Csr, csr_matmul, implementations

TRANSPOSES = implementations()["csr_matmul_transposed"]["cpu"] == "reference"
"""The compiled operator needs no transpose."""
FLOATS = (torch.float32, torch.float64)


def sample(n_rows: int = 7, n_cols: int = 5, seed: int = 0) -> sp.csr_matrix:
    """A third filled, with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n_rows, n_cols)) * (rng.random((n_rows, n_cols)) < 0.4)
    dense[n_rows // 2] = dense[:, n_cols // 2] = 0
    return sp.csr_matrix(dense)


def parts(matrix: Csr) -> tuple[torch.Tensor, ...]:
    t = matrix.T
    return matrix.indptr, matrix.indices, matrix.values, t.indptr, t.indices, t.values


def test_a_product_of_literals() -> None:
    matrix = Csr.from_scipy(sp.csr_matrix([[1.0, 0, 2], [0, 0, 0]]))
    dense = torch.tensor([[1.0, 10], [2, 20], [3, 30]])
    assert csr_matmul(matrix, dense).tolist() == [[7, 70], [0, 0]]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_value_and_gradient_are_those_of_the_dense_product(n_rows: int, n_cols: int, width: int, seed: int) -> None:
    matrix = sample(n_rows, n_cols, seed)
    rng = np.random.default_rng(seed)
    dense = torch.from_numpy(rng.normal(size=(n_cols, width))).requires_grad_()
    cotangent = torch.from_numpy(rng.normal(size=(n_rows, width)))
    ours = csr_matmul(Csr.from_scipy(matrix, dtype=torch.float64), dense)
    theirs = torch.from_numpy(matrix.toarray()) @ dense
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(y, dense, cotangent)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (3, 4)])
def test_matrices_without_values(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = Csr.from_scipy(sp.csr_matrix(shape), dtype=dtype)
    dense = torch.ones(shape[1], 2, dtype=dtype, requires_grad=True)
    product = csr_matmul(matrix, dense)
    assert product.shape == (shape[0], 2)
    assert product.dtype == dtype
    assert not product.any()
    product.sum().backward()
    assert dense.grad is not None
    assert not dense.grad.any()


def test_gradcheck() -> None:
    matrix = Csr.from_scipy(sample(), dtype=torch.float64)
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda b: csr_matmul(matrix, b), dense)


def test_a_transposed_operand_and_a_broadcast_gradient() -> None:
    matrix = Csr.from_scipy(sample(), dtype=torch.float64)
    weight = torch.arange(15, dtype=torch.float64).reshape(3, 5).requires_grad_()
    csr_matmul(matrix, weight.T).sum().backward()  # the gradient that comes in is an expanded scalar
    expected = matrix.to_dense().sum(0).expand(3, 5)
    torch.testing.assert_close(weight.grad, expected)


def test_opcheck() -> None:
    matrix = Csr.from_scipy(sample(), dtype=torch.float64)
    dense = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    cotangent = torch.ones(7, 3, dtype=torch.float64, requires_grad=True)
    own, transposed = parts(matrix)[:3], parts(matrix)[3:]
    for operator, arguments in (
        (torch.ops.sccagn.csr_matmul, (*own, 5, *transposed, dense)),
        (torch.ops.sccagn.csr_matmul, (*own, 5, None, None, None, dense)),
        (torch.ops.sccagn.csr_matmul_transposed, (*own, 5, cotangent)),
    ):
        assert set(torch.library.opcheck(operator.default, arguments).values()) == {"SUCCESS"}


def test_gradients_without_a_transpose_are_those_with_one_and_can_be_differentiated_again() -> None:
    matrix = Csr.from_scipy(sample(), dtype=torch.float64)
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    cotangent = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own, transposed = parts(matrix)[:3], parts(matrix)[3:]
    gradients = []
    for t in (transposed, (None, None, None)):
        product = torch.ops.sccagn.csr_matmul(*own, 5, *t, dense)
        gradients.append(torch.autograd.grad(product, dense, cotangent)[0])
    torch.testing.assert_close(*gradients)

    def multiply(b: torch.Tensor) -> torch.Tensor:
        return torch.ops.sccagn.csr_matmul(*own, 5, None, None, None, b)

    assert torch.autograd.gradgradcheck(multiply, dense)


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("value_type", "dense_type"),
    [*product((torch.uint8, torch.uint16), FLOATS), *zip(FLOATS, FLOATS, strict=True)],  # floats are of one type
)
@pytest.mark.parametrize("width", [1, 3, 8, 17, 100, 300])
def test_counts_and_narrow_indices(
    index_type: torch.dtype, value_type: torch.dtype, dense_type: torch.dtype, width: int
) -> None:
    counts = sp.csr_matrix((np.abs(sample(31, 23).toarray()) * 100).astype(int) % 256)
    indptr, indices = (torch.from_numpy(part).to(index_type) for part in (counts.indptr, counts.indices))
    values = torch.from_numpy(counts.data).to(value_type)
    dense = torch.randn(23, width, dtype=dense_type, generator=torch.Generator().manual_seed(0))
    cotangent = torch.randn(31, width, dtype=dense_type, generator=torch.Generator().manual_seed(1))
    filled = torch.from_numpy(counts.toarray()).to(dense_type)
    product = torch.ops.sccagn.csr_matmul(indptr, indices, values, 23, None, None, None, dense)
    torch.testing.assert_close(product, filled @ dense, rtol=1e-4, atol=1e-3)
    gradient = torch.ops.sccagn.csr_matmul_transposed(indptr, indices, values, 23, cotangent)
    torch.testing.assert_close(gradient, filled.T @ cotangent, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", [1, 24, 100, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_many_values_in_a_row(width: int, dtype: torch.dtype, is_sorted: bool) -> None:
    """So many that the compiled product goes through the columns in bands, which rows out of order cannot follow."""
    rng = np.random.default_rng(0)
    random = sp.random(70, 2000, 0.1, format="csr", random_state=rng)
    indptr, indices, values = (torch.from_numpy(part) for part in (random.indptr, random.indices, random.data))
    if not is_sorted:
        order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in pairwise(random.indptr)])
        indices, values = indices[order], values[order]
    matrix = Csr(indptr.long(), indices, values.to(dtype), 2000)
    dense, cotangent = (torch.from_numpy(rng.normal(size=(n, width))).to(dtype) for n in (2000, 70))
    filled = torch.from_numpy(random.toarray()).to(dtype)
    torch.testing.assert_close(csr_matmul(matrix, dense), filled @ dense, rtol=1e-4, atol=1e-4)
    gradient = torch.ops.sccagn.csr_matmul_transposed(matrix.indptr, indices, matrix.values, 2000, cotangent)
    torch.testing.assert_close(gradient, filled.T @ cotangent, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 40), st.integers(1, 130), st.integers(0, 10**6))
def test_every_width_is_covered_once(n_rows: int, width: int, seed: int) -> None:
    """Vectors, halves of them and what is left: each column is summed once, none beyond the end is touched."""
    matrix = Csr.from_scipy(sample(n_rows, 5, seed), dtype=torch.float64)
    rng = np.random.default_rng(seed)
    dense, cotangent = (torch.from_numpy(rng.normal(size=(n, width))) for n in (5, n_rows))
    torch.testing.assert_close(csr_matmul(matrix, dense), matrix.to_dense() @ dense)
    gradient = torch.ops.sccagn.csr_matmul_transposed(*parts(matrix)[:3], 5, cotangent)
    torch.testing.assert_close(gradient, matrix.to_dense().T @ cotangent)


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_offsets_are_int64_and_columns_as_scipy_has_them(index_type: type) -> None:
    matrix = sample()
    matrix.indptr, matrix.indices = matrix.indptr.astype(index_type), matrix.indices.astype(index_type)
    ours = Csr.from_scipy(matrix)
    assert {t.dtype for t in (ours.indptr, ours.T.indptr)} == {torch.int64}
    assert ours.indices.numpy().dtype == index_type
    assert ours.values.dtype == ours.T.values.dtype == torch.float32
    np.testing.assert_allclose(ours.to_dense().numpy(), matrix.toarray(), rtol=1e-6)


def test_the_transpose_is_shared_both_ways() -> None:
    matrix = Csr.from_scipy(sample())
    assert matrix.T.T is matrix
    assert matrix.shape == (7, 5)
    assert matrix.T.shape == (5, 7)
    torch.testing.assert_close(matrix.T.to_dense(), matrix.to_dense().T)


def test_the_transpose_waits_until_it_is_asked_for() -> None:
    matrix, dense = Csr.from_scipy(sample()), torch.ones(5, 2)
    with torch.no_grad():
        csr_matmul(matrix, dense.requires_grad_())
    csr_matmul(matrix, dense.detach())
    assert not matrix._transposed
    csr_matmul(matrix, dense)
    assert bool(matrix._transposed) == TRANSPOSES


def test_a_transpose_outlives_its_origin_but_does_not_keep_it() -> None:
    matrix = Csr.from_scipy(sample())
    transpose, expected, origin = matrix.T, matrix.to_dense(), weakref.ref(matrix)
    del matrix
    assert origin() is None
    torch.testing.assert_close(transpose.T.to_dense(), expected)


@pytest.mark.parametrize("n_rows", [0, 3, 7])
def test_the_first_rows_share_memory(n_rows: int) -> None:
    matrix = Csr.from_scipy(sample())
    first = matrix.rows(0, n_rows)
    torch.testing.assert_close(first.to_dense(), matrix.to_dense()[:n_rows])
    torch.testing.assert_close(first.T.to_dense(), matrix.to_dense()[:n_rows].T)
    assert n_rows == 0 or first.values.data_ptr() == matrix.values.data_ptr()


def test_a_symmetric_matrix_is_its_own_transpose() -> None:
    square = sample(6, 6)
    symmetric = square + square.T
    matrix = Csr.from_scipy(symmetric, symmetric=True, dtype=torch.float64)
    assert matrix.T is matrix
    dense = torch.arange(12, dtype=torch.float64).reshape(6, 2).requires_grad_()
    csr_matmul(matrix, dense).square().sum().backward()
    a = torch.from_numpy(symmetric.toarray())
    torch.testing.assert_close(dense.grad, 2 * a.T @ (a @ dense.detach()))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_rows_and_taken_rows_are_numpys(n_rows: int, n_cols: int, seed: int) -> None:
    matrix = sample(n_rows, n_cols, seed)
    ours = Csr.from_scipy(matrix, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    start, stop = sorted(rng.integers(0, n_rows + 1, 2).tolist())
    np.testing.assert_array_equal(ours.rows(start, stop).to_dense().numpy(), matrix.toarray()[start:stop])
    taken = torch.from_numpy(rng.integers(0, n_rows, rng.integers(0, 12)))
    np.testing.assert_array_equal(ours.take(taken).to_dense().numpy(), matrix.toarray()[taken.numpy()])


def test_rows_share_their_values() -> None:
    matrix = Csr.from_scipy(sample())
    assert matrix.rows(0, 7).values.data_ptr() == matrix.values.data_ptr()


def test_values_are_shared_with_scipy_where_types_allow() -> None:
    matrix = sample().astype(np.float32)
    assert Csr.from_scipy(matrix).values.data_ptr() == matrix.data.ctypes.data


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_both_ways_to_a_transpose_agree(n_rows: int, n_cols: int, seed: int) -> None:
    matrix = Csr.from_scipy(sample(n_rows, n_cols, seed))
    sorted_one = matrix._sorted_by_column()  # what a GPU does
    assert sorted_one.shape == matrix.T.shape
    for name in ("indptr", "indices", "values"):
        assert torch.equal(getattr(sorted_one, name), getattr(matrix.T, name))


@pytest.mark.parametrize("symmetric", [True, False])
def test_moving_keeps_the_pair_together(symmetric: bool) -> None:
    matrix = Csr.from_scipy(sp.identity(4, format="csr"), symmetric=symmetric)
    assert matrix.T.T is matrix
    assert matrix.to(torch.device("cpu")) is matrix
    moved = matrix.to(torch.device("meta"))
    assert {t.device.type for t in (moved.indptr, moved.indices, moved.values)} == {"meta"}
    assert (moved.symmetric, moved._transposed) == (symmetric, [])
    assert moved.shape == (4, 4)
    assert csr_matmul(moved, torch.empty(4, 2, device="meta")).shape == (4, 2)


def test_edges_run_from_the_column_to_the_row() -> None:
    matrix = Csr.from_scipy(sp.csr_matrix([[0, 5.0, 6], [0, 0, 0], [7, 0, 0]]))
    assert matrix.edge_index.tolist() == [[1, 2, 0], [0, 0, 2]]
    assert matrix.row_of_value().tolist() == [0, 0, 2]
    assert matrix.edge_index.dtype == torch.int64


@pytest.mark.parametrize("shape", [(4, 2), (5,), (5, 2, 1)])
def test_a_wrong_shape_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`dense` must be \[5, width\] to follow \(7, 5\); it is \["):
        csr_matmul(Csr.from_scipy(sample()), torch.ones(shape))
