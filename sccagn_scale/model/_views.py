"""Views of the same cells that err differently: three cell graphs, and embeddings over each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale import graph, pp
from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale.config import Config
from sccagn_scale.model._graph import search
from sccagn_scale.model._prepare import Prepared
from sccagn_scale.model._start import floored, smoothed

FEW_CELLS = 20_000
"""Up to so many, a dozen clusterings take seconds, and mixtures of Gaussians in a few dimensions are the best of them.
With more cells, communities may be as good or far better."""

_SIZES = (5 / 6, 1, 7 / 6)  # of the embeddings of few cells, as shares of the run's own
_COLUMNS = 8  # that are averaged at once


class View(NamedTuple):
    """A cell graph, and the cells as averaged over it."""

    adjacency: sp.csr_matrix  # [n, n]
    embeddings: list[np.ndarray]  # float32 [n, d] each


def find_views(
    prepared: Prepared,
    adjacency: sp.csr_matrix,
    z: np.ndarray,
    config: Config,
    *,
    device: torch.device,
    scratch: Scratch = IN_MEMORY,
) -> Iterator[View]:
    """Look at the cells in three ways, one after the other.

    Which genes count for how much, and how many components are kept, matters on every data set.
    Here neighbours are those of the run, those in components of the genes scaled to variance one, and those in both
    sets of components together. Over each graph, the components of unit-length expression are averaged as the encoder
    averages them before training: `n_latent` of them and, of few cells, also a sixth fewer and a sixth more.

    Parameters
    ----------
    prepared
        The cells, with their scaled components.
    adjacency, z
        Cell graph [n, n] and embedding [n, n_latent] of the run, which are part of the first view.
    config
        The settings.
    device
        Where neighbours are searched.
    scratch
        Where a further graph is kept, as long as its view is looked at.
    """
    assert prepared.scaled_pcs is not None
    n_comps = prepared.pcs.shape[1]
    shares = _SIZES if len(z) <= FEW_CELLS else (1,)
    sizes = sorted({max(1, min(round(share * config.n_latent), n_comps)) for share in shares})
    yield _view(adjacency, prepared.pcs, sizes, z, config, scratch)
    yield _view(_cell_graph(prepared.scaled_pcs, config, device, scratch), prepared.pcs, sizes, None, config, scratch)
    both = _together(prepared, scratch)
    yield _view(_cell_graph(both, config, device, scratch), prepared.pcs, sizes, None, config, scratch)


def _view(
    adjacency: sp.csr_matrix,
    pcs: np.ndarray,
    sizes: list[int],
    z: np.ndarray | None,
    config: Config,
    scratch: Scratch,
) -> View:
    """Look at the cells over one graph; z, where it is given, is the embedding of its size."""
    if z is not None and sizes == [z.shape[1]]:
        return View(adjacency, [z])
    wide = _averaged(pcs[:, : sizes[-1]], adjacency, config, scratch)
    return View(adjacency, [z if z is not None and d == z.shape[1] else wide[:, :d] for d in sizes])


def _together(prepared: Prepared, scratch: Scratch) -> np.ndarray:
    """Both sets of components side by side, at one scale."""
    pcs, scaled = prepared.pcs, prepared.scaled_pcs
    assert scaled is not None
    both = scratch.empty((len(pcs), pcs.shape[1] + scaled.shape[1]))
    np.divide(pcs, np.float32(pp.rms_length(pcs)), out=both[:, : pcs.shape[1]])
    np.divide(scaled, np.float32(pp.rms_length(scaled)), out=both[:, pcs.shape[1] :])
    return both


def _cell_graph(points: np.ndarray, config: Config, device: torch.device, scratch: Scratch) -> sp.csr_matrix:
    return scratch.keep_csr(graph.adjacency(search(points, config, device, scratch), prune=config.prune))


def _averaged(pcs: np.ndarray, adjacency: sp.csr_matrix, config: Config, scratch: Scratch) -> np.ndarray:
    """Scores [n, d], of variance one where z is whitened, as the encoder mixes them before training."""
    normalized = scratch.keep_csr(graph.normalized(adjacency))
    deviations = np.ones(pcs.shape[1], np.float32)
    if config.whiten:
        deviations = floored(pcs.std(axis=0, dtype=np.float64).astype(np.float32))
    found = scratch.empty(pcs.shape)
    for i in range(0, pcs.shape[1], _COLUMNS):
        columns = slice(i, i + _COLUMNS)
        scores = (pcs[:, columns] - pcs[:, columns].mean(axis=0, dtype=np.float64).astype(np.float32)) / deviations[
            columns
        ]
        found[:, columns] = smoothed(scores, normalized, config.phi)
    return found
