"""Where each cell lies in a picture."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sccagn_scale._errors import InputError
from sccagn_scale._keys import CONNECTIVITIES, NEIGHBORS, PCA, Keys

if TYPE_CHECKING:
    from anndata import AnnData

_log = logging.getLogger("sccagn_scale")

Placed = tuple[NDArray[np.intp], NDArray[np.float32], str]
"""Which cells, [n], where they lie, [n, 2], and in what: a name in obsm, or X_umap."""

FEWEST = 4  # cells that UMAP can place


def place(adata: AnnData, basis: str, *, key: str, max_cells: int, random_state: int) -> Placed:
    """Positions that `adata` holds, or the UMAP of its graph; a random sample of the cells when there are too many.

    Fewer than four cells are too few for UMAP: those lie in their first two components.
    """
    rng = np.random.default_rng(random_state)
    if basis in adata.obsm:
        held = np.asarray(adata.obsm[basis])
        if held.ndim != 2 or held.shape[1] < 2:
            raise InputError(f"`basis` must be a dense array of two dimensions or more; obsm[{basis!r}] is not.")
        coordinates = held[:, :2].astype(np.float32)
        cells = np.flatnonzero(np.isfinite(coordinates).all(axis=1))
        if len(cells) > max_cells:
            cells = np.sort(rng.choice(cells, max_cells, replace=False))
        return cells, coordinates[cells], basis
    if basis != "X_umap":
        raise InputError(
            f"`basis` must be in the AnnData's obsm, but {basis!r} is not; there is {_names(adata.obsm)} "
            "(X_umap is computed when missing)."
        )
    return _umap(adata, Keys(key), max_cells, random_state, rng)


def _umap(adata: AnnData, keys: Keys, max_cells: int, random_state: int, rng: np.random.Generator) -> Placed:
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    neighbors = adata.uns.get(NEIGHBORS)
    if neighbors is None:
        raise InputError(
            "`adata` must hold X_umap in obsm or a cell graph in uns['neighbors'], but has neither; "
            "run sccagn_scale.cluster on it first."
        )
    connectivities = neighbors.get("connectivities_key", CONNECTIVITIES)
    if connectivities not in adata.obsp:
        raise InputError(
            f"`adata` must hold the graph that uns['neighbors'] names, but there is no obsp[{connectivities!r}]; run "
            "sccagn_scale.cluster on it again."
        )
    params = dict(neighbors.get("params", {}))
    rep = next((r for r in (params.get("use_rep"), PCA, keys.embedding) if r in adata.obsm), None)
    if rep is None:
        raise InputError(
            f"`adata` must hold X_pca or {keys.embedding} in obsm for a UMAP, but there is {_names(adata.obsm)}."
        )
    graph = adata.obsp[connectivities].tocsr()
    # Cells outside the graph would be drawn as a ring of dust around all others.
    inside = np.flatnonzero(graph.getnnz(axis=1) > (graph.diagonal() != 0))
    if len(inside) < FEWEST:
        return place(adata, rep, key=keys.key_added, max_cells=max_cells, random_state=random_state)
    cells = np.sort(rng.choice(inside, max_cells, replace=False)) if len(inside) > max_cells else inside

    # A copy, so that the user's own keys stay as they are.
    small = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(cells)).astype(str)))
    small.obsm[rep] = np.asarray(adata.obsm[rep])[cells]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn on threads and on graphs of several components
        if len(cells) < len(inside):
            _log.info("drawing %s of %s cells, taken at random", f"{len(cells):,}", f"{len(inside):,}")
            # The graph's edges thin out with the cells, so the sample gets a graph of its own.
            sc.pp.neighbors(small, n_neighbors=15, use_rep=rep, random_state=random_state)
        else:
            small.obsp[CONNECTIVITIES] = graph[cells][:, cells].astype(np.float32)
            small.uns[NEIGHBORS] = {
                "connectivities_key": CONNECTIVITIES,
                "params": {**params, "method": "umap", "use_rep": rep, "n_pcs": None},
            }
        sc.tl.umap(small, random_state=random_state)
    return cells, np.asarray(small.obsm["X_umap"], dtype=np.float32), "X_umap"


def _names(mapping: object) -> str:
    return ", ".join(map(str, mapping)) or "nothing"  # type: ignore[call-overload]
