"""What the GPU indices of FAISS share: queries in blocks, so that results of one block at a time lie on the GPU."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from sccagn_scale._errors import InputError
from sccagn_scale._memory import Scratch

_BLOCK = 65_536
_LARGEST_K = 2048  # FAISS's own limit on the GPU


def search_in_blocks(
    index: faiss.Index, points: np.ndarray, k: int, scratch: Scratch, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Search for every point; swaps FAISS's order and takes the root, as the contract of backends asks."""
    if k > _LARGEST_K:
        raise InputError(f"`n_neighbors` must be at most {_LARGEST_K:,} on a GPU; it is {k:,}: use another `backend`.")
    indices, distances = scratch.empty((len(points), k), np.int64), scratch.empty((len(points), k))
    for i in range(0, len(points), _BLOCK):
        rows = slice(i, i + _BLOCK)
        squared, indices[rows] = index.search(points[rows], k, **options)
        distances[rows] = np.sqrt(np.maximum(squared, 0.0))
    return indices, distances
