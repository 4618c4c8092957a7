"""The ways to label one part of a set's cells, or all of them, that `transfer` compares: one function each, two tables.

A function gets cells without a label, name or order that would tell their type (see :mod:`benchmarks._labelled`), which
of them are to be labelled, their batches, numbers of types, and a seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks._labelled import BATCH
from benchmarks._methods import fitted_kmeans, ours
from benchmarks._preprocess import log_expression, log_expression_like, principal_components, projected

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """One direction of one set."""

    cells: AnnData
    in_target: NDArray[np.bool_]
    """Which cells are to be labelled; the others are the source."""
    batches: NDArray[np.object_]
    """The batch of each cell."""
    n_types: int
    """Number of types of all cells."""
    n_source_types: int
    n_target_types: int

    def source(self) -> AnnData:
        """The cells to learn from, as a copy."""
        return self.cells[~self.in_target].copy()

    def target(self) -> AnnData:
        """The cells to label, as a copy."""
        return self.cells[self.in_target].copy()


class Found(NamedTuple):
    """Labels of the target's cells; of all cells too, where the method clustered them together."""

    target: NDArray[Any]
    all: NDArray[Any] | None = None


def default(task: Task, seed: int) -> Found:
    """The default preset trained on the source, saved, and loaded with the target's cells."""
    from sccagn_scale import SCCAGN

    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        SCCAGN(task.source(), task.n_source_types, random_state=seed).train().save(Path(folder, "model"))
        return Found(SCCAGN.load(Path(folder, "model"), task.target()).labels_)


def pca_kmeans(task: Task, seed: int) -> Found:
    """Genes, principal components and k-means of the source; the target's cells go to the nearest centre."""
    source = task.source()
    expression = log_expression(source)
    found = fitted_kmeans(principal_components(expression, seed=seed), task.n_source_types, seed)
    target = log_expression_like(task.target(), source, expression.var_names)
    return Found(found.predict(projected(target, expression)))


def own(task: Task, seed: int) -> Found:
    """The default preset on the target's cells alone, with their own number of types."""
    return Found(ours(task.target(), task.n_target_types, seed).labels)


def together(task: Task, seed: int) -> Found:
    """The default preset on all cells."""
    labels = ours(task.cells.copy(), task.n_types, seed).labels
    return Found(labels[task.in_target], labels)


def corrected(task: Task, seed: int) -> Found:
    """The default preset on all cells, their batches corrected for."""
    cells = task.cells.copy()
    cells.obs[BATCH] = task.batches
    labels = ours(cells, task.n_types, seed, batch_key=BATCH).labels
    return Found(labels[task.in_target], labels)


TRANSFERS: dict[str, Callable[[Task, int], Found]] = {
    "default": default,
    "pca_kmeans": pca_kmeans,
    "own": own,
    "together": together,
}
"""For one part of the cells."""
PEERS = {"pca_kmeans"}
"""Those that are not ours."""
WHOLES: dict[str, Callable[[Task, int], Found]] = {"together": together, "corrected": corrected}
"""For all cells."""
