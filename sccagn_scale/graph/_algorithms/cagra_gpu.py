"""CAGRA (Ootomo et al., ICDE 2024) on the GPU, where FAISS was built with cuVS."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from sccagn_scale._memory import Scratch
from sccagn_scale.graph._algorithms import flat_gpu
from sccagn_scale.graph._algorithms._blocks import search_in_blocks

gpu: Any = faiss  # a build for the CPU, and its types, lack what is used here
_DEGREE = 64
_SMALLEST = 5000  # below it, comparing all pairs is as fast
_WIDTH = 128
_LARGEST_K = 256  # the search keeps at most twice as many


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point on the GPU; see the package for the contract."""
    if len(points) < _SMALLEST or k > _LARGEST_K:
        return flat_gpu.search(points, k, device=device, scratch=scratch)
    config = gpu.GpuIndexCagraConfig()
    config.device = device.index or 0
    config.graph_degree, config.intermediate_graph_degree = _DEGREE, 2 * _DEGREE
    config.build_algo = gpu.graph_build_algo_IVF_PQ  # NN-descent differs from run to run
    resources = gpu.StandardGpuResources()
    index = gpu.GpuIndexCagra(resources, points.shape[1], faiss.METRIC_L2, config)
    index.train(points)
    parameters = gpu.SearchParametersCagra()
    parameters.algo = gpu.search_algo_SINGLE_CTA  # whichever way is chosen by itself depends on the number of queries
    parameters.itopk_size = max(_WIDTH, -(-2 * k // 32) * 32)
    return search_in_blocks(index, points, k, scratch, params=parameters)
