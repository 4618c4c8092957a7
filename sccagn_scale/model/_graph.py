"""The cell graph of a run."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph
from sccagn_scale._memory import Scratch
from sccagn_scale.config import Config

log = logging.getLogger("sccagn_scale")


def search(
    points: np.ndarray, config: Config, device_type: str, scratch: Scratch
) -> tuple[graph.Backend, graph.Neighbors]:
    """Search the neighbours of the points [n, d], kept in `scratch`, and say how it was done."""
    backend = graph.choose_backend(len(points), device_type) if config.knn_backend == "auto" else config.knn_backend
    found = graph.neighbors(
        points, config.n_neighbors, backend, metric=config.metric, device_type=device_type, scratch=scratch
    )
    return backend, found


def build_graph(
    points: np.ndarray, config: Config, device_type: str, *, random_state: int, scratch: Scratch
) -> tuple[graph.Neighbors, sp.csr_matrix, dict[str, Any]]:
    """Search neighbours of the points [n, d] and join cells.

    Returns
    -------
    Neighbours and adjacency, in `scratch`, and what `uns` says of them.
    """
    backend, found = search(points, config, device_type, scratch)
    adjacency = scratch.keep_csr(graph.adjacency(found, prune=config.prune))
    recall = 1.0
    if backend not in graph.EXACT_BACKENDS:
        recall = graph.sampled_recall(points, found, metric=config.metric, random_state=random_state)
    facts = {
        "backend": backend,
        "recall": recall,
        "n_edges": adjacency.nnz // 2,
        "n_neighbors": config.n_neighbors,
    }
    log.info("The cell graph has %s edges (%s search, recall %.3f).", f"{facts['n_edges']:,}", backend, recall)
    return found, adjacency, facts
