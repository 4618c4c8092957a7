"""Results into AnnData, in scanpy's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sccagn_scale import graph
from sccagn_scale._keys import CONNECTIVITIES, DISTANCES, NEIGHBORS, PCA, Keys

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.model._model import SCCAGN


def write_results(model: SCCAGN, adata: AnnData, keys: Keys) -> None:
    """Set every key that `SCCAGN.write_to` documents."""
    names = [str(i) for i in range(model.n_clusters_)]
    labels = pd.Categorical.from_codes(model.labels_, pd.Index(names)).remove_unused_categories()
    adata.obs[keys.labels] = pd.Series(labels, index=adata.obs_names)
    adata.obs[keys.confidence] = model.confidence_
    adata.obsm[keys.embedding] = model.embedding_
    adata.obsm[PCA] = model.pcs_
    adata.obsp[DISTANCES] = _over_all(graph.distance_matrix(model.neighbors_), model.keep_obs_)
    adata.obsp[CONNECTIVITIES] = _over_all(model.adjacency_, model.keep_obs_)
    adata.uns[NEIGHBORS] = {
        "connectivities_key": CONNECTIVITIES,
        "distances_key": DISTANCES,
        "params": {
            "n_neighbors": model.config.n_neighbors,
            "method": "umap",
            "metric": model.config.metric,
            "random_state": model.random_state,
            "use_rep": PCA,
        },
    }
    adata.uns[keys.uns] = model.facts()


def _over_all(matrix: sp.csr_matrix, keep: np.ndarray) -> sp.csr_matrix:
    """Spread rows and columns of the kept cells over all cells; the others stay empty."""
    if keep.all():
        return matrix
    where = np.flatnonzero(keep)
    rows = np.zeros(len(keep), np.int64)
    rows[where] = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(rows)])
    return sp.csr_matrix((matrix.data, where[matrix.indices], indptr), shape=(len(keep), len(keep)))
