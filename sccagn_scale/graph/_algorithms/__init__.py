"""kNN backends: one file each, and one table.

A backend takes points [n, d] float32 C-contiguous and k, and returns `(indices, distances)` [n, k] int and float32, the
caller's own: for every point its k nearest by Euclidean distance, the point itself usually but not certainly among
them, and −1 for what could not be found. Those that run on a GPU take its number, `torch_exact` a device, and `ivf` a
place for its results.
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np

from sccagn_scale._compat import faiss_gpu
from sccagn_scale.config import Backend
from sccagn_scale.graph._algorithms import cagra_gpu, exact, flat_gpu, hnsw, ivf, ivf_gpu, ivf_graph, torch_exact

Search = Callable[..., tuple[np.ndarray, np.ndarray]]

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
