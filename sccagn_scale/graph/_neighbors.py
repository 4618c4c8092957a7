"""k nearest neighbours of every cell, and how good they are."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch

from sccagn_scale import ops
from sccagn_scale._errors import InputError
from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale.config import Backend, Metric
from sccagn_scale.graph._algorithms import ALGORITHMS, torch_exact, why_unavailable
from sccagn_scale.graph._recall import knn_recall

_EXACT_UP_TO = 30_000
"""Largest number of cells for which every pair is compared."""

_EXACT_ON_GPU_UP_TO = 500_000
"""The same on a GPU."""

_BLOCK = 262_144


class Neighbors(NamedTuple):
    """kNN of every cell; row i that lists j is the edge j → i."""

    indices: np.ndarray  # int64 [n_obs, n_neighbors], column 0 is the cell itself
    distances: np.ndarray  # float32 [n_obs, n_neighbors], column 0 is zero


def resolved_backend(backend: Literal["auto", Backend], n_obs: int, device_type: str = "cpu") -> Backend:
    """The kNN backend itself; for `"auto"` the one for this many cells and the type of device that is computed on.

    On a GPU: FAISS's exact search, beyond 500,000 cells CAGRA or else inverted lists; where FAISS has no GPU, torch's
    exact search up to 500,000 cells. Everywhere else the CPU's: exact search, beyond 30,000 cells `"ivf"` where its
    operator is compiled, `"ivf_graph"` where it is not.
    """
    if backend != "auto":
        return backend
    if device_type == "cuda":
        few = n_obs <= _EXACT_ON_GPU_UP_TO
        if why_unavailable("flat_gpu") is None:
            return "flat_gpu" if few else "ivf_gpu" if why_unavailable("cagra_gpu") else "cagra_gpu"
        if few:
            return "torch_exact"
    if n_obs <= _EXACT_UP_TO:
        return "exact"
    return "ivf" if ops.is_compiled("list_neighbors", "cpu") else "ivf_graph"


def neighbors(
    x: np.ndarray,
    n_neighbors: int = 15,
    backend: Literal["auto", Backend] = "auto",
    *,
    metric: Metric = "euclidean",
    device: torch.device | str = "cpu",
    scratch: Scratch = IN_MEMORY,
) -> Neighbors:
    """Find the nearest neighbours of every cell.

    Parameters
    ----------
    x
        Cells × dimensions [n_obs, d].
    n_neighbors
        Neighbours of each cell, the cell itself counted (as in scanpy).
    backend
        `"auto"` chooses by the number of cells and the device, see `resolved_backend`. `"exact"`, `"hnsw"`, `"ivf"` and
        `"ivf_graph"` run on the CPU, `"flat_gpu"`, `"ivf_gpu"` and `"cagra_gpu"` on a GPU by FAISS, `"torch_exact"`
        on `device`.
    metric
        `"euclidean"`, or `"cosine"`: the Euclidean distance between vectors brought to unit length.
    device
        What the caller computes on; where that is no GPU, FAISS takes the first.
    scratch
        Where the results are kept, what `"ivf"` works with, and the points at unit length.

    Raises
    ------
    InputError
        If there are fewer cells than neighbours, or the backend cannot run here.
    """
    n_obs = x.shape[0]
    if not min(2, n_obs) <= n_neighbors <= n_obs:
        raise InputError(
            f"`n_neighbors` must be between 2 and the number of cells, {n_obs:,} (it counts the cell itself); "
            f"it is {n_neighbors}."
        )
    points = _unit(x, metric, scratch)
    device = torch.device(device)
    chosen = resolved_backend(backend, n_obs, device.type)
    if reason := why_unavailable(chosen):
        raise InputError(f"`backend` must be one that can run here, but {chosen!r} cannot: {reason}.")
    found = Neighbors(*ALGORITHMS[chosen](points, n_neighbors, device=device, scratch=scratch))
    _put_self_first(found)
    return found


def sampled_recall(
    x: np.ndarray,
    found: Neighbors,
    n_sample: int = 1000,
    *,
    metric: Metric = "euclidean",
    random_state: int = 0,
    scratch: Scratch = IN_MEMORY,
) -> float:
    """Measure which share of the true neighbours was found, by exact search for a sample of the cells.

    Parameters
    ----------
    x
        The points that were searched [n_obs, d].
    found
        What `neighbors` returned for them.
    n_sample
        Cells compared; O(n_sample · n_obs · d) time.
    metric, scratch
        See `neighbors`.
    random_state
        Seed of the draw.
    """
    points = _unit(x, metric, scratch)
    rows = np.sort(np.random.default_rng(random_state).choice(len(points), min(n_sample, len(points)), replace=False))
    return knn_recall(found.indices[rows], torch_exact.search_some(points, rows, found.indices.shape[1]))


def _unit(x: np.ndarray, metric: Metric, scratch: Scratch) -> np.ndarray:
    points = np.ascontiguousarray(x, dtype=np.float32)
    if metric != "cosine":
        return points
    unit = scratch.empty(points.shape)
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        unit[rows] = points[rows] / np.maximum(np.linalg.norm(points[rows], axis=1, keepdims=True), 1e-12)
    return unit


def _put_self_first(found: Neighbors) -> None:
    """Put each cell in column 0 of its own row: identical points may push it back, or out of the list altogether."""
    n_obs, k = found.indices.shape
    for start in range(0, n_obs, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n_obs))
        own = np.arange(rows.start, rows.stop)[:, None]
        listed, away = found.indices[rows], found.distances[rows]
        # a place that the search could not fill (-1) becomes one more mention of the cell itself: no edge is made of it
        away = np.where(listed < 0, 0.0, away)
        listed = np.where(listed < 0, own, listed)
        rank = np.arange(k, dtype=np.float64)[None, :] + 1
        rank = np.where((listed == own) & (np.cumsum(listed == own, axis=1) == 1), 0, rank)
        missing = ~(listed == own).any(axis=1)
        listed[missing, -1], away[missing, -1], rank[missing, -1] = own[missing, 0], 0.0, 0
        order = np.argsort(rank, axis=1, kind="stable")
        found.indices[rows] = np.take_along_axis(listed, order, 1)
        found.distances[rows] = np.take_along_axis(away, order, 1)
    found.distances[:, 0] = 0.0
