"""Rows of results, labelled sets, and runs that measure nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from benchmarks.__main__ import main
from benchmarks._contest import Contest
from benchmarks._labelled import made_cells, read_blind
from benchmarks._results import Row


def row(case: str, method: str, seconds: float | None = 1.0, peak_rss_mb: float | None = 100.0, **metrics: Any) -> Row:
    """One of a result; without seconds that of a failure."""
    if seconds is None:
        return Row(case=case, method=method, seconds=None, spread=None, peak_rss_mb=None, metrics=metrics)
    return Row(case=case, method=method, seconds=seconds, spread=0.1, peak_rss_mb=peak_rss_mb, metrics=metrics)


def scored(case: str, method: str, nmi: float = 0.5, ari: float = 0.5, **metrics: Any) -> Row:
    """One with the scores of a clustering."""
    spread = {"nmi_sd": 0.01, "ari_sd": 0.02, "n_clusters": 4.0, "n_types": 5}
    return row(case, method, **{"nmi": nmi, "ari": ari, **spread, **metrics})


def read_greedily(path: Path) -> tuple[AnnData, pd.Series]:
    """`read_blind`, which takes 268 MB on the way."""
    np.ones(2**25)
    return read_blind(path)


def write_set(path: Path, n_obs: int = 150, n_vars: int = 300, *, n_types: int = 3, batches: Any = None) -> AnnData:
    """A labelled set, sorted by type, that betrays its labels in every place it has; without `batches`, there too."""
    adata, types = made_cells(n_obs, n_vars, n_types=n_types)
    order = np.argsort(types.to_numpy(), kind="stable")
    adata, types = adata[order].copy(), types.iloc[order]
    adata.obs_names = [f"{name}_{i}" for i, name in enumerate(types)]
    adata.obs["cell_type"] = pd.Categorical(types)
    adata.obs["batch"] = pd.Categorical(types.to_numpy() if batches is None else batches)
    adata.uns["types"] = types.to_numpy()
    adata.obsm["onehot"] = pd.get_dummies(types).to_numpy(float)
    adata.layers["sorted"] = adata.X.copy()
    adata.var["marker_of"] = "type0"
    adata.write_h5ad(path)
    return adata


def asked(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Contest]:
    """The contests of a run that runs none."""
    contests: list[Contest] = []
    monkeypatch.setattr(
        "benchmarks._session.run_contest", lambda contest, threads, references: contests.append(contest) or ()
    )
    assert main(arguments) == 0
    return contests
