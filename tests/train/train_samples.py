"""A small network, the cells and the graph that it learns, and a stage that remembers."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from planted import blobs

from sccagn_scale.graph import adjacency, neighbors, normalized
from sccagn_scale.loader import Batch, FullLoader
from sccagn_scale.nn import LossWeights, SCCAGNModule, Target, initialize
from sccagn_scale.ops import student_t_column_sums
from sccagn_scale.train import Optimizer

WEIGHTS = LossWeights(clustering=0.1, reconstruction=0.5, adversarial=0.5)


class Stage:
    """Counts steps."""

    def __init__(self) -> None:
        self.steps, self.seen = 0.0, []  # type: ignore[var-annotated]

    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        self.steps += n
        self.seen.append(info)


def toy_points() -> np.ndarray:
    """60 cells of unit length in three groups."""
    points, _ = blobs([20, 20, 20])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def toy_graph() -> sp.csr_matrix:
    """Â of those cells."""
    return normalized(adjacency(neighbors(toy_points(), 8)))


def toy(*, as_pca: bool = False, **options: object) -> tuple[SCCAGNModule, FullLoader, Batch]:
    """A network, the loader of the cells it is to learn, and their one batch; `as_pca` starts it as in a real run."""
    points = toy_points()
    full = FullLoader(points, toy_graph(), torch.device("cpu"))
    torch.manual_seed(0)
    module = SCCAGNModule(points.shape[1], (16, 16, 16), 4, **options)  # type: ignore[arg-type]
    if as_pca:
        mean = torch.from_numpy(points.mean(axis=0))
        _, lengths, axes = torch.linalg.svd(torch.from_numpy(points) - mean, full_matrices=False)
        initialize(module, axes, mean, scale=lengths / len(points) ** 0.5)
    return module, full, next(iter(full))


def optimizer(module: SCCAGNModule, learning_rate: float = 1e-2) -> Optimizer:
    return Optimizer(module, learning_rate, 1e-3, generator=torch.Generator().manual_seed(0))


def own_target(module: SCCAGNModule, batch: Batch) -> Target:
    """The target, without anchors, of a batch that is all there is."""
    assert module.centroids is not None
    with torch.no_grad():
        sums = student_t_column_sums(module.encode(batch.x, batch.adjacency).z, module.centroids)
    return Target(1.0, 0.5, 0.0, torch.zeros(batch.n_seeds, dtype=torch.int64), sums)
