"""The cell graph of a run."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale import graph
from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale.config import Config

log = logging.getLogger("sccagn_scale")

_MOST_SCORED = 10_000
_FEWEST_NEIGHBORS = 5  # in a scoring graph, the cell itself included


def search(points: np.ndarray, config: Config, device: torch.device, scratch: Scratch = IN_MEMORY) -> graph.Neighbors:
    """Search the neighbours of the points [n, d], kept in `scratch`; all points where they are few."""
    n_neighbors, backend = min(config.n_neighbors, len(points)), config.knn_backend
    return graph.neighbors(points, n_neighbors, backend, metric=config.metric, device=device, scratch=scratch)


def build_graph(
    points: np.ndarray, config: Config, device: torch.device, *, random_state: int, scratch: Scratch
) -> tuple[graph.Neighbors, sp.csr_matrix, dict[str, Any]]:
    """Search neighbours of the points [n, d] and join cells.

    Returns
    -------
    Neighbours and adjacency, in `scratch`, and what `uns` says of them.
    """
    found = search(points, config, device, scratch)
    adjacency = scratch.keep_csr(graph.adjacency(found, prune=config.prune))
    backend = graph.resolved_backend(config.knn_backend, len(points), device.type)
    recall = 1.0
    if backend not in graph.EXACT_BACKENDS:
        recall = graph.sampled_recall(points, found, metric=config.metric, random_state=random_state, scratch=scratch)
    facts = {
        "backend": backend,
        "recall": recall,
        "n_edges": adjacency.nnz // 2,
        "n_neighbors": found.indices.shape[1],
    }
    log.info("The cell graph has %s edges (%s search, recall %.3f).", f"{facts['n_edges']:,}", backend, recall)
    return found, adjacency, facts


class ScoringGraph(NamedTuple):
    """Cells and graph by which numbers of clusters are scored."""

    cells: np.ndarray | slice  # of the run's cells
    adjacency: sp.csr_matrix  # among them
    note: str = ""  # what the evidence says of them, where they are not the run's graph


def scoring_graph(
    points: np.ndarray,
    found: graph.Neighbors,
    adjacency: sp.csr_matrix,
    config: Config,
    *,
    device: torch.device,
    random_state: int,
) -> ScoringGraph:
    """Find a graph in which numbers of clusters are scored alike, however many cells there are.

    How many communities a graph of nearest neighbours has at one resolution depends on the number of cells. With 15
    neighbours, a type of ten cells forms no community, as most of its edges lead elsewhere. So few cells (fewer than
    900, with 15 neighbours) are joined with the first √n / 2 of the neighbours that were found, five at least. In
    tens of thousands of cells of one type, on the other hand, neighbourhoods are communities of their own. So of many
    cells, 10,000 are drawn at random and joined anew.

    Parameters
    ----------
    points, found, adjacency
        Of the run: coordinates [n, d], neighbours, and the graph that joins them.
    config
        The settings.
    device
        Where neighbours are searched.
    random_state
        Seed of the draw.
    """
    n_obs = len(points)
    if n_obs > _MOST_SCORED:
        cells = np.sort(np.random.default_rng(random_state).choice(n_obs, _MOST_SCORED, replace=False))
        found = search(points[cells], config, device)
        return ScoringGraph(cells, graph.adjacency(found, prune=config.prune), f"on {_MOST_SCORED:,} cells")
    n_nearest = max(_FEWEST_NEIGHBORS, math.isqrt(n_obs) // 2)
    if n_nearest >= found.indices.shape[1]:
        return ScoringGraph(slice(None), adjacency)
    nearest = _join_nearest(found, n_nearest, config)
    return ScoringGraph(slice(None), nearest, f"on a graph of {n_nearest} neighbours")


def join_new(found: graph.Neighbors, adjacency: sp.csr_matrix, n_trained: int, config: Config) -> sp.csr_matrix:
    """Join cells that a trained network is to read out, fewer of them where they are few.

    The neighbours of a handful of cells are of other types, and averaging over them makes all alike. So that a
    neighbourhood is no larger a part of the cells than it was in training, n new cells have k n / `n_trained`
    neighbours, where k is the training cells' number; √n / 3 are few enough in any case, and k enough. So up to 35 of
    many are not joined at all, and the training cells themselves as they were.

    Parameters
    ----------
    found, adjacency
        Neighbours of the new cells, and the graph that joins all of them.
    n_trained
        Cells that the network was trained on.
    config
        The settings.
    """
    n_obs = len(found.indices)
    n_nearest = max(1, math.isqrt(n_obs) // 3, round(config.n_neighbors * n_obs / n_trained))
    if n_nearest >= found.indices.shape[1]:
        return adjacency
    log.info("The cells are few: the network averages each with %d of its neighbours.", n_nearest - 1)
    return _join_nearest(found, n_nearest, config)


def _join_nearest(found: graph.Neighbors, n_nearest: int, config: Config) -> sp.csr_matrix:
    """The graph of the first so many neighbours that were found, the cell itself included."""
    found = graph.Neighbors(found.indices[:, :n_nearest], found.distances[:, :n_nearest])
    return graph.adjacency(found, prune=config.prune)
