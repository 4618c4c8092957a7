"""What tests of pictures share."""

from __future__ import annotations

from io import BytesIO

import anndata as ad
import numpy as np
import pandas as pd


def clustered(n: int = 90, n_clusters: int = 3) -> ad.AnnData:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(n_clusters), n // n_clusters)
    names = true.astype(str).astype(object)
    names[0] = np.nan
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]))
    adata.obs["sccagn"] = pd.Categorical(names)
    adata.obs["sccagn_confidence"] = rng.random(n).astype(np.float32)
    adata.obs["type"] = pd.Categorical(np.array(["T", "B", "NK", "DC", "Mono"])[(true + 1) % n_clusters])
    adata.obsm["X_umap"] = (10 * np.eye(n_clusters, 2)[true] + rng.normal(0, 1, (n, 2))).astype(np.float32)
    joint, before = 6, np.full(4, np.nan)
    adata.uns["sccagn"] = {
        "n_clusters": n_clusters,
        "n_clusters_evidence": {
            "method": "stability",
            "n_clusters": np.array([2, 3, 4, 5]),
            "score": np.array([0.4, 0.9, 0.7, 0.5]),
        },
        "history": {
            "epoch": np.arange(10),
            "stage": np.array(["pretrain"] * 4 + ["joint"] * joint),
            "loss": np.linspace(2, 1, 10),
            "reconstruction": np.geomspace(1, 0.001, 10),
            "adversarial": np.full(10, np.nan),
            "clustering": np.concatenate([before, np.linspace(-1, 1, joint)]),
            "changed": np.concatenate([before, np.linspace(0.5, 0, joint)]),
        },
    }
    return adata


def png(figure: object) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")  # type: ignore[attr-defined]
    return stream.getvalue()
