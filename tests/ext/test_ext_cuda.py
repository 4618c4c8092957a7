"""The CUDA kernels, run on the host by `cuda_on_host.cpp`: their results, and that no two threads race."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sccagn_scale.ops.student_t import student_t_assign_backward_reference, student_t_assign_reference
from sccagn_scale.ops.student_t_loss import student_t_kl_reference

SOURCE = Path(__file__).with_name("cuda_on_host.cpp")
compiler = os.environ.get("CXX", "c++")
pytestmark = pytest.mark.skipif(shutil.which(compiler) is None, reason=f"there is no C++ compiler, {compiler}")

TYPES = {"float32": ctypes.c_float, "float64": ctypes.c_double}
CASES = [  # n_obs, n_clusters, d, blocks, threads, scale of z
    (45, 37, 3, 2, 16, 1.0),
    (130, 5, 16, 3, 32, 1.0),
    (64, 70, 2, 1, 32, 1e4),
    (40, 4, 8, 2, 32, 1e25),
    (3, 1, 2, 1, 32, 1.0),
    (0, 3, 2, 1, 32, 1.0),
]


def compiled(target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        compiler,
        "-std=c++20",
        "-O1",
        "-pthread",
        "-Wno-unknown-pragmas",
        *flags,
        str(SOURCE),
        "-o",
        str(target),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("cuda") / "host.so"
    done = compiled(path, "-fPIC", "-shared")
    assert done.returncode == 0, done.stderr[-4000:]
    return ctypes.CDLL(str(path))


class Problem(NamedTuple):
    """Arrays of one case, and how to run a kernel on them."""

    z: np.ndarray
    centroids: np.ndarray
    nu: float
    run: Callable[..., None]

    @property
    def exact(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        return torch.from_numpy(self.z).double(), torch.from_numpy(self.centroids).double(), self.nu

    def empty(self, *shape: int, dtype: Any = None) -> np.ndarray:
        return np.full(shape, -1, dtype or self.z.dtype)


@pytest.fixture(params=CASES, ids=str)
def problem(request: pytest.FixtureRequest, library: ctypes.CDLL, dtype: str) -> Problem:
    n_obs, n_clusters, d, blocks, threads, scale = request.param
    rng = np.random.default_rng(0)
    z = (scale * rng.normal(size=(n_obs, d))).astype(dtype)
    centroids, nu, number = rng.normal(size=(n_clusters, d)).astype(dtype), 2.5, TYPES[dtype]

    class StudentT(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_void_p) for name in ("z", "centroids")),
            *((name, ctypes.c_int64) for name in ("n_obs", "n_clusters", "d")),
            ("nu", number),
        ]

    class Launch(ctypes.Structure):
        _fields_ = [("inputs", StudentT), ("blocks", ctypes.c_uint), ("threads", ctypes.c_uint)]

    launch = Launch(StudentT(z.ctypes.data, centroids.ctypes.data, n_obs, n_clusters, d, nu), blocks, threads)

    def run(kernel: str, *arguments: np.ndarray | float | None) -> None:
        passed = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(library, f"{kernel}_{dtype}")(launch, *(number(a) if isinstance(a, float) else a for a in passed))

    return Problem(z, centroids, nu, run)


@pytest.fixture(params=TYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_close(found: np.ndarray, expected: torch.Tensor, size: float = 1.0) -> None:
    tolerance = 3e-6 if found.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found, expected.numpy(), rtol=10 * tolerance, atol=tolerance * size)


def test_assignments(problem: Problem) -> None:
    z, centroids, nu = problem.exact
    q = problem.empty(len(z), len(centroids))
    problem.run("assign", q)
    assert_close(q, student_t_assign_reference(z, centroids, nu))


def test_labels(problem: Problem) -> None:
    z, centroids, nu = problem.exact
    labels, confidence = problem.empty(len(z), dtype=np.int64), problem.empty(len(z))
    problem.run("label", labels, confidence)
    q = student_t_assign_reference(z, centroids, nu)
    assert_close(confidence, q.amax(dim=1))
    assert_close(confidence, q[torch.arange(len(z)), torch.from_numpy(labels)])


def test_column_sums(problem: Problem) -> None:
    z, centroids, nu = problem.exact
    sums = problem.empty(len(centroids), dtype=np.float64)
    problem.run("sums", 0.5, sums)
    expected = (student_t_assign_reference(z, centroids, nu) ** 2).sum(dim=0)
    np.testing.assert_allclose(sums, expected.numpy(), rtol=3e-5 if problem.z.dtype == np.float32 else 1e-12)


def test_gradients_of_assignments(problem: Problem) -> None:
    z, centroids, nu = problem.exact
    q, grad = problem.empty(len(z), len(centroids)), np.random.default_rng(1).normal(size=(len(z), len(centroids)))
    problem.run("assign", q)
    grad_z, grad_centroids = problem.empty(*z.shape), problem.empty(*centroids.shape)
    problem.run("backward", grad.astype(q.dtype), q, grad_z, grad_centroids)
    expected = student_t_assign_backward_reference(
        torch.from_numpy(grad.astype(q.dtype)).double(), z, centroids, student_t_assign_reference(z, centroids, nu), nu
    )
    assert_close(grad_z, expected[0], 5.0)
    assert_close(grad_centroids, expected[1], 5.0 * max(1, len(z)) ** 0.5)


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_divergence_and_its_gradients(problem: Problem, share: float) -> None:
    z, centroids, nu = problem.exact
    sums = (student_t_assign_reference(z, centroids, nu) ** 2).sum(dim=0)
    anchor = np.arange(len(z), dtype=np.int64) % len(centroids) if share else None
    loss, grad_z, grad_centroids = problem.empty(1), problem.empty(*z.shape), problem.empty(*centroids.shape)
    problem.run("kl", sums.numpy(), 0.5, anchor, share, loss, grad_z, grad_centroids)
    anchors = None if anchor is None else torch.from_numpy(anchor)
    expected = student_t_kl_reference(z, centroids, sums, nu, 0.5, anchors, share)
    assert_close(loss, expected[0].reshape(1), 5.0)
    assert_close(grad_z, expected[1])
    assert_close(grad_centroids, expected[2], 5.0)


@pytest.mark.parametrize("width", [1, 31, 100, 300])
def test_sparse_products(library: ctypes.CDLL, dtype: str, width: int) -> None:
    rng = np.random.default_rng(0)
    sparse = rng.normal(size=(13, 9)) * (rng.random((13, 9)) < 0.3)
    sparse[[0, 12]] = 0
    dense, found = rng.normal(size=(9, width)).astype(dtype), np.full((13, width), -1, dtype)
    rows, columns = np.nonzero(sparse)
    indptr = np.concatenate([[0], np.bincount(rows, minlength=13).cumsum()]).astype(np.int64)
    values = sparse[rows, columns].astype(dtype)
    arrays = [array.ctypes.data for array in (indptr, columns.astype(np.int32), values, dense)]
    getattr(library, f"gather_{dtype}")(
        *map(ctypes.c_void_p, arrays), ctypes.c_int64(13), ctypes.c_int64(width), ctypes.c_void_p(found.ctypes.data)
    )
    assert_close(found, torch.from_numpy(sparse.astype(dtype).astype(float) @ dense), 5.0)


def test_no_two_threads_race(tmp_path: Path) -> None:
    program = tmp_path / "races"
    done = compiled(program, "-g", "-fsanitize=thread")
    if done.returncode != 0:
        pytest.skip(f"{compiler} has no thread sanitizer")
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("the thread sanitizer cannot run under this kernel")
    assert ran.returncode == 0, ran.stderr[:4000]
    assert float(ran.stdout) > 0
