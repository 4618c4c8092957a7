"""Sparse × dense products, forward and backward: our operator against what torch, torch-sparse, PyG and SciPy offer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks._choice import chosen_number
from benchmarks._contest import Contest, Method
from benchmarks._outcome import Outcome, median_seconds
from benchmarks._products import GENES, Steps, by_dense, by_operator, by_torch_csr, differentiated, factors
from benchmarks._results import add_ratios
from benchmarks._session import Session

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

# Case → rows, columns, share of stored values, columns of the dense factor: genes of a batch, the graph of its cells.
CASES: dict[str, tuple[int, int, float, int]] = {
    "genes": GENES,
    "genes_dense": (2048, 2000, 0.37, 100),
    "graph": (1024, 1024, 0.012, 200),
}
METHODS = ("csr_matmul", "torch_csr", "torch_sparse", "pyg_scatter", "dense", "scipy")
COLUMNS = ("ratio", "forward_ms", "backward_ms")
TOLERANCE = 1e-3  # sums of some hundred float32 products, in different order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `sparse` can be asked for."""
    parser.add_argument("--repeats", type=int, metavar="R", help="processes of each method in turn (5; quick: 1)")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Time every method on every case."""
    repeats = chosen_number("repeats", arguments.repeats, 1 if arguments.quick else 5)
    seconds = 0.1 if arguments.quick else 1.0
    contests = [
        Contest(
            case,
            tuple(Method(name, "benchmarks.sparse:measure", {"case": case, "method": name, "seconds": seconds})
                  for name in METHODS),
            repeats,
            tolerance=TOLERANCE,
        )
        for case in CASES
    ]  # fmt: skip
    rows = session.run(contests)
    add_ratios(rows, "csr_matmul")
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)


def measure(case: str, method: str, seconds: float) -> Outcome:
    """Target: time forward, and backward by the dense factor, of one method on one case.

    The transpose counts as a part of backward where a method makes one.
    """
    forward, backward = _FUNCTIONS[method](*factors(*CASES[case]))
    product, gradient = forward(), backward()
    evidence = {"product": float(product.double().sum()), "gradient": float(gradient.double().sum())}
    times = {name: median_seconds(step, seconds) for name, step in (("forward", forward), ("backward", backward))}
    metrics = {f"{name}_ms": 1e3 * value for name, value in times.items()}
    return Outcome({case: [sum(times.values())]}, lambda: {case: metrics}, evidence)


def _torch_sparse(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    from torch_sparse import SparseTensor, matmul

    held = SparseTensor.from_scipy(matrix)
    return differentiated(lambda b: matmul(held, b), dense, cotangent)


def _pyg_scatter(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    """What PyG's message passing does without compiled packages: gather, weigh, scatter."""
    import torch
    from torch_geometric.utils import scatter

    coo = matrix.tocoo()
    row, col = torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()
    values = torch.from_numpy(coo.data)[:, None]
    return differentiated(lambda b: scatter(values * b[col], row, dim_size=matrix.shape[0]), dense, cotangent)


def _scipy(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    import torch

    b, grad = dense.numpy(), cotangent.numpy()
    return lambda: torch.from_numpy(matrix @ b), lambda: torch.from_numpy(matrix.T.tocsr() @ grad)


_FUNCTIONS: dict[str, Callable[..., Steps]] = {
    "csr_matmul": by_operator,
    "torch_csr": by_torch_csr,
    "torch_sparse": _torch_sparse,
    "pyg_scatter": _pyg_scatter,
    "dense": by_dense,
    "scipy": _scipy,
}
