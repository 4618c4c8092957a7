"""Deep graph clustering of single-cell RNA-seq atlases: scCAGN at scale.

import sccagn_scale
adata = sccagn_scale.read("cells.h5ad")
sccagn_scale.cluster(adata)
adata.obs["sccagn"]
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads that wait for each other spin for a while, by default so long that beside other work on the same cores
    # training takes fifty times as long. torch's OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__version__ = "0.1.0"

__all__ = [
    "SCCAGN",
    "Config",
    "InputError",
    "InputWarning",
    "__version__",
    "cluster",
    "metrics",
    "open_atlas",
    "pl",
    "plan",
    "read",
    "recluster",
    "simulate",
    "write",
]

if TYPE_CHECKING:
    from sccagn_scale import metrics, pl, simulate
    from sccagn_scale._errors import InputError, InputWarning
    from sccagn_scale.config import Config
    from sccagn_scale.io import open_atlas, read, write
    from sccagn_scale.model import SCCAGN, cluster, plan, recluster

_HOME = {
    "InputError": "_errors",
    "InputWarning": "_errors",
    "Config": "config",
    "open_atlas": "io",
    "read": "io",
    "write": "io",
    "SCCAGN": "model",
    "cluster": "model",
    "plan": "model",
    "recluster": "model",
}
_ROOMS = ("metrics", "pl", "simulate")


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds, and `--help` should not."""
    if name in _HOME:
        return getattr(importlib.import_module(f"sccagn_scale.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"sccagn_scale.{name}")
    raise AttributeError(f"module 'sccagn_scale' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
