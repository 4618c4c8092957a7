"""Inverted lists by FAISS on the GPU; see `ivf` for what they are."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from sccagn_scale._memory import Scratch
from sccagn_scale.graph._algorithms._blocks import search_in_blocks

gpu: Any = faiss  # a build for the CPU, and its types, lack what is used here

_PROBED_SHARE = 1 / 32
_MIN_PROBED = 16


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point on the GPU; see the package for the contract."""
    n, d = points.shape
    n_lists, n_probed = n_lists_and_probed(n)
    resources, config = gpu.StandardGpuResources(), gpu.GpuIndexIVFFlatConfig()
    config.device = device.index or 0
    index = gpu.GpuIndexIVFFlat(resources, d, n_lists, faiss.METRIC_L2, config)
    index.train(points)
    index.add(points)
    index.nprobe = n_probed
    return search_in_blocks(index, points, k, scratch)


def n_lists_and_probed(n_obs: int) -> tuple[int, int]:
    """Number of lists, and how many of them are searched."""
    n_lists = max(1, min(int(4 * np.sqrt(n_obs)), n_obs // 39))  # FAISS wants 39 training points for each list
    return n_lists, min(n_lists, max(_MIN_PROBED, int(n_lists * _PROBED_SHARE)))
