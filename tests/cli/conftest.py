"""A stand-in for the model, so that the command line is tested by itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sccagn_scale._errors import InputError, InputWarning


class FakeConfig:
    """What the command line needs of `Config`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def preset(cls, name: str) -> FakeConfig:
        return cls(name)

    @classmethod
    def from_toml(cls, path: Path, base: FakeConfig) -> FakeConfig:
        text = Path(path).read_text()
        if "=" not in text:
            raise InputError(f"`path` must be TOML, but {str(path)!r} is not.")
        return cls(f"{base.name}+{text.strip()}")

    @classmethod
    def from_assignments(cls, assignments: Sequence[str], base: FakeConfig) -> FakeConfig:
        if bad := [text for text in assignments if "=" not in text]:
            raise InputError(f"`assignments` must have the form NAME=VALUE; one is {bad[0]!r}.")
        return cls("+".join([base.name, *assignments]))


class FakeModel:
    """Trains nothing; clusters cells by their order."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012 (what the test looks at)
    failure: BaseException | None = None

    def __init__(self, adata: ad.AnnData, n_clusters: int | None, config: FakeConfig, **options: Any) -> None:
        self.n_clusters, self.progress = n_clusters, options.pop("progress")
        self.calls.append({"n_clusters": n_clusters, "config": config.name, **options})

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

    def write_to(self, adata: ad.AnnData, key_added: str) -> None:
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
    monkeypatch.setattr("sccagn_scale.config.Config", FakeConfig)
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
