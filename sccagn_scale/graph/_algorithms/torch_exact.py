"""Exact search in plain torch, tile by tile: for a GPU where FAISS has none. O(n²·d) time, O(n·d + tile²) memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_QUERIES = 4096
_TILE = 16_384
_SPARE = 8  # more than k are kept, since ‖y‖² − 2xᵀy loses digits; the order among them comes from x − y


def search(points: np.ndarray, k: int, device_type: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest points of every point on that device; see the package for the contract."""
    x = torch.from_numpy(points).to(torch.device(device_type))
    x = x - x.mean(dim=0)  # far from the origin, more digits would be lost
    squares = x.square().sum(dim=1)
    indices, distances = np.empty((len(x), k), np.int64), np.empty((len(x), k), np.float32)
    for i in range(0, len(x), _QUERIES):
        rows = slice(i, i + _QUERIES)
        found, squared = _search(x[rows], x, squares, k)
        # NumPy's root: in a fresh process with two threads, torch's on the CPU was seen to give the first few values of
        # a thread's share to four digits only, now and then (torch 2.13)
        indices[rows], distances[rows] = found.cpu().numpy(), np.sqrt(squared.cpu().numpy())
    return indices, distances


def _search(queries: Tensor, x: Tensor, squares: Tensor, k: int) -> tuple[Tensor, Tensor]:
    kept = min(len(x), k + _SPARE)
    scores = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.int64, device=x.device)
    for j in range(0, len(x), _TILE):
        tile = torch.addmm(squares[j : j + _TILE], queries, x[j : j + _TILE].T, alpha=-2)
        best, place = tile.topk(min(kept, tile.shape[1]), dim=1, largest=False)
        scores, ids = torch.cat([scores, best], dim=1), torch.cat([ids, place + j], dim=1)
        scores, place = scores.topk(min(kept, scores.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, place)
    ids = ids.sort(dim=1).values  # of equally distant points, the first come first
    squared = torch.cat([(x[part] - q[:, None]).square().sum(dim=2) for part, q in _pieces(ids, queries)])
    squared, place = squared.sort(dim=1, stable=True)
    return ids.gather(1, place[:, :k]), squared[:, :k]


def _pieces(ids: Tensor, queries: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows, few enough at a time that their neighbours' coordinates fit a tile."""
    n = max(1, _TILE * _TILE // (4 * ids.shape[1] * queries.shape[1]))
    return list(zip(ids.split(n), queries.split(n), strict=True))
