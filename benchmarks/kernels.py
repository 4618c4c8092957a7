"""The compiled operators: Student-t loss with its gradients, and sparse products, against plain torch and compilers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks._choice import add_device, chosen, chosen_number, names
from benchmarks._contest import Contest, Method
from benchmarks._extension import choose_extension
from benchmarks._machine import available_memory
from benchmarks._outcome import Outcome, median_seconds, peak_rss_mb, reset_peak_rss
from benchmarks._products import GENES, Steps, by_dense, by_operator, by_torch_csr, factors
from benchmarks._results import add_ratios
from benchmarks._session import Session
from sccagn_scale._errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Case → clusters and dimensions of one million cells.
STUDENT_T: dict[str, tuple[int, int]] = {"student_t_k32": (32, 8), "student_t_k100": (100, 16)}
CSR = ("csr_forward", "csr_backward")
CELLS = {"full": 1_000_000, "quick": 20_000}
NU, TAU = 1.0, 0.5
# The first is what the others must agree with.
STUDENT_T_METHODS = (
    "reference",
    "ext",
    "eager_broadcast",
    "eager_matmul",
    "compile_broadcast",
    "compile_matmul",
)
CSR_METHODS: dict[str, Callable[..., Steps]] = {
    "reference": by_operator,
    "ext": by_operator,
    "torch_csr": by_torch_csr,
    "dense": by_dense,
}
COLUMNS = ("ratio", "extra_mb", "floor_ms", "of_bandwidth")
TOLERANCE = 2e-3  # norms of a million gradients; by ‖z‖² + ‖µ‖² − 2zµᵀ in float32, too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kernels` can be asked for."""
    add_device(parser)
    parser.add_argument("--cases", type=names, metavar="A,B", help=f"of {', '.join((*STUDENT_T, *CSR))} (default: all)")
    parser.add_argument("--cells", type=int, metavar="N", help="cells of the Student-t cases (default: 1000000)")
    parser.add_argument("--repeats", type=int, metavar="R", help="processes of each method in turn (3; quick: 1)")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Time every method on every case, in turn."""
    n_obs = chosen_number("cells", arguments.cells, CELLS["quick" if arguments.quick else "full"])
    cases = chosen("cases", arguments.cases, [*STUDENT_T, *CSR])
    repeats = chosen_number("repeats", arguments.repeats, 1 if arguments.quick else 3)
    seconds = 0.2 if arguments.quick else 3.0
    common = {"seconds": seconds, "device": arguments.device}
    contests = [
        Contest(
            case,
            tuple(
                Method(name, "benchmarks.kernels:measure_student_t",
                       {"case": case, "method": name, "n_obs": n_obs, **common})
                for name in STUDENT_T_METHODS
            ),
            repeats,
            tolerance=TOLERANCE,
        )
        for case in STUDENT_T
        if case in cases
    ] + [
        Contest(
            case,
            tuple(
                Method(name, "benchmarks.kernels:measure_csr", {"case": case, "method": name, **common})
                for name in CSR_METHODS
            ),
            repeats,
            tolerance=TOLERANCE,
        )
        for case in CSR
        if case in cases
    ]  # fmt: skip
    rows = session.run(contests)
    add_ratios(rows, "ext")
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)


def measure_student_t(case: str, method: str, n_obs: int, seconds: float, device: str) -> Outcome:
    """Target: the clustering loss and its gradients by cells and centroids, column sums given.

    Bytes that cannot be avoided: z is read, ∂L/∂z is written.
    """
    choose_extension(method == "ext", device=device)
    import torch

    n_clusters, d = STUDENT_T[case]
    if method == "eager_broadcast" and device == "cpu":
        _needs_memory(4 * 4 * n_obs * n_clusters * d)  # differences, their squares, and both again going backwards
    generator = torch.Generator().manual_seed(0)
    centroids = 2 * torch.randn(n_clusters, d, generator=generator)
    z = centroids[torch.randint(0, n_clusters, (n_obs,), generator=generator)]
    z = (z + torch.randn(n_obs, d, generator=generator)).to(device).requires_grad_()
    centroids = centroids.to(device).requires_grad_()
    from sccagn_scale.ops import student_t_column_sums

    sums = student_t_column_sums(z, centroids, NU, tau=TAU)
    loss_of = _student_t(method)

    def step() -> tuple[Tensor, ...]:
        loss = loss_of(z, centroids, sums)
        return (loss, *torch.autograd.grad(loss, (z, centroids)))

    found, extra = _step_and_memory(step, device)
    norms = (float(t.detach().double().norm()) for t in found)
    evidence = dict(zip(("loss", "by_z", "by_centroids"), norms, strict=True))
    return _outcome(case, step, seconds, device, bytes_moved=2 * 4 * n_obs * d, evidence=evidence, extra_mb=extra)


def measure_csr(case: str, method: str, seconds: float, device: str) -> Outcome:
    """Target: the product of a batch's genes with weights, or its gradient by the weights.

    Where a method makes the transpose for its gradient, that is a part of it. Bytes that cannot be avoided: the stored
    values and their columns are read, and so is the dense factor; the product is written.
    """
    choose_extension(method == "ext", device=device)
    matrix, dense, cotangent = factors(*GENES)
    step = CSR_METHODS[method](matrix, dense.to(device), cotangent.to(device))[CSR.index(case)]
    found, extra = _step_and_memory(step, device)
    evidence = {"norm": float(found.detach().double().norm())}
    moved = matrix.nnz * (4 + 8) + 4 * (dense.numel() + cotangent.numel())
    return _outcome(case, step, seconds, device, bytes_moved=moved, evidence=evidence, extra_mb=extra)


def _outcome(
    case: str,
    step: Callable[[], Any],
    seconds: float,
    device: str,
    *,
    bytes_moved: int,
    evidence: dict[str, float],
    extra_mb: float,
) -> Outcome:
    took = median_seconds(step, seconds, device=device)
    peak = peak_rss_mb()  # before the buffers whose copying is timed
    floor = bytes_moved / _bandwidth(device)
    metrics = {"extra_mb": extra_mb, "floor_ms": 1e3 * floor, "of_bandwidth": floor / took}
    return Outcome({case: [took]}, lambda: {case: metrics}, evidence, peak_rss_mb={case: peak})


def _bandwidth(device: str) -> float:
    """Bytes per second, read and written, of a large copy."""
    import torch

    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / median_seconds(lambda: target.copy_(source), 0.2, device=device)


def _step_and_memory(step: Callable[[], Any], device: str) -> tuple[Any, float]:
    """What a step gives, and how far it raises peak memory, in MiB; compilers have been at work before."""
    import torch

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = step()
        return found, (torch.cuda.max_memory_allocated() - before) / 2**20
    reset_peak_rss()
    before = peak_rss_mb()
    found = step()
    return found, peak_rss_mb() - before


def _needs_memory(n_bytes: int) -> None:
    available = available_memory()
    if available is not None and n_bytes > available:
        raise InputError(f"This takes {n_bytes / 2**30:.0f} GiB, where {available / 2**30:.0f} GiB are available.")


def _student_t(method: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    import torch

    from sccagn_scale.ops import student_t_kl

    if method in ("ext", "reference"):
        return lambda z, centroids, sums: student_t_kl(z, centroids, sums, nu=NU, tau=TAU)
    how, _, distances = method.partition("_")
    squared = {"broadcast": _by_differences, "matmul": _by_products}[distances]

    def loss(z: Tensor, centroids: Tensor, sums: Tensor) -> Tensor:
        q = (1 + squared(z, centroids) / NU) ** (-(NU + 1) / 2)
        q = q / q.sum(dim=1, keepdim=True)
        with torch.no_grad():
            p = q ** (2 / TAU) / sums.to(q.dtype)
            p = p / p.sum(dim=1, keepdim=True)
        return (p * (p.log() - q.log())).sum() / len(z)

    return torch.compile(loss) if how == "compile" else loss


def _by_differences(z: Tensor, centroids: Tensor) -> Tensor:
    return (z[:, None] - centroids[None]).square().sum(dim=2)


def _by_products(z: Tensor, centroids: Tensor) -> Tensor:
    products = z.square().sum(dim=1, keepdim=True) + centroids.square().sum(dim=1) - 2 * z @ centroids.T
    return products.clamp_min(0)
