"""Sparse × dense products, forward and backward: our operator against what torch, torch-sparse, PyG and SciPy offer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks._contest import Contest, Method
from benchmarks._outcome import Outcome
from benchmarks._session import Session

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

# Case → rows, columns, share of stored values, columns of the dense factor: genes of a batch, the graph of its cells.
CASES: dict[str, tuple[int, int, float, int]] = {
    "genes": (2048, 2000, 0.08, 100),
    "genes_dense": (2048, 2000, 0.37, 100),
    "graph": (1024, 1024, 0.012, 200),
}
METHODS = ("csr_matmul", "torch_csr", "torch_sparse", "pyg_scatter", "dense", "scipy")
COLUMNS = ("ratio", "forward_ms", "backward_ms")
TOLERANCE = 1e-3  # sums of some hundred float32 products, in different order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `sparse` can be asked for."""
    parser.add_argument("--repeats", type=int, default=5, metavar="R", help="processes of each method in turn (5)")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Time every method on every case."""
    seconds = 0.1 if arguments.quick else 1.0
    contests = [
        Contest(
            case,
            tuple(Method(name, "benchmarks.sparse:measure", {"case": case, "method": name, "seconds": seconds})
                  for name in METHODS),
            1 if arguments.quick else arguments.repeats,
            tolerance=TOLERANCE,
        )
        for case in CASES
    ]  # fmt: skip
    rows = session.run(contests)
    ours = {row["case"]: row["seconds"] for row in rows if row["method"] == METHODS[0]}
    for row in rows:
        if row["seconds"] is not None and ours.get(row["case"]):
            row["metrics"]["ratio"] = row["seconds"] / ours[row["case"]]
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)


def measure(case: str, method: str, seconds: float) -> Outcome:
    """Target: time forward, and backward by the dense factor, of one method on one case.

    The transpose counts as a part of backward where a method makes one.
    """
    import numpy as np
    import scipy.sparse as sp
    import torch

    n_rows, n_cols, density, width = CASES[case]
    matrix = sp.random(n_rows, n_cols, density, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(n_cols, width, generator=generator)
    cotangent = torch.rand(n_rows, width, generator=generator)
    forward, backward = _FUNCTIONS[method](matrix, dense, cotangent)
    product, gradient = forward(), backward()
    evidence = {"product": float(product.double().sum()), "gradient": float(gradient.double().sum())}
    times = {name: _median_ms(step, seconds) for name, step in (("forward", forward), ("backward", backward))}
    metrics = {f"{name}_ms": value for name, value in times.items()}
    return Outcome({case: [sum(times.values()) / 1e3]}, lambda: {case: metrics}, evidence)


def _median_ms(step: Callable[[], Any], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


Steps = tuple[Callable[[], "torch.Tensor"], Callable[[], "torch.Tensor"]]


def _ours(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    from sccagn_scale.ops import Csr, csr_matmul

    def backward() -> torch.Tensor:
        return csr_matmul(Csr.from_scipy(matrix).T, cotangent)

    held = Csr.from_scipy(matrix)
    return lambda: csr_matmul(held, dense), backward


def _differentiated(product: Callable[[torch.Tensor], torch.Tensor], dense: Any, cotangent: Any) -> Steps:
    """Forward without a graph, and backward through a graph that stands."""
    import torch

    leaf = dense.clone().requires_grad_()
    output = product(leaf)
    return lambda: product(dense), lambda: torch.autograd.grad(output, leaf, cotangent, retain_graph=True)[0]


def _torch_csr(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    import warnings

    import torch

    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    arrays = [torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data)]
    csr = torch.sparse_csr_tensor(*arrays, matrix.shape, check_invariants=False)
    return _differentiated(lambda b: csr @ b, dense, cotangent)


def _torch_sparse(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    from torch_sparse import SparseTensor, matmul

    held = SparseTensor.from_scipy(matrix)
    return _differentiated(lambda b: matmul(held, b), dense, cotangent)


def _pyg_scatter(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    """What PyG's message passing does without compiled packages: gather, weigh, scatter."""
    import torch
    from torch_geometric.utils import scatter

    coo = matrix.tocoo()
    row, col = torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()
    values = torch.from_numpy(coo.data)[:, None]
    return _differentiated(lambda b: scatter(values * b[col], row, dim_size=matrix.shape[0]), dense, cotangent)


def _dense(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    import torch

    filled = torch.from_numpy(matrix.toarray())
    return _differentiated(lambda b: filled @ b, dense, cotangent)


def _scipy(matrix: sp.csr_matrix, dense: torch.Tensor, cotangent: torch.Tensor) -> Steps:
    import torch

    b, grad = dense.numpy(), cotangent.numpy()
    return lambda: torch.from_numpy(matrix @ b), lambda: torch.from_numpy(matrix.T.tocsr() @ grad)


_FUNCTIONS: dict[str, Callable[..., Steps]] = {
    "csr_matmul": _ours,
    "torch_csr": _torch_csr,
    "torch_sparse": _torch_sparse,
    "pyg_scatter": _pyg_scatter,
    "dense": _dense,
    "scipy": _scipy,
}
