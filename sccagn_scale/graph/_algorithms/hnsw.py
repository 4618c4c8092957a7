"""Hierarchical navigable small worlds (Malkov & Yashunin, TPAMI 2020): for hundreds of thousands of cells."""

from __future__ import annotations

import faiss
import numpy as np
import torch

from sccagn_scale._memory import Scratch

_LINKS = 32
_EF_CONSTRUCTION = 80
_EF_SEARCH = 96


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point; see the package for the contract."""
    index = faiss.IndexHNSWFlat(points.shape[1], _LINKS)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.hnsw.efSearch = max(_EF_SEARCH, 2 * k)
    index.add(points)
    squared, indices = index.search(points, k)
    return scratch.keep(indices), scratch.keep(np.sqrt(np.maximum(squared, 0.0)))
