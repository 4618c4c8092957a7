"""kNN backends: one file each, one signature, one table.

A backend takes points [n, d] float32 C-contiguous and k, and returns `(indices, distances)` [n, k] int64 and float32:
for every point its k nearest by Euclidean distance, the point itself usually but not certainly among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from sccagn_scale.graph._algorithms import exact, hnsw, ivf

Backend = Literal["exact", "hnsw", "ivf"]
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

ALGORITHMS: dict[str, Search] = {"exact": exact.search, "hnsw": hnsw.search, "ivf": ivf.search}
