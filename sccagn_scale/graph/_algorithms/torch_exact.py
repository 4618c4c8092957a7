"""Exact search in plain torch, tile by tile: for a GPU where FAISS has none. O(n²·d) time, O(n·d + tile²) memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from sccagn_scale._memory import Scratch

_QUERIES = 4096
_TILE = 16_384
_SPARE = 8  # more than k are kept, since ‖y‖² − 2xᵀy loses digits; the order among them comes from x − y


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest points of every point on the device; see the package for the contract."""
    x = torch.from_numpy(points).to(device)
    indices, distances = scratch.empty((len(x), k), np.int64), scratch.empty((len(x), k))
    with _full_precision():
        for i in range(0, len(x), _QUERIES):
            rows = slice(i, i + _QUERIES)
            indices[rows], distances[rows] = _search(x[rows], x, k)
    return indices, distances


def search_some(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Find the k nearest points of some points, the `rows`: int64 [n_rows, k]."""
    with _full_precision():
        return _search(torch.from_numpy(points[rows]), torch.from_numpy(points), k)[0]


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply with all digits, whatever torch was told to leave out in training.

    It can be told in two ways. The settings of each backend are what both change; that of one way cannot be read after
    the other was used.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _search(queries: Tensor, x: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    kept = min(len(x), k + _SPARE)
    middle = queries.mean(dim=0)  # far from the origin, more digits would be lost
    scores = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.int64, device=x.device)
    for j in range(0, len(x), _TILE):
        others = x[j : j + _TILE] - middle
        tile = torch.addmm(others.square().sum(dim=1), queries - middle, others.T, alpha=-2)
        best, place = tile.topk(min(kept, tile.shape[1]), dim=1, largest=False)
        scores, ids = torch.cat([scores, best], dim=1), torch.cat([ids, place + j], dim=1)
        scores, place = scores.topk(min(kept, scores.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, place)
    ids = ids.sort(dim=1).values  # of equally distant points, the first come first
    squared = torch.cat([(x[part] - q[:, None]).square().sum(dim=2) for part, q in _pieces(ids, queries)])
    squared, place = squared.sort(dim=1, stable=True)
    # NumPy's root: in a fresh process with two threads, torch's on the CPU was seen to give the first few values of a
    # thread's share to four digits only, now and then (torch 2.13)
    return ids.gather(1, place[:, :k]).cpu().numpy(), np.sqrt(squared[:, :k].cpu().numpy())


def _pieces(ids: Tensor, queries: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows, few enough at a time that their neighbours' coordinates fit a tile."""
    n = max(1, _TILE * _TILE // (4 * ids.shape[1] * queries.shape[1]))
    return list(zip(ids.split(n), queries.split(n), strict=True))
