"""kNN backends: one file each, and one table.

A backend takes points [n, d] float32 C-contiguous, k, the `device` that the caller computes on, and where results are
kept. It returns `(indices, distances)` [n, k] int64 and float32, which are in `scratch` and the caller's own: for every
point its k nearest by Euclidean distance, the point itself usually but not certainly among them, and −1 for what could
not be found. FAISS takes the first GPU where `device` is none.
"""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import torch

from sccagn_scale._compat import faiss_gpu
from sccagn_scale._memory import Scratch
from sccagn_scale.config import Backend
from sccagn_scale.graph._algorithms import cagra_gpu, exact, flat_gpu, hnsw, ivf, ivf_gpu, ivf_graph, torch_exact


class Search(Protocol):
    """How a backend is called."""

    def __call__(
        self, points: np.ndarray, k: int, /, *, device: torch.device, scratch: Scratch
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest points of every point."""


ALGORITHMS: dict[Backend, Search] = {
    "exact": exact.search,
    "hnsw": hnsw.search,
    "ivf": ivf.search,
    "ivf_graph": ivf_graph.search,
    "torch_exact": torch_exact.search,
    "flat_gpu": flat_gpu.search,
    "ivf_gpu": ivf_gpu.search,
    "cagra_gpu": cagra_gpu.search,
}
EXACT_BACKENDS = frozenset({"exact", "torch_exact", "flat_gpu"})
"""Those that compare all pairs."""


def why_unavailable(backend: Backend) -> str | None:
    """Say why a backend cannot run here, or None when it can."""
    if not backend.endswith("_gpu"):
        return None
    gpu = faiss_gpu()
    if not gpu.present:
        return gpu.detail
    if backend == "cagra_gpu" and not hasattr(faiss, "GpuIndexCagra"):
        return "this faiss was built without cuVS (install faiss-gpu-cuvs in its place)"
    return None
