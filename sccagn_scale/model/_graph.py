"""The cell graph of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph
from sccagn_scale._memory import Scratch
from sccagn_scale.config import Config

log = logging.getLogger("sccagn_scale")

_FEWEST = 5
"""Neighbours of a cell, itself included, by which numbers of clusters of very few cells are judged."""


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


def closest_graph(found: graph.Neighbors, adjacency: sp.csr_matrix, config: Config) -> sp.csr_matrix:
    """Join each of few cells with its nearest neighbours alone, for numbers of clusters to be judged by.

    In a graph of 15 neighbours a type of ten cells is no community: most of its edges lead elsewhere, whatever it is
    like. So of fewer than 900 cells, only the first √n / 2 neighbours that were found are joined, five at least.

    Parameters
    ----------
    found
        Neighbours of the n cells.
    adjacency
        The cell graph that joins them all, which is returned where the cells are not so few.
    config
        The settings.
    """
    n_nearest = max(_FEWEST, math.isqrt(len(found.indices)) // 2)
    if n_nearest >= config.n_neighbors:
        return adjacency
    nearest = graph.Neighbors(found.indices[:, :n_nearest], found.distances[:, :n_nearest])
    return graph.adjacency(nearest, prune=config.prune)
