"""Exact search by FAISS on the GPU: every pair of points, queries in blocks."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from sccagn_scale._memory import Scratch
from sccagn_scale.graph._algorithms._blocks import search_in_blocks

gpu: Any = faiss  # a build for the CPU, and its types, lack what is used here


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest points of every point on the GPU; see the package for the contract."""
    resources, config = gpu.StandardGpuResources(), gpu.GpuIndexFlatConfig()
    config.device = device.index or 0
    index = gpu.GpuIndexFlatL2(resources, points.shape[1], config)
    index.add(points)
    return search_in_blocks(index, points, k, scratch)
