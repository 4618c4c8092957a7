"""Views of the same cells that err differently: three cell graphs, and embeddings of three sizes over each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from sccagn_scale import graph
from sccagn_scale.config import Config
from sccagn_scale.model._prepare import Prepared
from sccagn_scale.model._start import smoothed

_SIZES = (5 / 6, 1, 7 / 6)


class View(NamedTuple):
    """A cell graph, and the cells as averaged over it."""

    adjacency: sp.csr_matrix  # [n, n]
    embeddings: list[np.ndarray]  # float32 [n, d] each


def find_views(prepared: Prepared, adjacency: sp.csr_matrix, z: np.ndarray, config: Config, device: str) -> list[View]:
    """Look at the cells in three ways.

    Which genes count for how much, and how many components are kept, is a choice that no data set is indifferent to.
    Here neighbours are those of the run, those in components of the genes scaled to variance one, and those in both
    sets of components together. Over each graph, the components of unit-length expression are averaged as the encoder
    averages them before training: `n_latent` of them, a sixth fewer and a sixth more.

    Parameters
    ----------
    prepared
        The cells, with their scaled components.
    adjacency, z
        Cell graph [n, n] and embedding [n, n_latent] of the run, which are part of the first view.
    device
        Where neighbours are searched, "cpu" or "cuda".
    """
    assert prepared.scaled_pcs is not None
    both = np.hstack([_of_unit_size(prepared.pcs), _of_unit_size(prepared.scaled_pcs)])
    graphs = [adjacency, *(_cell_graph(points, config, device) for points in (prepared.scaled_pcs, both))]
    sizes = sorted({max(1, min(round(size * config.n_latent), prepared.pcs.shape[1])) for size in _SIZES})
    views = []
    for own in graphs:
        wide = smoothed(_scores(prepared.pcs[:, : sizes[-1]], config.whiten), graph.normalized(own), config.phi)
        views.append(View(own, [z if own is adjacency and d == z.shape[1] else wide[:, :d] for d in sizes]))
    return views


def _of_unit_size(points: np.ndarray) -> np.ndarray:
    """Divide by the root mean square length of the points [n, d]."""
    return points / max(np.sqrt(np.square(points).sum(axis=1).mean()), np.finfo(np.float32).tiny)


def _cell_graph(points: np.ndarray, config: Config, device: str) -> sp.csr_matrix:
    backend = graph.choose_backend(len(points), device) if config.knn_backend == "auto" else config.knn_backend
    found = graph.neighbors(points, config.n_neighbors, backend, metric=config.metric, device_type=device)
    return graph.adjacency(found, prune=config.prune)


def _scores(pcs: np.ndarray, whiten: bool) -> np.ndarray:
    """Centre components, and give each variance one where z is whitened."""
    scores = pcs - pcs.mean(axis=0)
    if not whiten:
        return scores
    deviations = scores.std(axis=0)
    return scores / np.maximum(deviations, max(1e-3 * deviations.max(), np.finfo(np.float32).tiny))
