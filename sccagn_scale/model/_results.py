"""Results into AnnData, in scanpy's layout."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sccagn_scale import graph
from sccagn_scale._compat import package_version, package_versions
from sccagn_scale._keys import CONNECTIVITIES, DISTANCES, NEIGHBORS, PCA, Keys
from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale._threads import n_threads
from sccagn_scale.clustering import Estimate
from sccagn_scale.io import decoded

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.model._model import SCCAGN


def write_results(model: SCCAGN, adata: AnnData, keys: Keys) -> None:
    """Set every key that `SCCAGN.write_to` documents."""
    names = [str(i) for i in range(model.n_clusters_)]
    labels = pd.Categorical.from_codes(model.labels_, pd.Index(names))
    if model.loaded_from is None:
        labels = labels.remove_unused_categories()  # of a loaded model all stay: colours go by their places
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
            "n_neighbors": model.graph_facts_["n_neighbors"],
            "method": "sccagn",
            "metric": model.config.metric,
            "random_state": model.random_state,
        }
        | ({"use_rep": PCA} if model.config.graph_rep == "pca" else {}),  # scaled genes are not stored
    }
    adata.uns[keys.uns] = facts(model)


def _over_all(matrix: sp.csr_matrix, keep: np.ndarray) -> sp.csr_matrix:
    """Spread rows and columns of the kept cells over all cells; the others stay empty."""
    if keep.all():
        return matrix
    where = np.flatnonzero(keep)
    rows = np.zeros(len(keep), np.int64)
    rows[where] = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(rows)])
    return sp.csr_matrix((matrix.data, where[matrix.indices], indptr), shape=(len(keep), len(keep)))


def facts(model: SCCAGN) -> dict[str, Any]:
    """What was done and decided, of plain types: the content of `uns[key_added]`."""
    config = {name: _writable(value) for name, value in dataclasses.asdict(model.config).items()}
    return {
        "params": config
        | {
            "n_clusters": "auto" if model.n_clusters_given is None else model.n_clusters_given,
            "layer": model.layer or "X",
            "batch_key": _writable(model.batch_key),
            "random_state": model.random_state,
            "device": model.device.type,
            "n_threads": n_threads(),
            "model": "none" if model.loaded_from is None else decoded(model.loaded_from),
        },
        "versions": versions("harmonypy") if model.batch_key is not None else versions(),
        "n_clusters": model.n_clusters_,
        "n_clusters_evidence": evidence(model.estimate_),
        "initial": model.initial_,
        "preprocessing": {
            "input_kind": model.recipe_.input_kind,
            "n_obs_kept": int(model.keep_obs_.sum()),
            "n_vars_kept": len(model.recipe_.genes),
            "n_top_genes": len(model.recipe_.chosen),
            "target_sum": model.recipe_.target_sum,
        },
        "graph": model.graph_facts_,
        "history": {name: model.history_[name].to_numpy() for name in model.history_},
        "stopped": model.stopped_,
    }


def evidence(estimate: Estimate | None) -> dict[str, Any]:
    """What speaks for the number of clusters; nothing where it was given."""
    if estimate is None:
        return {}
    return {
        "method": estimate.method,
        "n_clusters": estimate.candidates,
        "score": estimate.scores,
        "plausible": list(estimate.plausible),
    }


def _writable(value: Any) -> Any:
    """What AnnData can write of a configuration's value."""
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def scatter(values: np.ndarray, keep: np.ndarray, scratch: Scratch = IN_MEMORY) -> np.ndarray:
    """Lay rows, float32, out over all cells, NaN elsewhere: [n_obs, ...]; the same array where all cells are kept."""
    if keep.all():
        return values
    out = scratch.empty((len(keep), *values.shape[1:]))
    out[~keep] = np.nan
    out[keep] = values
    return out


def versions(*further: str) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, and of `further` ones, as they are written."""
    found = package_versions("sccagn-scale", "sccagn-scale-ext", *further)
    faiss = "faiss-cpu" if package_version("faiss-cpu") else "faiss"  # the latter of another distribution
    return {faiss if name == "faiss" else name: version or "not installed" for name, version in found.items()}
