"""A stand-in for the model, so that the command line is tested by itself."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sccagn_scale import SCCAGN
from sccagn_scale._errors import InputWarning


class FakeModel:
    """Trains nothing; clusters cells by their order. Takes what the model takes."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012 (what the test looks at)
    failure: BaseException | None = None

    def __init__(self, *values: Any, **named: Any) -> None:
        given = inspect.signature(SCCAGN).bind(*values, **named)
        given.apply_defaults()
        call = {name: value for name, value in given.arguments.items() if name not in ("adata", "progress")}
        self.n_clusters, self.progress = call["n_clusters"], given.arguments["progress"]
        self.calls.append(call)

    def train(self) -> FakeModel:
        warnings.warn("two genes are\n  constant; left out", InputWarning, stacklevel=2)
        warnings.warn("two genes are constant; left out", InputWarning, stacklevel=2)
        warnings.warn("please upgrade", FutureWarning, stacklevel=2)
        logging.getLogger("sccagn_scale").info("the values are counts")
        with self.progress.stage("Training", total=4) as stage:
            for epoch in range(3):  # stops early
                stage.advance(1, loss=1 / (epoch + 1), epoch=epoch)
        if self.failure is not None:
            raise self.failure
        return self

    def write_to(self, adata: ad.AnnData, key_added: str = "sccagn") -> None:
        rng = np.random.default_rng(0)
        k = self.n_clusters or 3
        names = (np.arange(adata.n_obs) % k).astype(str).astype(object)
        names[:2] = np.nan
        adata.obs[key_added] = pd.Categorical(names)
        adata.obs[f"{key_added}_confidence"] = rng.random(adata.n_obs).astype(np.float32)
        adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2))
        evidence = {"method": "stability", "n_clusters": np.array([2, 3]), "score": np.array([0.5, np.nan])}
        adata.uns[key_added] = {
            "n_clusters": k,
            "n_clusters_evidence": {} if self.n_clusters else evidence,
            "params": {"random_state": 0, "n_hidden": np.array([100, 200]), "versions": {"torch": "2.x"}},
            "history": {"epoch": np.arange(3), "loss": np.array([3.0, 2.0, 1.0]), "stage": np.array(["joint"] * 3)},
            "graph": {"backend": "exact", "recall": np.float32(1)},
            "preprocessing": {"n_obs_kept": adata.n_obs - 2, "n_vars_kept": 7, "input_kind": "counts"},
        }

    def save(self, folder: Path) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model").write_text("weights")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> type[FakeModel]:
    monkeypatch.setattr("sccagn_scale.model.SCCAGN", FakeModel)
    monkeypatch.setattr(FakeModel, "calls", [])
    monkeypatch.setattr(FakeModel, "failure", None)
    return FakeModel


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(0.5, (40, 9)).astype(np.float32)))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(40)], [f"g{i}" for i in range(9)]
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path
